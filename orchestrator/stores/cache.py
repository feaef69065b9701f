"""This machine's copies of storages in buckets, in the user's cache."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from orchestrator.base.errors import EnvironmentProblem
from orchestrator.stores.objects import parsed
from trainer.files import write_atomically

MARKER = "storage-uri.txt"
"""File in this machine's copy of a storage that holds the URI."""


def cache_folder() -> Path:
    """Where this user's machine keeps what can be fetched again: `$XDG_CACHE_HOME/reidsearch`."""
    above = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return Path(os.path.abspath(above)) / "reidsearch"  # noqa: PTH100 - links are not followed


def copy_folder(uri: str) -> Path:
    """The folder of the copy; made if missing, readable by its owner only."""
    address = parsed(uri)
    readable = re.sub(r"[^A-Za-z0-9]+", "-", f"{address.scheme}-{address.path}").strip("-")[-48:].lstrip("-")
    digest = hashlib.sha256(address.uri.encode()).hexdigest()[:12]
    folder = cache_folder() / "storage" / f"{readable}-{digest}"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            raise EnvironmentProblem(f"{folder}: belongs to another user; set XDG_CACHE_HOME to a folder of your own")
        folder.chmod(0o700)
        if uri_of_copy(folder) != address.uri:
            write_atomically(folder / MARKER, address.uri + "\n")
    except OSError as error:
        raise EnvironmentProblem(f"{folder}: cannot be written ({error.strerror}); set XDG_CACHE_HOME") from error
    return folder


def uri_of_copy(folder: Path) -> str | None:
    """The URI of the storage that a folder of this user's cache is a copy of; None for any other folder."""
    # A folder received from somebody else may hold such a file, too: only those in the user's own cache are believed.
    here = Path(os.path.abspath(folder))  # noqa: PTH100 - links are not followed
    if here.parent != cache_folder() / "storage":
        return None
    try:
        return (folder / MARKER).read_text(encoding="utf-8").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
