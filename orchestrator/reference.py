"""The reference pages of the documentation, written from the code: `python -m orchestrator.reference --write`."""

from __future__ import annotations

import argparse
import copy
import inspect
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

FOLDER = Path("docs/reference")
WRITTEN_BY = "<!-- Written by `python -m orchestrator.reference --write`; do not edit. -->"
# Columns of the help texts, independent of the terminal.
WIDTH = 100
PARAMETER_KINDS = ("FloatRange", "IntRange", "Choice")
PLAIN = frozenset({"boolean", "integer", "number", "string"})

JsonSchema = Mapping[str, Any]


class Row(NamedTuple):
    """A setting."""

    path: str
    takes: str
    default: str
    description: str


def pages() -> dict[str, str]:
    """The text of every page by its file name."""
    return {"cli.md": cli_page(), "settings.md": settings_page(), "space.md": space_page(), "python.md": python_page()}


def cli_page() -> str:
    """Every command with its help."""
    from orchestrator.__main__ import cli

    commands = list(all_commands(cli))
    index = [f"[`{name}`](#{name.replace(' ', '-')})" for name, _ in commands]
    parts = [_title("Commands"), "What `reidsearch COMMAND --help` prints.", " ".join(index)]
    for name, command in commands:
        parts += [f"## {name}", f"```text\n{help_text(name, command)}\n```"]
    return _page(parts)


