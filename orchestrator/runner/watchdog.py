"""Ends a training that makes no progress, and writes where it stood."""

from __future__ import annotations

import faulthandler
import math
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

# Arming the timer costs a thread; once in this share of its seconds is enough.
SHARE_OF_SECONDS = 1 / 20
LONGER_THAN_WATCHDOG = 1.25  # the timeout in another process, in units of the watchdog's seconds


class Watchdog:
    """Ends this process, with exit code 1, when `progress` was not called for a while.

    The file then holds the stack of every thread; otherwise it is empty. The timer is a thread in C that needs no lock
    of the interpreter, so that it also ends a deadlock in a library. It cannot end a process that is halted as a whole
    (SIGSTOP): another process does that, which gets the heartbeats `alive` and has a `HeartbeatTimeout`.
    """

    def __init__(self, path: Path, seconds: float, alive: Callable[[], None] = lambda: None) -> None:
        """Watches from the start of the `with` block on.

        Args:
            path: gets the stacks.
            seconds: without progress after which the process ends.
            alive: called at the start, and then with progress, at most once in a twentieth of the seconds.
        """
        self._alive = alive
        self._path = path
        self._seconds = seconds
        self._armed = 0.0

    def __enter__(self) -> Watchdog:
        self._file = self._path.open("w", encoding="utf-8")
        self._arm()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        faulthandler.cancel_dump_traceback_later()
        self._file.close()

    def progress(self, what: str, done: int, total: int, note: str = "") -> None:
        """To be called with progress, as the trainer does."""
        if time.monotonic() - self._armed > self._seconds * SHARE_OF_SECONDS:
            self._arm()

    def _arm(self) -> None:
        self._armed = time.monotonic()
        faulthandler.dump_traceback_later(self._seconds, exit=True, file=self._file)
        self._alive()


class HeartbeatTimeout:
    """How long a process still waits for a heartbeat of another one that has a `Watchdog`.

    It counts ticks of the waiting process, not seconds of a clock: if both were halted and continued together, as batch
    systems suspend a whole job, only one tick has passed.
    """

    def __init__(self, hang_after: float, before_first: float = 0.0) -> None:
        """Waits longer than the other's watchdog, which writes a stack and therefore has to end it first.

        Args:
            hang_after: seconds of the other's watchdog.
            before_first: additional seconds until its first heartbeat.
        """
        self.tick = hang_after * SHARE_OF_SECONDS
        """Seconds between two looks."""
        self._ticks = math.ceil(LONGER_THAN_WATCHDOG / SHARE_OF_SECONDS)
        self._left = self._ticks + math.ceil(before_first / self.tick)

    def heard(self) -> None:
        """To be called when a heartbeat came."""
        self._left = self._ticks

    def passed(self) -> bool:
        """To be called after a tick without a heartbeat; whether the time is over."""
        self._left -= 1
        return self._left <= 0


def hung(path: Path) -> bool:
    """Whether the attempt that wrote the file ended because it made no progress."""
    return path.is_file() and path.stat().st_size > 0
