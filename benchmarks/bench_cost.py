"""What the model of costs is worth: seconds of a search to a merit, with and without it.

    OMP_NUM_THREADS=1 nice python -m benchmarks.bench_cost --seeds 0:12

Searches of whole trials by the project's own decision (`orchestrator.algorithms.freeze_thaw.decide`) on the unit cube.
A trial takes exp(a (x_k - 0.5)) seconds, with a spread of 4 over the cube, and 5 % of noise; the seed draws the
coordinate k and which of its ends is dear, and so whether good points are. With `--apart`, k is one more coordinate
that merit does not depend on. Both forms start with the same 5 random points, and may spend the seconds of `--trials`
trials at the centre. For each problem and goal, the geometric mean over seeds of the ratio of seconds to the goal, with
a bootstrap interval of 95 %; a search that misses a goal counts as reaching it at its end. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from benchmarks.bench_final_choice import seeds_of
from benchmarks.search.problems import FAMILIES
from benchmarks.search.whole_trials import proposal, unit_cube, whole_trial
from orchestrator.algorithms.curve_history import CurveTrial

PROBLEMS, GOALS = ("branin", "hartmann6", "rosenbrock5", "reid5"), (0.8, 0.95)
TRIALS, FIRST, NOISE, DRAWS, SAMPLED = 60, 5, 0.05, 4000, 2000


class Form(NamedTuple):
    """A search."""

    problem: str
    spread: float
    """Of the dearest trial to the cheapest one."""
    is_apart: bool
    """Whether durations depend on one more coordinate, which merit does not depend on."""
    is_measured: bool
    """Whether the decision knows durations."""
    seed: int


def seconds_to_goals(form: Form, trials: float) -> list[float]:
    """By goal: when the search has a trial of this merit, or its end; in seconds of a trial at the centre."""
    problem, draws = FAMILIES[form.problem](form.seed), np.random.default_rng([form.seed, 5])
    function, dimensions = problem.dimensions, problem.dimensions + form.is_apart
    place, slope = _cost_axis(form, function)
    points = list(draws.random((FIRST, dimensions)))
    space, known, clock = unit_cube(dimensions), list[CurveTrial](), 0.0
    reached: dict[float, float] = {}
    while clock < trials and len(reached) < len(GOALS):
        count = len(known)
        point = points[count] if count < FIRST else proposal(space, known, form.seed)
        luck = np.random.default_rng([form.seed, count])
        shown = float(problem.curve(point[:function], luck)[-1])
        seconds = math.exp(slope * (point[place] - 0.5) + NOISE * luck.standard_normal())
        clock += seconds
        told = seconds if form.is_measured else None
        known.append(whole_trial(point, shown, count, seconds=told))
        for goal in GOALS:
            if problem.merit(point[:function]) >= goal:
                reached.setdefault(goal, clock)
    return [min(reached.get(goal, trials), trials) for goal in GOALS]


def _cost_axis(form: Form, dimensions: int) -> tuple[int, float]:
    """The coordinate that durations depend on, of a function of so many, and the logarithm of the spread along it."""
    draws = np.random.default_rng([form.seed, 6])
    place, sign = int(draws.integers(dimensions)), float(draws.choice([-1, 1]))
    return dimensions if form.is_apart else place, sign * math.log(form.spread)


def is_dear(form: Form) -> bool:
    """Whether the best percent of random points takes longer than the mean of the logarithm."""
    problem = FAMILIES[form.problem](form.seed)
    place, slope = _cost_axis(form, problem.dimensions)
    sample = np.random.default_rng([form.seed, 7]).random((SAMPLED, problem.dimensions + 1))
    best = np.argsort([-problem.merit(point[: problem.dimensions]) for point in sample])[: SAMPLED // 100]
    return bool(slope * (sample[best, place].mean() - 0.5) > 0)


def summary(measured: Sequence[float], without: Sequence[float], most: float) -> dict[str, float]:
    """Of paired searches: the geometric mean of ratios and its interval, medians, and how many missed the goal."""
    logarithms = np.log(np.array(measured) / np.array(without))
    places = np.random.default_rng(0).integers(len(logarithms), size=(DRAWS, len(logarithms)))
    low, high = np.quantile(logarithms[places].mean(1), [0.025, 0.975])
    return {
        "searches": len(measured),
        "ratio": round(math.exp(logarithms.mean()), 3),
        "low": round(math.exp(low), 3),
        "high": round(math.exp(high), 3),
        "median": round(float(np.median(measured)), 1),
        "median_without": round(float(np.median(without)), 1),
        "missed": sum(each >= most for each in measured),
        "missed_without": sum(each >= most for each in without),
    }


def main() -> None:
    """Prints a line per problem and goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=seeds_of, default=range(12), metavar="A:B")
    parser.add_argument("--spread", type=float, default=4.0)
    parser.add_argument("--apart", action="store_true", help="durations depend on a coordinate of their own")
    parser.add_argument("--trials", type=float, default=TRIALS)
    parser.add_argument("--processes", type=int, default=1)
    asked = parser.parse_args()
    jobs = [
        Form(problem, asked.spread, asked.apart, told, seed)
        for problem in PROBLEMS
        for told in (True, False)
        for seed in asked.seeds
    ]
    with ProcessPoolExecutor(asked.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = dict(zip(jobs, pool.map(seconds_to_goals, jobs, [asked.trials] * len(jobs)), strict=True))
        dear = dict(zip(jobs, pool.map(is_dear, jobs), strict=True))
    pairs = [(job, job._replace(is_measured=False)) for job in jobs if job.is_measured]
    groups = {problem: [pair for pair in pairs if pair[0].problem == problem] for problem in PROBLEMS} | {
        "all": pairs,
        "all, best is cheap": [pair for pair in pairs if not dear[pair[0]]],
        "all, best is dear": [pair for pair in pairs if dear[pair[0]]],
    }
    report: dict[str, Any] = {}
    for place, goal in enumerate(GOALS):
        for name, group in groups.items():
            measured, without = ([found[pair[form]][place] for pair in group] for form in (0, 1))
            report[f"{name}, {goal}"] = told = summary(measured, without, asked.trials)
            print(f"{name:20} {goal:4} {told}", flush=True)
    print(json.dumps({"spread": asked.spread, "apart": asked.apart, "trials": asked.trials, **report}))


if __name__ == "__main__":
    main()
