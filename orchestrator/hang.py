"""A training that makes no progress ends itself, and leaves behind where it stood."""

from __future__ import annotations

import faulthandler
import time
from pathlib import Path
from types import TracebackType

# A step takes seconds at most; compiling a network or reading a cold file system may take minutes.
HANG_AFTER_S = 1800.0
# Telling the watch costs a thread; once in this share of its patience is enough.
SHARE_OF_PATIENCE = 1 / 20


class HangWatch:
    """Ends this process, with exit code 1, when `progress` was not called for a while.

    The stack of every thread is then in the file, which is empty otherwise. The watch is a thread of C that needs no
    lock of the interpreter, so that it also sees a deadlock in a library; a process halted as a whole it cannot end.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self._path = path
        self._seconds = seconds
        self._told = 0.0

    def __enter__(self) -> HangWatch:
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


def hung(path: Path) -> bool:
    """Whether the attempt that wrote the file ended because it made no progress."""
    return path.is_file() and path.stat().st_size > 0
