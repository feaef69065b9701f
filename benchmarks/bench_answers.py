"""Several points of one answer of the model: what a point costs, and what it is worth.

    python -m benchmarks.bench_answers [--counts 1 4 8] [--running 64 256] [--seeds 5]

A search asks for several points at once where places for trials stand idle; the model is fitted once for all of them,
and each is optimised with less effort (`orchestrator.algorithms.ax_worker`). On 11 numbers, as many as the paper's
space has, of which six enter Hartmann's function, with noise (`benchmarks.search.problems`), for each number of points:

- seconds: processor time a point, with 200 finished trials and so many running ones; all points of an answer, its fit
  included. One answer each.
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
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.stats import qmc

from benchmarks.measuring import say
from benchmarks.search.problems import FAMILIES, NOISE
from orchestrator.algorithms.ax_worker import answers

NAMES = [f"x{index}" for index in range(11)]
FINISHED = 200
PLACES, ROUNDS = 16, 6
HARTMANN = FAMILIES["hartmann6"](0)


def main() -> int:
    """Measures each number of points and prints one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 4, 8], help="points of an answer")
    parser.add_argument("--running", type=int, nargs="+", default=[64, 256], help="running trials")
    parser.add_argument("--seeds", type=int, default=5, help="searches for the merit; 0: none")
    asked = parser.parse_args()
    logging.disable(logging.INFO)  # Ax tells of every trial that it is told of
    torch.set_num_threads(1)
    list(answers(_question(_history(0, PLACES, 1), 0, 1)))  # imports
    found: dict[int, dict[str, Any]] = {}
    for count in asked.counts:
        seconds = {running: _seconds(running, count) for running in asked.running}
        merits = [round(_searched(seed, count), 3) for seed in range(asked.seeds)]
        found[count] = {"seconds_a_point": seconds, "merits": merits}
        if merits:
            found[count]["merit_median"] = statistics.median(merits)
        print(count, found[count], file=sys.stderr, flush=True)
    say(benchmark="answers", points_of_an_answer=found)
    return 0


def _seconds(running: int, count: int) -> float:
    question = _question(_history(0, FINISHED, running), 0, count)
    began = time.process_time()
    list(answers(question))
    return round((time.process_time() - began) / count, 2)


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
    points = qmc.Sobol(len(NAMES), rng=seed).random_base2(11)[: finished + running]
    noise = np.random.default_rng([seed, 0])
    params = [dict(zip(NAMES, map(float, point), strict=True)) for point in points]
    ended = [_finished(one, noise) for one in params[:finished]]
    return ended + [{"params": one, "state": "pending"} for one in params[finished:]]


def _finished(params: dict[str, float], noise: np.random.Generator) -> dict[str, Any]:
    value = HARTMANN.merit(_point(params)) + NOISE * float(noise.standard_normal())
    return {"params": params, "state": "completed", "value": value, "standard_error": None, "metrics": {}}


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


if __name__ == "__main__":
    sys.exit(main())
