"""Whether what further trials are expected to bring is what they bring.

    nice python -m benchmarks.bench_expected_gain --seeds 0:12

Searches by the model's expected improvement on problems with moved optima and random families
(`benchmarks.search.problems`). At some numbers of trials the gain of the next 10 is predicted, and compared with how
much the merit of the configuration that has the best mean by the model has risen 10 trials later.
"""

from __future__ import annotations

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np

from benchmarks.bench_final_choice import model_of, seeds_of
from benchmarks.search.problems import FAMILIES, Vector
from orchestrator.algorithms.expected_gain import AHEAD, BEST, candidates, played_gains
from orchestrator.algorithms.learning_curves import CurveModel, expected_improvement

PROBLEMS = ("branin", "hartmann6", "rosenbrock5", "reid5", "reid8", "reid8noisy", "reid12")
EQUAL = 1e-9  # no gain at all may be predicted for sure
FIRST, LOOKS = 5, (12, 20, 30, 40)


class Look(NamedTuple):
    """A prediction and what became of it."""

    problem: str
    trials: int
    predicted: float
    low: float
    high: float
    realised: float


def looks(job: tuple[str, int]) -> list[Look]:
    """The predictions of one search."""
    name, seed = job
    problem, draws = FAMILIES[name](seed), np.random.default_rng([seed, 2])
    points, values = np.empty((0, problem.dimensions)), np.empty(0)
    predicted: dict[int, tuple[Vector, float]] = {}
    found = []
    for count in range(max(LOOKS) + AHEAD + 1):
        if count < FIRST:
            point = draws.random(problem.dimensions)
        else:
            model = model_of(points, values)
            means = model.posterior(points).mean
            merit = problem.merit(points[means.argmax()])
            if count - AHEAD in predicted:
                gains, before = predicted[count - AHEAD]
                low, high = map(float, np.quantile(gains, [0.025, 0.975]))
                found.append(Look(name, count - AHEAD, float(gains.mean()), low, high, merit - before))
            if count in LOOKS:
                asked = np.vstack([points, candidates(points[np.argsort(-means)[:BEST]], draws)])
                luck = np.random.default_rng([seed, count])
                predicted[count] = played_gains(model, asked, count, AHEAD, luck), merit
            point = _proposal(model, points, means, draws)
        values = np.append(values, problem.curve(point, np.random.default_rng([seed, count]))[-1])
        points = np.vstack([points, point])
    return found


def _proposal(model: CurveModel, points: Vector, means: Vector, draws: np.random.Generator) -> Vector:
    asked = candidates(points[np.argsort(-means)[:BEST]], draws)
    for width in (0.05, 0.02):
        found = _worth(model, asked, means)
        top = asked[np.argsort(-found)[:5]]
        near = np.clip(top[:, None] + width * draws.standard_normal((5, 24, asked.shape[1])), 0, 1)
        asked = np.vstack([top, near.reshape(-1, asked.shape[1])])
    best: Vector = asked[_worth(model, asked, means).argmax()]
    return best


def _worth(model: CurveModel, asked: Vector, means: Vector) -> Vector:
    found = model.posterior(asked)
    return expected_improvement(found.mean, found.gain(), means.max())


def _line(name: str, found: list[Look]) -> str:
    means, low, high, realised = np.array([each[2:] for each in found]).T
    above, below = realised > high + EQUAL, realised < low - EQUAL
    return (
        f"{name:12} {len(found):4} predictions: mean predicted {means.mean():.3f}, realised {realised.mean():.3f}; "
        f"inside {100 * (~above & ~below).mean():.0f} %, above {100 * above.mean():.0f} %, "
        f"below {100 * below.mean():.0f} %, width {(high - low).mean():.3f}"
    )


def main() -> None:
    """Prints a line per problem and one for all, for each number of trials."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=seeds_of, default=range(12), metavar="A:B")
    parser.add_argument("--processes", type=int, default=1)
    asked = parser.parse_args()
    jobs = [(name, seed) for name in PROBLEMS for seed in asked.seeds]
    with ProcessPoolExecutor(asked.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = [look for each in pool.map(looks, jobs) for look in each]
    for name in PROBLEMS:
        print(_line(name, [each for each in found if each.problem == name]))
    for count in LOOKS:
        print(_line(f"at {count}", [each for each in found if each.trials == count]))
    print(_line("all", found))


if __name__ == "__main__":
    main()
