"""Servers that a search's own files name: Ray's token and MLflow's password go only to those that the user named.

A search folder may come from anybody. A server of this machine, a database in the storage, and what the user gave on
the command line or in the environment are used at once; of all others the user is asked, once for each storage.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import click

from orchestrator.base.errors import SearchError
from orchestrator.base.locking import exclusive
from orchestrator.base.uris import database_path, lies_in, without_passwords
from orchestrator.cluster.authentication import is_loopback, own_address
from orchestrator.stores.cache import storage_name
from trainer.atomic import write_atomically
from trainer.formatting import one_line

TRACKING, ADDRESS = "--tracking-uri", "--address"
"""The options that name a server."""
WHAT = {TRACKING: "MLflow server or database", ADDRESS: "Ray cluster"}
GETS = {TRACKING: "it gets MLflow's user and password", ADDRESS: "it gets Ray's token and runs code here"}
ENVIRONMENT = {TRACKING: "MLFLOW_TRACKING_URI", ADDRESS: "RAY_ADDRESS"}
# Nothing that two readers of URIs could take for different hosts.
PLAIN_SERVER = re.compile(r"[a-z+]+://(?P<host>[A-Za-z0-9.-]*|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?(/[A-Za-z0-9._~/-]*)?")
PLAIN_ADDRESS = re.compile(r"(?P<host>[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?")
LOCK_PATIENCE_S = 10.0
# A user confirms a few servers; what is longer is not ours.
MAX_BYTES = 1024 * 1024


def state_folder() -> Path:
    """Where this user's machine keeps what cannot be fetched again: `$XDG_STATE_HOME/reidsearch`."""
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser().absolute() / "reidsearch"


def confirm(storage: Path, option: str, server: str | None) -> None:
    """Remembers, in a file of the user alone, that searches of the storage may use a server."""
    if server is None or is_own(storage, option, server) or is_confirmed(storage, option, server):
        return
    file = _file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with exclusive(file.with_name(file.name + ".lock"), LOCK_PATIENCE_S):
            entries = [*_entries(), _entry(storage, option, server)]
            write_atomically(file, json.dumps(entries, indent=1) + "\n", mode=0o600)
    except (OSError, TimeoutError) as error:
        click.echo(f"{file}: cannot be written ({error}); give {option} again in every later command", err=True)


def is_confirmed(storage: Path, option: str, server: str) -> bool:
    """Whether the user has named the server in the environment, or for this storage before."""
    return os.environ.get(ENVIRONMENT[option]) == server or _entry(storage, option, server) in _entries()


def is_own(storage: Path, option: str, server: str) -> bool:
    """Whether a server is on this machine, or a database in the storage itself."""
    if option == ADDRESS:
        found = PLAIN_ADDRESS.fullmatch(server)
    else:
        path = database_path(server)
        if path is not None:
            return "?" not in server and lies_in(path, storage)
        found = PLAIN_SERVER.fullmatch(server)
    if server == "auto":
        return True
    if found is None:
        return False
    host = found["host"].strip("[]")
    return is_loopback(host) or (host != "" and host == own_address())


def require_confirmed(storage: Path, search: str, option: str, server: str | None) -> None:
    """Whether a server that only a search's files name may be used; asks on a terminal.

    Args:
        storage: of the search.
        search: its name, or its path where no storage is spoken of.
        option: of the command line, that names such a server.
        server: as the files name it; None where they name none.

    Raises:
        SearchError: the user did not confirm it, or cannot be asked.
    """
    if server is None or is_own(storage, option, server) or is_confirmed(storage, option, server):
        return
    shown = one_line(without_passwords(server))
    named = f"{search}: its search.yaml names the {WHAT[option]} {shown}, which you have not used with this storage"
    if sys.stdin is not None and sys.stdin.isatty() and sys.stderr is not None and sys.stderr.isatty():
        if click.confirm(f"{named}; {GETS[option]}. Use it?", err=True):
            confirm(storage, option, server)
            return
        raise SearchError(f"{search}: {shown} was not used; nothing was sent to it")
    raise SearchError(f"{named}; nothing was sent to it. If it is yours, say so: {option} {shown}")


def _file() -> Path:
    return state_folder() / "confirmed.json"


def _entry(storage: Path, option: str, server: str) -> list[str]:
    name = storage_name(storage)
    return [name if "://" in name else str(storage.resolve()), option, without_passwords(server)]


def _entries() -> list[list[str]]:
    """What was confirmed; nothing where the file is not there, or others could have written it."""
    try:
        descriptor = os.open(_file(), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            facts = os.fstat(descriptor)
            if facts.st_uid != os.getuid() or facts.st_mode & 0o022:
                return []
            entries = json.loads(file.read(MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return []
    return entries if isinstance(entries, list) else []
