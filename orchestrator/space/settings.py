"""The trainer's settings, as the tree of `TrialConfig` that a search space refers to by dotted paths.

Their names and kinds are read from the JSON Schema that ships with the spaces, so that a mistyped one is found without
waiting for torch, which the classes of the trainer import.
"""

from __future__ import annotations

import copy
import functools
import importlib.resources
import json
import types
import typing
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from orchestrator.space.expressions import Expression, ExpressionError
from orchestrator.space.parameters import Point, Value
from trainer.formatting import exactly

if TYPE_CHECKING:
    from pydantic import BaseModel, JsonValue
    from pydantic.fields import FieldInfo

    from trainer.config import TrialConfig

NumberKind: TypeAlias = Literal["int", "float"] | None
"""Whether a setting takes whole numbers only, any number, or no range of numbers."""


@functools.cache
def space_schema() -> Mapping[str, Any]:
    """The JSON Schema of space files, as it ships with the spaces; `orchestrator.space.schema` writes it."""
    file = importlib.resources.files("search_spaces") / "schema.json"
    schema: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return schema


@functools.cache
def setting_schemas() -> Mapping[str, Mapping[str, Any]]:
    """The schema of every setting of the trainer, by its dotted path, such as `loss.osm_alpha`."""
    trainer = space_schema()["properties"]["trainer"]
    return dict(schema_leaves(trainer, trainer))


@functools.cache
def setting_kinds() -> Mapping[str, NumberKind]:
    """The kind of number that every setting of the trainer takes, by its dotted path."""
    kinds: dict[str, NumberKind] = {}
    for path, schema in setting_schemas().items():
        ranges = (each for each in (schema, *schema.get("anyOf", ())) if "enum" not in each and "const" not in each)
        types = {each.get("type") for each in ranges}
        kinds[path] = "float" if "number" in types else "int" if "integer" in types else None
    return kinds


def schema_leaves(
    node: Mapping[str, Any], schema: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Dotted path and schema of each value that a part of a schema describes; `schema` holds the definitions."""
    for name, below in node.get("properties", {}).items():
        target = _referred(below, schema)
        if "properties" in target:
            yield from schema_leaves(target, schema, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", below


def _referred(node: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = [node, *node.get("anyOf", ()), *node.get("oneOf", ()), *node.get("allOf", ())]
    reference = next((choice["$ref"] for choice in choices if "$ref" in choice), None)
    if reference is None:
        return node
    target: Mapping[str, Any] = schema["$defs"][reference.rpartition("/")[2]]
    return target


@functools.cache
def trainer_settings() -> Mapping[str, FieldInfo]:
    """Every setting of the trainer by its dotted path, from the trainer itself."""
    from trainer.config import TrialConfig  # imports torch

    return dict(_leaves(TrialConfig, ""))


def settings_below(group: str) -> list[str]:
    """The paths of the settings in a group such as `loss`; empty if there is no such group."""
    return [path for path in setting_kinds() if path.startswith(f"{group}.")]


def groups_of_settings() -> list[str]:
    """The paths of all groups, such as `loss` and `data.validation`."""
    return list(dict.fromkeys(path.rpartition(".")[0] for path in setting_kinds() if "." in path))


def number_kind(field: FieldInfo) -> NumberKind:
    """The kind of number that a setting takes."""
    is_union = typing.get_origin(field.annotation) in (typing.Union, types.UnionType)
    kinds = typing.get_args(field.annotation) if is_union else (field.annotation,)
    return "float" if float in kinds else "int" if int in kinds else None


def flattened(settings: Mapping[str, JsonValue]) -> Iterator[tuple[tuple[str, ...], JsonValue]]:
    """Keys and value of everything in a nested mapping that is not itself a filled mapping."""
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from (((key, *keys), leaf) for keys, leaf in flattened(value))
        else:
            yield (key,), value


def build_trial_config(
    settings: Mapping[str, JsonValue], values: Mapping[str, JsonValue], *, seed: int | None = None
) -> TrialConfig:
    """The trainer's configuration from nested settings with the values of dotted paths laid over them.

    Strict: text is no number, 4.0 is no whole number. Raises pydantic's ValidationError.
    """
    from trainer.config import TrialConfig  # imports torch

    tree = copy.deepcopy(dict(settings))
    for path, value in values.items():
        *groups, last = path.split(".")
        branch = tree
        for group in groups:
            branch = branch.setdefault(group, {})  # type: ignore[assignment]
        branch[last] = value
    if seed is not None:
        tree["seed"] = seed
    # Only as JSON does strictness still let a list be a tuple and text be a path.
    return TrialConfig.model_validate_json(json.dumps(tree), strict=True)


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
        value = expression.at(cast("Mapping[str, float]", point))
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


def _leaves(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    from pydantic import BaseModel

    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _leaves(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field
