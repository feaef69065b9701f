"""The kinds of searched parameter: a range of numbers, a range of whole numbers, a choice."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Literal, TypeAlias, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from trainer.formatting import KeyPath, exactly, listed, shown

MAX_VALUES = 100  # of a choice; the trainer is asked about each
MAX_STEPS = 10_000  # of a range; beyond that steps change nothing
NEAR_STEP = 1e-6  # share of a step by which a value may miss it: Ax adds steps up in floating point
MAX_WHOLE = 10**12  # of either sign; points that differ in the 13th digit only count as the same

Value: TypeAlias = bool | int | float | str
"""A value of one searched setting."""

Point: TypeAlias = dict[str, Value]
"""Values of searched settings by their dotted paths."""
Number = TypeVar("Number", int, float)
Kind = TypeVar("Kind")


class StrictConfig(BaseModel):
    """A part of a space file: frozen; unknown keys, NaN, infinity and values of another type are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def readable_by(parse: Callable[[str], object]) -> AfterValidator:
    """Requires that `parse` reads a text without a ValueError; the field keeps the text."""

    def check(text: str) -> str:
        parse(text)
        return text

    return AfterValidator(check)


Condition = Annotated[tuple[Value, ...], Field(strict=False, min_length=1, max_length=MAX_VALUES)]
"""The values of a searched choice that activate a parameter."""


Conditions = Annotated[
    dict[str, Condition],
    BeforeValidator(lambda given: {} if given is None else given, json_schema_input_type=dict[str, Condition] | None),
]
"""By searched choice; null stands for no conditions, which in a child removes those of its parent."""


def _above_low(high: Number, info: ValidationInfo) -> Number:
    low = info.data.get("low")
    if low is not None and not low < high:
        raise ValueError(f"must be greater than low ({shown(high)} <= {shown(low)})")
    return high


def _positive_if_log(log: bool, info: ValidationInfo) -> bool:
    low = info.data.get("low")
    if log and low is not None and low <= 0:
        raise ValueError(f"needs low > 0 (low is {shown(low)})")
    return log


def _fits_range(step: Number | None, info: ValidationInfo) -> Number | None:
    """A step must lead from `low` to `high` in a whole number of steps: Ax knows no other ranges with steps."""
    low, high = info.data.get("low"), info.data.get("high")
    if step is None:
        return None
    if info.data.get("log"):
        raise ValueError("has no meaning on a log scale, and Ax cannot express it; leave it out, or list a choice")
    if low is None or high is None:
        return step
    exact = (high - low) / step
    if exact < 1 - NEAR_STEP:
        raise ValueError(f"is longer than the range from {shown(low)} to {shown(high)}")
    if exact > MAX_STEPS:
        raise ValueError(f"makes more than {MAX_STEPS:,} values; leave it out")
    if abs(exact - round(exact)) > NEAR_STEP:
        below = low + math.floor(exact) * step
        raise ValueError(
            f"does not lead from low to high; end the range at {shown(below)} or {shown(below + step)}, Ax needs whole "
            "steps"
        )
    return step


class Prior(StrictConfig):
    """A value that is probably good."""

    value: Value
    """The value, one of the parameter."""
    sure: Literal["weak", "medium", "strong"] = "medium"
    """How much the search keeps to its neighbourhood at first; evidence takes over as trials come in."""


