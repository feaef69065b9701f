"""What the benchmark of search algorithms searches: test functions with learning curves, and recorded trainings.

Merit is what a search is after, free of noise: 0 is the median of uniformly random points, 1 the best there is.

    merit(x) = (median - f(x)) / (median - minimum)

A trial of a test function takes up to 27 epochs; after epoch e it shows a value that rises from a common start towards
the point's merit, at a speed that differs from point to point so that curves cross, with noise on every epoch:

    shown(x, e) = START + (merit(x) - START) (1 - exp(-e / tau(x))) / (1 - exp(-27 / tau(x))) + NOISE * normal

Functions: Hartmann-6 (Dixon and Szego 1978), Branin (Branin 1972), Levy-10 (Laguna and Marti 2005).

A trial of the recorded problem shows what the nearest configuration of `benchmarks.recorded_search` did, as it did; its
merit is the recorded mAP after the last epoch, on the same scale. Nearest is meant in the unit cube of the space's own
scales, so that every search sees the same ranges.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from benchmarks import recorded_search
from benchmarks.recorded_search import Recorded, read_recorded
from orchestrator.space.parameters import Choice, FloatRange, IntRange
from orchestrator.space.search_space import SearchSpace

Vector = np.ndarray[Any, Any]

START, NOISE = -0.3, 0.02
SAMPLED = 20_000  # random points that tell the median


class Problem(Protocol):
    """What is searched: the unit cube."""

    @property
    def name(self) -> str:
        """Its key in `PROBLEMS`."""

    @property
    def dimensions(self) -> int:
        """Of the cube."""

    @property
    def epochs(self) -> int:
        """Of a whole trial."""

    @property
    def trials(self) -> int:
        """Whole trials whose epochs a search may spend."""

    def merit(self, point: Sequence[float]) -> float:
        """1 at the best point, 0 at the median."""

    def curve(self, point: Sequence[float], noise: np.random.Generator) -> list[float]:
        """What each epoch of a trial shows, on the scale of the merit."""

    def standard_error(self, point: Sequence[float]) -> float:
        """Of the last epoch's value, as a search is told it."""


class Function:
    """A function on the unit cube, to be minimised, with curves that are made up."""

    epochs = 27  # three rungs of successive halving by 3 below it

    def __init__(self, name: str, dimensions: int, trials: int, cost: Callable[[Vector], float], low: float) -> None:
        """`low` is the function's minimum."""
        self.name, self.dimensions, self.trials = name, dimensions, trials
        self._cost, self._low = cost, low

    @functools.cached_property
    def _median(self) -> float:
        points = np.random.default_rng(0).random((SAMPLED, self.dimensions))
        return statistics.median(self._cost(point) for point in points)

    def merit(self, point: Sequence[float]) -> float:
        """See `Problem`."""
        return (self._median - self._cost(np.asarray(point))) / (self._median - self._low)

    def curve(self, point: Sequence[float], noise: np.random.Generator) -> list[float]:
        """See the module."""
        merit = self.merit(point)
        tau = 3 * 4 ** math.sin(5 * sum(point))  # from 0.75 to 12 epochs
        epochs = np.arange(1, self.epochs + 1)
        rise = (1 - np.exp(-epochs / tau)) / (1 - math.exp(-self.epochs / tau))
        shown: list[float] = (START + (merit - START) * rise + NOISE * noise.standard_normal(self.epochs)).tolist()
        return shown

    def standard_error(self, point: Sequence[float]) -> float:
        """The noise."""
        return NOISE


class Lookup:
    """Recorded trainings; the nearest one answers."""

    name = "recorded"
    epochs = recorded_search.EPOCHS
    trials = 60

    @functools.cached_property
    def _recorded(self) -> list[Recorded]:
        recorded = read_recorded()
        if not recorded:
            raise FileNotFoundError(f"{recorded_search.RECORDED} is missing; benchmarks.recorded_search makes it")
        return recorded

    @functools.cached_property
    def _places(self) -> Vector:
        parameters = SearchSpace.load(recorded_search.SPACE).parameters
        return np.array(
            [[_share(parameters[path], value) for path, value in one.params.items()] for one in self._recorded]
        )

    @property
    def dimensions(self) -> int:
        """Parameters of the space."""
        return int(self._places.shape[1])

    @functools.cached_property
    def _median_and_best(self) -> tuple[float, float]:
        finals = [one.curve[-1] for one in self._recorded]
        return statistics.median(finals), max(finals)

    def _nearest(self, point: Sequence[float]) -> Recorded:
        return self._recorded[int(((self._places - np.asarray(point)) ** 2).sum(1).argmin())]

    def _scaled(self, value: float) -> float:
        median, best = self._median_and_best
        return (value - median) / (best - median)

    def merit(self, point: Sequence[float]) -> float:
        """See `Problem`."""
        return self._scaled(self._nearest(point).curve[-1])

    def curve(self, point: Sequence[float], noise: np.random.Generator) -> list[float]:
        """As it was recorded; the noise of training is in it."""
        return [self._scaled(value) for value in self._nearest(point).curve]

    def standard_error(self, point: Sequence[float]) -> float:
        """As it was recorded: over queries, on the scale of the merit."""
        median, best = self._median_and_best
        return self._nearest(point).standard_error / (best - median)


def _shares(parameters: Mapping[str, FloatRange | IntRange | Choice], recorded: Recorded) -> list[float]:
    """Where a configuration lies in the unit cube of the space's scales."""
    return [_share(parameters[path], value) for path, value in recorded.params.items()]


def _share(parameter: FloatRange | IntRange | Choice, value: float) -> float:
    assert not isinstance(parameter, Choice), "the recorded space has ranges only"
    low, high = float(parameter.low), float(parameter.high)
    if parameter.log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low)


class _Hartmann(NamedTuple):
    alpha: Vector
    a: Vector
    p: Vector


_HARTMANN = _Hartmann(
    np.array([1.0, 1.2, 3.0, 3.2]),
    np.array(
        [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]]
    ),
    1e-4
    * np.array(
        [
            [1312, 1696, 5569, 124, 8283, 5886],
            [2329, 4135, 8307, 3736, 1004, 9991],
            [2348, 1451, 3522, 2883, 3047, 6650],
            [4047, 8828, 8732, 5743, 1091, 381],
        ]
    ),
)


def hartmann(x: Vector) -> float:
    """Hartmann's function of six variables."""
    return float(-_HARTMANN.alpha @ np.exp(-(_HARTMANN.a * (x - _HARTMANN.p) ** 2).sum(1)))


def branin(x: Vector) -> float:
    """Branin's function on [-5, 10] x [0, 15]."""
    first, second = 15 * x[0] - 5, 15 * x[1]
    bend = second - 5.1 / (4 * math.pi**2) * first**2 + 5 / math.pi * first - 6
    return float(bend**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(first) + 10)


def levy(x: Vector) -> float:
    """Levy's function on [-10, 10] in each variable."""
    w = 1 + (20 * x - 11) / 4
    middle = (w[:-1] - 1) ** 2 * (1 + 10 * np.sin(math.pi * w[:-1] + 1) ** 2)
    last = (w[-1] - 1) ** 2 * (1 + math.sin(2 * math.pi * w[-1]) ** 2)
    return float(math.sin(math.pi * w[0]) ** 2 + middle.sum() + last)


PROBLEMS: dict[str, Problem] = {
    problem.name: problem
    for problem in (
        Function("branin", 2, 40, branin, 0.397887),
        Function("hartmann6", 6, 80, hartmann, -3.32237),
        Function("levy10", 10, 60, levy, 0.0),
        Lookup(),
    )
}
