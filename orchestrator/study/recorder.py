"""Records events: each is on disk first, then part of the study, then passed to listeners."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from orchestrator.study.events import Event, TrialStarted
from orchestrator.study.journal import Journal, Record
from orchestrator.study.study import Study, fold_records

Listener = Callable[[Record], None]
"""Called after an event is durable; must not block and must not raise."""


class JournalUpload(Protocol):
    """Copies a journal to object storage while it grows."""

    def check(self) -> None:
        """Raises LeaseError if another process has taken the search over."""

    def journaled(self) -> None:
        """Called after each fsynced append; schedules the upload."""

    def stop_attempt(self, trial: str, start: int) -> None:
        """Asks the attempt that began with event number `start` to stop, on whichever machine it runs."""

    def finish(self, patience: float | None = None) -> None:
        """Uploads the rest within `patience` seconds and releases the lease."""


class NoUpload:
    """The journal lies where all machines see it."""

    def check(self) -> None:
        """Does nothing."""

    def journaled(self) -> None:
        """Does nothing."""

    def stop_attempt(self, trial: str, start: int) -> None:
        """Does nothing."""

    def finish(self, patience: float | None = None) -> None:
        """Does nothing."""


class Recorder:
    """The one place in a running search where events are recorded."""

    def __init__(self, journal: Journal, upload: JournalUpload | None = None) -> None:
        self._journal = journal
        self.upload = upload or NoUpload()
        self.starts: dict[str, int] = {}
        """Number of the event that began each trial's last attempt of this session."""
        self.lock = threading.RLock()
        """Held while the study changes; hold it to read the study from another thread."""
        self._listeners: list[Listener] = []
        self.history = list(journal.records)
        self.study: Study = fold_records(self.history, journal.path)

    def subscribe(self, listener: Listener) -> None:
        """Passes on every event from here on."""
        self._listeners.append(listener)

    def record(self, event: Event) -> None:
        """Makes the event a fact.

        Raises:
            JournalError: it could not be written; then it has not happened.
            LeaseError: another process has taken the search over; the same.
        """
        with self.lock:
            self.upload.check()
            record = self._journal.append(event)
            self.upload.journaled()
            if isinstance(event, TrialStarted):
                self.starts[event.trial] = record.number
            self.study.apply(event, record.time)
            for listener in self._listeners:
                listener(record)

    def stop_attempt(self, trial: str) -> None:
        """Asks the latest attempt of a trial to stop where it does not see the search's folder."""
        self.upload.stop_attempt(trial, self.starts.get(trial, 0))
