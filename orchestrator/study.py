"""The state of a search, folded from its events. Every decision about trials is a function of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import JsonValue

from orchestrator.events import (
    AttemptFailed,
    Event,
    FailureKind,
    Observation,
    ObservationsAttached,
    SearchCreated,
    SearchExtended,
    SessionEnded,
    SessionStarted,
    TrialCompleted,
    TrialFailed,
    TrialReopened,
    TrialReported,
    TrialStarted,
    TrialStopped,
    TrialSuggested,
    TrialTracked,
)
from orchestrator.journal import Record
from orchestrator.parameters import Value
from orchestrator.spending import Spending
from trainer.result import EpochResult

TrialStatus = Literal["pending", "running", "completed", "stopped", "failed"]
SearchState = Literal["running", "finished", "interrupted", "failed"]

# Attempts after which a trial is given up. A lost worker says nothing about the configuration; running out of memory
# may be a neighbour's doing once, and so may standing still; the others would only fail again.
ATTEMPTS: Mapping[FailureKind, int] = {
    "worker_lost": 4,
    "out_of_memory": 2,
    "hang": 2,
    "diverged": 1,
    "bad_data": 1,
    "bad_config": 1,
    "error": 1,
}


@dataclass
class Trial:
    """One configuration and what is known of it."""

    key: str
    index: int
    params: dict[str, Value]
    source: str
    seed: int
    note: str = ""
    status: TrialStatus = "pending"
    attempts: int = 0
    results: list[EpochResult] = field(default_factory=list)
    failures: Counter[FailureKind] = field(default_factory=Counter)
    reason: str | None = None
    mlflow_run_id: str | None = None

    @property
    def epoch(self) -> int:
        """Epochs finished."""
        return self.results[-1].epoch if self.results else 0

    @property
    def is_over(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in ("completed", "stopped", "failed")


TrialEvent = (
    TrialTracked
    | TrialStarted
    | TrialReported
    | TrialCompleted
    | TrialStopped
    | AttemptFailed
    | TrialFailed
    | TrialReopened
)


@dataclass
class Study:
    """A search as its events tell it."""

    name: str = ""
    space: str = ""
    seed: int = 0
    sessions: int = 0
    ended: Literal["finished", "interrupted", "failed"] | None = None
    reason: str | None = None
    trials: dict[str, Trial] = field(default_factory=dict)
    completed: list[str] = field(default_factory=list)
    """Keys of the completed trials in the order in which they were."""
    failed: list[TrialFailed] = field(default_factory=list)
    """Trials that failed for good in this session since one last completed."""
    attached: list[Observation] = field(default_factory=list)
    """Finished trials of earlier searches, for the model."""
    extended: dict[str, JsonValue] | None = None
    """The resolved space where it is no longer that of the launch."""
    spending: Spending = field(default_factory=Spending)

    def apply(self, event: Event, moment: float | None = None) -> None:
        """Takes one event in; `moment` is when it was written, in seconds since 1970.

        An epoch that is reported again is known already and changes nothing.
        """
        if moment is not None and not isinstance(event, SessionStarted):
            self.spending.advance(moment)
        match event:
            case SearchCreated():
                self.name, self.space, self.seed = event.search, event.space, event.seed
            case SessionStarted():
                self._start_session(event, moment)
            case SessionEnded():
                self.ended, self.reason = event.state, event.reason
                self._interrupt_running()
                self.spending.end()
            case TrialSuggested():
                self.trials[event.trial] = Trial(
                    event.trial, event.index, event.params, event.source, event.seed, event.note
                )
            case ObservationsAttached():
                self.attached += event.observations
            case SearchExtended():
                self.extended = event.space
                self.ended = "interrupted" if self.ended == "finished" else self.ended
            case _:
                self._apply_to_trial(event, self.trials[event.trial])

    def _apply_to_trial(self, event: TrialEvent, trial: Trial) -> None:
        match event:
            case TrialTracked():
                trial.mlflow_run_id = event.mlflow_run_id
            case TrialStarted():
                trial.status, trial.attempts = "running", event.attempt
                self.spending.held[trial.key] = event.gpus
                return
            case TrialReported():
                if event.result.epoch > trial.epoch:
                    trial.results.append(event.result)
                return
            case TrialCompleted():
                trial.status, trial.reason = "completed", None
                self.completed.append(trial.key)
                self.failed.clear()
            case TrialStopped():
                trial.status, trial.reason = "stopped", f"{event.rule}: {event.reason}"
            case AttemptFailed():
                trial.status, trial.reason = "pending", event.reason
                trial.failures[event.failure] += 1
            case TrialFailed():
                trial.status, trial.reason = "failed", event.reason
                self.failed.append(event)
            case TrialReopened():
                trial.status = "pending"
                trial.failures.clear()
                self.ended = "interrupted" if self.ended == "finished" else self.ended
        if trial.status != "running":
            self.spending.held.pop(trial.key, None)

    def _start_session(self, event: SessionStarted, moment: float | None) -> None:
        self.sessions, self.ended, self.reason = event.session, None, None
        self.failed.clear()
        self._interrupt_running()
        if moment is not None:
            self.spending.begin(moment)

    def _interrupt_running(self) -> None:
        for trial in self.trials.values():
            if trial.status == "running":
                trial.status = "pending"

    def counts(self) -> dict[TrialStatus, int]:
        """Number of trials in each status, all statuses named."""
        found = Counter(trial.status for trial in self.trials.values())
        return {status: found[status] for status in ("pending", "running", "completed", "stopped", "failed")}


def fold(events: Iterable[Event]) -> Study:
    """The state after the events, without their times."""
    study = Study()
    for event in events:
        study.apply(event)
    return study


def fold_records(records: Iterable[Record]) -> Study:
    """The state after the events of a journal."""
    study = Study()
    for record in records:
        study.apply(record.event, record.time)
    return study


def may_retry(trial: Trial, failure: FailureKind) -> bool:
    """Whether a trial whose attempt just failed this way is tried again."""
    return trial.failures[failure] < ATTEMPTS[failure]


def unfinished(study: Study) -> list[Trial]:
    """Trials that were suggested and are not over, in the order of their suggestion."""
    return sorted((trial for trial in study.trials.values() if not trial.is_over), key=lambda t: t.index)
