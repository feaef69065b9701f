"""The result of one check of this machine."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Finding(NamedTuple):
    """The result of one check."""

    level: Literal["ok", "warn", "problem"]
    """`problem`: something will not work. `warn`: something will work less well than it could."""
    subject: str
    text: str
    advice: str = ""
    """What to do; empty if nothing."""
