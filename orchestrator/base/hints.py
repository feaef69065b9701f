"""Command lines that messages suggest, ready to be pasted."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from orchestrator.base.project import VARIABLES, default

DEFAULT_STORAGE = "runs"
"""Where commands look for searches without `--storage`."""


STORAGE_VARIABLE = VARIABLES["storage"]
"""Environment variable that names another one."""


def default_storage() -> str:
    """Where searches are looked for if nothing else is said."""
    found = default("storage")
    return DEFAULT_STORAGE if found is None else found.value


def installed(command: str) -> str:
    """How to call a command of this environment from here: by name if that finds it, otherwise by path."""
    own = Path(sys.executable).parent / command  # noqa: TID251 - starts nothing
    found = shutil.which(command)
    if found is not None and Path(found).resolve() == own.resolve():
        return command
    return shlex.quote(os.path.relpath(own)) if own.is_file() else command


def command_line(*arguments: Path | str) -> str:
    """`reidsearch ARGUMENTS`, quoted for a shell, of commands that take no `--storage`; others are for `hint`."""
    return f"{installed('reidsearch')} {shlex.join(map(str, arguments))}"


def hint(verb: str, *arguments: str, storage: str) -> str:
    """`reidsearch VERB ARGUMENTS --storage STORAGE`, quoted for a shell.

    Args:
        verb: a command that takes `--storage`.
        arguments: what follows it.
        storage: a URI, or the path of the folder that holds the searches; the default one, as it is spelled, is left
            out.
    """
    given = [] if storage == DEFAULT_STORAGE else ["--storage", storage]
    return command_line(verb, *arguments, *given)
