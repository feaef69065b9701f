"""The journal and the study it tells, kept in step: an event is on disk first, then known, then passed on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orchestrator.algorithms.stopping import decide
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.push import Uplink, uplinked
from orchestrator.study.events import Event, TrialReported, TrialStarted, TrialStopped
from orchestrator.study.folder import SearchFolder
from orchestrator.study.journal import Journal, Record
from orchestrator.study.lease import Lease
from orchestrator.study.node_load import NodeLoad
from orchestrator.study.study import Study, fold_records
from trainer.result import EpochResult

Listener = Callable[[Record], None]
"""Hears of an event once it counts. Must not block and must not raise."""


class Ledger:
    """The one place in a running search where events are recorded."""

    def __init__(self, journal: Journal, uplink: Uplink | None = None) -> None:
        self._journal = journal
        self.uplink = uplink
        """What sends the journal to a storage with a URI; None where the storage is a folder."""
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
            if self.uplink is not None:
                self.uplink.check()
            record = self._journal.append(event)
            if self.uplink is not None:
                self.uplink.journaled()
            if isinstance(event, TrialStarted):
                self.starts[event.trial] = record.number
            self.study.apply(event, record.time)
            for listener in self._listeners:
                listener(record)


@contextmanager
def owned_ledger(folder: SearchFolder) -> Iterator[Ledger]:
    """The ledger of a search for the one process that may write it, for as long as the block runs.

    Raises:
        LeaseError: another process drives the search.
        JournalError: the journal is damaged or cannot be opened.
        StorageProblem: the storage has a URI and cannot be reached.
    """
    with Lease(folder.lease), uplinked(folder) as uplink:
        journal = Journal(folder.journal)
        try:
            yield Ledger(journal, uplink)
        finally:
            journal.close()


def record_epoch(
    ledger: Ledger, space: SearchSpace, key: str, result: EpochResult, load: NodeLoad | None = None
) -> None:
    """Records an epoch that is not known yet, and that the trial stops after it where the space's rule says so."""
    trial = ledger.study.all_trials[key]
    if trial.is_over or result.epoch <= trial.epoch:
        return
    ledger.record(TrialReported(trial=key, result=result, load=load))
    reason = decide(trial, ledger.study, space)
    if reason is not None and space.stopping.rule != "none":
        ledger.record(TrialStopped(trial=key, rule=space.stopping.rule, epoch=trial.epoch, reason=reason))
