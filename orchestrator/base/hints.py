"""Command lines that messages suggest, ready to be pasted."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

DEFAULT_STORAGE = Path("runs")
"""Where commands look for searches without `--storage`."""


def installed(command: str) -> str:
    """How to call a command of this environment from here: by name if that finds it, otherwise by path."""
    own = Path(sys.executable).parent / command
    found = shutil.which(command)
    if found is not None and Path(found).resolve() == own.resolve():
        return command
    return shlex.quote(os.path.relpath(own)) if own.is_file() else command


def command_line(*arguments: Path | str) -> str:
    """`reidsearch ARGUMENTS`, quoted for a shell, of commands that take no `--storage`; others are for `hint`."""
    return f"{installed('reidsearch')} {shlex.join(map(str, arguments))}"


def hint(verb: str, *arguments: str, storage: Path | str) -> str:
    """`reidsearch VERB ARGUMENTS --storage STORAGE`, quoted for a shell.

    Args:
        verb: a command that takes `--storage`.
        arguments: what follows it.
        storage: a URI, or the folder that holds the searches or mirrors a URI, which is then named. The relative folder
            of commands that were given none is left out.
    """
    from orchestrator.stores.cache import storage_name  # it imports the storages with a URI

    named = storage if isinstance(storage, str) else storage_name(storage)
    given = [] if storage == DEFAULT_STORAGE else ["--storage", named]
    return command_line(verb, *arguments, *given)
