"""The JSON Schema of space files, and the trainer's settings, which spaces refer to by dotted paths.

The settings' names and kinds are read from the schema that ships with the spaces, so that a mistyped one is found
without importing torch, which the classes of the trainer need.
"""

from __future__ import annotations

import copy
import functools
import importlib.resources
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from orchestrator.space.expressions import Expression, ExpressionError
from orchestrator.space.parameters import Point, Value
from trainer.formatting import exactly

if TYPE_CHECKING:
    from pydantic import BaseModel, JsonValue
    from pydantic.fields import FieldInfo

    from trainer.config import TrialConfig

DIALECT = "https://json-schema.org/draft/2020-12/schema"
OWN = "#/$defs/"
TRAINERS = "#/properties/trainer/$defs/"
KINDS = ("FloatRange", "IntRange", "Choice")
SAME_FOR_ALL = ("seed", "data.")  # otherwise trials would be scored on different identities, or by chance

NumberKind: TypeAlias = Literal["int", "float"] | None
"""Whether a setting takes whole numbers only, any number, or no range of numbers."""


@functools.cache
def space_schema() -> Mapping[str, Any]:
    """The JSON Schema of space files, as it ships with the spaces; `reidsearch space schema` writes it."""
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
    return {path: number_kind(schema) for path, schema in setting_schemas().items()}


def number_kind(schema: Mapping[str, Any]) -> NumberKind:
    """The kind of number that a setting with this schema takes."""
    ranges = (each for each in (schema, *schema.get("anyOf", ())) if "enum" not in each and "const" not in each)
    types = {each.get("type") for each in ranges}
    return "float" if "number" in types else "int" if "integer" in types else None


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


def file_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """The JSON Schema of a space file, derived from the schema of `SearchSpace`.

    A file that extends another may leave out whatever the other one contains; a file that extends none may not.
    """
    required = schema.pop("required")
    definitions, properties = schema["$defs"], schema["properties"]
    properties["extends"] = {"type": "string", "description": "File or built-in space that this one builds upon."}
    whole = {"oneOf": [{"$ref": f"{OWN}{kind}"} for kind in KINDS]}
    definitions.pop("JsonValue")  # the trainer's settings say what they take
    definitions["PartOfParameter"] = _part_of_parameter(definitions)
    budget = {"required": definitions["Budget"].pop("required")}
    trainer = _trainer_schema(properties["trainer"]["description"])
    searchable = {path: each for path, each in schema_leaves(trainer, trainer) if not path.startswith(SAME_FOR_ALL)}
    properties["trainer"] = trainer
    properties["parameters"] = {
        "type": "object",
        "description": properties["parameters"]["description"],
        "propertyNames": {"enum": list(searchable)},
        "additionalProperties": {"$ref": f"{OWN}PartOfParameter"},
    }
    derivable = [path for path, each in searchable.items() if number_kind(each) is not None]
    properties["derived"]["propertyNames"] = {"enum": derivable}
    return {
        "$schema": DIALECT,
        "title": "A search space of reidsearch",
        **{key: value for key, value in schema.items() if key not in ("title", "$defs")},
        "if": {"required": ["extends"]},
        "else": {
            "required": required,
            "properties": {
                "parameters": {"minProperties": 1, "additionalProperties": whole},
                "budget": budget,
            },
        },
        "$defs": definitions,
    }


def _part_of_parameter(definitions: dict[str, Any]) -> dict[str, Any]:
    """The keys of a parameter, none of them required: a child may change some of its parent's."""
    properties: dict[str, Any] = {"type": {"enum": ["float", "int", "choice"]}}
    for kind in KINDS:
        for key, value in definitions[kind]["properties"].items():
            properties.setdefault(key, {"description": value["description"]} if "description" in value else {})
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _trainer_schema(description: str) -> dict[str, Any]:
    """The trainer's settings, with their definitions inside, so that names of definitions do not clash."""
    from trainer.config import TrialConfig  # imports torch

    schema = _referring(TrialConfig.model_json_schema(ref_template=f"{TRAINERS}{{model}}"))
    assert isinstance(schema, dict)
    return {**schema, "description": description}


def _referring(schema: Any) -> Any:
    """The schema without the defaults of whole groups, which repeat those of their settings."""
    if isinstance(schema, dict):
        return {key: _referring(value) for key, value in schema.items() if key != "default" or "$ref" not in schema}
    return [_referring(value) for value in schema] if isinstance(schema, list) else schema
