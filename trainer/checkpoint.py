"""Checkpoints that are whole or not there: atomic files with a SHA-256 beside them."""

from __future__ import annotations

import hashlib
import os
import pickle
import struct
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from pydantic import Field

from trainer.errors import CheckpointError
from trainer.files import open_regular, read_regular, replacing, write_atomically
from trainer.formatting import first_line, one_line, shortened
from trainer.settings import FrozenConfig

# What torch.load raises on files that are cut short or hold other bytes, found by feeding it such files.
UNREADABLE = (
    *(OSError, EOFError, RuntimeError, pickle.UnpicklingError, struct.error, MemoryError, OverflowError),
    *(ValueError, LookupError, TypeError, AttributeError, AssertionError, zipfile.BadZipFile),
)
# Version of the contents; a checkpoint of another version is refused.
FORMAT = 2


class CheckpointConfig(FrozenConfig):
    """How often the state of a training is saved."""

    every: int = Field(1, ge=1)
    """Epochs after which `last.pt` is saved: network, averages, centers and optimizer, with Adam three times the size
    of the network. It is saved, too, with every new best network, after the last epoch, and where the training is asked
    to stop. A training that dies otherwise repeats up to `every` - 1 finished epochs when it is resumed, to the same
    results, besides the one under way."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes tensors and plain values so that at every instant `path` holds the old or the new state, verified.

    The digest file names both states before the new one takes its place and only the new one afterwards; a crash
    between any two steps leaves a file whose digest is listed. When all is done `sha256sum -c` accepts it.

    Raises:
        OSError: the disk is full or fails; the old state stays, and nothing half written does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        _serialise({"format": FORMAT, **state}, file)
        digest = _sha256(Path(file.name))
        write_atomically(_digest_path(path), _digest_lines(path, [digest, *_known_digests(path)]))
    write_atomically(_digest_path(path), _digest_lines(path, [digest]))


def seconds_to_save(state: dict[str, Any], folder: Path) -> float:
    """Seconds to save the state on the disk of the folder; nothing is left there, even by a crash.

    Raises:
        OSError: the disk is full or fails, or the folder cannot be written.
    """
    began = time.monotonic()
    with tempfile.TemporaryFile(dir=folder) as file:
        _serialise({"format": FORMAT, **state}, file)
        os.fsync(file.fileno())
        file.seek(0)
        hashlib.file_digest(file, "sha256")
        return time.monotonic() - began


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state saved at `path`, on the CPU.

    Raises:
        CheckpointError: the file or its digest is missing, does not match, or is of another format; names the file.
    """
    known = _known_digests(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    if not known:
        raise CheckpointError(f"{path}: {_digest_path(path).name} is missing beside it, so it cannot be verified")
    if _sha256(path) not in known:
        raise CheckpointError(f"{path}: its SHA-256 is not the one noted when it was written; the file is damaged")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        why = one_line(shortened(first_line(error)))
        raise CheckpointError(f"{path}: cannot be read as a checkpoint ({why})") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a checkpoint of format {FORMAT}; it was written by another version")
    return state


def _serialise(state: dict[str, Any], file: BinaryIO) -> None:
    """Writes the state to the file, as far as the operating system.

    Raises:
        OSError: the disk is full or fails.
    """
    try:
        torch.save(state, file)
        file.flush()
    except RuntimeError as error:
        # After a write that failed torch closes its archive, fails at that too, and raises this second error.
        reason = error.__context__
        if isinstance(reason, OSError):
            raise OSError(reason.errno, reason.strerror, file.name) from error
        raise


MAX_DIGEST_BYTES = 64 * 1024


def _digest_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _digest_lines(path: Path, digests: list[str]) -> str:
    return "".join(f"{digest}  {path.name}\n" for digest in digests)


def _known_digests(path: Path) -> list[str]:
    try:
        lines = read_regular(_digest_path(path), MAX_DIGEST_BYTES).decode(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    return [line.split()[0] for line in lines if line.strip()]


def _sha256(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
