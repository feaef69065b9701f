"""Checks of a search space: its format, the names in it, and its values against the trainer."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, Field, JsonValue, TypeAdapter, ValidationError

from orchestrator.space.expressions import (
    Expression,
    ExpressionError,
    LinearConstraint,
    parse_expression,
    satisfies,
)
from orchestrator.space.parameters import (
    KINDS,
    AnyParameter,
    Parameters,
    Point,
    Value,
    active,
    conditions_in_words,
    is_active,
    parse_parameter,
)
from orchestrator.space.problems import Problems, name_hint, our_name, rewritten, sweep
from orchestrator.space.references import (
    check_conditions,
    check_constraints,
    check_derived,
    note_unknown,
)
from orchestrator.space.schema import (
    SAME_FOR_ALL,
    build_trial_config,
    derived_value,
    groups_of_settings,
    setting_kinds,
    setting_schemas,
    settings_below,
)
from trainer.formatting import KeyPath, did_you_mean, listed, plain_words, shown

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_PARAMETER_KEYS = tuple(dict.fromkeys(key for kind in KINDS.values() for key in kind.model_fields))

BOUNDS = {"minimum": "ge", "exclusiveMinimum": "gt", "maximum": "le", "exclusiveMaximum": "lt"}
"""Pydantic's names of JSON Schema's bounds."""
MAX_START = 100  # points under `start`; the trainer checks each

Space = TypeVar("Space", bound=BaseModel)


def check_shape(model: type[Space], data: Mapping[str, JsonValue], problems: Problems) -> Space | None:
    """The space that the data describes; None if it does not follow the format, and notes where."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        found = error.errors(include_url=False)
        # A list with a bad item counts as too short, too: the item says it better.
        for problem in sorted(found, key=lambda each: each["type"] == "too_short"):
            if not _is_misspelt(problem, found):
                _note_shape(model, problem, data, problems)
        return None


def _is_misspelt(problem: ErrorDetails, others: Sequence[ErrorDetails]) -> bool:
    """Whether a key is missing because it is misspelt, which is another problem in the list."""
    *parent, key = problem["loc"]
    unknown = [
        str(other["loc"][-1])
        for other in others
        if other["type"] == "extra_forbidden" and list(other["loc"][:-1]) == parent
    ]
    return problem["type"] == "missing" and any(name_hint(name, [str(key)]) for name in unknown)


def check_names(data: Mapping[str, JsonValue], problems: Problems) -> None:
    """Notes paths that the trainer does not have and contradictions between parts; does not import the trainer."""
    written = _mapping(data.get("parameters"))
    fixed = set(_known_settings(_mapping(data.get("trainer")), ("trainer",), problems))
    for path in fixed & written.keys():
        if not _mapping(_mapping(written[path]).get("when")):  # a conditional one may have a value for elsewhere
            searched_at = problems.place(("parameters", path))
            problems.add(("trainer", *path.split(".")), f"is searched too, at {searched_at}; keep one of the two")
    searched = check_conditions(written, _known_parameters(written, problems), problems)
    check_constraints(data.get("constraints"), written, searched, problems)
    check_derived(_mapping(data.get("derived")), written, fixed, searched, problems)
    for index, point in _start_points(data):
        _check_start(("start", index), point, written, searched, problems)


def check_values(
    trainer: Mapping[str, JsonValue],
    searched: Parameters,
    derived: Mapping[str, str],
    constraints: Sequence[LinearConstraint],
    start: Sequence[Mapping[str, Value]],
    problems: Problems,
) -> None:
    """Notes values that the trainer refuses: in the middle of the space, at each parameter's ends, and under `start`.

    The arguments are the parts of a space that the trainer's configurations depend on; each is valid by itself.
    """
    expressions = {path: parse_expression(text) for path, text in derived.items()}
    values = _Values(trainer, searched, expressions, constraints, problems)
    _check_corners(values)
    for index, point in enumerate(start):
        _check_start_values(("start", index), values, point)


