"""The state of a search, folded from its events. Every decision about trials is a function of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from orchestrator.events import (
    AttemptFailed,
    Event,
    FailureKind,
    SearchCreated,
    SessionEnded,
    SessionStarted,
    TrialCompleted,
    TrialFailed,
    TrialReported,
    TrialStarted,
    TrialSuggested,
    TrialTracked,
)
from orchestrator.parameters import Value
from orchestrator.space import Objective
from trainer.result import EpochResult

TrialStatus = Literal["pending", "running", "completed", "stopped", "failed"]
SearchState = Literal["running", "finished", "interrupted", "failed"]

# Attempts after which a trial is given up. A lost worker says nothing about the configuration; running out of memory
# may be a neighbour's doing once; the others would only fail again.
ATTEMPTS: Mapping[FailureKind, int] = {
    "worker_lost": 4,
    "out_of_memory": 2,
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


class Score(NamedTuple):
    """What the objective makes of a trial."""

    value: float
    standard_error: float | None
    """Standard error over queries where the metric has one."""
    result: EpochResult
    """The epoch that the value was taken from."""


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

    def apply(self, event: Event) -> None:
        """Takes one event in. An epoch that is reported again is known already and changes nothing."""
        match event:
            case SearchCreated():
                self.name, self.space, self.seed = event.search, event.space, event.seed
            case SessionStarted():
                self._start_session(event)
            case TrialSuggested():
                self.trials[event.trial] = Trial(event.trial, event.index, event.params, event.source, event.seed)
            case TrialTracked():
                self.trials[event.trial].mlflow_run_id = event.mlflow_run_id
            case TrialStarted():
                trial = self.trials[event.trial]
                trial.status, trial.attempts = "running", event.attempt
            case TrialReported():
                trial = self.trials[event.trial]
                if event.result.epoch > trial.epoch:
                    trial.results.append(event.result)
            case TrialCompleted():
                trial = self.trials[event.trial]
                trial.status, trial.reason = "completed", None
            case AttemptFailed():
                trial = self.trials[event.trial]
                trial.status, trial.reason = "pending", event.reason
                trial.failures[event.failure] += 1
            case TrialFailed():
                trial = self.trials[event.trial]
                trial.status, trial.reason = "failed", event.reason
            case SessionEnded():
                self.ended, self.reason = event.state, event.reason
                self._interrupt_running()

    def _start_session(self, event: SessionStarted) -> None:
        self.sessions, self.ended, self.reason = event.session, None, None
        self._interrupt_running()

    def _interrupt_running(self) -> None:
        for trial in self.trials.values():
            if trial.status == "running":
                trial.status = "pending"

    def counts(self) -> dict[TrialStatus, int]:
        """Number of trials in each status, all statuses named."""
        found = Counter(trial.status for trial in self.trials.values())
        return {status: found[status] for status in ("pending", "running", "completed", "stopped", "failed")}


def fold(events: Iterable[Event]) -> Study:
    """The state after the events."""
    study = Study()
    for event in events:
        study.apply(event)
    return study


def score(trial: Trial, objective: Objective) -> Score | None:
    """The objective's value of a trial so far: of its last evaluated epoch, or of its best one if the space says so.

    None before the first evaluation.
    """
    evaluated = [result for result in trial.results if objective.metric in result.metrics()]
    if not evaluated:
        return None
    sign = 1 if objective.goal == "maximize" else -1
    chosen = (
        evaluated[-1]
        if objective.epoch == "last"
        else max(evaluated, key=lambda result: sign * result.metrics()[objective.metric])
    )
    figures = chosen.metrics()
    return Score(figures[objective.metric], figures.get(f"{objective.metric}_standard_error"), chosen)


def ranked(study: Study, objective: Objective) -> list[tuple[Trial, Score]]:
    """Completed trials, best first; the earlier suggested of equals first."""
    sign = 1 if objective.goal == "maximize" else -1
    scored = [
        (trial, found)
        for trial in study.trials.values()
        if trial.status == "completed" and (found := score(trial, objective)) is not None
    ]
    return sorted(scored, key=lambda pair: (-sign * pair[1].value, pair[0].index))


def may_retry(trial: Trial, failure: FailureKind) -> bool:
    """Whether a trial whose attempt just failed this way is tried again."""
    return trial.failures[failure] < ATTEMPTS[failure]


def unfinished(study: Study) -> list[Trial]:
    """Trials that were suggested and are not over, in the order of their suggestion."""
    return sorted((trial for trial in study.trials.values() if not trial.is_over), key=lambda t: t.index)
