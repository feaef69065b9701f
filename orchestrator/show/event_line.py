"""Events in plain lines, for people and for logs."""

from __future__ import annotations

from orchestrator.base.formatting import number, percent, utc
from orchestrator.study.events import (
    AttemptFailed,
    FinalizationStarted,
    ObservationsAttached,
    SearchExtended,
    SessionEnded,
    SessionStarted,
    TrialCompleted,
    TrialFailed,
    TrialOpenedTestSet,
    TrialReopened,
    TrialReported,
    TrialStarted,
    TrialStopped,
    TrialSuggested,
    TrialTested,
)
from orchestrator.study.journal import Record
from trainer.formatting import one_line


def event_line(record: Record) -> str | None:
    """An event in one line that begins with its time, None where people need not see it."""
    text = _of_trial(record) or _of_search(record)
    if text is None:
        return None
    return f"{utc(record.time)} {one_line(text)}"


def _of_trial(record: Record) -> str | None:
    match record.event:
        case TrialSuggested() as event:
            params = " ".join(f"{path}={number(value)}" for path, value in event.params.items())
            note = f" ({event.note})" if event.note else ""
            return f"trial={event.trial} suggested by={event.source}{_repeated(event)}{note} {params}"
        case TrialStarted() as event:
            return f"trial={event.trial} started attempt={event.attempt}"
        case TrialReported(result=result) as event if result.validation is not None:
            figures = result.metrics()
            loss = f" loss={figures['loss/total']:.3f}" if "loss/total" in figures else ""
            return (
                f"trial={event.trial} epoch={result.epoch}{loss} "
                f"mAP={percent(figures, 'mAP')} rank1={percent(figures, 'rank1')}"
            )
        case TrialTested(evaluation=evaluation) as event:
            figures = evaluation.metrics()
            return (
                f"trial={event.trial} test set mAP={percent(figures, 'mAP')} rank1={percent(figures, 'rank1')} "
                f"protocol={evaluation.protocol} dropped={evaluation.dropped_queries}"
            )
        case TrialCompleted() as event:
            return f"trial={event.trial} completed"
        case TrialStopped() as event:
            return f"trial={event.trial} stopped by={event.rule} after epoch={event.epoch} {event.reason}"
        case AttemptFailed() as event:
            return f"trial={event.trial} attempt={event.attempt} failed={event.failure} {event.reason}"
        case TrialFailed() as event:
            return f"trial={event.trial} failed={event.failure} for good"
        case TrialOpenedTestSet() as event:
            return f"trial={event.trial} test set opened by={event.by} {event.use} of={event.weights}"
        case TrialReopened() as event:
            return f"trial={event.trial} is tried again"
        case _:
            return None


def _repeated(event: TrialSuggested) -> str:
    if not event.repeats:
        return ""
    return f" of={event.repeats} seed={event.seed}" + (f" fold={event.fold}" if event.fold is not None else "")


def _of_search(record: Record) -> str | None:
    match record.event:
        case SessionStarted() as event:
            return f"session={event.session} started host={event.host} pid={event.pid}"
        case SessionEnded() as event:
            return f"session {event.state} {event.reason}".rstrip()
        case ObservationsAttached() as event:
            return f"learns from={event.search} trials={len(event.observations)} {event.note}".rstrip()
        case FinalizationStarted() as event:
            return f"test set opened by={event.by} for={','.join(event.leaders)} seeds={event.seeds}"
        case SearchExtended() as event:
            return f"extended {'; '.join(event.changes)}"
        case _:
            return None
