"""Files: opened only if they are regular and of a bounded size, written whole or not at all."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import shutil
import stat
import struct
import tempfile
import tokenize
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pydantic_core

from trainer.errors import ConfigError

MAX_BYTES = 256 * 1024 * 1024
"""Of a file that is read whole, unless it is said otherwise; our own are far smaller."""
LARGEST_FLOAT = 3.5e38
"""Of a number that is read: what float32 holds. Squares and sums of such numbers are finite."""
LARGEST_INTEGER = 2**63
# A number in JSON that may be too large has, once digits are zeros and + is gone, an exponent that is not negative, or
# many digits behind what can stand before a number.
AS_ZEROS = bytes.maketrans(b"123456789E,[- \t\r\n", b"000000000e:::::::")
MANY_DIGITS = b":" + b"0" * 19
# What numpy and zipfile raise for damaged files; RuntimeError for those that seem to be encrypted.
DAMAGED_NPZ = (
    *(OSError, ValueError, LookupError, TypeError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error),
    *(SyntaxError, tokenize.TokenError, struct.error),  # numpy reads the head of an array as Python's literals
)


def open_regular(path: Path) -> io.BufferedReader:
    """The file, open for reading. A pipe or a device is not waited for.

    Raises:
        OSError: it is no regular file, or cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is no regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path, limit: int = MAX_BYTES) -> bytes:
    """All of the file.

    Raises:
        OSError: it is no regular file, has more bytes than `limit`, or cannot be read.
    """
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"is larger than {limit // 1024} KiB", str(path))
    return content


def loads_checked(text: str | bytes) -> Any:
    """The value of a JSON text, every number in it finite and of a size to calculate with.

    Raises:
        ValueError: it is no JSON, or a number is not.
        RecursionError: it is nested too deeply.
    """
    try:
        content = text.encode() if isinstance(text, str) else text
        if has_small_numbers(content):
            return pydantic_core.from_json(content, allow_inf_nan=False)  # a fifth of the time of what follows
    except ValueError:
        pass  # below it is accepted, or refused with the reason
    return json.loads(text, parse_float=_checked_float, parse_int=_checked_int, parse_constant=_refused)


def has_small_numbers(content: bytes) -> bool:
    """Whether no number in a JSON object or list, but NaN and infinity, is too large; may be False where none is."""
    shape = content.translate(AS_ZEROS, b"+")  # a tenth of the time of a regular expression
    return b"0e0" not in shape and MANY_DIGITS not in shape


def _checked_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or abs(value) > LARGEST_FLOAT:
        raise ValueError(f"{text[:40]} is too large a number")
    return value


def _checked_int(text: str) -> int:
    value = int(text) if len(text) <= 20 else LARGEST_INTEGER + 1
    if abs(value) > LARGEST_INTEGER:
        raise ValueError(f"{text[:40]} is too large a number")
    return value


def _refused(text: str) -> float:
    raise ValueError(f"{text} is no number")


def write_atomically(path: Path, text: str, *, mode: int = 0o666) -> None:
    """Replaces the file by `text`, durably: after a crash it holds the old or the new text, whole.

    `mode` is that of a new file, less the user's mask.
    """
    with replacing(path, mode=mode) as file:
        file.write(text.encode())


@contextmanager
def replacing(path: Path, *, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of `path`, durably, when all is written; not at all if that fails.

    Raises:
        OSError: there is something else than a regular file, such as /dev/null, or the file cannot be written.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "is no regular file", str(path))
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


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to write to, which becomes `path`, durably, when all is written; it is removed if that fails.

    Raises:
        OSError: it cannot be written, or `path` is there already and is not an empty folder.
    """
    part = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}.part")
    try:
        part.mkdir(parents=True)
        yield part
        part.rename(path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


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


def check_apart(out: Path, *sources: Path) -> None:
    """Checks that what is written lies in none of the folders that are read, links followed.

    Raises:
        ConfigError: it does; names the folder.
    """
    for source in sources:
        if out.resolve().is_relative_to(source.resolve()):
            raise ConfigError(f"{out}: lies in {source}, which is read; write it somewhere else")


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
