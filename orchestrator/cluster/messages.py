"""What Ray's daemons have to say to a driver: kept in a file rather than on people's screens."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainer.atomic import in_place

RAY_LOG = "ray.log"
"""Its file, beside the other logs of a search."""


@contextmanager
def stderr_kept(log: Path) -> Iterator[None]:
    """Appends to `log` what C++ writes to file descriptor 2 while the block runs; `sys.stderr` goes on to the screen.

    Ray's C++ part has no setting for it either.
    """
    try:
        screen, is_ours = os.dup(2), sys.stderr.fileno() == 2
    except (OSError, ValueError, AttributeError):  # closed by whoever started us, or no file at all
        yield
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    before = sys.stderr
    if is_ours:
        # Not closed below: handlers of Python's logging hold it until the process ends.
        sys.stderr = os.fdopen(screen, "w", buffering=1, encoding=before.encoding, errors=before.errors)
    with open(log, "ab", opener=in_place) as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(screen, 2)
        sys.stderr = before


def keep_messages(log: Path) -> None:
    """Appends from here on to `log` what Ray would print: pages of state for every node that is lost.

    Ray has no setting for it: `log_to_driver=False` is for what workers print.
    """
    from ray._private import worker

    lock = threading.Lock()
    log.parent.mkdir(parents=True, exist_ok=True)

    def append(data: Mapping[str, Any], *_: Any, **__: Any) -> None:
        with lock, open(log, "a", encoding="utf-8", opener=in_place) as file:
            file.writelines(f"{line}\n" for line in data["lines"])

    worker.print_to_stdstream = append
