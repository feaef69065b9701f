"""Checkpoints that are whole or not there: atomic files with a SHA-256 beside them, written while training goes on."""

from __future__ import annotations

import copy
import hashlib
import os
import pickle  # noqa: TID251 - the error of torch.load
import struct
import tempfile
import time
import zipfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, BinaryIO

import torch
from pydantic import Field
from torch import Tensor

from trainer.compute import synchronize
from trainer.errors import CheckpointError
from trainer.files import open_regular, read_regular, replacing, write_atomically
from trainer.formatting import first_line, one_line, shortened
from trainer.settings import Auto, FrozenConfig, auto_or, whole_from

# What torch.load raises on files that are cut short or hold other bytes, found by feeding it such files.
UNREADABLE = (
    *(OSError, EOFError, RuntimeError, pickle.UnpicklingError, struct.error, MemoryError, OverflowError),
    *(ValueError, LookupError, TypeError, AttributeError, AssertionError, zipfile.BadZipFile),
)
# Version of the contents; a checkpoint of another version is refused.
FORMAT = 2


class CheckpointConfig(FrozenConfig):
    """How often the state of a training is saved, by a thread of its own while training goes on."""

    every: Annotated[Auto | Annotated[int, Field(ge=1)], auto_or("a whole number of at least 1", whole_from(1))] = (
        "auto"
    )
    """When `last.pt` is saved: network, averages, centers and optimizer, with Adam three times the size of the network.
    `auto`: after every epoch, and every 5 minutes within one; while a save is under way training goes on, and epochs
    that end meanwhile are saved together. An epoch is reported when it is on disk: a training that dies repeats no
    reported epoch, and at most 5 minutes and the time of two saves.
    A number: after so many epochs, for disks that are slow or remote; a training that is faster than its saves waits
    for them, and one that dies repeats up to `every` - 1 reported epochs besides the one under way.
    It is saved, too, with every new best network, after the last epoch, and where the training is asked to stop.
    What is repeated has the same results, on the same CPU to the last bit."""


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


class CheckpointWriter:
    """Writes checkpoints by a thread of its own; at most one copy of a state exists besides the one that is trained.

    A context: whatever ends it, nothing is being written afterwards.
    """

    def __init__(self, device: torch.device) -> None:
        """Nothing is written yet; `device` is the one that most tensors are on."""
        self._device = device
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()

    def begin(self, states: dict[Path, dict[str, Any]]) -> None:
        """Copies the states, and begins to write each to its path, in this order; waits for what is being written.

        Raises:
            OSError: see `wait`.
        """
        self.wait()
        self._writing = self._thread.submit(_write_all, on_host(states, self._device))

    def is_idle(self) -> bool:
        """Whether all that was begun is on disk.

        Raises:
            OSError: see `wait`.
        """
        if self._writing is not None and not self._writing.done():
            return False
        self.wait()
        return True

    def wait(self) -> None:
        """Returns when all that was begun is on disk.

        Raises:
            OSError: the disk is full or fails, as `save_checkpoint` says; and so again whenever this is called.
        """
        if self._writing is not None:
            self._writing.result()


def _write_all(states: dict[Path, dict[str, Any]]) -> None:
    while states:  # what is written is freed
        path = next(iter(states))
        save_checkpoint(path, states.pop(path))


def on_host(state: Any, device: torch.device) -> Any:
    """A copy of nested dicts and lists whose tensors are all in the host's memory; equal ones share theirs as before.

    Tensors of a GPU go to pinned memory, and the host waits once for all of them.
    """
    copied = _copied(state, {})
    synchronize(device)
    return copied


def _copied(value: Any, known: dict[object, Tensor]) -> Any:
    if isinstance(value, Tensor):
        memory = value.untyped_storage()._cdata  # torch.save, too, tells by it what is to be saved once
        place = (memory, value.storage_offset(), value.size(), value.stride(), value.dtype)
        if place not in known:
            known[place] = value.to("cpu", non_blocking=True, copy=True)
        return known[place].detach()
    if isinstance(value, dict):
        same = copy.copy(value)  # with the attributes of a state dict
        same.update((key, _copied(each, known)) for key, each in value.items())
        return same
    return type(value)(_copied(each, known) for each in value) if isinstance(value, list | tuple) else value


def seconds_to_copy(state: dict[str, Any], device: torch.device) -> float:
    """Seconds for which a training stands still while its state is copied to be saved; memory is there, as later on."""
    copied = on_host(state, device)
    del copied
    began = time.monotonic()
    on_host(state, device)
    return time.monotonic() - began


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
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251 - weights_only=True
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
