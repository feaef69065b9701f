"""Values, shares and times as people read them."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

MIB, GIB = 2**20, 2**30
TIME = "%Y-%m-%dT%H:%M:%SZ"


def number(value: Any) -> str:
    """A parameter's value, four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def percent(metrics: Mapping[str, float], name: str) -> str:
    """A share in per cent with one decimal, or a dash."""
    return f"{100 * metrics[name]:.1f}" if name in metrics else "-"


def utc(seconds: float) -> str:
    """A time in seconds since 1970 as `2026-11-22T12:00:00Z`."""
    return time.strftime(TIME, time.gmtime(seconds))


def duration(seconds: float) -> str:
    """`340 ms`, `8.2 s`, `14 min`, `3 h 20 min`, `2 d 5 h`."""
    if 0 < seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    hours, days = minutes // 60, minutes // (24 * 60)
    if not hours:
        return f"{minutes} min"
    return f"{hours} h {minutes % 60} min" if not days else f"{days} d {hours % 24} h"


def size(count: int) -> str:
    """`3.1 MB`, `1.2 GB`; 1 MB is 2^20 bytes, as in the memory of machines."""
    if count >= GIB:
        return f"{count / GIB:.2g} GB"
    return f"{count / MIB:.2g} MB" if count < 10 * MIB else f"{count / MIB:.0f} MB"


def with_utc(pattern: str) -> logging.Formatter:
    """Formats log records by `pattern`, with `asctime` as `utc` writes it."""
    formatter = logging.Formatter(pattern, TIME)
    formatter.converter = time.gmtime
    return formatter
