"""What a prior on all parameters is worth: right or wrong, and how sure.

    nice python -m benchmarks.bench_priors --seeds 0:6

Searches of 30 whole trials by the project's own decision (`orchestrator.algorithms.freeze_thaw.decide`) on the unit
cube. The first trial is at the prior's value in every form, also without a prior: what is measured is what the prior
adds to a known point. Right is the best of 600 random points, wrong one that a quarter of them are worse than. For each
form the mean regret over the search, with the difference from the same search without a prior and its standard error.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np

from benchmarks.bench_final_choice import seeds_of
from benchmarks.search.problems import FAMILIES
from benchmarks.search.whole_trials import proposal, unit_cube, whole_trial
from orchestrator.algorithms.curve_history import CurveTrial

PROBLEMS = ("hartmann6", "reid8", "rosenbrock5")
TRIALS, FIRST, SAMPLED = 30, 5, 600
SURE = ("", "weak", "medium", "strong")
PLACES = {"right": 1.0, "wrong": 0.25}  # quantiles of merit of the random points


class Form(NamedTuple):
    """A search."""

    problem: str
    place: str
    sure: str
    seed: int


def regret(form: Form) -> float:
    """Mean over the trials of 1 less the merit of the best one by its value."""
    problem, draws = FAMILIES[form.problem](form.seed), np.random.default_rng([form.seed, 3])
    sample = draws.random((SAMPLED, problem.dimensions))
    merits = np.array([problem.merit(point) for point in sample])
    value = sample[np.argsort(merits)[round(PLACES[form.place] * (SAMPLED - 1))]]
    points = [value, *draws.random((FIRST - 1, problem.dimensions))]
    priors = [{"prior": {"code": place, "sure": form.sure}} if form.sure else {} for place in value]
    space, trials, regrets = unit_cube(problem.dimensions, priors), list[CurveTrial](), list[float]()
    best = -math.inf
    while len(trials) < TRIALS:
        count = len(trials)
        point = points[count] if count < FIRST else proposal(space, trials, form.seed, TRIALS)
        shown = float(problem.curve(point, np.random.default_rng([form.seed, count]))[-1])
        if shown > best:
            best, merit = shown, problem.merit(point)
        regrets.append(max(0.0, 1 - merit))
        trials.append(whole_trial(point, shown, count))
    return float(np.mean(regrets))


def main() -> None:
    """Prints a line per form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=seeds_of, default=range(6), metavar="A:B")
    parser.add_argument("--processes", type=int, default=1)
    asked = parser.parse_args()
    forms = [(problem, place, sure) for problem in PROBLEMS for place in PLACES for sure in SURE]
    jobs = [Form(*form, seed) for form in forms for seed in asked.seeds]
    with ProcessPoolExecutor(asked.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        regrets = dict(zip(jobs, pool.map(regret, jobs), strict=True))
    for problem, place, sure in forms:
        found = np.array([regrets[Form(problem, place, sure, seed)] for seed in asked.seeds])
        without = np.array([regrets[Form(problem, place, "", seed)] for seed in asked.seeds])
        difference, error = (found - without).mean(), (found - without).std(ddof=1) / math.sqrt(len(found))
        print(f"{problem:12} {place:6} {sure or 'none':7} {found.mean():.3f}, {difference:+.3f} ± {error:.3f}")


if __name__ == "__main__":
    main()
