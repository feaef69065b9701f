"""The largest configuration of a space: if it fits into memory, all others do."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.space.expressions import parse_expression
from orchestrator.space.parameters import AnyParameter, Choice, Value
from orchestrator.space.problems import SpaceError
from orchestrator.space.search_space import SearchSpace
from trainer.formatting import shown

if TYPE_CHECKING:
    from trainer.config import TrialConfig

# The trainer's settings that decide how much a batch computes and an epoch takes.
OF_SIZE = ("clips.", "model.", "optim.epochs", "optim.accumulate", "evaluation.")
MAX_CORNERS = 256
RANDOM_POINTS = 64


class WorstCase(NamedTuple):
    """The largest of some corners and random points of a space."""

    config: TrialConfig
    """The configuration with most multiplications per training batch; of equals the one with most epochs."""
    point: Mapping[str, Value]
    """Its point."""
    looked_at: int
    """Points that were compared."""
    epochs: int
    """The most epochs of any of them."""


def worst_case(space: SearchSpace) -> WorstCase:
    """The largest of the known-good points, corners and random points of the space.

    Corners are those of the parameters that a size depends on, at most `MAX_CORNERS`, with all others in the middle.
    Size is `trainer.multiplications_per_batch`: clips per batch x frames x (height x width x the network's work).

    Raises:
        SpaceError: the trainer refuses one of these points; the message names it.
    """
    from trainer import multiplications_per_batch

    points = [dict(point) for point in (space.any_sample(), *space.start, *corners(space))]
    points += itertools.islice(space.samples(0), RANDOM_POINTS)
    configs = [_configuration(space, point) for point in points]
    sizes = [(multiplications_per_batch(config), config.optim.epochs) for config in configs]
    place = sizes.index(max(sizes))
    return WorstCase(configs[place], points[place], len(points), max(epochs for _, epochs in sizes))


def corners(space: SearchSpace) -> Iterator[Mapping[str, Value]]:
    """Points at which the parameters that a size depends on have extreme values or any choice; others the middle."""
    relevant = _parameters_of_size(space)
    shares = [_extremes(parameter) if path in relevant else [0.5] for path, parameter in space.parameters.items()]
    every = list(itertools.islice(itertools.product(*shares), MAX_CORNERS + 1))
    if len(every) > MAX_CORNERS:
        source = random.Random(0)
        every = [tuple(source.choice(of_one) for of_one in shares) for _ in range(MAX_CORNERS)]
    return (point for draws in every if (point := space.sample(draws)) is not None)


def _parameters_of_size(space: SearchSpace) -> set[str]:
    """Parameters that are a size, from which one is derived, or on which the conditions of one depend."""
    found = {path for path in space.parameters if path.startswith(OF_SIZE)}
    for path, text in space.derived.items():
        if path.startswith(OF_SIZE):
            found |= set(parse_expression(text).paths())
    for path in tuple(found):
        found |= set(space.parameters[path].when)
    return found


def _extremes(parameter: AnyParameter) -> Sequence[float]:
    """Shares of a parameter's ends, or of every choice."""
    if not isinstance(parameter, Choice):
        return [0.0, 1.0]
    return [(index + 0.5) / len(parameter.values) for index in range(len(parameter.values))]


def _configuration(space: SearchSpace, point: Mapping[str, Value]) -> TrialConfig:
    try:
        return space.config(point)
    except SpaceError as error:
        where = ", ".join(f"{path} {shown(value)}" for path, value in point.items())
        raise SpaceError(*(f"{problem} (at {where})" for problem in error.problems)) from error
