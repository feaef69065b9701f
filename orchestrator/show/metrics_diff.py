"""Whether two trainings went the same way, figure by figure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from pydantic import JsonValue

from trainer.result import EpochResult

# What an epoch tells of the machine and the hour, not of the network.
OF_THE_MACHINE = ("images_per_second", "data_wait_share", "seconds", "evaluation_seconds", "time")


class Difference(NamedTuple):
    """A figure that is not what it was."""

    epoch: int
    figure: str
    """Such as `losses/triplet` or `validation/mAP`."""
    then: JsonValue
    now: JsonValue
    """None where it is not there any more."""


class Agreement(NamedTuple):
    """How one epoch compares with the same epoch of before."""

    compared: int
    """Figures that were compared."""
    largest: float
    """Largest difference, relative to the larger one or to 1 where both are smaller; 0 is equal to the last bit."""
    first: Difference | None
    """The first figure beyond the tolerance."""


def agreement(then: EpochResult, now: EpochResult, tolerance: float) -> Agreement:
    """Compares every figure that the earlier result has; a tolerance of 0 asks for equality to the last bit.

    What only the later one has came with a later version of this program.
    """
    before, after = figures_of(then), figures_of(now)
    found = [(name, value, after.get(name)) for name, value in before.items()]
    distances = [_distance(value, other) for _, value, other in found]
    first = next((each for each, distance in zip(found, distances, strict=True) if not distance <= tolerance), None)
    return Agreement(len(found), max(distances), None if first is None else Difference(then.epoch, *first))


def figures_of(result: EpochResult) -> Mapping[str, JsonValue]:
    """Every figure of an epoch that depends on the network alone, flat, by name."""
    # The sampling is a setting, which results of before do not name.
    document = result.model_dump(
        mode="json", exclude={**dict.fromkeys(OF_THE_MACHINE, True), "validation": {"sampling"}}
    )
    return dict(_flattened(document, ""))


def _flattened(value: JsonValue, name: str) -> Iterator[tuple[str, JsonValue]]:
    if isinstance(value, dict):
        for key, below in value.items():
            yield from _flattened(below, f"{name}/{key}" if name else key)
    elif isinstance(value, list):
        for number, below in enumerate(value):
            yield from _flattened(below, f"{name}/{number}")
    elif value is not None:
        yield name, value


def _distance(then: JsonValue, now: JsonValue) -> float:
    if isinstance(then, bool | str) or isinstance(now, bool | str) or now is None:
        return 0.0 if then == now else float("inf")
    assert isinstance(then, int | float) and isinstance(now, int | float)
    return abs(then - now) / max(1.0, abs(then), abs(now))