def all_commands(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command of a group and its subgroups, by its full name, in alphabetical order."""
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from all_commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


def help_text(name: str, command: click.Command) -> str:
    """The output of `--help`."""
    # Click caches the option `--help` with the names of its first use.
    command = copy.copy(command)
    command._help_option = None
    context = click.Context(
        command,
        info_name=f"reidsearch {name}",
        terminal_width=WIDTH,
        max_content_width=WIDTH,
        help_option_names=["-h", "--help"],
    )
    return command.get_help(context).strip()


def settings_page() -> str:
    """Every setting of the trainer."""
    from trainer.config import TrialConfig

    schema = TrialConfig.model_json_schema()
    parts = [
        _title("Settings of the trainer"),
        "The settings of one trial, given by a configuration file (`reidsearch train`), by `trainer:` and "
        "`parameters:` of a search space, or by `--set PATH=VALUE`. Defaults are those of `recipe: fixed`; "
        "[paper.md](../paper.md) says what `recipe: paper` changes.",
    ]
    found = list(rows(schema, schema["$defs"]))
    for group in dict.fromkeys(row.path.rpartition(".")[0] for row in found):
        parts += [f"## {group}"] if group else []
        parts += [table(row for row in found if row.path.rpartition(".")[0] == group)]
    return _page(parts)


def space_page() -> str:
    """Every key of a search space."""
    from orchestrator.space.search_space import SearchSpace

    schema = SearchSpace.model_json_schema()
    definitions = schema["$defs"]
    parts = [
        _title("Keys of a search space"),
        "As JSON Schema, for editors: `search_spaces/schema.json`. [spaces.md](../spaces.md) explains "
        "them with examples. Beside these, `extends` names a file or built-in space that this one builds upon.",
        table(rows(schema, definitions)),
        "## A parameter",
        "Of `parameters`, by the dotted path of a [setting](settings.md).",
    ]
    for kind in PARAMETER_KINDS:
        name = definitions[kind]["properties"]["type"]["const"]
        parts += [f"### type: {name}", _sentence(definitions[kind]), table(rows(definitions[kind], definitions))]
    return _page([part for part in parts if part])


def python_page() -> str:
    """The functions for notebooks and programs."""
    import orchestrator
    from orchestrator.search import Search

    parts = [
        _title("Python"),
        "```python\nimport reidsearch as rs\n```",
        "A search runs in a process of its own; see [tutorial.ipynb](../tutorial.ipynb).",
    ]
    for name in ("launch", "resume", "load", "searches"):
        parts += [f"## {name}", _documented(name, getattr(orchestrator, name))]
    parts += ["## Search", inspect.getdoc(Search) or ""]
    for name, member in vars(Search).items():
        if name.startswith("_") or member is None:  # a field's default
            continue
        what = getattr(member, "func", getattr(member, "fget", member))
        parts += [f"### {name}", _documented(name, what, with_arguments=what is member)]
    errors = (found for name in orchestrator.__all__ if isinstance(found := getattr(orchestrator, name), type))
    listed = [f"- `rs.{each.__name__}`: {inspect.getdoc(each)}" for each in errors if issubclass(each, Exception)]
    return _page([*parts, "## Errors", "\n".join(listed)])


def rows(schema: JsonSchema, definitions: Mapping[str, JsonSchema], prefix: str = "") -> Iterator[Row]:
    """Every field of an object by its dotted path, with the fields of nested objects in place of these."""
    required = schema.get("required", ())
    for name, field in schema["properties"].items():
        path = f"{prefix}{name}"
        group = _group(field, definitions)
        if group is None:
            default = "required" if name in required else _value(field.get("default"))
            yield Row(path, takes(field, definitions), default, _sentence(field))
        else:
            yield from rows(group, definitions, f"{path}.")


def takes(field: JsonSchema, definitions: Mapping[str, JsonSchema]) -> str:
    """The values that a field accepts, in words."""
    if "$ref" in field:
        return takes(_definition(field, definitions), definitions)
    if "const" in field:
        return _value(field["const"])
    if "enum" in field:
        return ", ".join(_value(value) for value in field["enum"])
    for several in ("anyOf", "oneOf"):
        if several in field:
            kinds = [each.get("type") for each in field[several]]
            each_one = dict.fromkeys(takes(each, definitions) for each in field[several])
            return "text, number, true or false" if PLAIN.issubset(kinds) else " or ".join(each_one)
    kind = str(field.get("type", "any value"))
    if kind == "array":
        return f"list: {takes(field.get('items', {}), definitions)}"
    if kind == "object":
        return _mapping(field, definitions)
    words = {"integer": "whole number", "string": "text", "boolean": "true or false", "null": "`null`"}
    return words.get(kind, kind) + _bounds(field)


def _mapping(field: JsonSchema, definitions: Mapping[str, JsonSchema]) -> str:
    inner = field.get("additionalProperties")
    if isinstance(inner, Mapping) and "discriminator" in inner:
        return "parameter by path"
    return f"mapping: {takes(inner, definitions)}" if isinstance(inner, Mapping) and inner else "mapping"


def _group(field: JsonSchema, definitions: Mapping[str, JsonSchema]) -> JsonSchema | None:
    """The definition of a field that is an object, or has one among its alternatives."""
    for each in (field, *field.get("anyOf", ())):
        if "$ref" in each and "properties" in (found := _definition(each, definitions)):
            return found
    return None


def _definition(field: JsonSchema, definitions: Mapping[str, JsonSchema]) -> JsonSchema:
    return definitions[field["$ref"].rpartition("/")[2]]


def _bounds(field: JsonSchema) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    found = [f"{sign} {field[name]}" for name, sign in signs.items() if name in field]
    return f", {', '.join(found)}" if found else ""


def _value(value: object) -> str:
    if isinstance(value, list) and all(isinstance(each, float) for each in value):
        return f"`[{', '.join(f'{each:.4g}' for each in value)}]`"
    text = f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
    return f"`{text}`" if text else "empty"


def _sentence(field: JsonSchema) -> str:
    return " ".join(field.get("description", "").split())


def table(found: Iterator[Row] | Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| setting | takes | default | |", "|---|---|---|---|"]
    for row in found:
        cells = (f"`{row.path}`", row.takes, row.default, row.description)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


def _documented(name: str, function: Any, *, with_arguments: bool = True) -> str:
    signature = inspect.signature(function)
    shown = [parameter for parameter in signature.parameters.values() if parameter.name != "self"]
    call = (
        f"{name}{signature.replace(parameters=shown)}" if with_arguments else f"{name}: {signature.return_annotation}"
    )
    call = re.sub(r"(: |-> )'([^']*)'", r"\1\2", call)  # annotations are text, which a signature puts in quotes
    text = inspect.getdoc(function) or ""
    return f"```python\n{call}\n```\n\n```text\n{text}\n```"


def _title(title: str) -> str:
    return f"# {title}\n\n{WRITTEN_BY}"


def _page(parts: Sequence[str]) -> str:
    return "\n\n".join(parts) + "\n"


def stale(folder: Path) -> list[str]:
    """Names of the pages in the folder that differ from the code."""
    return [
        name
        for name, text in pages().items()
        if not (folder / name).is_file() or (folder / name).read_text("utf-8") != text
    ]


def main() -> int:
    """Writes the pages, or lists those that are stale."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.reference", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the pages; without it stale ones are listed")
    parser.add_argument("--folder", type=Path, default=FOLDER, metavar="DIR", help=f"default: {FOLDER}")
    asked = parser.parse_args()
    if asked.write:
        asked.folder.mkdir(parents=True, exist_ok=True)
        for name, text in pages().items():
            (asked.folder / name).write_text(text, encoding="utf-8")
        return 0
    found = stale(asked.folder)
    for name in found:
        print(f"{asked.folder / name}: differs from the code; run: python -m orchestrator.reference --write")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
