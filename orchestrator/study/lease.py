"""Which process may write a search: one at a time, named by a file."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from orchestrator.base.errors import LeaseError
from orchestrator.base.hints import hint
from orchestrator.base.process import exclusive, start_of
from trainer.files import read_regular

HEARTBEAT_S = 10.0
# A holder on another machine without a heartbeat for this long is considered dead.
STALE_AFTER_S = 60.0
# Reading the lease takes milliseconds.
LOCK_PATIENCE_S = 30.0
MAX_BYTES = 4096


class Holder(NamedTuple):
    """A process, distinguished from later ones with the same number."""

    host: str
    boot: str
    pid: int
    started: int
    """Start of the process in clock ticks since boot."""

    @classmethod
    def parse(cls, text: bytes) -> Holder:
        """The process that a lease names; a damaged one names nobody, so that only its age counts."""
        try:
            fields = json.loads(text)
            holder = cls(*(fields[name] for name in cls._fields))
            if [type(value) for value in holder] != [str, str, int, int]:
                raise ValueError("not of a process")
        except (ValueError, TypeError, LookupError, RecursionError):
            return cls("an unknown host", "", 0, 0)
        return holder

    @property
    def is_here(self) -> bool:
        """Whether the process runs, or ran, on this machine since it was booted."""
        mine = this_process()
        return (self.host, self.boot) == (mine.host, mine.boot)

    def lives(self, age: float) -> bool:
        """Whether the process is alive; on another machine by the age of its heartbeat in seconds."""
        return start_of(self.pid) == self.started if self.is_here else age < STALE_AFTER_S


class Lease:
    """Held from `with Lease(path):` until the block ends or the process dies.

    On the same machine a dead holder is recognised at once; on another one after `STALE_AFTER_S` without heartbeat.
    """

    def __init__(self, path: Path, storage: str | None = None) -> None:
        """`storage` is what messages call the folder that holds the search."""
        self._path = path
        self._storage = storage or str(path.parent.parent)
        self._released = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        """Takes the lease.

        Raises:
            LeaseError: another live process holds it.
        """
        with exclusive(self._path.with_name(self._path.name + ".lock"), LOCK_PATIENCE_S):
            refuse_if_driven(self._path, self._storage)
            temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}")
            temporary.unlink(missing_ok=True)  # of a process that died with our number, or a link to elsewhere
            with temporary.open("x", encoding="utf-8") as file:
                file.write(json.dumps(this_process()._asdict()) + "\n")
            temporary.replace(self._path)
        self._heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._released.set()
        self._heart.join()
        if self._is_ours():
            self._path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_S):
            # A file server that does not answer for a moment must not end the heartbeat; and one that was taken over
            # while this process slept is no longer ours to keep alive.
            with contextlib.suppress(OSError):
                if self._is_ours():
                    os.utime(self._path)

    def _is_ours(self) -> bool:
        return _read(self._path) == this_process()


def refuse_if_driven(path: Path, storage: str) -> None:
    """Raises LeaseError if a live process holds the lease at `path`."""
    holder = current_holder(path)
    if holder is not None:
        search = path.parent.name
        raise LeaseError(
            f"{search}: already driven by process {holder.pid} on {holder.host}; "
            f"watch it with `{hint('status', search, storage=storage)}`, or stop that process first"
        )


def current_holder(path: Path) -> Holder | None:
    """The live process that holds the lease at `path`, if any."""
    try:
        holder = _read(path)
        age = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return None
    return holder if holder is not None and holder.lives(age) else None


def _read(path: Path) -> Holder | None:
    """The process that the file names, alive or not; None if there is no file."""
    try:
        return Holder.parse(read_regular(path, MAX_BYTES))
    except FileNotFoundError:
        return None


def this_process() -> Holder:
    """This process."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return Holder(socket.gethostname(), boot, os.getpid(), start_of(os.getpid()) or 0)
