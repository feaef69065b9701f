"""Values and shares as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def number(value: Any) -> str:
    """A parameter's value, four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def percent(metrics: Mapping[str, float], name: str) -> str:
    """A share in per cent with one decimal, or a dash."""
    return f"{100 * metrics[name]:.1f}" if name in metrics else "-"
