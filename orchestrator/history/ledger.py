"""The journal and the study it tells, kept in step: an event is on disk first, then known, then passed on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orchestrator.history.events import Event, TrialReported, TrialStopped
from orchestrator.history.folder import SearchFolder
from orchestrator.history.journal import Journal, Record
from orchestrator.history.lease import Lease
from orchestrator.history.study import Study, fold_records
from orchestrator.search.early_stopping import decide
from orchestrator.space import SearchSpace
from trainer.result import EpochResult

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
        self.study: Study = fold_records(self.history)

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
            self.study.apply(event, record.time)
            for listener in self._listeners:
                listener(record)


@contextmanager
def owned_ledger(folder: SearchFolder) -> Iterator[Ledger]:
    """The ledger of a search for the one process that may write it, for as long as the block runs.

    Raises:
        LeaseError: another process drives the search.
        JournalError: the journal is damaged or cannot be opened.
    """
    with Lease(folder.lease):
        journal = Journal(folder.journal)
        try:
            yield Ledger(journal)
        finally:
            journal.close()


def record_epoch(ledger: Ledger, space: SearchSpace, key: str, result: EpochResult) -> None:
    """Records an epoch that is not known yet, and that the trial stops after it where the space's rule says so."""
    trial = ledger.study.all_trials[key]
    if trial.is_over or result.epoch <= trial.epoch:
        return
    ledger.record(TrialReported(trial=key, result=result))
    reason = decide(trial, ledger.study, space)
    if reason is not None and space.stopping.rule != "none":
        ledger.record(TrialStopped(trial=key, rule=space.stopping.rule, epoch=trial.epoch, reason=reason))
