"""Several points of one answer of the model: what a point costs, and what it is worth.

    python -m benchmarks.bench_answers [--counts 1 4 16] [--seeds 5]

A search asks for several points at once where places for trials stand idle; the model is fitted once for all of them,
and each is optimised with less effort (`orchestrator.search.ax_worker`). On 11 numbers, as many as the paper's space
has, of which six enter Hartmann's function, with noise (`benchmarks.search_problems`), for each number of points:

- seconds: processor time a point, with 100 finished trials and 48 running ones; all points of an answer, its fit
  included. Median over the seeds.
- lost: natural logarithm of the expected improvement of the first point, below that which BoTorch's own effort finds.
  Median and largest over the seeds.
- merit: of the best of 96 trials, 16 at a time, the first 16 of them on a Sobol sequence: 0 is the median of random
  points, 1 the optimum. Median over the seeds, and all of them.

Ax runs in this process, on one thread.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import qmc

from benchmarks.measuring import say
from benchmarks.search_problems import NOISE, PROBLEMS
from orchestrator.search.ax_worker import answers, told_client

NAMES = [f"x{index}" for index in range(11)]
FINISHED, RUNNING = 100, 48
PLACES, ROUNDS = 16, 6
HARTMANN = PROBLEMS["hartmann6"]


def main() -> int:
    """Measures each number of points and prints one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--seeds", type=int, default=5)
    asked = parser.parse_args()
    logging.disable(logging.INFO)  # Ax tells of every trial that it is told of
    torch.set_num_threads(1)
    list(answers(_question(_history(0, FINISHED, RUNNING), 0, 1)))  # imports
    seconds: dict[int, list[float]] = {count: [] for count in asked.counts}
    lost: dict[int, list[float]] = {count: [] for count in asked.counts}
    merits: dict[int, list[float]] = {count: [] for count in asked.counts}
    for seed in range(asked.seeds):
        history = _history(seed, FINISHED, RUNNING)
        best = _expected(_question(history, seed, 1))
        for count in asked.counts:
            began = time.process_time()
            list(answers(_question(history, seed, count)))
            seconds[count].append((time.process_time() - began) / count)
            lost[count].append(best - _expected(_question(history, seed, count)))
            merits[count].append(_searched(seed, count))
            print(seed, count, seconds[count][-1], lost[count][-1], merits[count][-1], file=sys.stderr, flush=True)
    found = {count: _figures(seconds[count], lost[count], merits[count]) for count in asked.counts}
    say(benchmark="answers", seeds=asked.seeds, points_of_an_answer=found)
    return 0


def _figures(seconds: Sequence[float], lost: Sequence[float], merits: Sequence[float]) -> dict[str, Any]:
    return {
        "seconds_a_point": round(statistics.median(seconds), 2),
        "lost_median": round(statistics.median(lost), 4),
        "lost_most": round(max(lost), 4),
        "merit_median": round(statistics.median(merits), 3),
        "merits": [round(merit, 3) for merit in merits],
    }


def _searched(seed: int, count: int) -> float:
    """True merit of the best of a search's trials, by their true merits."""
    trials = _history(seed, PLACES, 0)
    noise = np.random.default_rng([seed, 1])
    for turn in range(1, ROUNDS):
        running: list[dict[str, Any]] = []
        while len(running) < PLACES:
            question = _question(trials + running, 1000 * seed + PLACES * turn + len(running), count)
            running += [{"params": params, "state": "pending"} for params in answers(question)]
        trials += [_finished(one["params"], noise) for one in running]
    return max(HARTMANN.merit(_point(trial["params"])) for trial in trials)


def _history(seed: int, finished: int, running: int) -> list[dict[str, Any]]:
    points = qmc.Sobol(len(NAMES), rng=seed).random(finished + running)
    noise = np.random.default_rng([seed, 0])
    params = [dict(zip(NAMES, map(float, point), strict=True)) for point in points]
    ended = [_finished(one, noise) for one in params[:finished]]
    return ended + [{"params": one, "state": "pending"} for one in params[finished:]]


def _finished(params: dict[str, float], noise: np.random.Generator) -> dict[str, Any]:
    value = HARTMANN.merit(_point(params)) + NOISE * float(noise.standard_normal())
    return {"params": params, "state": "completed", "value": value, "standard_error": None, "figures": {}}


def _point(params: Mapping[str, float]) -> list[float]:
    return [params[name] for name in NAMES[: HARTMANN.dimensions]]


def _question(trials: list[dict[str, Any]], seed: int, count: int) -> dict[str, Any]:
    return {
        "parameters": {name: {"type": "float", "low": 0.0, "high": 1.0, "log": False} for name in NAMES},
        "constraints": [],
        "metric": "merit",
        "objective": "merit",
        "outcome_constraints": [],
        "method": "fast",
        "seed": seed,
        "trials": trials,
        "count": count,
    }


def _expected(question: dict[str, Any]) -> float:
    """Logarithm of the expected improvement of the first point of an answer."""
    client = told_client(question)
    torch.manual_seed(question["seed"])
    client.get_next_trials(max_trials=1)
    return float(next(_acquisition_values(client)))


def _acquisition_values(client: Any) -> Iterator[float]:
    for trial in reversed(client._experiment.trials.values()):
        yield from np.ravel(trial.generator_runs[0].gen_metadata["expected_acquisition_value"])


if __name__ == "__main__":
    sys.exit(main())
