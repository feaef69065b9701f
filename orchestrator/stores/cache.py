"""Where a machine keeps its own copy of a storage that is given by a URI."""

from __future__ import annotations

import hashlib
import os
import re
from functools import cache
from pathlib import Path

from orchestrator.base.errors import EnvironmentProblem, SearchError
from orchestrator.stores.address import is_uri, parsed
from orchestrator.stores.remote import Remote
from trainer.files import write_atomically

MARKER = "storage-uri.txt"
"""File in a mirror that holds the URI; a folder of the cache with this file is a mirror, and any other one is not."""

_made: set[Path] = set()  # mirrors, by this process


def cache_folder() -> Path:
    """Where this user's machine keeps what can be fetched again: `$XDG_CACHE_HOME/reidsearch`."""
    above = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return Path(os.path.abspath(above)) / "reidsearch"  # noqa: PTH100 - without a look at links


def mirror_of(uri: str) -> Path:
    """The folder that stands for the storage on this machine; made if missing, readable by its owner only.

    Raises:
        SearchError: the URI is not valid.
        EnvironmentProblem: the folder cannot be made, or belongs to somebody else.
    """
    address = parsed(uri)
    readable = re.sub(r"[^A-Za-z0-9]+", "-", f"{address.scheme}-{address.path}").strip("-")[-48:].lstrip("-")
    digest = hashlib.sha256(address.uri.encode()).hexdigest()[:12]
    folder = cache_folder() / "storage" / f"{readable}-{digest}"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            raise EnvironmentProblem(f"{folder}: belongs to somebody else; set XDG_CACHE_HOME to a folder of your own")
        folder.chmod(0o700)
        if _uri_in(folder) != address.uri:
            write_atomically(folder / MARKER, address.uri + "\n")
    except OSError as error:
        raise EnvironmentProblem(f"{folder}: cannot be written ({error.strerror}); set XDG_CACHE_HOME") from error
    _made.add(folder)
    return folder


def local_storage(storage: str | Path) -> Path:
    """The folder that stands for a storage here: a path as it is, for a URI the mirror.

    Raises:
        SearchError, EnvironmentProblem: see `mirror_of`.
    """
    return mirror_of(storage) if isinstance(storage, str) and is_uri(storage) else Path(storage)


def storage_uri(storage: Path) -> str | None:
    """The URI that a folder mirrors; None for an ordinary storage."""
    uri = _uri_in(storage)
    if uri is None:
        return None
    try:
        return parsed(uri).uri
    except SearchError as error:
        raise SearchError(f"{storage / MARKER}: {error}") from error


def storage_name(storage: Path) -> str:
    """What people call the storage: its URI, or its path."""
    return storage_uri(storage) or str(storage)


def remote_of(storage: Path) -> Remote | None:
    """The storage that a folder mirrors; None for an ordinary storage."""
    uri = storage_uri(storage)
    return None if uri is None else remote(uri)


@cache
def remote(uri: str) -> Remote:
    """The storage at the URI; a process opens each once."""
    return Remote(uri)


def _uri_in(folder: Path) -> str | None:
    # A folder received from somebody else may hold such a file, too, and lie in folders called like those of a cache;
    # only one of this user's own cache is believed, or one that this process made for a URI.
    here = Path(os.path.abspath(folder))  # noqa: PTH100 - without a look at links
    if here.parent != cache_folder() / "storage" and here not in _made:
        return None
    try:
        return (folder / MARKER).read_text(encoding="utf-8").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
