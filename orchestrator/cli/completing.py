"""What a shell is told when it completes a command line: names of searches, trials, spaces and settings.

A shell asks with every press of the key, so that nothing heavy is imported here and no journal is read: names are those
of folders, settings come from the JSON Schema of space files.
"""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from orchestrator.hints import DEFAULT_STORAGE
from orchestrator.history.folder import SearchFolder, searches_here

BEST = "best"
SPACES = "search_spaces"
OF_A_PARAMETER = ("low", "high", "log", "step", "values")


def search_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Searches of the storage that the command line names so far, the latest first."""
    return [folder.name for folder in _searches(context) if folder.name.startswith(incomplete)]


def search_or_trial_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Searches and, after a slash, the trials of the one before it."""
    search, slash, _ = incomplete.partition("/")
    if not slash:
        return search_names(context, parameter, incomplete)
    found = next((folder for folder in _searches(context) if folder.name == search), None)
    if found is None:
        return []
    names = [f"{search}/{name}" for name in (BEST, *trial_names(found))]
    return [name for name in names if name.startswith(incomplete)]


def trial_names(search: SearchFolder) -> list[str]:
    """Keys of the trials of a search that were started."""
    trials = search.trial("any").parent
    return sorted(path.name for path in trials.iterdir() if path.is_dir()) if trials.is_dir() else []


def space_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Space files below the folder that is typed, and built-in spaces."""
    folder = incomplete[: incomplete.rfind("/") + 1]
    below = Path(folder or ".")
    entries = sorted(below.iterdir()) if below.is_dir() else []
    files = [f"{folder}{path.name}" for path in entries if path.suffix == ".yaml" and path.is_file()]
    folders = [f"{folder}{path.name}/" for path in entries if path.is_dir()]
    builtin = sorted(path.name for path in _spaces().glob("*.yaml"))
    return [name for name in dict.fromkeys([*files, *builtin, *folders]) if name.startswith(incomplete)]


def setting_paths(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Paths that `--set` takes, each with the `=` that follows it."""
    if "=" in incomplete:
        return []
    schema = json.loads((_spaces() / "schema.json").read_text(encoding="utf-8"))
    return [f"{path}=" for path in _settable(schema) if path.startswith(incomplete)]


def _searches(context: click.Context) -> list[SearchFolder]:
    storage = context.params.get("storage") or DEFAULT_STORAGE
    return searches_here(Path(storage))


def _spaces() -> Path:
    return Path(str(importlib.resources.files(SPACES)))


def _settable(schema: Mapping[str, Any]) -> Iterator[str]:
    properties = schema["properties"]
    yield from _leaves(properties["trainer"], properties["trainer"], "")
    own = {name: below for name, below in properties.items() if name not in ("trainer", "parameters", "extends")}
    yield from _leaves({"properties": own}, schema, "")
    for path in properties["parameters"]["propertyNames"]["enum"]:
        yield from (f"parameters.{path}.{key}" for key in OF_A_PARAMETER)


def _leaves(node: Mapping[str, Any], schema: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """Dotted paths of what a part of the schema describes; `schema` holds the definitions that it refers to."""
    for name, below in node.get("properties", {}).items():
        target = _referred(below, schema)
        if "properties" in target:
            yield from _leaves(target, schema, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _referred(node: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = [node, *node.get("anyOf", ()), *node.get("oneOf", ()), *node.get("allOf", ())]
    reference = next((choice["$ref"] for choice in choices if "$ref" in choice), None)
    return node if reference is None else schema["$defs"][reference.rpartition("/")[2]]
