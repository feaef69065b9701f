"""Problems for search algorithms: functions with moved optima and random families, all on the unit cube.

Merit is what a search is after, free of noise: 0 is the median of uniformly random points, 1 the best there is.

    merit(x) = (median - f(x)) / (median - minimum)

Every problem is a family: the seed of a search also draws the place of the optimum or the whole function, so that no
search can know where the optimum is. A trial reports a curve that ends at merit(x) plus noise.

Functions: Branin (Branin 1972), Hartmann-6 (Dixon and Szego 1978), Levy (Laguna and Marti 2005), Rosenbrock (1960),
Ackley (1987). Shapes: B points, D coordinates, E epochs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence, Set
from typing import Any, NamedTuple, Protocol

import numpy as np

Vector = np.ndarray[Any, Any]
Point = Sequence[float] | Vector
Cost = Callable[[Vector], Vector]  # (B, D) -> (B)

START, NOISE = -0.3, 0.02
SAMPLED = 20_000  # random points that estimate the median


class Problem(Protocol):
    """A function of the unit cube with learning curves."""

    name: str
    dimensions: int
    epochs: int
    """Epochs of a whole trial."""
    trials: int
    """Whole trials whose epochs a search may spend."""

    def place(self, point: Point, taken: Set[tuple[float, ...]]) -> list[float]:
        """The point that is trained for a proposal: itself, or in a table the nearest row that is not taken."""

    def merit(self, point: Point) -> float:
        """1 at the best point, 0 at the median."""

    def curve(self, point: Point, noise: np.random.Generator) -> Vector:
        """The value after each epoch, on the scale of merit; NaN from the epoch at which the trial diverges."""

    def standard_error(self, point: Point) -> float:
        """The standard error of the last value that a search is told."""


class Synthetic:
    """A cost function on the unit cube with made-up curves.

    A trial rises from a common start to the merit of its point, at a speed that differs from point to point so that
    curves cross, with noise on every epoch:

        shown(x, e) = START + (merit(x) - START) (1 - exp(-e / tau(x))) / (1 - exp(-E / tau(x))) + NOISE * normal
    """

    epochs = 27  # three rungs of successive halving by 3 below it

    def __init__(self, name: str, dimensions: int, trials: int, cost: Cost, minimum: float) -> None:
        """`cost` takes points as a (B, D) array; `minimum` is its lowest value."""
        self.name, self.dimensions, self.trials = name, dimensions, trials
        self._cost, self._minimum = cost, minimum
        self._median = float(np.median(cost(np.random.default_rng(0).random((SAMPLED, dimensions)))))

    def place(self, point: Point, taken: Set[tuple[float, ...]]) -> list[float]:
        """See `Problem`."""
        return list(point)

    def merit(self, point: Point) -> float:
        """See `Problem`."""
        value = float(self._cost(np.asarray(point, float)[None])[0])
        return (self._median - value) / (self._median - self._minimum)

    def curve(self, point: Point, noise: np.random.Generator) -> Vector:
        """See the class."""
        merit = self.merit(point)
        tau = 3 * 4 ** math.sin(5 * sum(point))  # from 0.75 to 12 epochs
        epochs = np.arange(1, self.epochs + 1)
        rise = (1 - np.exp(-epochs / tau)) / (1 - math.exp(-self.epochs / tau))
        return START + (merit - START) * rise + NOISE * noise.standard_normal(self.epochs)

    def standard_error(self, point: Point) -> float:
        """The noise."""
        return NOISE


# --- functions with moved optima -------------------------------------------------------------------------------------


def branin(x: Vector) -> Vector:
    """Branin's function on [-5, 10] x [0, 15]; minimum 0.397887."""
    first, second = 15 * x[:, 0] - 5, 15 * x[:, 1]
    bend = second - 5.1 / (4 * math.pi**2) * first**2 + 5 / math.pi * first - 6
    return bend**2 + 10 * (1 - 1 / (8 * math.pi)) * np.cos(first) + 10


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


def hartmann(x: Vector) -> Vector:
    """Hartmann's function of six variables; minimum -3.32237."""
    inner = (_HARTMANN.a * (x[:, None, :] - _HARTMANN.p) ** 2).sum(2)
    return -(np.exp(-inner) @ _HARTMANN.alpha)