def _start_points(data: Mapping[str, JsonValue]) -> Iterator[tuple[int, dict[str, JsonValue]]]:
    start = data.get("start")
    if isinstance(start, list) and isinstance(data.get("parameters"), dict):
        yield from ((index, point) for index, point in enumerate(start[:MAX_START]) if isinstance(point, dict))


class _Values(NamedTuple):
    """Everything that a configuration of the trainer depends on, except the point."""

    trainer: Mapping[str, JsonValue]
    searched: Parameters
    derived: Mapping[str, Expression]
    constraints: Sequence[LinearConstraint]
    problems: Problems

    def everywhere(self, path: str | None = None, value: Value | None = None) -> Point:
        """The middle of the space, or the nearest point at which a parameter is active and has a value."""
        middle = {each: parameter.at(0.5) for each, parameter in self.searched.items()}
        if path is not None and value is not None:
            self._permit(path, middle)
            middle[path] = value
        return active(self.searched, middle)

    def _permit(self, path: str, values: Point) -> None:
        """Changes choices so that a parameter is active."""
        for choice, allowed in self.searched[path].when.items():
            self._permit(choice, values)
            if values[choice] not in allowed:
                values[choice] = allowed[0]

    def refused(self, point: Mapping[str, Value]) -> list[ErrorDetails]:
        """The trainer's errors at a point. Notes derived settings that have no value there."""
        try:
            build_trial_config(self.trainer, {**point, **self._derived_at(point)})
        except ValidationError as error:
            return error.errors(include_url=False)
        return []

    def _derived_at(self, point: Mapping[str, Value]) -> Point:
        """The derived settings at a point; none outside the constraints, where they need no value."""
        settings: Point = {}
        for path, expression in self.derived.items() if satisfies(point, self.constraints) else ():
            if all(name in point for name in expression.paths()):
                try:
                    settings[path] = derived_value(path, expression, point)
                except ExpressionError as error:
                    what = f"{str(error).removeprefix(f'{path}: ')} ({_where(expression, point)})"
                    self.problems.add(("derived", path), what)
        return settings


def _where(expression: Expression, point: Mapping[str, Value]) -> str:
    return ", ".join(f"{name} is {shown(point[name])}" for name in expression.paths())


def _note_shape(
    model: type[BaseModel], problem: ErrorDetails, data: Mapping[str, JsonValue], problems: Problems
) -> None:
    """Notes one of pydantic's errors at the key that it concerns."""
    path, kind = problem["loc"], problem["type"]
    fields = [*model.model_fields, "extends"]
    if path[0] == "parameters" and len(path) > 2:  # pydantic names the parameter's type between path and key
        fields = list(KINDS[str(path[2])].model_fields)
        path = path[:2] + path[3:]
    elif len(path) > 1 and isinstance(part := model.model_fields[str(path[0])].annotation, type):
        fields = list(part.model_fields) if issubclass(part, BaseModel) else fields
    if kind == "extra_forbidden":
        problems.add(path, f"unknown key, not one of {', '.join(fields)}", wrong=str(path[-1]), known=fields)
    elif kind == "union_tag_not_found":
        ours = rewritten(problem["input"], _PARAMETER_KEYS) or listed(list(KINDS))
        problems.add((*path, "type"), f"is missing; write {ours}")
    elif kind == "union_tag_invalid":
        kind_given = problem["ctx"]["tag"]
        what = f"must be {listed(list(KINDS))} (is {shown(kind_given)})"
        is_misspelt = did_you_mean(kind_given, KINDS) and not our_name(kind_given, KINDS)
        if not is_misspelt and (ours := rewritten(problem["input"], _PARAMETER_KEYS)):
            problems.add((*path, "type"), f"{what}; write {ours}")
        else:
            problems.add((*path, "type"), what, wrong=kind_given, known=KINDS)
    elif kind == "model_attributes_type" and path[0] == "parameters":
        such_as = rewritten({"values": problem["input"]}, _PARAMETER_KEYS) if isinstance(problem["input"], list) else ""
        what = (
            f"must be a mapping such as {such_as or '{type: float, low: 0.1, high: 1}'} (is {shown(problem['input'])})"
        )
        problems.add(path, what if such_as else f"{what}; a fixed value belongs into 'trainer'")
    elif kind == "literal_error" and isinstance(given := problem["input"], str):
        allowed = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
        problems.add(path, f"must be {problem['ctx']['expected']} (is {shown(given)})", wrong=given, known=allowed)
    elif path[0] == "replicates" and not isinstance(data["replicates"], dict):  # a number instead, for one of the keys
        problems.add(path[:1], plain_words(problem))
    elif kind != "missing" and not _is_there(data, path):  # pydantic names the types it tried below a value
        what = f"must be text, a number, true or false (is {shown(problem['input'])})"
        problems.add(path[:-1], what)
    elif kind != "too_short" or not problems.below(path):
        is_list = kind == "dict_type" and path == ("parameters",)
        such_as = ", such as {optim.learning_rate: {type: float, low: 0.1, high: 1}}" if is_list else ""
        problems.add(path, plain_words(problem) + such_as)


