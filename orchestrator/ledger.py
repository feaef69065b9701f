"""The journal and the study it tells, kept in step: an event is on disk first, then known, then passed on."""

from __future__ import annotations

import threading
from collections.abc import Callable

from orchestrator.events import Event
from orchestrator.journal import Journal, Record
from orchestrator.study import Study, fold

Listener = Callable[[Record], None]
"""Hears of an event once it counts. Must not block and must not raise."""


class Ledger:
    """The one place in a running search where events are recorded."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.lock = threading.RLock()
        """Held while the study changes; hold it to read the study from another thread."""
        self._listeners: list[Listener] = []
        self.history = list(journal.records)
        self.study: Study = fold(record.event for record in self.history)

    def subscribe(self, listener: Listener) -> None:
        """Passes on every event from here on."""
        self._listeners.append(listener)

    def record(self, event: Event) -> None:
        """Makes the event a fact.

        Raises:
            JournalError: it could not be written; then it has not happened.
        """
        with self.lock:
            record = self._journal.append(event)
            self.study.apply(event)
            for listener in self._listeners:
                listener(record)
