"""Files that somebody else may have put there: only regular ones are opened, lengths and numbers have limits."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import stat
from pathlib import Path
from typing import Any

MAX_BYTES = 256 * 1024 * 1024
"""Of a file that is read whole, unless it is said otherwise; our own are far smaller."""
LARGEST_FLOAT = 3.5e38
"""Of a number that is read: what float32 holds. Squares and sums of such numbers are finite."""
LARGEST_INTEGER = 2**63


def open_regular(path: Path) -> io.BufferedReader:
    """The file, open for reading. A pipe or a device is not waited for.

    Raises:
        OSError: it is no regular file, or cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is no regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path, limit: int = MAX_BYTES) -> bytes:
    """All of the file.

    Raises:
        OSError: it is no regular file, has more bytes than `limit`, or cannot be read.
    """
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"is larger than {limit // 1024} KiB", str(path))
    return content


def loads_checked(text: str | bytes) -> Any:
    """What JSON says, every number in it finite and of a size to calculate with.

    Raises:
        ValueError: it is no JSON, or a number is not.
        RecursionError: it is nested too deeply.
    """
    return json.loads(text, parse_float=_checked_float, parse_int=_checked_int, parse_constant=_refused)


def _checked_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or abs(value) > LARGEST_FLOAT:
        raise ValueError(f"{text[:40]} is too large a number")
    return value


def _checked_int(text: str) -> int:
    value = int(text) if len(text) <= 20 else LARGEST_INTEGER + 1
    if abs(value) > LARGEST_INTEGER:
        raise ValueError(f"{text[:40]} is too large a number")
    return value


def _refused(text: str) -> float:
    raise ValueError(f"{text} is no number")
