"""What the parameters of a space make of each other: which are active, what is derived, which points there are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeAlias

from orchestrator.space.expressions import Expression, ExpressionError, LinearConstraint
from orchestrator.space.parameters import Choice, FloatRange, IntRange, Value
from orchestrator.space.settings import setting_kinds
from trainer.formatting import exactly, listed, shown

MAX_POINTS = 100_000  # up to which a finite space is counted

AnyParameter: TypeAlias = FloatRange | IntRange | Choice
Parameters: TypeAlias = Mapping[str, AnyParameter]
Point: TypeAlias = dict[str, Value]


def is_active(path: str, parameters: Parameters, values: Mapping[str, Value]) -> bool:
    """Whether a parameter is searched where the choices have these values: all its conditions hold."""
    return all(
        choice in values and values[choice] in allowed and is_active(choice, parameters, values)
        for choice, allowed in parameters[path].when.items()
    )


def conditions_in_words(parameter: AnyParameter) -> str:
    """The conditions of a parameter, such as `model.pooling: 'attention' or 'max'`."""
    return " and ".join(f"{choice}: {listed(list(map(shown, values)))}" for choice, values in parameter.when.items())


def active(parameters: Parameters, values: Mapping[str, Value]) -> Point:
    """The values without those of parameters that are inactive, in the order of the parameters."""
    return {path: values[path] for path in parameters if path in values and is_active(path, parameters, values)}


def sampled(parameters: Parameters, bounds: Sequence[LinearConstraint], draws: Sequence[float]) -> Point | None:
    """The point at a share in [0, 1] of each parameter, or None where it breaks a bound."""
    values = {path: parameter.at(draw) for (path, parameter), draw in zip(parameters.items(), draws, strict=True)}
    return active(parameters, values) if satisfies(values, bounds) else None


def satisfies(values: Mapping[str, Value], bounds: Sequence[LinearConstraint]) -> bool:
    """Whether the values satisfy all bounds."""
    return all(bound.holds({path: float(values[path]) for path in bound.weights}) for bound in bounds)


def derived_values(expressions: Mapping[str, Expression], point: Mapping[str, Value]) -> Point:
    """The value of each derived setting whose expression names only settings that the point has.

    Raises:
        ExpressionError: one has no value here, or none that its setting takes; it begins with the setting's path.
    """
    return {
        path: derived_value(path, expression, point)
        for path, expression in expressions.items()
        if all(name in point for name in expression.paths())
    }


def derived_value(path: str, expression: Expression, point: Mapping[str, Value]) -> Value:
    """The value of one derived setting; a whole number where the setting takes no other.

    Raises:
        ExpressionError: it has no value here, or none that the setting takes.
    """
    try:
        value = expression.at({name: float_or_int(point[name]) for name in expression.paths()})
    except ExpressionError as error:
        raise ExpressionError(f"{path}: {error}") from None
    if setting_kinds()[path] == "float":
        return float(value)
    if not float(value).is_integer():
        what = (
            f"{expression.text} is {exactly(value)}, but the setting takes whole numbers only; use round() or floor()"
        )
        raise ExpressionError(f"{path}: {what}")
    return int(value)


def float_or_int(value: Value) -> float:
    """A searched number as the expressions take it; text and false or true are none."""
    assert not isinstance(value, bool | str)
    return value


def count_points(parameters: Parameters, bounds: Sequence[LinearConstraint]) -> int | None:
    """How many points there are, or None where they are endless or more than `MAX_POINTS`."""
    sizes = [len(points) if (points := each.points()) is not None else None for each in parameters.values()]
    if any(size is None for size in sizes):
        return None
    if not bounds and not any(parameter.when for parameter in parameters.values()):
        count = math.prod(size for size in sizes if size is not None)
        return count if count <= MAX_POINTS else None
    candidates = list(islice(_every_point(parameters), MAX_POINTS + 1))
    if len(candidates) > MAX_POINTS:
        return None
    return sum(satisfies(values, bounds) for values in candidates)


def _every_point(parameters: Parameters) -> Iterator[Point]:
    """Every point once, whatever the bounds say; the parameters are finite."""
    # A choice is decided before the parameters that depend on it.
    order = sorted(parameters, key=lambda path: _depth(path, parameters))
    return _completed({}, order, parameters)


def _depth(path: str, parameters: Parameters) -> int:
    return max((1 + _depth(choice, parameters) for choice in parameters[path].when), default=0)


def _completed(chosen: Point, order: Sequence[str], parameters: Parameters) -> Iterator[Point]:
    if not order:
        yield chosen
        return
    path, *later = order
    if not is_active(path, parameters, chosen):
        yield from _completed(chosen, later, parameters)
        return
    for value in parameters[path].points() or ():
        yield from _completed({**chosen, path: value}, later, parameters)
