"""Processes: children that do not outlive us, and which ones are alive."""

from __future__ import annotations

import ctypes
import os
import re
import signal
from pathlib import Path
from typing import NamedTuple

from trainer.formatting import one_line, shortened

# A line of Python's logging says what a process did, not why it died.
LOGGED = re.compile(r"\d{4}-\d\d-\d\d[ T]|\[?(?:DEBUG|INFO|WARNING)\b")
MOST_WORDS = 200  # characters
# From <sys/prctl.h>: the signal this process gets when its parent dies.
PR_SET_PDEATHSIG = 1


def die_with_parent(number: signal.Signals = signal.SIGKILL) -> None:
    """Asks the kernel to send this process a signal when its parent dies, however that happens (Linux)."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it died before we asked
        os.kill(os.getpid(), number)


def last_words(printed: str) -> str:
    """The last line that a process printed to standard error, which names the exception of one that Python ended.

    Empty where it printed nothing but what it logged.
    """
    lines = [line.strip() for line in printed.splitlines()]
    said = [line for line in lines if line and not LOGGED.match(line)]
    return one_line(shortened(said[-1], MOST_WORDS)) if said else ""


class Process(NamedTuple):
    """A process, told apart from later ones with the same number."""

    pid: int
    started: int
    """Start of the process in clock ticks since boot."""

    def is_alive(self) -> bool:
        """Whether it runs still."""
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
    """Start of a process in clock ticks since boot; None if there is no such process, or only its corpse."""
    fields = _fields(pid)
    return None if fields is None or fields[1] in "ZX" else int(fields[20])


def process_state(pid: int) -> str:
    """What the kernel says a process is doing, such as `T (stopped)`; empty if there is no such process."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return next(line.removeprefix("State:").strip() for line in lines if line.startswith("State:"))


def _fields(pid: int) -> list[str] | None:
    """Name of a process's program, its state, its parent and so on, as /proc/PID/stat has them after the number."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    head, _, rest = stat.rpartition(")")  # a name may hold anything, also brackets and blanks
    return [head.partition("(")[2], *rest.split()]
