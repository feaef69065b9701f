"""Defaults of commands: the environment, else a project file `reidsearch.yaml` in the current folder or one above."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal, NamedTuple

from orchestrator.base.errors import OrchestratorError

FILE = "reidsearch.yaml"
Key = Literal["storage", "data", "notify"]
VARIABLES: dict[Key, str] = {
    "storage": "REIDSEARCH_STORAGE",
    "data": "REIDSEARCH_DATA",
    "notify": "REIDSEARCH_NOTIFY",
}
PLACES = ("storage", "data")
TEMPLATE = """\
# Defaults of `reidsearch` in this folder and all below. The command line goes before the environment, and that before
# this file; `reidsearch` alone says where each comes from. Relative paths begin here.

# The folder of all searches, or s3://bucket/runs (REIDSEARCH_STORAGE, --storage).
storage: runs

# The data set of launches without --data, of spaces that do not generate theirs (REIDSEARCH_DATA).
# data: /data/mars

# What is told that a search has ended or failed (REIDSEARCH_NOTIFY): a command of the shell, which gets the text as
# $REIDSEARCH_MESSAGE and on its standard input, or the address of a webhook that takes {"text": ...}, as Slack's and
# Mattermost's do. Such an address is a secret: do not commit it.
# notify: notify-send "$REIDSEARCH_MESSAGE"
"""


class Default(NamedTuple):
    """A default, and where it comes from."""

    value: str
    origin: str
    """The variable of the environment, or the file."""


def default(key: Key) -> Default | None:
    """The default of a key; None where neither the environment nor a file has one.

    Raises:
        OrchestratorError: the file cannot be used.
    """
    if value := os.environ.get(VARIABLES[key], "").strip():
        return Default(value, VARIABLES[key])
    file = project_file()
    found = {} if file is None else _read(file)
    return Default(found[key], str(file)) if key in found else None


def project_file() -> Path | None:
    """The nearest project file in the current folder or one above."""
    here = Path.cwd()
    return next((path for folder in (here, *here.parents) if (path := folder / FILE).is_file()), None)


def _read(file: Path) -> dict[str, str]:
    """The file's keys, relative places made absolute unless the file is in the current folder."""
    from trainer.formatting import did_you_mean
    from trainer.yaml_file import YamlError, read_yaml

    if file.stat().st_uid not in (os.getuid(), 0):
        raise OrchestratorError(
            f"{file}: belongs to another user, whose commands `notify` would run; move or remove it"
        )
    try:
        if not re.search(r"^\s*[^\s#]", file.read_text("utf-8", errors="replace"), re.MULTILINE):
            return {}  # comments only
        document = read_yaml(file)
    except YamlError as error:
        raise OrchestratorError(str(error)) from error
    if not isinstance(data := document.data, dict):
        raise OrchestratorError(f"{file}: must hold keys such as `storage: runs`")
    found: dict[str, str] = {}
    for key, value in data.items():
        where = f"{file}:{document.places[(key,)][0]}: {key}"
        if key not in VARIABLES:
            raise OrchestratorError(
                f"{where}: unknown key, not one of {', '.join(VARIABLES)}{did_you_mean(key, VARIABLES)}"
            )
        if not isinstance(value, str):  # not shown, it may be a secret
            raise OrchestratorError(f"{where}: must be a text")
        if not value.strip():
            raise OrchestratorError(f"{where}: is empty; give it a value or remove the line")
        is_path = key in PLACES and "://" not in value
        found[key] = _from(file.parent, Path(value).expanduser()) if is_path else value
    return found


def _from(folder: Path, path: Path) -> str:
    return str(path if folder == Path.cwd() else folder / path)