class FloatRange(StrictConfig):
    """Any number between two bounds, both included."""

    type: Literal["float"]
    low: float
    """Smallest value."""
    high: Annotated[float, AfterValidator(_above_low)]
    """Largest value."""
    log: Annotated[bool, AfterValidator(_positive_if_log)] = False
    """Whether the search uses the logarithm; for settings whose order of magnitude matters."""
    step: Annotated[float | None, Field(gt=0), AfterValidator(_fits_range)] = None
    """Distance between neighbouring values, counted from `low`; null allows any number in between."""
    when: Conditions = {}
    """Searched only if each of these searched choices has one of these values; otherwise the default is used."""
    prior: Prior | None = None
    """A value that is probably good; null where none is known. For the model of `ax`."""

    def ends(self) -> Mapping[KeyPath, Value]:
        """The extreme values, by the key that states each."""
        return {("low",): self.low, ("high",): self.high}

    def at(self, share: float) -> float:
        """The value at a share in [0, 1] of the range, on the range's own scale."""
        if self.step is not None:
            return self._nth(min(int(share * self._count()), self._count() - 1), self.step)
        return min(max(_between(self.low, self.high, share, log=self.log), self.low), self.high)

    def place(self, value: Value) -> float:
        """The inverse of `at`: 0 for `low`, 1 for `high`, on the range's own scale."""
        return _place(self.low, self.high, float(value), log=self.log)

    def count(self) -> int | None:
        """Number of values; None if the range has no steps."""
        return None if self.step is None else self._count()

    def points(self) -> Sequence[float] | None:
        """All values, ascending; None if the range has no steps."""
        return None if self.step is None else [self._nth(index, self.step) for index in range(self._count())]

    def refusal(self, value: object) -> str | None:
        """Why the value is not one of the range; None if it is."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return f"must be a number (is {shown(value)})"
        return _outside(value, self.low, self.high, self.step)

    def _count(self) -> int:
        return _steps(self.low, self.high, self.step or 1.0) + 1

    def _nth(self, index: int, step: float) -> float:
        # In decimals, so that two steps of 0.1 from 0.1 are 0.3.
        return min(float(Decimal(repr(self.low)) + index * Decimal(repr(step))), self.high)


class IntRange(StrictConfig):
    """Any whole number between two bounds, both included."""

    type: Literal["int"]
    low: int = Field(ge=-MAX_WHOLE, le=MAX_WHOLE)
    """Smallest value."""
    high: Annotated[int, Field(ge=-MAX_WHOLE, le=MAX_WHOLE), AfterValidator(_above_low)]
    """Largest value."""
    log: Annotated[bool, AfterValidator(_positive_if_log)] = False
    """Whether the search uses the logarithm."""
    step: Annotated[int | None, Field(ge=1), AfterValidator(_fits_range)] = None
    """Distance between neighbouring values, counted from `low`; null allows every whole number."""
    when: Conditions = {}
    """Searched only if each of these searched choices has one of these values; otherwise the default is used."""
    prior: Prior | None = None
    """A value that is probably good; null where none is known. For the model of `ax`."""

    def ends(self) -> Mapping[KeyPath, Value]:
        """The extreme values, by the key that states each."""
        return {("low",): self.low, ("high",): self.high}

    def at(self, share: float) -> int:
        """The whole number at a share in [0, 1] of the range, on the range's own scale."""
        if self.log:
            return min(max(round(_between(self.low, self.high, share, log=True)), self.low), self.high)
        return _at(self.points(), share)

    def place(self, value: Value) -> float:
        """The inverse of `at`: 0 for `low`, 1 for `high`, on the range's own scale."""
        return _place(self.low, self.high, float(value), log=self.log)

    def count(self) -> int:
        """Number of values."""
        return len(self.points())

    def points(self) -> Sequence[int]:
        """All values, ascending."""
        return range(self.low, self.high + 1, self.step or 1)

    def refusal(self, value: object) -> str | None:
        """Why the value is not one of the range; None if it is."""
        if isinstance(value, bool) or not isinstance(value, int):
            return f"must be a whole number (is {exactly(value)})"
        return _outside(value, self.low, self.high, self.step)


