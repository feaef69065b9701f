"""Values, shares and times as people read them."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

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


def with_utc(pattern: str) -> logging.Formatter:
    """Formats log records by `pattern`, with `asctime` as `utc` writes it."""
    formatter = logging.Formatter(pattern, TIME)
    formatter.converter = time.gmtime
    return formatter
