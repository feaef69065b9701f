"""Files that are whole or not there, also after a crash."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, text: str, *, mode: int = 0o666) -> None:
    """Replaces the file by `text`, durably: after a crash it holds the old or the new text, whole.

    `mode` is that of a new file, less the user's mask.
    """
    with replacing(path, mode=mode) as file:
        file.write(text.encode())


@contextmanager
def replacing(path: Path, *, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of `path`, durably, when all is written; not at all if that fails."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        # Not through a link, which would lead elsewhere, and without waiting for the reader of a pipe.
        in_place = os.O_NOFOLLOW | os.O_NONBLOCK
        with open(temporary, "wb", opener=lambda name, flags: os.open(name, flags | in_place, mode)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def check_writable(path: Path) -> None:
    """Checks that a file or folder can be made at the path, missing folders above it included; leaves nothing.

    Raises:
        OSError: it could not; `filename` is the folder that refuses it.
    """
    folder = existing_folder(path)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, f"cannot be written ({error.strerror})", str(folder)) from error


def existing_folder(path: Path) -> Path:
    """The folder at the path, or the nearest above it that is there."""
    path = path.absolute()
    return path if path.is_dir() else next(above for above in path.parents if above.exists())


def in_place(path: str, flags: int) -> int:
    """An opener for files that are written where they stand: follows no link, and waits for no reader of a pipe."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)


def sync_folder(folder: Path) -> None:
    """Makes renames in the folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
