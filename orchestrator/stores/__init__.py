"""Storages of searches: a folder, or a bucket given by a URI."""

from __future__ import annotations

from pathlib import Path

from orchestrator.stores.base import SearchFolder, Store
from orchestrator.stores.local import LocalStore
from orchestrator.stores.uri import is_uri, parsed, uri_of_copy


def open_store(storage: str | Path) -> Store:
    """The storage at a path or URI; a folder of this user's cache that is a copy of a bucket opens that bucket.

    Raises:
        SearchError: the URI is not valid.
        EnvironmentProblem: the copy on this machine cannot be made.
    """
    uri = storage if isinstance(storage, str) and is_uri(storage) else uri_of_copy(Path(storage))
    if uri is None:
        return LocalStore(Path(storage))
    address = parsed(uri)
    if address.scheme == "file":
        return LocalStore(Path(address.path))
    from orchestrator.stores.object_store import ObjectStore  # imports what shell completion has no time for

    return ObjectStore(address.uri)


def open_search(folder: Path) -> SearchFolder:
    """The search in a folder of a storage, or of this machine's copy of one."""
    return SearchFolder(folder, open_store(folder.parent))
