"""Objects of a storage given by a URI: read, written, listed and removed; every failure says which storage it was."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from orchestrator.base.errors import EnvironmentProblem
from orchestrator.stores.address import Address, file_system, parsed
from trainer.files import replacing
from trainer.formatting import first_line

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem

BLOCK = 8 * 2**20
# Of an object that is replaced again and again while it is read.
READS = 5
REPLACED = "Failed to flush response stream"
"""What the S3 library says when an object is not what it was when its size was asked for."""
DENIED = r"ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE|UNRECOGNIZED_CLIENT|EXPIRED_TOKEN|INVALID_CLIENT|PERMISSION"


class StorageProblem(EnvironmentProblem):
    """A storage cannot be reached, or refuses what was asked; the message names it."""


class Entry(NamedTuple):
    """An object, or a folder of objects."""

    path: str
    """Relative to the storage."""
    size: int
    """Bytes."""
    time: float
    """When it was written, in seconds since 1970 by the storage's clock."""
    is_folder: bool


class Remote:
    """A storage, by its URI. Safe to use from several threads; opened when something is first asked of it.

    Every method raises StorageProblem where the storage cannot be reached or refuses.
    """

    def __init__(self, uri: str) -> None:
        """Remembers the URI.

        Raises:
            SearchError: the URI is not valid.
        """
        self._address: Address = parsed(uri)

    @property
    def uri(self) -> str:
        """The storage, for people."""
        return self._address.uri

    @cached_property
    def _files(self) -> FileSystem:
        return file_system(self._address)

    @property
    def _is_local(self) -> bool:
        return self._address.scheme == "file"

    def check(self) -> None:
        """Asks whether the bucket is there and may be looked at."""
        if self._is_local:
            folder = next(path for path in (Path(self._full("")), *Path(self._full("")).parents) if path.exists())
            if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
                raise StorageProblem(f"{self.uri}: {folder} cannot be written")
            return
        bucket = self._address.path.partition("/")[0]
        with self._telling():
            info = self._files.get_file_info(bucket)
        if not _is_there(info):
            raise StorageProblem(f"{self.uri}: there is no bucket {bucket!r}; make it, or name another one")

    def read(self, path: str) -> bytes:
        """The object.

        Raises:
            FileNotFoundError: there is none.
        """
        for _ in range(READS - 1):
            try:
                content = self._read(path)
            except StorageProblem as problem:
                if REPLACED not in str(problem):
                    raise
                continue
            found = self.entry(path)
            if found is not None and found.size == len(content):
                return content
        return self._read(path)

    def _read(self, path: str) -> bytes:
        """The library asks for the size first; of an object that is replaced then it returns a piece, or fails."""
        with self._telling(), self._files.open_input_stream(self._full(path)) as stream:
            return bytes(stream.read())

    def read_to(self, path: str, target: Path) -> str:
        """Puts the object into a file, whole or not at all, and returns its SHA-256.

        Raises:
            FileNotFoundError: there is no such object.
            OSError: the file cannot be written.
        """
        digest = hashlib.sha256()
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._telling():
            stream = self._files.open_input_stream(self._full(path))
        with stream, replacing(target) as file:
            while True:
                with self._telling():
                    block = stream.read(BLOCK)
                if not block:
                    return digest.hexdigest()
                digest.update(block)
                file.write(block)

    def write(self, path: str, content: bytes) -> None:
        """Puts the object there, in place of one that was; whole or not at all."""
        with self._telling(), self._writing(path) as stream:
            stream.write(content)

    def write_from(self, path: str, source: Path) -> str:
        """Puts a file there; returns the SHA-256 of what was sent.

        Whoever has to rely on it compares that: a file that cannot be read to its end leaves a shorter object.

        Raises:
            OSError: the file cannot be read.
        """
        digest, sent = hashlib.sha256(), 0
        with source.open("rb") as file:
            block = file.read(BLOCK)
            with self._telling(), self._writing(path) as stream:
                while block:
                    stream.write(block)
                    digest.update(block)
                    sent += len(block)
                    block = file.read(BLOCK)
        found = self.entry(path)
        if found is None or found.size != sent:
            raise StorageProblem(
                f"{self.uri}/{path}: holds {found.size if found else 0} of {sent} bytes that were sent"
            )
        return digest.hexdigest()

    def delete(self, path: str) -> None:
        """Removes an object, if it is there."""
        with contextlib.suppress(FileNotFoundError), self._telling():
            self._files.delete_file(self._full(path))

    def delete_folder(self, path: str) -> None:
        """Removes all objects below a folder."""
        with contextlib.suppress(FileNotFoundError), self._telling():
            self._files.delete_dir(self._full(path))

    def entry(self, path: str) -> Entry | None:
        """What is known of an object; None where there is none."""
        with self._telling():
            info = self._files.get_file_info(self._full(path))
        return self._entry(info) if _is_there(info) else None

    def entries(self, folder: str = "", *, recursive: bool = False) -> list[Entry]:
        """What is in a folder, by name; nothing where there is no such folder."""
        from pyarrow import fs

        with self._telling():
            found = self._files.get_file_info(
                fs.FileSelector(self._full(folder), allow_not_found=True, recursive=recursive)
            )
        entries = (self._entry(info) for info in found if _is_there(info))
        return sorted(entry for entry in entries if not _is_unfinished(entry.path))

    def _entry(self, info: FileInfo) -> Entry:
        from pyarrow import fs

        path = info.path.removeprefix(self._address.path).strip("/")
        folder = info.type == fs.FileType.Directory
        return Entry(path, 0 if folder else info.size, (info.mtime_ns or 0) / 1e9, folder)

    def _full(self, path: str) -> str:
        return f"{self._address.path}/{path}" if path else self._address.path

    @contextmanager
    def _writing(self, path: str) -> Iterator[Any]:
        full = self._full(path)
        if not self._is_local:
            with self._files.open_output_stream(full) as stream:
                yield stream
            return
        unfinished = f"{full}.{secrets.token_hex(4)}{UNFINISHED}"
        self._files.create_dir(full.rpartition("/")[0], recursive=True)
        try:
            with self._files.open_output_stream(unfinished) as stream:
                yield stream
            self._files.move(unfinished, full)
        except BaseException:
            with contextlib.suppress(OSError):
                self._files.delete_file(unfinished)
            raise

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except StorageProblem:
            raise
        except OSError as error:
            raise StorageProblem(f"{self.uri}: {_explained(error)}") from error


UNFINISHED = ".unfinished"


def _is_unfinished(path: str) -> bool:
    """Whether a file of a file:// storage is being written, or was when its writer died."""
    return path.endswith(UNFINISHED)


def _is_there(info: FileInfo) -> bool:
    from pyarrow import fs

    return bool(info.type != fs.FileType.NotFound)


def _explained(error: OSError) -> str:
    """The library's words, and before them what they mean where that is known."""
    said, words = str(error), first_line(error)
    if re.search(r"NO_SUCH_BUCKET|Bucket .* not found|does not exist: bucket", said):
        return f"there is no such bucket ({words})"
    if re.search(DENIED, said, re.IGNORECASE):
        return f"the credentials of this machine are missing or not enough ({words})"
    if re.search(r"NETWORK_CONNECTION|REQUEST_TIMEOUT|Could not connect|resolve host", said):
        return f"cannot be reached ({words})"
    return words
