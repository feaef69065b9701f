"""What trials of an earlier search are worth: of the same function, a related one and an unrelated one.

    nice python -m benchmarks.bench_warm_start --seeds 0:12

Searches of 30 whole trials by the project's own decision (`orchestrator.algorithms.freeze_thaw.decide`) on the unit
cube. The earlier search has 20 trials, at random points (`random`) or at the best of 100 (`good`), and values on
another scale, 40 + 10 value: of the same function (`same`), of one whose optimum is moved by 0.1 up or down in each
coordinate (`moved`), or of another function of the family (`unrelated`). All searches begin with the same 5 random
points. For each form the trials until the best one by its value has a merit of 0.8 (31 if none has), and the mean
regret over the search, both with their difference from the same search without a warm start and its standard error.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np

from benchmarks.bench_final_choice import seeds_of
from benchmarks.search.problems import FAMILIES, Problem
from benchmarks.search.whole_trials import proposal, unit_cube, whole_trial
from orchestrator.algorithms.curve_history import CurveTrial

PROBLEMS = ("hartmann6", "reid5", "reid8")
RELATIONS, POINTS = ("same", "moved", "unrelated"), ("random", "good")
TRIALS, FIRST, EARLIER, AMONG = 30, 5, 20, 100
LEVEL, SCALE, MOVED = 40.0, 10.0, 0.1
GOAL = 0.8


class Form(NamedTuple):
    """A search."""

    problem: str
    relation: str
    """Of the earlier search; empty without one."""
    points: str
    first: int
    """Points before the model is asked."""
    is_first_best: bool
    """Whether the best point of the earlier search is tried first."""
    seed: int


class Result(NamedTuple):
    """Of a search."""

    trials: int
    """Until the goal is reached."""
    regret: float


def search(form: Form) -> Result:
    """Runs a search."""
    problem, draws = FAMILIES[form.problem](form.seed), np.random.default_rng([form.seed, 3])
    space, earlier = unit_cube(problem.dimensions), _earlier(form, problem)
    points, own, merits, best = list(draws.random((FIRST, problem.dimensions))), list[CurveTrial](), [], -math.inf
    if form.is_first_best and earlier:
        points.insert(0, max(earlier, key=lambda trial: trial.curve[-1].value).places)
    while len(own) < TRIALS:
        count = len(own)
        point = points[count] if count < form.first else proposal(space, [*earlier, *own], form.seed, TRIALS)
        shown = float(problem.curve(point, np.random.default_rng([form.seed, count]))[-1])
        if shown > best:
            best, merit = shown, problem.merit(point)
        merits.append(merit)
        own.append(whole_trial(point, shown, count))
    trials = next((count for count, merit in enumerate(merits, 1) if merit >= GOAL), TRIALS + 1)
    return Result(trials, float(np.mean([max(0.0, 1 - merit) for merit in merits])))


def _earlier(form: Form, problem: Problem) -> list[CurveTrial]:
    if not form.relation:
        return []
    draws = np.random.default_rng([form.seed, 4])
    shift = MOVED * draws.choice([-1.0, 1.0], problem.dimensions) if form.relation == "moved" else 0.0
    other = FAMILIES[form.problem](form.seed + 1000) if form.relation == "unrelated" else problem
    points = draws.random((EARLIER if form.points == "random" else AMONG, problem.dimensions))
    values = np.array([other.curve(np.clip(point + shift, 0, 1), draws)[-1] for point in points])
    kept = np.argsort(-values)[:EARLIER]
    return [whole_trial(points[place], LEVEL + SCALE * values[place], 0, search=1) for place in kept]


def main() -> None:
    """Prints a line per form, and all of them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=seeds_of, default=range(12), metavar="A:B")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=PROBLEMS)
    parser.add_argument("--first", type=int, default=FIRST, help="points before the model is asked, with a warm start")
    parser.add_argument("--best-first", action="store_true", help="the first is the best point of the earlier search")
    asked = parser.parse_args()
    forms = [(problem, relation, points) for problem in asked.problems for relation in RELATIONS for points in POINTS]
    plain = [Form(problem, "", "", FIRST, False, seed) for problem in asked.problems for seed in asked.seeds]
    warm = [Form(*form, asked.first, asked.best_first, seed) for form in forms for seed in asked.seeds]
    with ProcessPoolExecutor(asked.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        results = dict(zip([*plain, *warm], pool.map(search, [*plain, *warm]), strict=True))
    table = []
    for problem, relation, points in forms:
        found = np.array(
            [
                results[Form(problem, relation, points, *asked_of, seed)]
                for seed in asked.seeds
                for asked_of in [(asked.first, asked.best_first)]
            ],
            dtype=float,
        )
        without = np.array([results[Form(problem, "", "", FIRST, False, seed)] for seed in asked.seeds], dtype=float)
        differences = found - without
        errors = differences.std(0, ddof=1) / math.sqrt(len(found))
        (trials, regret), (fewer, less), (trials_error, regret_error) = found.mean(0), differences.mean(0), errors
        print(
            f"{problem:10} {relation:10} {points:7} {trials:5.1f} trials, {fewer:+5.1f} ± {trials_error:.1f}; "
            f"regret {regret:.3f}, {less:+.3f} ± {regret_error:.3f}"
        )
        names = ("trials", "trials_difference", "trials_error", "regret", "regret_difference", "regret_error")
        numbers = (trials, fewer, trials_error, regret, less, regret_error)
        table.append(
            {"problem": problem, "relation": relation, "points": points}
            | dict(zip(names, map(float, numbers), strict=True))
        )
    print(json.dumps(table))


if __name__ == "__main__":
    main()
