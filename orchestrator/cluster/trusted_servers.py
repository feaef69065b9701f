"""Servers that only a search's own files name: they get Ray's token or MLflow's password once the user has named them.

A search folder may come from anyone. A server of this machine, a database in the storage, and what the user gave on the
command line or in the environment are used at once; any other must be given by its option, once for each storage.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import click

from orchestrator.base.errors import SearchError
from orchestrator.base.uris import database_path, lies_in, without_passwords
from orchestrator.cluster.authentication import is_loopback, own_address
from orchestrator.stores.base import Store
from trainer.formatting import one_line

TRACKING, ADDRESS = "--tracking-uri", "--address"
"""The options that name a server."""
KINDS = {TRACKING: "MLflow server or database", ADDRESS: "Ray cluster"}
ENVIRONMENT = {TRACKING: "MLFLOW_TRACKING_URI", ADDRESS: "RAY_ADDRESS"}
# Forms of an address in which all readers of URIs see the same host.
PLAIN_SERVER = re.compile(r"[a-z+]+://(?P<host>[A-Za-z0-9.-]*|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?(/[A-Za-z0-9._~/-]*)?")
PLAIN_ADDRESS = re.compile(r"(?P<host>[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?")


def trusted_servers_file() -> Path:
    """`$XDG_STATE_HOME/reidsearch/trusted_servers.jsonl`: one `[storage, option, server]` a line."""
    state = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser().absolute()
    return state / "reidsearch" / "trusted_servers.jsonl"


def trust(storage: Store, option: str, server: str | None) -> None:
    """Records that searches of the storage may use a server that the user has given."""
    if server is None or is_trusted(storage, option, server):
        return
    file = trusted_servers_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(file, "a", encoding="utf-8", opener=lambda path, flags: os.open(path, flags, 0o600)) as lines:
            lines.write(_line(storage, option, server))
    except OSError as error:
        click.echo(f"{file}: cannot be written ({error.strerror}); give {option} in every later command", err=True)


def is_trusted(storage: Store, option: str, server: str) -> bool:
    """Whether the server is our own, or was given in the environment or, for this storage, in an earlier command."""
    if is_own(storage, option, server) or os.environ.get(ENVIRONMENT[option]) == server:
        return True
    try:
        lines = trusted_servers_file().read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return _line(storage, option, server) in lines.splitlines(keepends=True)


def is_own(storage: Store, option: str, server: str) -> bool:
    """Whether a server is on this machine, or is a database in the storage itself."""
    if server == "auto":
        return True
    if option == TRACKING and (path := database_path(server)) is not None:
        return "?" not in server and lies_in(path, storage.path)
    found = (PLAIN_ADDRESS if option == ADDRESS else PLAIN_SERVER).fullmatch(server)
    host = "" if found is None else found["host"].strip("[]")
    return host != "" and (is_loopback(host) or host == own_address())


def require_trusted(storage: Store, search: str, option: str, server: str | None) -> None:
    """Checks that a server which a search's files name may be used.

    Args:
        storage: of the search.
        search: its name, or its path where the message names no storage.
        option: of the command line, that names such a server.
        server: as the files name it, or None.

    Raises:
        SearchError: the user has not given it.
    """
    if server is not None and not is_trusted(storage, option, server):
        shown = one_line(without_passwords(server))
        raise SearchError(
            f"{search}: its search.yaml names the {KINDS[option]} {shown}, which you have not used with this storage; "
            f"nothing was sent to it. If it is yours, give it: {option} {shown}"
        )


def _line(storage: Store, option: str, server: str) -> str:
    return json.dumps([storage.uri or str(storage.path.resolve()), option, without_passwords(server)]) + "\n"
