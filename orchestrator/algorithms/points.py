"""Points of a space: its Sobol sequence, random points, its grid, and which points were tried."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from orchestrator.space.parameters import Choice, FloatRange, IntRange, Value
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.study import Study
from trainer.seeds import derived_seed

# Draws that may break a constraint or have been tried before a space counts as exhausted; of a finite space all points
# are looked at then.
MAX_DRAWS = 1024
# Points of a grid larger than the budget that are put in random order; of a larger grid points are drawn.
MAX_SHUFFLED = 10_000
_SOBOL_BLOCK = 64

Point = dict[str, Value]


def point_key(params: Mapping[str, Value]) -> str:
    """Equal for points that are the same trial: numbers are compared by their first 12 digits, whatever their type."""
    return json.dumps({path: _rounded(value) for path, value in params.items()}, sort_keys=True)


def tried_points(study: Study) -> frozenset[str]:
    """The keys of all points that became trials, however those ended."""
    return frozenset(point_key(trial.params) for trial in study.trials.values())


def first_untried(points: Iterable[Point], tried: Collection[str]) -> Point | None:
    """The first of the points that is not among the keys of those tried."""
    return next((point for point in points if point_key(point) not in tried), None)


def sobol_points(space: SearchSpace, seed: int, start: int = 0) -> Iterator[Point]:
    """The scrambled Sobol sequence from draw `start` on, without the draws that break a constraint."""
    sequence: Any = torch.quasirandom.SobolEngine(  # type: ignore[no-untyped-call]
        len(space.parameters), scramble=True, seed=derived_seed(seed, "initial design")
    )
    if start:
        sequence.fast_forward(start)
    for _ in range(MAX_DRAWS // _SOBOL_BLOCK):
        yield from _allowed(space, sequence.draw(_SOBOL_BLOCK, dtype=torch.float64).tolist())


def random_points(space: SearchSpace, seed: int, index: int) -> Iterator[Point]:
    """Uniformly random points for trial `index`, without those that break a constraint."""
    draws = np.random.default_rng(derived_seed(seed, "random point", index))
    return _allowed(space, (draws.random(len(space.parameters)).tolist() for _ in range(MAX_DRAWS)))


def grid_points(space: SearchSpace, seed: int) -> Iterator[Point]:
    """The grid within the space: every choice and step, and ranges at as many even levels as the budget holds.

    All whole numbers are on it if the budget allows. A range gets at least 2 levels, its ends. The last parameter
    varies fastest; a grid larger than the budget comes in an order shuffled by the seed, so that the part that fits
    into the budget is a sample of the whole grid and not a corner of it.
    """
    levels = _levels(space)
    count = math.prod(map(len, levels))
    ranks = range(count) if count <= space.budget.trials else _shuffled(count, derived_seed(seed, "grid"))
    return _allowed(space, (_draws(levels, rank) for rank in ranks))


def _rounded(value: Value) -> Value:
    return value if isinstance(value, bool | str) else float(f"{value:.12g}")


def _allowed(space: SearchSpace, draws: Iterable[Sequence[float]]) -> Iterator[Point]:
    return (point for shares in draws if (point := space.sample(shares)) is not None)


def _levels(space: SearchSpace) -> list[Sequence[float]]:
    """The shares in [0, 1] of each parameter that are on the grid."""
    parameters = list(space.parameters.values())
    sizes = [len(points) for parameter in parameters if (points := parameter.points()) is not None]
    if len(sizes) == len(parameters) and math.prod(sizes) <= space.budget.trials:
        return [_every_value(parameter) for parameter in parameters]
    ranges = [parameter for parameter in parameters if _is_range(parameter)]
    others = math.prod(len(_every_value(parameter)) for parameter in parameters if not _is_range(parameter))
    levels = 2
    while ranges and others * (levels + 1) ** len(ranges) <= space.budget.trials:
        levels += 1
    even = [level / (levels - 1) for level in range(levels)]
    return [even if _is_range(parameter) else _every_value(parameter) for parameter in parameters]


def _shuffled(count: int, seed: int) -> Iterable[int]:
    """The numbers below `count` in random order; if they are too many to shuffle, draws that may repeat."""
    source = random.Random(seed)
    if count <= MAX_SHUFFLED:
        return source.sample(range(count), count)
    return (source.randrange(count) for _ in range(MAX_SHUFFLED))


def _every_value(parameter: FloatRange | IntRange | Choice) -> Sequence[float]:
    """The shares at which a parameter takes each of its values."""
    if isinstance(parameter, IntRange) and parameter.log:
        return [parameter.place(value) for value in parameter.points()]
    values = parameter.points()
    assert values is not None
    return [(index + 0.5) / len(values) for index in range(len(values))]


def _is_range(parameter: FloatRange | IntRange | Choice) -> bool:
    return not isinstance(parameter, Choice) and parameter.step is None


def _draws(levels: Sequence[Sequence[float]], rank: int) -> list[float]:
    """The shares of one point of the grid, counted with the last parameter fastest."""
    shares = []
    for level in reversed(levels):
        rank, index = divmod(rank, len(level))
        shares.append(level[index])
    return shares[::-1]
