"""A storage that is a folder, which all processes of a search see."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.base.errors import SearchError
from orchestrator.base.process import exclusive
from orchestrator.stores.base import SearchFolder, StorageProblem
from orchestrator.stores.trial_files import DIGEST, LOCK_FILE
from orchestrator.study.lease import Holder, Lease, current_holder
from trainer.files import existing_folder, read_regular, replacing

if TYPE_CHECKING:
    from orchestrator.study.recorder import Recorder


class LocalStore:
    """See `Store`: nothing has to be copied, so that most methods have nothing to do."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.uri: str | None = None

    @property
    def name(self) -> str:
        """The path as it was given."""
        return str(self.path)

    def check(self) -> None:
        """Raises SearchError if the folder, or the nearest above it that exists, cannot be written."""
        existing = existing_folder(self.path)
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise SearchError(
                f"{self.path}: cannot hold a search ({existing} cannot be written); choose another --storage"
            )

    def pull(self, search: SearchFolder, *, journal: bool = True) -> None:
        """Does nothing."""

    def pull_all(self) -> None:
        """Does nothing."""

    def pull_trial(self, search: SearchFolder, trial: str, *patterns: str) -> None:
        """Does nothing."""

    def delete_file(self, search: SearchFolder, trial: str, path: str) -> None:
        """Deletes a checkpoint and the digest beside it, unless an attempt of the trial runs."""
        file = search.trial(trial) / path
        if file.exists():
            with exclusive(search.trial(trial) / LOCK_FILE, 0):
                file.unlink(missing_ok=True)
                file.with_name(file.name + DIGEST).unlink(missing_ok=True)

    def publish(self, search: SearchFolder) -> None:
        """Does nothing."""

    def delete(self, search: SearchFolder) -> None:
        """Does nothing: the search's folder is all that there is."""

    def upload(self, search: SearchFolder, trial: str, start: int) -> None:
        """None: all nodes see the folder."""

    @contextmanager
    def record(self, search: SearchFolder) -> Iterator[Recorder]:
        """Holds the lease, which is a file, and the journal."""
        from orchestrator.study.journal import Journal
        from orchestrator.study.recorder import Recorder

        with Lease(search.lease, search.storage), closing(Journal(search.journal)) as journal:
            yield Recorder(journal)

    def driver(self, search: SearchFolder) -> Holder | None:
        """The live process that holds the lease."""
        return current_holder(search.lease)

    def request(self, search: SearchFolder, name: str) -> None:
        """Leaves an empty file."""
        search.requests.mkdir(exist_ok=True)
        (search.requests / name).touch()

    def is_requested(self, search: SearchFolder, name: str) -> bool:
        """Whether the file is still there."""
        return (search.requests / name).exists()

    def read(self, path: str) -> bytes:
        """A small file below the folder; FileNotFoundError where there is none."""
        return read_regular(self.path / path)

    def write(self, path: str, content: bytes) -> None:
        """Writes a small file below the folder, atomically."""
        file = self.path / path
        try:
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with replacing(file) as out:
                out.write(content)
        except OSError as error:
            raise StorageProblem(
                f"{self.path}: cannot be written ({error.strerror}); choose another --storage"
            ) from error

    def remove(self, path: str) -> None:
        """Deletes a file below the folder, and its folder if that is empty then."""
        file = self.path / path
        file.unlink(missing_ok=True)
        if file.parent != self.path and not any(file.parent.iterdir()):
            file.parent.rmdir()


def local_search(path: Path) -> SearchFolder:
    """The search in a folder, whose storage is the folder above."""
    return SearchFolder(path, LocalStore(path.parent))
