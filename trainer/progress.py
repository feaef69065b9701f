"""How long work tells how far it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """A listener to long work."""

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None:
        """Hears what is being done, the steps done and the steps in all, and what else is worth a word."""


def no_progress(what: str, done: int, total: int, note: str = "") -> None:
    """The listener that does not listen."""
