"""Two searches compared over problems and seeds: ratios of epochs, differences of area, with intervals.

Runs are paired by problem and seed. Epochs to a goal are censored at the budget (a restricted mean); the share of runs
that reached the goal stands beside. Intervals are 95 % percentile bootstrap intervals over problems, and over the seeds
of each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.search.problems import Vector

DRAWS = 4000


class Outcome(NamedTuple):
    """What statistics need of one run."""

    epochs: int | None
    """Epochs to the goal; None where it was not reached."""
    area: float
    budget: int
    """Epochs that the run could spend."""


class Interval(NamedTuple):
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


class Comparison(NamedTuple):
    """Ours against theirs."""

    epochs_ratio: Interval
    """Geometric mean over problems of the ratio of mean censored epochs; below 1 where ours needs fewer."""
    area_difference: Interval
    """Mean over problems of the mean difference of regret areas; below 0 where ours is better."""
    reached: tuple[int, int, int]
    """Runs of ours and of theirs that reached the goal, and runs of each."""


Runs = Mapping[tuple[str, int], Outcome]  # by problem and seed


def compare(ours: Runs, theirs: Runs) -> Comparison:
    """Compares over the problems and seeds that both have.

    Raises:
        ValueError: they share none.
    """
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        raise ValueError("no problem and seed that both searches ran")
    problems = list(dict.fromkeys(problem for problem, _ in shared))
    pairs = [[(ours[key], theirs[key]) for key in shared if key[0] == problem] for problem in problems]
    epochs = [np.array([[_censored(one) for one in pair] for pair in group]) for group in pairs]
    areas = [np.array([mine.area - other.area for mine, other in group]) for group in pairs]
    return Comparison(
        epochs_ratio=_interval(epochs, lambda group: math.log(group[:, 0].mean() / group[:, 1].mean()), np.exp),
        area_difference=_interval(areas, lambda group: float(group.mean()), lambda value: value),
        reached=(
            sum(ours[key].epochs is not None for key in shared),
            sum(theirs[key].epochs is not None for key in shared),
            len(shared),
        ),
    )


def by_problem(ours: Runs, theirs: Runs) -> dict[str, Comparison]:
    """The comparison on each problem alone."""
    problems = sorted({problem for problem, _ in ours.keys() & theirs.keys()})
    return {
        problem: compare(
            {key: one for key, one in ours.items() if key[0] == problem},
            {key: one for key, one in theirs.items() if key[0] == problem},
        )
        for problem in problems
    }


def mean_ranks(runs: Mapping[str, Runs]) -> dict[str, float]:
    """Mean rank of each search by regret area, over the problems and seeds that all have; 1 is best, ties share."""
    shared = set.intersection(*(set(found) for found in runs.values()))
    if not shared:
        raise ValueError("no problem and seed that all searches ran")
    ranks: dict[str, list[float]] = {name: [] for name in runs}
    for key in shared:
        areas = {name: found[key].area for name, found in runs.items()}
        for name, area in areas.items():
            below, equal = sum(other < area for other in areas.values()), sum(other == area for other in areas.values())
            ranks[name].append(below + (equal + 1) / 2)
    return {name: sum(each) / len(each) for name, each in ranks.items()}


def _censored(one: Outcome) -> float:
    return float(one.budget if one.epochs is None else min(one.epochs, one.budget))


def _interval(groups: Sequence[Vector], statistic, back) -> Interval:  # type: ignore[no-untyped-def]
    """Of the mean over groups of a statistic; groups and the rows of each are drawn with replacement."""
    draw = np.random.default_rng(0)
    value = np.mean([statistic(group) for group in groups])
    drawn = np.empty((len(groups), DRAWS))
    for place, group in enumerate(groups):
        for number, rows in enumerate(draw.integers(len(group), size=(DRAWS, len(group)))):
            drawn[place, number] = statistic(group[rows])
    chosen = draw.integers(len(groups), size=(len(groups), DRAWS))
    means = np.take_along_axis(drawn, chosen, 0).mean(0)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(*(float(back(each)) for each in (value, low, high)))