def _known_settings(settings: Mapping[str, JsonValue], path: tuple[str, ...], problems: Problems) -> Iterator[str]:
    """Dotted paths of the settings that the trainer has; notes those that it does not have."""
    for key, value in settings.items():
        here = (*path, key)
        setting = ".".join(here[1:])
        if "." in key:
            problems.add(here, f"nest the names: write '{key.replace('.', ': {')}: …{'}' * key.count('.')}'")
        elif setting in setting_kinds():
            _note_refused(here, setting, value, problems)
            yield setting
        elif settings_below(setting) and isinstance(value, dict):
            yield from _known_settings(value, here, problems)
        else:
            names = groups_of_settings() if isinstance(value, dict) else setting_kinds()
            note_unknown(here, setting, names, problems)


def _note_refused(path: tuple[str, ...], setting: str, value: JsonValue, problems: Problems) -> None:
    """Notes a value outside its setting's own bounds, as the trainer would, which takes a second to import."""
    if (kind := _plain_type(setting)) is not None:
        try:
            kind.validate_python(value, strict=True)
        except ValidationError as error:
            what = plain_words(error.errors(include_url=False)[0])
            # As other tools write what is searched.
            if isinstance(value, list) or (isinstance(value, str) and re.search(r"[,(]|\.\.", value)):
                ours = sweep(value, setting_kinds()[setting], _PARAMETER_KEYS)
                what += f"; to search it, write 'parameters.{setting}={ours}'"
            problems.add(path, what)


@functools.cache
def _plain_type(setting: str) -> TypeAdapter[Any] | None:
    """What a number, a choice or a switch of the trainer's takes; None for settings of other kinds."""
    schema = setting_schemas()[setting]
    kind: Any = {"integer": int, "number": float, "boolean": bool}.get(schema.get("type", ""))
    if "enum" in schema:
        kind = Literal[tuple(schema["enum"])]
    bounds: dict[str, Any] = {ours: schema[theirs] for theirs, ours in BOUNDS.items() if theirs in schema}
    bounds |= {"allow_inf_nan": False} if kind is float else {}
    return None if kind is None else TypeAdapter(Annotated[kind, Field(**bounds)])


def _known_parameters(written: Mapping[str, JsonValue], problems: Problems) -> dict[str, AnyParameter]:
    """The searched parameters that are valid by themselves and fit a setting of the trainer."""
    known = {}
    for path, data in written.items():
        parameter = parse_parameter(data)
        if path not in setting_kinds():
            note_unknown(("parameters", path), path, setting_kinds(), problems)
        elif path.startswith(SAME_FOR_ALL):
            problems.add(("parameters", path), "is the same for all trials of a search; set it in 'trainer'")
        elif parameter is not None:
            numbers = setting_kinds()[path]
            if parameter.type == "choice" or numbers in ("float", parameter.type):
                known[path] = parameter
            elif numbers == "int":
                problems.add(("parameters", path, "type"), "the setting takes whole numbers only; use type: int")
            else:
                problems.add(("parameters", path, "type"), "the setting takes no range; use type: choice")
    return known


