"""Requests of other processes to the driver of a search, as files in its folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from orchestrator.base.errors import SearchError
from orchestrator.base.hints import hint
from orchestrator.runner.checkpoints import drop_checkpoint
from orchestrator.stores.base import SearchFolder
from orchestrator.study.events import TrialStopped
from orchestrator.study.journal import read_journal
from orchestrator.study.study import Study, fold_records

# The name of a request is the trial to stop, or this for the whole search.
WHOLE_SEARCH = "search"
POLL_S = 0.2
# A driver looks for requests several times a second, except while it connects to its cluster.
PATIENCE_S = 60.0
STOPPED_BY_USER = "asked for by `reidsearch stop`"


class Requests:
    """The requests, as the driver of the search sees them."""

    def __init__(self, folder: SearchFolder) -> None:
        self._folder = folder.requests

    def clear(self) -> None:
        """Deletes requests to an earlier driver."""
        for request in self.pending():
            self.done(request)

    def pending(self) -> list[str]:
        """The requests: keys of trials to stop, or `WHOLE_SEARCH`."""
        try:
            return sorted(path.name for path in self._folder.iterdir())
        except FileNotFoundError:
            return []

    def done(self, request: str) -> None:
        """Deletes a request, which tells its sender that it was carried out."""
        (self._folder / request).unlink(missing_ok=True)


class Answer(NamedTuple):
    """The outcome of a request."""

    done: bool
    text: str
    """One line for people."""


def stop(folder: SearchFolder, trial: str | None, patience: float = PATIENCE_S) -> Answer:
    """Asks the driver to end the search, or to stop one trial, and waits until it has.

    A trial of a search without a driver is stopped at once, by this process.

    Raises:
        SearchError: there is no such trial, or it is over.
        LeaseError: a driver has started meanwhile.
    """
    if trial is not None:
        _check_trial(folder, trial)
    if folder.store.driver(folder) is None:
        return _stop_undriven(folder, trial)
    folder.store.request(folder, trial or WHOLE_SEARCH)
    if trial is not None:
        answered = _wait(lambda: not folder.store.is_requested(folder, trial), patience)
        return Answer(answered, f"{folder.name}/{trial}: stopped" if answered else _unanswered(folder))
    answered = _wait(lambda: folder.store.driver(folder) is None, patience)
    text = f"{folder.name}: stopped; `{hint('resume', folder.name, storage=folder.storage)}` continues it"
    return Answer(answered, text if answered else _unanswered(folder))


def _check_trial(folder: SearchFolder, trial: str) -> None:
    folder.store.pull(folder)
    study = fold_records(read_journal(folder.journal), folder.journal)
    known = study.all_trials.get(trial)
    if known is None:
        raise SearchError(f"{folder.name}: no trial {trial!r} ({_trials_of(study)})")
    if known.is_over:
        raise SearchError(f"{folder.name}/{trial}: is over already ({known.status})")


def _trials_of(study: Study) -> str:
    keys = list(study.all_trials)
    return f"there: {keys[0]} to {keys[-1]}" if keys else "it has none yet"


def _stop_undriven(folder: SearchFolder, trial: str | None) -> Answer:
    if trial is None:
        return Answer(True, f"{folder.name}: no process drives it, so there is nothing to stop")
    with folder.store.record(folder) as recorder:
        epoch = recorder.study.all_trials[trial].epoch
        recorder.record(TrialStopped(trial=trial, rule="user", epoch=epoch, reason=STOPPED_BY_USER))
        if trial in recorder.study.trials:
            drop_checkpoint(folder, trial)
    return Answer(True, f"{folder.name}/{trial}: given up; no process drives the search")


def _unanswered(folder: SearchFolder) -> str:
    holder = folder.store.driver(folder)
    if holder is None:
        return f"{folder.name}: the process that drove it died before it could answer"
    return f"{folder.name}: asked process {holder.pid} on {holder.host}, which drives it and has not answered yet"


def _wait(condition: Callable[[], bool], patience: float) -> bool:
    end = time.monotonic() + patience
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(POLL_S)
    return True