def levy(x: Vector) -> Vector:
    """Levy's function on [-10, 10] in each variable; minimum 0 at 0.55 of the cube."""
    w = 1 + (20 * x - 11) / 4
    head, middle = w[:, 0], w[:, :-1]
    waves = ((middle - 1) ** 2 * (1 + 10 * np.sin(math.pi * middle + 1) ** 2)).sum(1)
    last = (w[:, -1] - 1) ** 2 * (1 + np.sin(2 * math.pi * w[:, -1]) ** 2)
    return np.sin(math.pi * head) ** 2 + waves + last


def rosenbrock(z: Vector) -> Vector:
    """The logarithm of 1 + Rosenbrock's function; minimum 0 where every coordinate is 1."""
    valley = (100 * (z[:, 1:] - z[:, :-1] ** 2) ** 2 + (1 - z[:, :-1]) ** 2).sum(1)
    return np.log1p(valley)


def ackley(z: Vector) -> Vector:
    """Ackley's function; minimum 0 at the origin."""
    size = np.sqrt((z**2).mean(1))
    return -20 * np.exp(-0.2 * size) - np.exp(np.cos(2 * math.pi * z).mean(1)) + 20 + math.e


def mirrored(cost: Cost, dimensions: int, seed: int) -> Cost:
    """The function with its coordinates permuted and some of them mirrored: the range stays, the optimum moves."""
    draw = np.random.default_rng([17, seed])
    order, flipped = draw.permutation(dimensions), draw.random(dimensions) < 0.5
    return lambda x: cost(np.where(flipped, 1 - x, x)[:, order])


def shifted(cost: Cost, dimensions: int, seed: int, optimum: float) -> Cost:
    """The function with its optimum moved to a random place within [0.15, 0.85] in each coordinate."""
    place = np.random.default_rng([77, seed]).uniform(0.15, 0.85, dimensions)
    return lambda x: cost(x - place + optimum)


def rotated(cost: Cost, dimensions: int, seed: int, *, scale: float, optimum: float) -> Cost:
    """The function with rotated coordinates around a random optimum; `scale` units of it are the edge of the cube."""
    draw = np.random.default_rng([99, seed])
    place = draw.uniform(0.2, 0.8, dimensions)
    rotation, _ = np.linalg.qr(draw.standard_normal((dimensions, dimensions)))
    return lambda x: cost((x - place) @ rotation * scale + optimum)


# --- random families -------------------------------------------------------------------------------------------------


class Reid:
    """A random tuning problem in the manner of re-ID trainings: each seed is another function.

    The merit is a bowl in a few weighty coordinates, a smooth random part, and a cliff beyond a high value of the first
    coordinate, which stands for the learning rate. Curves rise at a speed that depends on the point, cross late, and
    carry noise of the run (its seed), noise of each epoch, and no noise that trials share.
    """

    epochs = 20

    def __init__(self, name: str, dimensions: int, trials: int, seed: int, *, run_noise: float = 0.07) -> None:
        """`run_noise` is the standard deviation of the last value over seeds of one point, in units of merit."""
        self.name, self.dimensions, self.trials = name, dimensions, trials
        self._run_noise, self._epoch_noise = run_noise, 0.03
        draw = np.random.default_rng([4242, seed, dimensions])
        weights = np.sort(draw.gamma(0.7, 1.0, dimensions))[::-1] + 0.02
        weights[0] = max(weights[0], 1.0)
        self._weights = (weights / weights.sum() * 4)[draw.permutation(dimensions)]
        self._centre = draw.uniform(0.15, 0.85, dimensions)
        self._waves = _Waves.drawn(draw, 200, draw.uniform(0.3, 0.9, dimensions), 0.35)
        self._cliff = draw.uniform(0.75, 0.95)
        self._speed = _Waves.drawn(draw, 50, np.full(dimensions, 0.5), 1.0)
        sample = draw.random((SAMPLED, dimensions))
        value = self._value(sample)
        self._median = float(np.median(value))
        self._best = _climb(self._value, sample[np.argsort(-value)[:20]], draw)

    def _value(self, x: Vector) -> Vector:
        bowl = -(self._weights * np.abs(x - self._centre) ** 1.7).sum(1)
        fall = 3 * np.maximum(0, x[:, 0] - self._cliff) * (1 + x[:, 1])
        return bowl + self._waves(x) - fall

    def place(self, point: Point, taken: Set[tuple[float, ...]]) -> list[float]:
        """See `Problem`."""
        return list(point)

    def merit(self, point: Point) -> float:
        """See `Problem`."""
        value = float(self._value(np.asarray(point, float)[None])[0])
        return (value - self._median) / (self._best - self._median)

    def curve(self, point: Point, noise: np.random.Generator) -> Vector:
        """See the class."""
        end, epochs, last = self.merit(point), np.arange(1, self.epochs + 1), self.epochs
        speed = -1.8 * (point[0] - 0.5) + 0.6 * float(self._speed(np.asarray(point, float)[None])[0])
        tau = min(max(last * 0.25 * math.exp(speed), 0.4), 3.0 * last)
        start = -1.2 + 0.15 * noise.standard_normal()
        rise = (1 - np.exp(-epochs / tau)) / (1 - math.exp(-last / tau))
        drift = self._run_noise * noise.standard_normal() * (epochs / last) ** 0.5
        walk = np.cumsum(noise.standard_normal(last)) * self._epoch_noise * 0.7
        bridge = walk - walk[-1] * epochs / last
        return start + (end - start) * rise + drift + bridge + self._epoch_noise * 0.7 * noise.standard_normal(last)

    def standard_error(self, point: Point) -> float:
        """Of an evaluation, which all trials of a search share: it hides no difference between them."""
        return 0.3


