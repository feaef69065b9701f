"""What the trainings after a search are worth, by how they are spent: two leaders thrice, or by the model.

    nice python -m benchmarks.bench_final_choice --seeds 0:60

A search of 50 whole trainings, by the model's expected improvement, ends on a random tuning problem
(`benchmarks.search.problems.Reid`, another function per seed). Then trainings are spent on its configurations, several
times with fresh luck, and one is called the best. For each way and each deviation between seeds: the merit of that one
and its difference from the first way with a 95 % bootstrap interval over searches, the trainings that were spent, by
how much the reported mean of fresh seeds is too good, and how often its 95 % interval holds the merit.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np

from benchmarks.search.problems import Reid, Vector
from orchestrator.algorithms.curve_values import Observations
from orchestrator.algorithms.final_choice import CANDIDATES, Belief, belief, knowledge_gradients
from orchestrator.algorithms.learning_curves import CurveModel, expected_improvement
from orchestrator.algorithms.replicates import t_interval
from orchestrator.space.options import CONFIRMING_SEEDS

DEVIATIONS = (0.07, 0.2, 0.39)
DIMENSIONS, TRIALS, FIRST, RANDOM, NEAR = 6, 50, 8, 256, 64
REPEATS = 20  # of the trainings after each search
DRAWS = 4000


class End(NamedTuple):
    """A search that has tried its configurations."""

    points: Vector
    values: Vector
    merits: Vector


class Choice(NamedTuple):
    """What came of the trainings after a search."""

    merit: float
    trainings: int
    excess: float
    """Of the reported mean over the merit."""
    is_held: bool
    """Whether the reported interval holds the merit."""


# --- searches --------------------------------------------------------------------------------------------------------


def end_of_search(seed: int, deviation: float, trials: int) -> End:
    """Random points first, then the largest expected improvement of the mean by one more training."""
    problem, draws = Reid("reid", DIMENSIONS, trials, seed, run_noise=deviation), np.random.default_rng([seed, 1])
    points = list(draws.random((min(FIRST, trials), DIMENSIONS)))
    values = [_value(problem, point, seed, number) for number, point in enumerate(points)]
    while len(points) < trials:
        point = _proposal(np.array(points), np.array(values), draws)
        values.append(_value(problem, point, seed, len(points)))
        points.append(point)
    merits = [problem.merit(point) for point in points]
    return End(np.array(points), np.array(values), np.array(merits))


def _value(problem: Reid, point: Vector, seed: int, number: int) -> float:
    return float(problem.curve(point, np.random.default_rng([seed, number]))[-1])


def model_of(points: Vector, values: Vector) -> CurveModel:
    """Of whole trials, (m, d) and (m,)."""
    model = CurveModel.fitted(Observations.of(points, np.ones(len(values)), np.arange(len(values)), values))
    assert model is not None, "values with noise differ"
    return model


def _proposal(points: Vector, values: Vector, draws: np.random.Generator) -> Vector:
    model = model_of(points, values)
    means = model.posterior(points).mean
    near = points[np.argsort(-means)[:4], None] + 0.1 * draws.standard_normal((4, NEAR, DIMENSIONS))
    asked = np.vstack([draws.random((RANDOM, DIMENSIONS)), np.clip(near.reshape(-1, DIMENSIONS), 0, 1)])
    found = model.posterior(asked)
    best: Vector = asked[expected_improvement(found.mean, found.gain(), means.max()).argmax()]
    return best


# --- ways to spend trainings -----------------------------------------------------------------------------------------

Train = Callable[[int], float]  # the value of one more training of a configuration
Way = Callable[[End, Belief, Train], tuple[int, list[float], int]]  # the best, its fresh values, trainings spent


def by_leaders(end: End, known: Belief, train: Train, *, seeds: int, leaders: int) -> tuple[int, list[float], int]:
    """`{seeds: 3, leaders: 2}`."""
    best = np.argsort(-end.values)[:leaders]
    fresh = {int(place): [train(place) for _ in range(seeds)] for place in best}
    winner = max(fresh, key=lambda place: np.mean(fresh[place]))
    return winner, fresh[winner], seeds * leaders


def by_model(end: End, known: Belief, train: Train, *, trainings: int) -> tuple[int, list[float], int]:
    """`{trainings: 6, choose: model}`, as `orchestrator.algorithms.replicates` spends them one after the other."""
    places = np.argsort(-known.mean)[:CANDIDATES]
    told = known.among(places.tolist())
    for _ in range(trainings):
        place = int(knowledge_gradients(told).argmax())
        told = told.told(place, train(int(places[place])))
    winner = int(places[told.mean.argmax()])
    return winner, [train(winner) for _ in range(CONFIRMING_SEEDS)], trainings + CONFIRMING_SEEDS


WAYS: dict[str, Way] = {
    "{seeds: 3, leaders: 2}": partial(by_leaders, seeds=3, leaders=2),
    "{seeds: 3, leaders: 3}": partial(by_leaders, seeds=3, leaders=3),
    "{trainings: 3, choose: model}": partial(by_model, trainings=3),
    "{trainings: 4, choose: model}": partial(by_model, trainings=4),
    "{trainings: 6, choose: model}": partial(by_model, trainings=6),
    "{trainings: 9, choose: model}": partial(by_model, trainings=9),
}


def spent_on(end: End, known: Belief, way: Way, deviation: float, luck: np.random.Generator) -> Choice:
    """One end of a search, one way, one draw of luck."""

    def train(place: int) -> float:
        return float(end.merits[place] + deviation * luck.standard_normal())

    winner, fresh, trainings = way(end, known, train)
    interval = t_interval(fresh)
    assert interval is not None
    merit = float(end.merits[winner])
    return Choice(merit, trainings, float(np.mean(fresh)) - merit, interval[0] <= merit <= interval[1])


def results(seed: int, deviation: float, trials: int) -> dict[str, Choice]:
    """The means of all ways after one search."""
    end = end_of_search(seed, deviation, trials)
    known = belief(end.points, end.values)
    found = {}
    for number, (name, way) in enumerate(WAYS.items()):
        luck = np.random.default_rng([seed, number])
        draws = [spent_on(end, known, way, deviation, luck) for _ in range(REPEATS)]
        found[name] = Choice(*(np.mean(each) for each in zip(*draws, strict=True)))
    return found


def _line(name: str, found: Sequence[Choice], first: Sequence[Choice]) -> str:
    merits, theirs = (np.array([each.merit for each in choices]) for choices in (found, first))
    drawn = np.random.default_rng(1).choice(merits - theirs, (DRAWS, len(merits))).mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    _, trainings, excess, held = (np.mean(each) for each in zip(*found, strict=True))
    return (
        f"  {name:31} merit {merits.mean():.3f}, {(merits - theirs).mean():+.3f} [{low:+.3f}, {high:+.3f}], "
        f"{trainings:.1f} trainings, reported {excess:+.3f}, interval holds {100 * held:.0f} %"
    )


def seeds_of(text: str) -> range:
    """`A:B`."""
    first, _, end = text.partition(":")
    return range(int(first), int(end))


def main() -> None:
    """Prints a block per deviation between seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=seeds_of, default=range(60), metavar="A:B")
    parser.add_argument("--trials", type=int, default=TRIALS, metavar="N", help="whole trials of a search")
    parser.add_argument("--processes", type=int, default=1)
    asked = parser.parse_args()
    with ProcessPoolExecutor(asked.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for deviation in DEVIATIONS:
            found = list(pool.map(partial(results, deviation=deviation, trials=asked.trials), asked.seeds))
            print(f"seed sd {deviation}, {len(found)} searches")
            for name in WAYS:
                first = [each[next(iter(WAYS))] for each in found]
                print(_line(name, [each[name] for each in found], first), flush=True)


if __name__ == "__main__":
    main()
