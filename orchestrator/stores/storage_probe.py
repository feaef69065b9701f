"""Whether other machines see the storage: one leaves a token there, the others look for it."""

from __future__ import annotations

import contextlib
import secrets

from orchestrator.base.errors import EnvironmentProblem, SearchError
from orchestrator.stores import open_store
from orchestrator.stores.base import Store

TOKENS = ".reach"
"""Folder in a storage that holds the tokens."""


def leave_token(store: Store) -> str:
    """Leaves a token in the storage and returns its name, to be handed to `check_token`.

    Raises:
        EnvironmentProblem: the storage cannot be written; the message names it.
    """
    token = secrets.token_hex(8)
    store.check()
    store.write(f"{TOKENS}/{token}", token.encode())
    return token


def check_token(storage: str, token: str) -> str | None:
    """Why this machine does not see the token or cannot write beside it, for people; None if it does and can.

    To be called on every node, with the URI or the absolute path of the storage.
    """
    own = f"{TOKENS}/{token}-{secrets.token_hex(4)}"
    try:
        store = open_store(storage)
        if store.read(f"{TOKENS}/{token}") != token.encode():
            return "holds something else than what was left there"
        store.write(own, b"")
        store.remove(own)
    except (EnvironmentProblem, SearchError) as error:
        return str(error)
    except OSError:
        if store.uri is not None:
            return "is there, but not what the driver left there a moment ago; another endpoint answers here"
        return "is another folder on this node" if store.path.is_dir() else "is not there on this node"
    return None


def remove_token(store: Store, token: str) -> None:
    """Deletes the token; failures are ignored."""
    with contextlib.suppress(OSError, EnvironmentProblem):
        store.remove(f"{TOKENS}/{token}")
