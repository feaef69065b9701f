"""`reidsearch logs`: the events of a search or of one trial in plain lines, in order."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from orchestrator.base.errors import SearchError
from orchestrator.base.escaping import terminal_text
from orchestrator.base.formatting import number, percent, utc
from orchestrator.base.hints import hint
from orchestrator.runner.trial_spec import ERROR_FILE, HANG_FILE, LOG_FILE
from orchestrator.stores.base import SearchFolder
from orchestrator.study import events
from orchestrator.study.journal import Record, read_journal
from orchestrator.study.study import fold_records
from trainer.files import read_regular
from trainer.formatting import one_line

FOLLOW_PERIOD_S = 1.0
MAX_LOG_BYTES = 1024 * 1024 * 1024  # more than a search of days prints
# Of a trial, besides its events.
OWN_FILES = (LOG_FILE, HANG_FILE, ERROR_FILE)


def log_lines(folder: SearchFolder, trial: str | None, *, follow: bool) -> Iterator[str]:
    """The journal's events in plain lines; for a trial its own, then the log files of its attempts.

    With `follow`, new lines come as they are written until no process drives the search.

    Raises:
        SearchError: there is no such trial.
        JournalError: the journal is damaged.
    """
    if trial is not None and trial not in fold_records(read_journal(folder.journal), folder.journal).all_trials:
        raise SearchError(
            f"{folder.name}: no trial {trial!r}; `{hint('status', folder.name, storage=folder.storage)}` lists them"
        )
    shown = 0
    files = [] if trial is None else [_Tail(folder.trial(trial) / name) for name in OWN_FILES]
    while True:
        # Before reading, so that the last lines of a search that ends meanwhile are still read.
        driven = folder.store.driver(folder) is not None
        folder.store.pull(folder)
        if trial is not None:
            folder.store.pull_trial(folder, trial, *OWN_FILES)
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


def event_line(record: Record) -> str | None:
    """An event in one line that begins with its time; None for events that are of no interest to people."""
    text = _of_trial(record) or _of_search(record)
    if text is None:
        return None
    return f"{utc(record.time)} {one_line(text)}"


def news(records: Sequence[Record]) -> list[str]:
    """Lines of everything but suggestions and epochs, the latest first."""
    others = (
        record
        for record in reversed(records)
        if not isinstance(record.event, events.TrialSuggested | events.TrialReported)
    )
    return list(filter(None, map(event_line, others)))


def _of_trial(record: Record) -> str | None:
    match record.event:
        case events.TrialSuggested() as event:
            params = " ".join(f"{path}={number(value)}" for path, value in event.params.items())
            note = f" ({event.note})" if event.note else ""
            return f"trial={event.trial} suggested by={event.source}{_repeated(event)}{note} {params}"
        case events.TrialStarted() as event:
            return f"trial={event.trial} started attempt={event.attempt}"
        case events.TrialReported(result=result) as event if result.validation is not None:
            metrics = result.metrics()
            loss = f" loss={metrics['loss/total']:.3f}" if "loss/total" in metrics else ""
            return (
                f"trial={event.trial} epoch={result.epoch}{loss} "
                f"mAP={percent(metrics, 'mAP')} rank1={percent(metrics, 'rank1')}"
            )
        case events.TrialTested(evaluation=evaluation) as event:
            metrics = evaluation.metrics()
            return (
                f"trial={event.trial} test set mAP={percent(metrics, 'mAP')} rank1={percent(metrics, 'rank1')} "
                f"protocol={evaluation.protocol} dropped={evaluation.dropped_queries}"
                + ("" if event.data is None else f" data={event.data.name}")
            )
        case events.TrialCompleted() as event:
            return f"trial={event.trial} completed"
        case events.TrialStopped() as event:
            return f"trial={event.trial} stopped by={event.rule} after epoch={event.epoch} {event.reason}"
        case events.TrialPaused() as event:
            return f"trial={event.trial} paused after epoch={event.epoch}{_expected(event.forecast)} {event.reason}"
        case events.TrialContinued() as event:
            until = "" if event.until is None else f" until epoch={event.until}"
            return f"trial={event.trial} continues{until}{_expected(event.forecast)} {event.reason}"
        case events.AttemptFailed() as event:
            return f"trial={event.trial} attempt={event.attempt} failed={event.failure} {event.reason}"
        case events.TrialFailed() as event:
            return f"trial={event.trial} failed={event.failure} for good"
        case events.TrialOpenedTestSet() as event:
            return f"trial={event.trial} test set opened by={event.by} {event.use} of={event.weights}" + (
                "" if event.data is None else f" data={event.data.name}"
            )
        case events.TrialReopened() as event:
            return f"trial={event.trial} is tried again"
        case _:
            return None


def _expected(forecast: events.Forecast | None) -> str:
    """The forecast in the objective's own unit, which an event does not name."""
    return "" if forecast is None else f" ends at={forecast.value:.3g}±{forecast.error:.2g}"


def _repeated(event: events.TrialSuggested) -> str:
    if not event.repeats:
        return ""
    return f" of={event.repeats} seed={event.seed}" + (f" fold={event.fold}" if event.fold is not None else "")


def _of_search(record: Record) -> str | None:
    match record.event:
        case events.SessionStarted() as event:
            return f"session={event.session} started host={event.host} pid={event.pid}"
        case events.SessionEnded() as event:
            return f"session {event.state} {event.reason}".rstrip()
        case events.ObservationsAttached() as event:
            return f"learns from={event.search} trials={len(event.observations)} {event.note}".rstrip()
        case events.FinalizationStarted() as event:
            return f"test set opened by={event.by} for={','.join(event.leaders)} seeds={event.seeds}"
        case events.SearchExtended() as event:
            return f"extended {'; '.join(event.changes)}"
        case _:
            return None


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
