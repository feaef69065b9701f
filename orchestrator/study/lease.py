"""Who may write a search: one process at a time, found out by a file that says which."""

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
from orchestrator.base.locking import exclusive
from orchestrator.base.process import start_of
from trainer.files import read_regular

HEARTBEAT_S = 10.0
# A holder on another machine that has not touched its lease for this long is taken to be dead.
STALE_AFTER_S = 60.0
# Looking who holds the lease takes milliseconds.
LOCK_PATIENCE_S = 30.0
MAX_BYTES = 4096


class Holder(NamedTuple):
    """A process, told apart from later ones with the same number."""

    host: str
    boot: str
    pid: int
    started: int
    """Start of the process in clock ticks since boot."""


class Lease:
    """Held from `with Lease(path):` until the block ends or the process dies.

    On the same machine a dead holder is recognised at once; on another one after `STALE_AFTER_S` without heartbeat.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._released = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        """Takes the lease.

        Raises:
            LeaseError: another live process holds it.
        """
        with exclusive(self._path.with_name(self._path.name + ".lock"), LOCK_PATIENCE_S):
            refuse_if_driven(self._path)
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


def refuse_if_driven(path: Path) -> None:
    """Whether nobody holds the lease at `path`.

    Raises:
        LeaseError: a live process does.
    """
    holder = current_holder(path)
    if holder is not None:
        search, storage = path.parent.name, path.parent.parent
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
    if holder is None:
        return None
    mine = this_process()
    if (holder.host, holder.boot) == (mine.host, mine.boot):
        return holder if start_of(holder.pid) == holder.started else None
    return holder if age < STALE_AFTER_S else None


def _read(path: Path) -> Holder | None:
    """Whoever the file names, alive or not; None if there is no file."""
    try:
        holder = Holder(**json.loads(read_regular(path, MAX_BYTES)))
        if [type(value) for value in holder] != [str, str, int, int]:
            raise ValueError("not of a process")
        return holder
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, RecursionError):
        # Cut short by a full disk or a crash: nobody can be recognised, so only its age counts.
        return Holder("an unknown host", "", 0, 0)


def this_process() -> Holder:
    """The process that asks."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return Holder(socket.gethostname(), boot, os.getpid(), start_of(os.getpid()) or 0)
