"""How many damaged frames a run bears: it goes on past a few, each named once, and stops at more."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from trainer.errors import DataError

log = logging.getLogger(__name__)

ALLOWED_SHARE = 0.001
NAMED = 5


class DamageTally:
    """The damaged frames that a run has met, each counted once."""

    def __init__(self, frames: int, allowed: float = ALLOWED_SHARE) -> None:
        """Bears at most the share `allowed` of the run's `frames`."""
        self._total = frames
        self._allowed = allowed
        self._seen: dict[str, None] = {}

    @property
    def count(self) -> int:
        """Damaged frames so far."""
        return len(self._seen)

    def state(self) -> list[str]:
        """The damaged frames so far, for a checkpoint; a new tally that adds them goes on from there."""
        return list(self._seen)

    def add(self, paths: Iterable[str]) -> None:
        """Counts damaged frames, and warns of each that is new.

        Raises:
            DataError: there are more of them than the run bears.
        """
        for path in paths:
            if path not in self._seen:
                self._seen[path] = None
                log.warning("%s: damaged; the nearest undamaged frame of its tracklet stands in for it", path)
        if self.count > self._allowed * self._total:
            raise DataError(self._too_many())

    def _too_many(self) -> str:
        first = ", ".join(list(self._seen)[:NAMED])
        others = f" and {self.count - NAMED} more" if self.count > NAMED else ""
        return (
            f"{self.count} of {self._total} frames are damaged, more than {100 * self._allowed:g} % "
            f"({first}{others}); copy the data set again"
        )
