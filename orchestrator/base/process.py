"""Processes: which ones are alive."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple


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