class Choice(StrictConfig):
    """One of a list of values."""

    type: Literal["choice"]
    values: Annotated[tuple[Value, ...], Field(strict=False, min_length=2, max_length=MAX_VALUES)]
    """The values: all text, all numbers, or false and true."""
    ordered: bool = False
    """Whether neighbours in the list are similar, as sizes are."""
    when: Conditions = {}
    """Searched only if each of these searched choices has one of these values; otherwise the default is used."""
    prior: Prior | None = None
    """A value that is probably good; null where none is known. For the model of `ax`."""

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
        return _at(self.values, share)

    def place(self, value: Value) -> float:
        """The position of a value in the list: 0 for the first, 1 for the last."""
        return self.values.index(value) / (len(self.values) - 1)

    def count(self) -> int:
        """Number of values."""
        return len(self.values)

    def points(self) -> Sequence[Value]:
        """All values, in the order of the list."""
        return self.values

    def refusal(self, value: object) -> str | None:
        """Why the value is not one of the choices; None if it is."""
        if any(value == known and isinstance(value, bool) == isinstance(known, bool) for known in self.values):
            return None
        return f"must be one of {', '.join(map(shown, self.values))} (is {shown(value)})"


AnyParameter: TypeAlias = FloatRange | IntRange | Choice


def _with_fitting_prior(parameter: AnyParameter) -> AnyParameter:
    if parameter.prior is not None and (why := parameter.refusal(parameter.prior.value)) is not None:
        raise ValueError(f"prior.value {why}")
    return parameter


Parameter = Annotated[AnyParameter, Field(discriminator="type"), AfterValidator(_with_fitting_prior)]
Parameters: TypeAlias = Mapping[str, AnyParameter]
"""By the dotted paths of the settings that are searched."""
KINDS: dict[str, type[StrictConfig]] = {"float": FloatRange, "int": IntRange, "choice": Choice}

_PARAMETER: TypeAdapter[AnyParameter] = TypeAdapter(Parameter)


def parse_parameter(data: object) -> AnyParameter | None:
    """The parameter that plain data describes; None if it is not valid."""
    try:
        return _PARAMETER.validate_python(data)
    except ValidationError:
        return None


def is_active(path: str, parameters: Parameters, values: Mapping[str, Value]) -> bool:
    """Whether all conditions of a parameter hold for these values."""
    return all(
        choice in values and values[choice] in allowed and is_active(choice, parameters, values)
        for choice, allowed in parameters[path].when.items()
    )


def active(parameters: Parameters, values: Mapping[str, Value]) -> Point:
    """The values without those of parameters that are inactive, in the order of the parameters."""
    return {path: values[path] for path in parameters if path in values and is_active(path, parameters, values)}


def conditions_in_words(parameter: AnyParameter) -> str:
    """The conditions of a parameter, such as `model.pooling: 'attention' or 'max'`."""
    return " and ".join(f"{choice}: {listed(list(map(shown, values)))}" for choice, values in parameter.when.items())


def _between(low: float, high: float, share: float, *, log: bool) -> float:
    if not log:
        return low * (1 - share) + high * share
    if share in (0, 1):
        return high if share else low
    if high < 2 * low:  # the difference of two logarithms that are nearly equal would be all rounding
        return low + low * math.expm1(share * math.log1p((high - low) / low))
    return math.exp(math.log(low) * (1 - share) + math.log(high) * share)


def _place(low: float, high: float, value: float, *, log: bool) -> float:
    """The inverse of `_between`."""
    if not log:
        return (value - low) / (high - low)
    if high < 2 * low:
        return math.log1p((value - low) / low) / math.log1p((high - low) / low)
    return (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))


def _at(points: Sequence[Kind], share: float) -> Kind:
    return points[min(int(share * len(points)), len(points) - 1)]


def _steps(low: float, high: float, step: float) -> int:
    return round((high - low) / step)


def _outside(value: float, low: float, high: float, step: float | None) -> str | None:
    if not low <= value <= high:
        return f"must lie in [{shown(low)}, {shown(high)}] (is {shown(value)})"
    if step is None or abs((value - low) / step - round((value - low) / step)) <= NEAR_STEP:
        return None
    return f"must be a step of {shown(step)} from {shown(low)} (is {shown(value)})"
