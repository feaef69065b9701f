"""Checks of names: conditions, constraints and derived settings must refer to searched settings."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from pydantic import JsonValue

from orchestrator.space.expressions import (
    Expression,
    ExpressionError,
    LinearConstraint,
    parse_constraint,
    parse_expression,
)
from orchestrator.space.parameters import AnyParameter, Choice, Parameters
from orchestrator.space.problems import Problems
from orchestrator.space.schema import SAME_FOR_ALL, setting_kinds, settings_below
from trainer.formatting import KeyPath, did_you_mean, shown


def note_unknown(path: KeyPath, setting: str, known: Iterable[str], problems: Problems) -> None:
    """Notes that the trainer has no such setting, with the nearest of its names."""
    members = settings_below(setting)
    if members:
        folder = "; --data DIR names the data set's folder" * (setting == "data")
        problems.add(path, f"is a group of settings; name one of {', '.join(members)}{folder}")
    else:
        beside = settings_below(setting.rpartition(".")[0])  # optim.epoch means optim.epochs rather than clips.epoch
        near = beside if did_you_mean(setting, beside) else known
        problems.add(path, "unknown trainer setting", wrong=setting, known=near)


def check_conditions(
    written: Mapping[str, JsonValue], searched: Parameters, problems: Problems
) -> dict[str, AnyParameter]:
    """The parameters whose conditions are valid; notes problems of the others'."""
    for path, parameter in searched.items():
        for choice, allowed in parameter.when.items():
            place = ("parameters", path, "when", choice)
            condition = searched.get(choice)
            if choice not in written:
                what = f"is not searched; drop this condition, or fix {path} too, such as by --set {path}=…"
                problems.add(place, what, wrong=choice, known=written)
            elif condition is not None and not isinstance(condition, Choice):
                problems.add(place, "is a range; a condition needs a parameter of type choice")
            elif condition is not None:
                for index, value in enumerate(allowed):
                    if refusal := condition.refusal(value):
                        problems.add((*place, index), refusal)
            if choice == path or _depends(choice, path, searched):
                problems.add(place, f"the conditions go in a circle: {path} is a condition of this, too")
    return _settled({path: each for path, each in searched.items() if not problems.below(("parameters", path, "when"))})


def check_constraints(
    data: JsonValue, written: Mapping[str, JsonValue], searched: Parameters, problems: Problems
) -> None:
    """Notes constraints that Ax cannot express, or that no point satisfies."""
    for index, text in enumerate(data if isinstance(data, list) else []):
        bound = _readable_constraint(text)
        for path in bound.weights if bound else ():
            if path not in written:
                problems.add(("constraints", index), _unsearched(path, written))
            elif path in searched and (why := _why_unbounded(searched[path])):
                problems.add(("constraints", index), f"{path} {why}")
        if bound and all(path in searched for path in bound.weights) and not problems.below(("constraints", index)):
            _check_satisfiable(("constraints", index), bound, searched, problems)


def check_derived(
    derived: Mapping[str, JsonValue],
    written: Mapping[str, JsonValue],
    fixed: Collection[str],
    searched: Parameters,
    problems: Problems,
) -> None:
    """Notes derived settings that cannot be computed, or that are given elsewhere too."""
    for path, text in derived.items():
        place = ("derived", path)
        for elsewhere in _elsewhere(path, written, fixed):
            problems.add(place, f"is given too, at {problems.place(elsewhere)}; keep one of the two")
        _check_derived_setting(place, path, problems)
        expression = _readable_expression(text)
        for name in expression.paths() if expression else ():
            if name not in written:
                problems.add(place, _unsearched(name, written))
            elif name in searched and not _is_number(searched[name]):
                problems.add(place, f"{name} is no number; nothing can be computed from it")
        if expression and not expression.paths():
            problems.add(place, "names no searched setting; set it in 'trainer'")


def _depends(path: str, on: str, searched: Parameters, seen: frozenset[str] = frozenset()) -> bool:
    """Whether the conditions of the parameter `path` depend, directly or through others, on the parameter `on`."""
    if path not in searched or path in seen:
        return False
    choices = searched[path].when
    return on in choices or any(_depends(choice, on, searched, seen | {path}) for choice in choices)


def _settled(searched: Parameters) -> dict[str, AnyParameter]:
    """The parameters whose conditions refer, directly and through others, only to these parameters."""
    kept = dict(searched)
    while broken := [path for path, each in kept.items() if any(choice not in kept for choice in each.when)]:
        for path in broken:
            del kept[path]
    return kept


def _why_unbounded(parameter: AnyParameter) -> str | None:
    """Why a parameter cannot be in a constraint; None if it can."""
    if isinstance(parameter, Choice):
        return "is a choice, which Ax cannot bound; make it a range, with a step if need be"
    if parameter.log:
        return "is searched on a log scale, which Ax cannot bound; drop the constraint, or 'log'"
    if parameter.when:
        return "is conditional; a constraint needs parameters that are searched everywhere"
    return None


def _check_satisfiable(place: KeyPath, bound: LinearConstraint, searched: Parameters, problems: Problems) -> None:
    """Notes a constraint that the best corner of the space violates."""
    corner = {}
    for path, weight in bound.weights.items():
        low, high = (float(value) for value in searched[path].ends().values())
        corner[path] = low if weight > 0 else high
    if not bound.holds(corner):
        at_corner = ", ".join(f"{path} {shown(value)}" for path, value in corner.items())
        problems.add(place, f"no point of the space satisfies it, not even {at_corner}; loosen it")


def _elsewhere(path: str, written: Mapping[str, JsonValue], fixed: Collection[str]) -> Iterator[KeyPath]:
    """Other places at which a setting is given."""
    if path in written:
        yield "parameters", path
    if path in fixed:
        yield "trainer", *path.split(".")


def _check_derived_setting(place: KeyPath, path: str, problems: Problems) -> None:
    if path not in setting_kinds():
        note_unknown(place, path, setting_kinds(), problems)
    elif path.startswith(SAME_FOR_ALL):
        problems.add(place, "is the same for all trials of a search; set it in 'trainer'")
    elif setting_kinds()[path] is None:
        problems.add(place, "the setting takes no number; search it as a choice")


def _is_number(parameter: AnyParameter) -> bool:
    return not isinstance(parameter, Choice) or not isinstance(parameter.values[0], bool | str)


def _unsearched(path: str, written: Mapping[str, JsonValue]) -> str:
    return f"{shown(path)} is not searched{did_you_mean(path, written)}"


def _readable_constraint(text: JsonValue) -> LinearConstraint | None:
    """The constraint in a text; None if it is none, which `check_shape` notes."""
    try:
        return parse_constraint(text) if isinstance(text, str) else None
    except ExpressionError:
        return None


def _readable_expression(text: JsonValue) -> Expression | None:
    try:
        return parse_expression(text) if isinstance(text, str) else None
    except ExpressionError:
        return None
