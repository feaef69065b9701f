"""A training that makes no progress ends itself, and leaves behind where it stood; one that cannot is ended."""

from __future__ import annotations

import faulthandler
import math
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

# Telling the watch costs a thread; once in this share of its patience is enough.
SHARE_OF_PATIENCE = 1 / 20
# What the watch in another process waits, in units of the training's own patience.
LONGER_THAN_WATCH = 1.25


class Watchdog:
    """Ends this process, with exit code 1, when `progress` was not called for a while.

    The stack of every thread is then in the file, which is empty otherwise. The watch is a thread of C that needs no
    lock of the interpreter, so that it also sees a deadlock in a library. A process halted as a whole (SIGSTOP) it
    cannot end: for that another process hears `alive`, and has a `HeartbeatTimeout` of its own.
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
        self._told = 0.0

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
        """Hears that something was done; the trainer's listener of progress."""
        if time.monotonic() - self._told > self._seconds * SHARE_OF_PATIENCE:
            self._arm()

    def _arm(self) -> None:
        self._told = time.monotonic()
        faulthandler.dump_traceback_later(self._seconds, exit=True, file=self._file)
        self._alive()


class HeartbeatTimeout:
    """How long one process still waits for a sign of life from another that has a `Watchdog`.

    It is counted in ticks of the waiting process, not by a clock: where both were halted together, as batch systems
    suspend a whole job, and go on together, only one tick has passed.
    """

    def __init__(self, hang_after: float, before_first: float = 0.0) -> None:
        """Waits longer than the other's own watch, which leaves a stack behind and therefore goes first.

        Args:
            hang_after: seconds of the other's watch.
            before_first: seconds, besides, that the other may take until its first sign.
        """
        self.tick = hang_after * SHARE_OF_PATIENCE
        """Seconds between two looks."""
        self._ticks = math.ceil(LONGER_THAN_WATCH / SHARE_OF_PATIENCE)
        self._left = self._ticks + math.ceil(before_first / self.tick)

    def heard(self) -> None:
        """A sign of life came."""
        self._left = self._ticks

    def passed(self) -> bool:
        """A tick went by without one; whether it was the last."""
        self._left -= 1
        return self._left <= 0


def hung(path: Path) -> bool:
    """Whether the attempt that wrote the file ended because it made no progress."""
    return path.is_file() and path.stat().st_size > 0
