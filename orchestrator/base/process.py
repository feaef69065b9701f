"""Processes of this machine: which are alive, and locks between them."""

from __future__ import annotations

import ctypes
import fcntl
import gc
import os
import platform
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

LOCK_POLL_S = 0.1
MANY_OBJECTS = 100_000
SECRETS = (
    *("RAY_AUTH_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PGPASSWORD"),
    "REIDSEARCH_NOTIFY",
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
)
"""Environment variables that Ray, MLflow, PostgreSQL and buckets read, and the address of `notify`."""
M_TRIM_THRESHOLD, M_ARENA_MAX = -1, -8  # from <malloc.h>
TRIM_BYTES = 128 * 1024  # glibc's own, until the first large block is freed


def trim_secrets() -> None:
    """Takes the line break away that a secret made from a file ends with: no header can hold it."""
    for name in SECRETS:
        if name in os.environ:
            os.environ[name] = os.environ[name].strip()


def share_heap() -> None:
    """Lets all threads of this process share one heap that gives back what is free at its end, where there is glibc.

    Otherwise glibc makes up to eight heaps per core for threads, and in a driver most of them held 5 to 10 MB free.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_TRIM_THRESHOLD, TRIM_BYTES)


@contextmanager
def until_interrupted() -> Iterator[None]:
    """A block of the main thread that Ctrl-C or SIGTERM ends without an error."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        return
    finally:
        signal.signal(signal.SIGTERM, before)


class Process(NamedTuple):
    """A process, told apart from later ones with the same number."""

    pid: int
    started: int
    """Start of the process in clock ticks since boot."""

    def is_alive(self) -> bool:
        """Whether it still runs."""
        return start_of(self.pid) == self.started


def children() -> dict[Process, str]:
    """The living children of this process and the names of their programs."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        fields = _fields(int(folder.name))
        if fields is not None and int(fields[2]) == os.getpid() and fields[1] not in "ZX":
            found[Process(int(folder.name), int(fields[20]))] = fields[0]
    return found


def children_named(*names: str) -> tuple[Process, ...]:
    """The living children of this process whose programs have one of these names."""
    return tuple(process for process, program in children().items() if program in names)


def start_of(pid: int) -> int | None:
    """Start of a process in clock ticks since boot; None if there is no such process, or only a zombie."""
    fields = _fields(pid)
    return None if fields is None or fields[1] in "ZX" else int(fields[20])


def process_state(pid: int) -> str:
    """The kernel's state of a process, such as `T (stopped)`; empty if there is no such process."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return next(line.removeprefix("State:").strip() for line in lines if line.startswith("State:"))


def _fields(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the number: name of the program, state, parent and so on."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    head, _, rest = stat.rpartition(")")  # a name may hold anything, also brackets and blanks
    return [head.partition("(")[2], *rest.split()]


@contextmanager
def exclusive(path: Path, patience: float) -> Iterator[None]:
    """Holds the lock file at `path`, created if missing, after waiting at most `patience` seconds for it.

    The kernel releases the lock when its holder ends, however it ends.

    Raises:
        TimeoutError: another process held it all that time.
        OSError: it cannot be opened, or a link stands in its place.
    """
    end = time.monotonic() + patience
    # The flags refuse links to files elsewhere, and pipes do not block. The file is empty, so that anyone may open it.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    with os.fdopen(descriptor, "w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise TimeoutError(f"{path}: another process holds this lock for {patience:.0f} s") from None
                time.sleep(LOCK_POLL_S)
        yield


@contextmanager
def without_collector() -> Iterator[None]:
    """Keeps Python from looking for garbage again and again among objects that all stay: a third of the time.

    Where they are many, it does not look for any among them later either.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if gc.get_count()[0] > MANY_OBJECTS:
            gc.freeze()
        if was_enabled:
            gc.enable()
