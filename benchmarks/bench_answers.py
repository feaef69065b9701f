"""Answers of the model: what a decision costs, and what several points of one answer are worth.

    python -m benchmarks.bench_answers [--counts 1 4 8] [--running 64 256] [--paused 100] [--seeds 5]

A search asks for several points at once where places for trials stand idle; the model is fitted once for all of them.
On 11 numbers, as many as the paper's space has, of which six enter Hartmann's function, with noise and with learning
curves of 16 epochs (`benchmarks.search.problems`), for each number of points:

- seconds: processor time a point, with 200 finished trials, so many running and so many paused ones; all points of an
  answer, Ax's client and the model's fit included. One answer each.
- merit: of the best of 96 trials, 16 at a time, the first 16 of them on a Sobol sequence: 0 is the median of random
  points, 1 the optimum. Median over the seeds, and all of them.

The model and Ax run in this process, on one thread.
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
from benchmarks.search.problems import FAMILIES
from orchestrator.algorithms.ax_worker import answers

NAMES = [f"x{index}" for index in range(11)]
FINISHED = 200
PLACES, ROUNDS = 16, 6
HARTMANN = FAMILIES["hartmann6"](0)
EPOCHS, ENDS = 16, (1, 2, 4, 8, 16)


def main() -> int:
    """Measures each number of points and prints one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 4, 8], help="points of an answer")
    parser.add_argument("--running", type=int, nargs="+", default=[64, 256], help="running trials")
    parser.add_argument("--paused", type=int, default=100, help="paused trials")
    parser.add_argument("--seeds", type=int, default=5, help="searches for the merit; 0: none")
    asked = parser.parse_args()
    logging.disable(logging.INFO)  # Ax tells of every trial that it is told of
    torch.set_num_threads(1)
    list(answers(_question(_history(0, PLACES, 1, 1), 0, 1)))  # imports
    found: dict[int, dict[str, Any]] = {}
    for count in asked.counts:
        seconds = {running: _seconds(running, asked.paused, count) for running in asked.running}
        merits = [round(_searched(seed, count), 3) for seed in range(asked.seeds)]
        found[count] = {"seconds_a_point": seconds, "merits": merits}
        if merits:
            found[count]["merit_median"] = statistics.median(merits)
        print(count, found[count], file=sys.stderr, flush=True)
    say(benchmark="answers", points_of_an_answer=found)
    return 0


def _seconds(running: int, paused: int, count: int) -> float:
    question = _question(_history(0, FINISHED, running, paused), 0, count)
    began = time.process_time()
    list(answers(question))
    return round((time.process_time() - began) / count, 2)


def _searched(seed: int, count: int) -> float:
    """True merit of the best of a search's whole trials, by their true merits."""
    trials = _history(seed, PLACES, 0, 0)
    noise = np.random.default_rng([seed, 1])
    for turn in range(1, ROUNDS):
        running: list[dict[str, Any]] = []
        while len(running) < PLACES:
            question = _question(trials + running, 1000 * seed + PLACES * turn + len(running), count)
            running += [_trial(answer["params"], "pending", noise, 0) for answer in answers({**question, **WHOLE})]
        trials += [_trial(one["params"], "completed", noise, EPOCHS) for one in running]
    return max(HARTMANN.merit(_point(trial["params"])) for trial in trials)


WHOLE = {"ends": [EPOCHS], "chunks": []}


def _history(seed: int, finished: int, running: int, paused: int) -> list[dict[str, Any]]:
    points = qmc.Sobol(len(NAMES), rng=seed).random_base2(11)[: finished + running + paused]
    noise = np.random.default_rng([seed, 0])
    params = [dict(zip(NAMES, map(float, point), strict=True)) for point in points]
    kinds = [("completed", EPOCHS)] * finished + [("pending", 1)] * running + [("paused", 2)] * paused
    return [_trial(one, state, noise, trained) for one, (state, trained) in zip(params, kinds, strict=True)]


def _trial(params: dict[str, float], state: str, noise: np.random.Generator, trained: int) -> dict[str, Any]:
    """A trial of a question, with its curve up to an epoch."""
    values = HARTMANN.curve(_point(params), noise)
    curve = [[end, float(values[end * len(values) // EPOCHS - 1]), float(end)] for end in ENDS if end <= trained]
    told = {"trial": "t0000", "params": params, "state": state, "curve": curve, "metrics": {}, "epochs": EPOCHS}
    until = 2 * trained if state == "pending" else trained
    ends = [end for end in ENDS if end > trained]
    return {
        **told,
        "value": float(values[-1]),
        "until": until,
        "first": 1,
        "pauses": int(trained < EPOCHS),
        "ends": ends,
    }


def _point(params: Mapping[str, float]) -> list[float]:
    return [params[name] for name in NAMES[: HARTMANN.dimensions]]


def _question(trials: list[dict[str, Any]], seed: int, count: int) -> dict[str, Any]:
    return {
        "parameters": {name: {"type": "float", "low": 0.0, "high": 1.0} for name in NAMES},
        "constraints": [],
        "metric": "merit",
        "objective": "merit",
        "outcome_constraints": [],
        "method": "fast",
        "model": "curves",
        "ends": list(ENDS),
        "chunks": [end / EPOCHS for end in ENDS[:-1]],
        "seed": seed,
        "trials": trials,
        "count": count,
    }


if __name__ == "__main__":
    sys.exit(main())
