"""Requests to the process that drives a search, which may run on another machine."""

from __future__ import annotations

from orchestrator.stores.base import SearchFolder
from orchestrator.stores.cache import remote_of
from orchestrator.study.lease import current_holder

REQUESTS = "requests"
"""Folder of the requests, in a search."""


class Request:
    """A file in the search's folder or, where a driver on another machine is to see it, an object in the storage."""

    def __init__(self, folder: SearchFolder, name: str) -> None:
        """Finds out which of them it has to be."""
        self._file = folder.path / REQUESTS / name
        self._object = f"{folder.name}/{REQUESTS}/{name}"
        self._remote = None if current_holder(folder.lease) is not None else remote_of(folder.path.parent)

    def leave(self) -> None:
        """Asks.

        Raises:
            StorageProblem: the storage cannot be reached.
        """
        if self._remote is not None:
            self._remote.write(self._object, b"")
            return
        self._file.parent.mkdir(exist_ok=True)
        self._file.touch()

    def is_left(self) -> bool:
        """Whether it still waits for an answer.

        Raises:
            StorageProblem: the storage cannot be reached.
        """
        if self._remote is not None:
            return self._remote.entry(self._object) is not None
        return self._file.exists()
