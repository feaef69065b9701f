"""The JSON Schema of space files, for editors that complete and check them."""

from __future__ import annotations

import json
from typing import Any

from orchestrator.space.references import SAME_FOR_ALL
from orchestrator.space.search_space import SearchSpace
from orchestrator.space.settings import number_kind, trainer_settings

DIALECT = "https://json-schema.org/draft/2020-12/schema"
OWN = "#/$defs/"
TRAINERS = "#/properties/trainer/$defs/"
KINDS = ("FloatRange", "IntRange", "Choice")


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a space file.

    A file that extends another may leave out whatever the other one says; a file that extends none may not.
    """
    schema = SearchSpace.model_json_schema()
    required = schema.pop("required")
    definitions, properties = schema["$defs"], schema["properties"]
    properties["extends"] = {"type": "string", "description": "File or built-in space that this one builds upon."}
    whole = {"oneOf": [{"$ref": f"{OWN}{kind}"} for kind in KINDS]}
    definitions.pop("JsonValue")  # the trainer's settings say what they take
    definitions["PartOfParameter"] = _part_of_parameter(definitions)
    groups = {"budget": "Budget", "replicates": "Replicates"}
    whole_groups = {name: {"required": definitions[group].pop("required")} for name, group in groups.items()}
    properties["parameters"] = {
        "type": "object",
        "description": properties["parameters"]["description"],
        "propertyNames": {"enum": searchable_settings()},
        "additionalProperties": {"$ref": f"{OWN}PartOfParameter"},
    }
    properties["derived"]["propertyNames"] = {"enum": derivable_settings()}
    properties["trainer"] = _trainer_schema(properties["trainer"]["description"])
    return {
        "$schema": DIALECT,
        "title": "A search space of reidsearch",
        **{key: value for key, value in schema.items() if key not in ("title", "$defs")},
        "if": {"required": ["extends"]},
        "else": {
            "required": required,
            "properties": {
                "parameters": {"minProperties": 1, "additionalProperties": whole},
                **whole_groups,
            },
        },
        "$defs": definitions,
    }


def schema_text() -> str:
    """The same as text, as `search_spaces/schema.json` holds it."""
    return json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"


def searchable_settings() -> list[str]:
    """The paths of all settings of the trainer that may differ between trials."""
    return [path for path in trainer_settings() if not path.startswith(SAME_FOR_ALL)]


def derivable_settings() -> list[str]:
    """The searchable settings that take a number."""
    return [path for path in searchable_settings() if number_kind(trainer_settings()[path]) is not None]


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
