"""The kinds of searched parameter: a range of numbers, a range of whole numbers, a choice."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from trainer.wording import KeyPath, exactly, shown

MAX_VALUES = 100  # of a choice; the trainer is asked about each

Value: TypeAlias = bool | int | float | str
"""What one searched setting can be."""


class StrictConfig(BaseModel):
    """A frozen part of a space file: unknown keys, NaN, infinity and values of another type are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class FloatRange(StrictConfig):
    """Any number between two bounds, both included."""

    type: Literal["float"]
    low: float
    """Smallest value."""
    high: float
    """Largest value."""
    log: bool = False
    """Whether the search sees the logarithm; for settings that act by their order of magnitude."""

    @field_validator("high")
    @classmethod
    def _above_low(cls, high: float, info: ValidationInfo) -> float:
        return _checked_high(high, info)

    @field_validator("log")
    @classmethod
    def _log_of_positive(cls, log: bool, info: ValidationInfo) -> bool:
        return _checked_log(log, info)

    def ends(self) -> Mapping[KeyPath, Value]:
        """The extreme values, by the key that states each."""
        return {("low",): self.low, ("high",): self.high}

    def at(self, share: float) -> float:
        """The value at a share in [0, 1] of the range, on the range's own scale."""
        return min(max(_between(self.low, self.high, share, log=self.log), self.low), self.high)

    def refusal(self, value: object) -> str | None:
        """Why the value lies outside, or None where it lies inside."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return f"must be a number (is {shown(value)})"
        return _outside(value, self.low, self.high)


class IntRange(StrictConfig):
    """Any whole number between two bounds, both included."""

    type: Literal["int"]
    low: int
    """Smallest value."""
    high: int
    """Largest value."""
    log: bool = False
    """Whether the search sees the logarithm."""

    @field_validator("high")
    @classmethod
    def _above_low(cls, high: int, info: ValidationInfo) -> int:
        return int(_checked_high(high, info))

    @field_validator("log")
    @classmethod
    def _log_of_positive(cls, log: bool, info: ValidationInfo) -> bool:
        return _checked_log(log, info)

    def ends(self) -> Mapping[KeyPath, Value]:
        """The extreme values, by the key that states each."""
        return {("low",): self.low, ("high",): self.high}

    def at(self, share: float) -> int:
        """The whole number at a share in [0, 1] of the range, on the range's own scale."""
        if self.log:
            return min(max(round(_between(self.low, self.high, share, log=True)), self.low), self.high)
        return min(self.low + int(share * (self.high - self.low + 1)), self.high)

    def refusal(self, value: object) -> str | None:
        """Why the value lies outside, or None where it lies inside."""
        if isinstance(value, bool) or not isinstance(value, int):
            return f"must be a whole number (is {exactly(value)})"
        return _outside(value, self.low, self.high)


class Choice(StrictConfig):
    """One of a list of values."""

    type: Literal["choice"]
    values: Annotated[tuple[Value, ...], Field(strict=False, min_length=2, max_length=MAX_VALUES)]
    """The values: all text, all numbers, or false and true."""
    ordered: bool = False
    """Whether neighbours in the list are alike, as sizes are."""

    @field_validator("values")
    @classmethod
    def _distinct_and_alike(cls, values: tuple[Value, ...]) -> tuple[Value, ...]:
        kinds = {float if type(value) is int else type(value) for value in values}
        if len(kinds) > 1:
            raise ValueError("must be of one kind: all text, all numbers, or false and true")
        for index, value in enumerate(values):
            if value in values[:index]:
                raise ValueError(f"must be distinct ({shown(value)} is there twice)")
        whole = all(isinstance(value, int) for value in values)
        return values if whole or kinds == {str} else tuple(float(value) for value in values)

    def ends(self) -> Mapping[KeyPath, Value]:
        """Every value, by the keys that state it."""
        return {("values", index): value for index, value in enumerate(self.values)}

    def at(self, share: float) -> Value:
        """The value at a share in [0, 1] of the list."""
        return self.values[min(int(share * len(self.values)), len(self.values) - 1)]

    def refusal(self, value: object) -> str | None:
        """Why the value is none of the choices, or None where it is one."""
        if any(value == known and isinstance(value, bool) == isinstance(known, bool) for known in self.values):
            return None
        return f"must be one of {', '.join(map(shown, self.values))} (is {shown(value)})"


Parameter = Annotated[FloatRange | IntRange | Choice, Field(discriminator="type")]
KINDS: dict[str, type[StrictConfig]] = {"float": FloatRange, "int": IntRange, "choice": Choice}

_PARAMETER: TypeAdapter[FloatRange | IntRange | Choice] = TypeAdapter(Parameter)


def parse_parameter(data: object) -> FloatRange | IntRange | Choice | None:
    """The parameter that plain data describes, or None where it describes none."""
    try:
        return _PARAMETER.validate_python(data)
    except ValidationError:
        return None


def _checked_high(high: float, info: ValidationInfo) -> float:
    low = info.data.get("low")
    if low is not None and not low < high:
        raise ValueError(f"must be greater than low ({shown(high)} <= {shown(low)})")
    return high


def _checked_log(log: bool, info: ValidationInfo) -> bool:
    low = info.data.get("low")
    if log and low is not None and low <= 0:
        raise ValueError(f"needs low > 0 (low is {shown(low)})")
    return log


def _between(low: float, high: float, share: float, *, log: bool) -> float:
    if log:
        return math.exp(math.log(low) * (1 - share) + math.log(high) * share)
    return low * (1 - share) + high * share


def _outside(value: float, low: float, high: float) -> str | None:
    if low <= value <= high:
        return None
    return f"must lie in [{shown(low)}, {shown(high)}] (is {shown(value)})"
