"""Decides again, from the journal alone, what a search has decided: starts, pauses, continuations, ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from orchestrator.algorithms.suggest import Continuation, Exhausted, Proposal, Suggestion
from orchestrator.runner.next_step import (
    AddTrial,
    ContinueTrial,
    EndPaused,
    Propose,
    StartAttempt,
    next_step,
    pause_after_epoch,
)
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.events import (
    Event,
    SearchExtended,
    TrialContinued,
    TrialPaused,
    TrialStarted,
    TrialStopped,
    TrialSuggested,
)
from orchestrator.study.journal import Record
from orchestrator.study.study import Study


class Decisions(NamedTuple):
    """The decisions of a search, and those that would be others today."""

    counts: Counter[str]
    """By the kind of their event."""
    differences: list[str]
    """One line for each that is not decided again; empty where all are."""


def replayed_decisions(records: Iterable[Record], space: SearchSpace) -> Decisions:
    """Makes every decision of a journal again, each from what stood before it.

    The rule `promote` and the budget decide anew. What a model proposed is taken from the journal: a point, or a trial
    that continues, with its reason and its forecast.

    Args:
        records: the journal.
        space: the search's at its launch.
    """
    study, found = Study(), Decisions(Counter(), [])
    for record in records:
        event = record.event
        if _is_decision(event):
            found.counts[event.kind] += 1
            again = _decided(study, space, event, record.time)
            if event not in again:
                found.differences.append(f"line {record.number}: {_difference(event, again)}")
        if isinstance(event, SearchExtended):
            space = SearchSpace.model_validate(event.space)
        study.apply(event, record.time)
    return found


def _is_decision(event: Event) -> bool:
    """Whether it is about what trains next; what users ask for, what attempts report, and repeats are as they are."""
    if isinstance(event, TrialStopped):
        return event.rule in ("promote", "freeze_thaw")
    if isinstance(event, TrialSuggested):
        return not event.repeats
    return isinstance(event, TrialContinued | TrialStarted | TrialPaused)


def _decided(study: Study, space: SearchSpace, event: Event, now: float) -> list[Event]:
    """The events, one of them first, that the study leads to where the journal has `event`."""
    if isinstance(event, TrialPaused):
        pause = pause_after_epoch(study.all_trials[event.trial])
        # A model's forecast is part of the event only.
        return [] if pause is None else [pause.model_copy(update={"forecast": event.forecast})]
    step = next_step(study, space, now, _proposing(event, space))
    match step:
        case StartAttempt(trial) if isinstance(event, TrialStarted):
            return [event.model_copy(update={"trial": trial, "attempt": study.all_trials[trial].attempts + 1})]
        case AddTrial(added, _):
            return [added]
        case ContinueTrial(continued):
            return [continued]
        case EndPaused(events):
            return list(events)
        case _:
            return []


def _proposing(event: Event, space: SearchSpace) -> Propose:
    """Proposes what the journal has."""
    proposal: Proposal = Exhausted("the journal has another decision here")
    if isinstance(event, TrialSuggested):
        # The model also proposes when a new trial first pauses.
        until = (event.until or event.epochs) if space.stopping.rule == "freeze_thaw" else None
        proposal = Suggestion(event.params, event.source, event.note, until=until)
    elif isinstance(event, TrialContinued):
        proposal = Continuation(event.trial, event.until, event.reason, event.forecast)
    return lambda study, space: proposal


def _difference(event: Event, again: list[Event]) -> str:
    """What the journal has, and what is decided now, in one line."""
    if len(again) == 1 and _name(again[0]) == _name(event):
        now = again[0].model_dump()
        others = [key for key, was in event.model_dump().items() if was != now[key]]
        return f"{_name(event)} with another {', '.join(others)}"
    return f"{_name(event)}; now {', '.join(map(_name, again)) or 'nothing'}"


def _name(event: Event) -> str:
    return f"{event.kind} {getattr(event, 'trial', '')}".strip()
