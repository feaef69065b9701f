"""Shell completion: names of searches, trials, spaces and settings; the command that prints a shell's script.

A shell asks at every press of the key: no journal is read, names are those of folders, and settings come from the JSON
Schema of space files.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.base.errors import Exit
from orchestrator.base.hints import default_storage

if TYPE_CHECKING:
    from orchestrator.stores.base import SearchFolder

BEST = "best"
SPACES = "search_spaces"
PARAMETER_KEYS = ("low", "high", "log", "step", "values")


def search_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Searches of the storage in the command line so far, the latest first."""
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
    return [f"{path}=" for path in _settable() if path.startswith(incomplete)]


def _searches(context: click.Context) -> list[SearchFolder]:
    from orchestrator.stores import open_store
    from orchestrator.stores.base import searches_here

    return searches_here(open_store(context.params.get("storage") or default_storage()))


def _spaces() -> Path:
    return Path(str(importlib.resources.files(SPACES)))


def _settable() -> Iterator[str]:
    from orchestrator.space.schema import schema_leaves, setting_kinds, space_schema

    yield from setting_kinds()
    properties = space_schema()["properties"]
    own = {name: below for name, below in properties.items() if name not in ("trainer", "parameters", "extends")}
    yield from (path for path, _ in schema_leaves({"properties": own}, space_schema()))
    for path in properties["parameters"]["propertyNames"]["enum"]:
        yield from (f"parameters.{path}.{key}" for key in PARAMETER_KEYS)


PROGRAM = "reidsearch"
VARIABLE = "_REIDSEARCH_COMPLETE"
# A setting continues after its `=`, where bash would put a space.
ADDS = "            COMPREPLY+=($value)\n"
ADDS_WITHOUT_SPACE = ADDS + "            [[ $value == *[=/] ]] && compopt -o nospace\n"


@click.command(epilog="Example: reidsearch completion fish > ~/.config/fish/completions/reidsearch.fish")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> int:
    """Print the script that lets a shell complete commands, searches, trials and settings.

    \b
    bash  eval "$(reidsearch completion bash)"      in ~/.bashrc
    zsh   eval "$(reidsearch completion zsh)"       in ~/.zshrc
    fish  reidsearch completion fish > ~/.config/fish/completions/reidsearch.fish
    """
    click.echo(script(context.find_root().command, shell))
    return Exit.OK


def script(command: click.Command, shell: str) -> str:
    """The shell's script, which calls the program through Click."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    complete = kind(command, {}, PROGRAM, VARIABLE)
    text = complete.source_template % complete.source_vars()
    return text.replace(ADDS, ADDS_WITHOUT_SPACE) if shell == "bash" else text
