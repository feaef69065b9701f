"""Whether other machines see the storage: one leaves a token there, the others look for it."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from orchestrator.base.errors import EnvironmentProblem, SearchError
from orchestrator.stores.address import is_uri
from orchestrator.stores.cache import remote, storage_uri
from trainer.files import write_atomically

TOKENS = ".reach"
"""Folder in a storage that holds the tokens."""


def leave_token(storage: str | Path) -> str:
    """Leaves a token in the storage, a path or a URI, and returns its name, to be handed to `check_token`.

    Raises:
        SearchError: the URI is not valid.
        EnvironmentProblem: the storage cannot be written; the message names it.
    """
    token = secrets.token_hex(8)
    where = _address(storage)
    if isinstance(where, str):
        remote(where).check()
        remote(where).write(f"{TOKENS}/{token}", token.encode())
        return token
    try:
        (where / TOKENS).mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(where / TOKENS / token, token)
    except OSError as error:
        raise EnvironmentProblem(f"{where}: cannot be written ({error.strerror}); choose another --storage") from error
    return token


def check_token(storage: str | Path, token: str) -> str | None:
    """Whether this machine sees the token and can write beside it: None, or the reason why not, for people.

    To be called on every node, with what `leave_token` was called with; a path must be absolute.
    """
    try:
        where = _address(storage)
    except (SearchError, EnvironmentProblem) as error:
        return str(error)
    return _check_remote(where, token) if isinstance(where, str) else _check_path(where, token)


def remove_token(storage: str | Path, token: str) -> None:
    """Takes the token away again; whatever hinders that is left alone."""
    where = _address(storage)
    with contextlib.suppress(OSError, EnvironmentProblem):
        if isinstance(where, str):
            remote(where).delete(f"{TOKENS}/{token}")
        else:
            (where / TOKENS / token).unlink()
            (where / TOKENS).rmdir()


def _address(storage: str | Path) -> str | Path:
    """The URI, also of a mirror; otherwise the path."""
    if isinstance(storage, str) and is_uri(storage):
        return storage
    path = Path(storage).absolute()
    return storage_uri(path) or path


def _check_remote(uri: str, token: str) -> str | None:
    try:
        store = remote(uri)
        if store.read(f"{TOKENS}/{token}") != token.encode():
            return "holds something else than what was left there"
        own = f"{TOKENS}/{token}-{secrets.token_hex(4)}"
        store.write(own, b"")
        store.delete(own)
    except FileNotFoundError:
        return "is there, but not what the driver left there a moment ago; another endpoint answers here"
    except (EnvironmentProblem, SearchError) as error:
        return str(error)
    return None


def _check_path(path: Path, token: str) -> str | None:
    file = path / TOKENS / token
    try:
        content = file.read_text(encoding="utf-8")
    except OSError:
        return "is another folder on this node" if path.is_dir() else "is not there on this node"
    if content != token:
        return "holds something else than what was left there"
    own = file.with_name(f"{token}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        own.touch()
        own.unlink()
    except OSError as error:
        return f"cannot be written from this node ({error.strerror})"
    return None
