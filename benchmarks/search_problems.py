"""Noisy test functions with learning curves, for benchmarks of search algorithms.

A trial at a point x takes up to 27 epochs; after epoch e it shows a value that rises from a common start towards the
point's merit, at a speed that differs from point to point so that curves cross, with noise on every epoch:

    merit(x) = (mean - f(x)) / (mean - minimum)                  1 at the optimum, 0 where a random point is on average
    shown(x, e) = START + (merit(x) - START) (1 - exp(-e / tau(x))) / (1 - exp(-27 / tau(x))) + NOISE * normal

Functions: Hartmann-6 (Dixon and Szego 1978), Branin (Branin 1972), Levy-10 (Laguna and Marti 2005).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

EPOCHS = 27  # three rungs of successive halving by 3 below it
START, NOISE = -0.3, 0.02


class Problem(NamedTuple):
    """A function on the unit cube to be minimised."""

    name: str
    dimensions: int
    cost: Callable[[np.ndarray[Any, Any]], float]
    minimum: float

    def merit(self, point: Sequence[float]) -> float:
        """1 at the optimum, 0 on average."""
        mean = _mean(self)
        return (mean - self.cost(np.asarray(point))) / (mean - self.minimum)


_HARTMANN_A = np.array(
    [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]]
)
_HARTMANN_P = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)
_HARTMANN_ALPHA = np.array([1.0, 1.2, 3.0, 3.2])


def hartmann(x: np.ndarray[Any, Any]) -> float:
    """Hartmann's function of six variables."""
    return float(-_HARTMANN_ALPHA @ np.exp(-(_HARTMANN_A * (x - _HARTMANN_P) ** 2).sum(1)))


def branin(x: np.ndarray[Any, Any]) -> float:
    """Branin's function on [-5, 10] x [0, 15]."""
    first, second = 15 * x[0] - 5, 15 * x[1]
    bend = second - 5.1 / (4 * math.pi**2) * first**2 + 5 / math.pi * first - 6
    return float(bend**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(first) + 10)


def levy(x: np.ndarray[Any, Any]) -> float:
    """Levy's function on [-10, 10] in each variable."""
    w = 1 + (20 * x - 11) / 4
    middle = (w[:-1] - 1) ** 2 * (1 + 10 * np.sin(math.pi * w[:-1] + 1) ** 2)
    last = (w[-1] - 1) ** 2 * (1 + math.sin(2 * math.pi * w[-1]) ** 2)
    return float(math.sin(math.pi * w[0]) ** 2 + middle.sum() + last)


PROBLEMS = {
    problem.name: problem
    for problem in (
        Problem("hartmann6", 6, hartmann, -3.32237),
        Problem("branin", 2, branin, 0.397887),
        Problem("levy10", 10, levy, 0.0),
    )
}
_means: dict[str, float] = {}


def _mean(problem: Problem) -> float:
    if problem.name not in _means:
        points = np.random.default_rng(0).random((20_000, problem.dimensions))
        _means[problem.name] = statistics.fmean(problem.cost(point) for point in points)
    return _means[problem.name]


def curve(problem: Problem, point: Sequence[float], noise: np.random.Generator) -> list[float]:
    """What each epoch of a trial shows."""
    merit = problem.merit(point)
    tau = 3 * 4 ** math.sin(5 * sum(point))  # from 0.75 to 12 epochs
    epochs = np.arange(1, EPOCHS + 1)
    rise = (1 - np.exp(-epochs / tau)) / (1 - math.exp(-EPOCHS / tau))
    shown: list[float] = (START + (merit - START) * rise + NOISE * noise.standard_normal(EPOCHS)).tolist()
    return shown
