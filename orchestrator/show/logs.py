"""What happened in a search or in one of its trials, in the order in which it did."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from orchestrator.base.errors import SearchError
from orchestrator.base.escaping import terminal_text
from orchestrator.base.hints import hint
from orchestrator.runner.attempt import ERROR_FILE, HANG_FILE, LOG_FILE
from orchestrator.show.event_line import event_line
from orchestrator.stores.base import SearchFolder
from orchestrator.stores.pull import bring_search
from orchestrator.stores.remote_lease import driver_of
from orchestrator.stores.trial_files import bring_trial
from orchestrator.study.journal import Record, read_journal
from orchestrator.study.study import fold_records
from trainer.reading import read_regular

FOLLOW_PERIOD_S = 1.0
# What a trial says of itself, besides the search's journal.
OWN_FILES = (LOG_FILE, HANG_FILE, ERROR_FILE)


def log_lines(folder: SearchFolder, trial: str | None, *, follow: bool) -> Iterator[str]:
    """The journal's events in plain lines; for a trial its own, and what its attempts logged.

    With `follow` new lines come as they are written, until no process drives the search any more.

    Raises:
        SearchError: there is no such trial.
        JournalError: the journal is damaged.
    """
    if trial is not None and trial not in fold_records(read_journal(folder.journal), folder.journal).all_trials:
        raise SearchError(
            f"{folder.name}: no trial {trial!r}; `{hint('status', folder.name, storage=folder.path.parent)}` lists them"
        )
    shown = 0
    files = [] if trial is None else [_Tail(folder.trial(trial) / name) for name in OWN_FILES]
    while True:
        # Asked before reading, so that the last lines of a search that ends meanwhile are still read.
        driven = driver_of(folder) is not None
        bring_search(folder)
        if trial is not None:
            bring_trial(folder, trial, *OWN_FILES)
        records = read_journal(folder.journal)
        yield from _lines(records[shown:], trial)
        shown = len(records)
        for file in files:
            yield from map(terminal_text, file.new_lines())
        if not follow or not driven:
            return
        time.sleep(FOLLOW_PERIOD_S)


def _lines(records: list[Record], trial: str | None) -> Iterator[str]:
    for record in records:
        line = event_line(record)
        if line is not None and (trial is None or getattr(record.event, "trial", None) == trial):
            yield line


# A log of all that a search of days printed.
MAX_LOG_BYTES = 1024 * 1024 * 1024


class _Tail:
    """A file that grows, or is replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._end = 0

    def new_lines(self) -> list[str]:
        """Whole lines that were written since the last call."""
        try:
            content = read_regular(self._path, MAX_LOG_BYTES)
        except FileNotFoundError:
            return []
        if len(content) < self._end:
            self._end = 0
        whole = content.rfind(b"\n") + 1
        lines = content[self._end : whole].decode(errors="replace").splitlines()
        self._end = max(self._end, whole)
        return lines