def _check_corners(values: _Values) -> None:
    """Notes what the trainer refuses with every parameter in its middle, and at the ends of each in turn."""
    problems, middle = values.problems, values.everywhere()
    everywhere = values.refused(middle)
    for path, parameter in values.searched.items():
        for keys, value in parameter.ends().items():
            point = values.everywhere(path, value)
            for error in values.refused(point):
                setting = ".".join(_setting(error))
                if setting == path:
                    problems.add(("parameters", path, *keys), plain_words(error))
                elif setting in values.derived:
                    _note_derived(setting, error, point, values)
                elif not _among(error, everywhere) and satisfies(point, values.constraints):
                    problems.add(("parameters", path, *keys), f"{setting or 'trainer'}: {plain_words(error)}")
    for error in everywhere:
        setting = ".".join(_setting(error))
        if setting in values.derived:
            _note_derived(setting, error, middle, values)
        elif setting not in middle:
            problems.add(("trainer", *error["loc"]), plain_words(error))


def _note_derived(path: str, error: ErrorDetails, point: Mapping[str, Value], values: _Values) -> None:
    where = _where(values.derived[path], point)
    values.problems.add(("derived", path), f"{plain_words(error)} where {where}")


def _check_start(
    path: KeyPath,
    point: Mapping[str, JsonValue],
    written: Mapping[str, JsonValue],
    searched: Parameters,
    problems: Problems,
) -> None:
    """Notes where a point under `start` lies outside the space."""
    known = {setting: value for setting, value in point.items() if isinstance(value, bool | int | float | str)}
    inactive = {setting for setting in searched if not is_active(setting, searched, known)}
    for setting, value in point.items():
        if setting not in written:
            problems.add((*path, setting), "is not searched", wrong=setting, known=written)
        elif (parameter := parse_parameter(written[setting])) and (refusal := parameter.refusal(value)):
            problems.add((*path, setting), refusal)
        elif setting in inactive:
            conditions = conditions_in_words(searched[setting])
            problems.add((*path, setting), f"is searched only with {conditions}; drop it here")
    here = [setting for setting in written if setting in setting_kinds() and setting not in inactive]
    absent = [setting for setting in here if setting not in point]
    if absent:
        more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
        what = f"lacks {', '.join(absent[:3])}{more}; give every searched setting a value, or drop the point"
        problems.add(path, what)


def _check_start_values(path: KeyPath, values: _Values, point: Mapping[str, Value]) -> None:
    """Notes what the trainer refuses at a point under `start`, unless another problem explains it."""
    problems = values.problems
    if any(problems.below(part) for part in (path, ("parameters",), ("trainer",), ("derived",))):
        return
    for constraint in values.constraints:
        if not satisfies(point, [constraint]):
            problems.add(path, f"breaks the constraint {shown(constraint.text)}")
    for error in values.refused(point):
        problems.add((*path, *_setting(error)), plain_words(error))


def _setting(error: ErrorDetails) -> tuple[str, ...]:
    """The names of the setting, or of the group of settings, that an error concerns."""
    names = tuple(str(key) for key in error["loc"])
    while names and ".".join(names) not in setting_kinds() and not settings_below(".".join(names)):
        names = names[:-1]
    return names


def _among(error: ErrorDetails, others: Sequence[ErrorDetails]) -> bool:
    return any((error["loc"], error["msg"]) == (other["loc"], other["msg"]) for other in others)


def _is_there(data: JsonValue | Mapping[str, JsonValue], path: KeyPath) -> bool:
    value: object = data
    for key in path:
        items = dict(enumerate(value)) if isinstance(value, list) else value
        if not isinstance(items, Mapping) or key not in items:
            return False
        value = items[key]
    return True


def _mapping(value: JsonValue) -> dict[str, JsonValue]:
    return value if isinstance(value, dict) else {}
