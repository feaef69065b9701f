"""Two trainings of one configuration compared, number by number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pydantic import JsonValue

from trainer.result import EpochResult

# Depends on the machine and the hour, not on the network.
OF_THE_MACHINE = ("images_per_second", "data_wait_share", "seconds", "evaluation_seconds", "time")


class ChangedMetric(NamedTuple):
    """A number that is not what it was."""

    epoch: int
    metric: str
    """Such as `losses/triplet` or `validation/mAP`."""
    then: JsonValue
    now: JsonValue
    """None where it is missing."""


class MetricsDiff(NamedTuple):
    """How one epoch compares with the same epoch of an earlier training."""

    compared: int
    """Numbers that were compared."""
    largest: float
    """Largest difference, relative to the larger number or to 1 where both are smaller; 0 is equal to the last bit."""
    first: ChangedMetric | None
    """The first number beyond the tolerance."""


def metrics_diff(then: EpochResult, now: EpochResult, tolerance: float) -> MetricsDiff:
    """Compares every number of the earlier result; a tolerance of 0 asks for equality to the last bit.

    Numbers that only the later result has come with a later version of this program.
    """
    before, after = _numbers(then), _numbers(now)
    found = [(name, value, after.get(name)) for name, value in before.items()]
    distances = [_distance(value, other) for _, value, other in found]
    first = next((each for each, distance in zip(found, distances, strict=True) if not distance <= tolerance), None)
    return MetricsDiff(len(found), max(distances), None if first is None else ChangedMetric(then.epoch, *first))


def _numbers(result: EpochResult) -> dict[str, JsonValue]:
    """What depends on the network alone, flat, by name. The sampling is a setting."""
    exclude: dict[str, bool | set[str]] = {**dict.fromkeys(OF_THE_MACHINE, True), "validation": {"sampling"}}
    return dict(_flattened(result.model_dump(mode="json", exclude=exclude), ""))


def _flattened(value: JsonValue, name: str) -> Iterator[tuple[str, JsonValue]]:
    if isinstance(value, dict | list):
        for key, below in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _flattened(below, f"{name}/{key}" if name else str(key))
    elif value is not None:
        yield name, value


def _distance(then: JsonValue, now: JsonValue) -> float:
    if isinstance(then, bool | str) or isinstance(now, bool | str) or now is None:
        return 0.0 if then == now else float("inf")
    assert isinstance(then, int | float) and isinstance(now, int | float)
    return abs(then - now) / max(1.0, abs(then), abs(now))
