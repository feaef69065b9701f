"""Locks that end with their holder, however it ends."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

POLL_S = 0.1


@contextmanager
def exclusive(path: Path, patience: float) -> Iterator[None]:
    """Holds the lock file at `path`, made if missing, after waiting at most `patience` seconds for it.

    Raises:
        TimeoutError: another process held it all that time.
        OSError: it cannot be opened, or a link stands in its place.
    """
    end = time.monotonic() + patience
    # Neither a link to a file elsewhere nor a pipe may stand in its place, and nothing in it is anybody's.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    with os.fdopen(descriptor, "w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise TimeoutError(f"{path}: another process holds this lock for {patience:.0f} s") from None
                time.sleep(POLL_S)
        yield