class _Waves(NamedTuple):
    """A smooth random function: a sum of random cosines."""

    frequencies: Vector
    phases: Vector
    heights: Vector

    @classmethod
    def drawn(cls, draw: np.random.Generator, count: int, lengths: Vector, size: float) -> _Waves:
        """`lengths` are the length scales by coordinate, `size` the standard deviation."""
        frequencies = draw.standard_normal((count, len(lengths))) / lengths
        phases = draw.uniform(0, 2 * math.pi, count)
        return cls(frequencies, phases, draw.standard_normal(count) * math.sqrt(2 / count) * size)

    def __call__(self, x: Vector) -> Vector:
        values: Vector = np.cos(x @ self.frequencies.T + self.phases) @ self.heights
        return values


def _climb(value: Callable[[Vector], Vector], starts: Vector, draw: np.random.Generator) -> float:
    """The highest value found by a shrinking random search from each start."""
    points, best = starts.copy(), value(starts)
    count, dimensions = points.shape
    for round_ in range(60):
        steps = draw.standard_normal((count, 30, dimensions)) * 0.15 * 0.93**round_
        tried = np.clip(points[:, None] + steps, 0, 1)
        found = value(tried.reshape(-1, dimensions)).reshape(count, 30)
        winner = found.argmax(1)
        better = found[np.arange(count), winner] > best
        points[better] = tried[np.arange(count), winner][better]
        best = np.maximum(best, found.max(1))
    return float(best.max())


# --- by name ---------------------------------------------------------------------------------------------------------

FAMILIES: dict[str, Callable[[int], Problem]] = {
    "branin": lambda seed: Synthetic("branin", 2, 40, mirrored(branin, 2, seed), 0.397887),
    "hartmann6": lambda seed: Synthetic("hartmann6", 6, 80, mirrored(hartmann, 6, seed), -3.32237),
    "levy10": lambda seed: Synthetic("levy10", 10, 60, shifted(levy, 10, seed, 0.55), 0.0),
    "rosenbrock5": lambda seed: Synthetic(
        "rosenbrock5", 5, 60, rotated(rosenbrock, 5, seed, scale=3.0, optimum=1.0), 0.0
    ),
    "ackley8": lambda seed: Synthetic("ackley8", 8, 60, rotated(ackley, 8, seed, scale=8.0, optimum=0.0), 0.0),
    "reid5": lambda seed: Reid("reid5", 5, 50, seed),
    "reid8": lambda seed: Reid("reid8", 8, 50, seed),
    "reid8noisy": lambda seed: Reid("reid8noisy", 8, 50, seed, run_noise=0.2),
    "reid12": lambda seed: Reid("reid12", 12, 50, seed),
}
"""Problems without files. Each takes the seed of the search."""
