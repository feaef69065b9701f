"""The state of a search, folded from its events; every decision about trials is a function of it."""

from __future__ import annotations

import math
from collections import ChainMap, Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import JsonValue

from orchestrator.base.errors import JournalError
from orchestrator.space.parameters import Value
from orchestrator.study.events import (
    AttemptFailed,
    Event,
    FailureKind,
    FinalizationStarted,
    Forecast,
    NodeLoad,
    Observation,
    ObservationsAttached,
    Outlook,
    SearchCreated,
    SearchExtended,
    SessionEnded,
    SessionStarted,
    StopRule,
    TrialCompleted,
    TrialContinued,
    TrialFailed,
    TrialOpenedTestSet,
    TrialPaused,
    TrialReopened,
    TrialReported,
    TrialStarted,
    TrialStopped,
    TrialSuggested,
    TrialTested,
    TrialTracked,
)
from orchestrator.study.journal import Record
from trainer.result import EpochResult, Evaluation

SearchState = Literal["running", "finished", "interrupted", "failed"]


class TrialStatus(StrEnum):
    """The state of a trial; the last three are final."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def is_over(self) -> bool:
        """Whether the trial has ended for good."""
        return self in (TrialStatus.COMPLETED, TrialStatus.STOPPED, TrialStatus.FAILED)


# Attempts after which a trial is given up. A lost worker says nothing about the configuration, and counts only until
# the trial finishes an epoch: machines that are taken away now and then cost no trial. Running out of memory may be a
# neighbour's doing once, and so may standing still; a full disk ends the search and no trial; the others would only
# fail again.
ATTEMPTS: Mapping[FailureKind, float] = {
    "worker_lost": 4,
    "out_of_memory": 2,
    "hang": 2,
    "disk_full": math.inf,
    "diverged": 1,
    "bad_data": 1,
    "bad_config": 1,
    "error": 1,
}


@dataclass
class Trial:
    """One configuration with one seed, and what is known of it."""

    key: str
    index: int
    params: dict[str, Value]
    source: str
    seed: int
    epochs: int
    """Epochs of the whole training."""
    note: str = ""
    until: int | None = None
    """Epoch after which it pauses, or has paused; None if it trains to its end."""
    pauses: list[int] = field(default_factory=list)
    """Epochs after which it has paused."""
    forecast: Forecast | None = None
    """The latest prediction of its final value; None without a model."""
    status: TrialStatus = TrialStatus.PENDING
    attempts: int = 0
    results: list[EpochResult] = field(default_factory=list, repr=False)
    load: NodeLoad | None = field(default=None, repr=False)
    """Load of the machine during the latest epoch; None if it was not measured."""
    failures: Counter[FailureKind] = field(default_factory=Counter)
    lost_in_a_row: int = 0
    """Workers that were lost since it last finished an epoch."""
    reason: str | None = None
    stopped_by: StopRule | None = None
    """Who gave it up; None unless it is stopped."""
    mlflow_run_id: str | None = None
    repeats: str = ""
    """Key of the trial whose configuration this one runs again with another seed; empty for a new configuration."""
    fold: int | None = None
    """The validation fold, where it is not that of the search."""
    finalization: int = 0
    """Number of the finalization that trains it for the test set; 0 for all other trials."""
    evaluation: list[str] = field(default_factory=list)
    """Settings of the evaluation on the test set that are laid over the configuration's, as `path=value`."""
    test: Evaluation | None = field(default=None, repr=False)
    """What the test set said of its network."""
    other_tests: dict[str, Evaluation] = field(default_factory=dict, repr=False)
    """What the test sets of other data sets said of it, by the fingerprint of the data set."""
    gpus: float = 0.0
    """That its latest attempt holds or held."""
    threads: int | None = None
    """CPU threads of its latest attempt; None where the journal does not say."""
    gpu_seconds: float = 0.0
    """Duration of its epochs, each times the GPUs held."""

    @property
    def epoch(self) -> int:
        """Epochs finished."""
        return self.results[-1].epoch if self.results else 0

    @property
    def is_over(self) -> bool:
        """Whether nothing will change any more."""
        return self.status.is_over


TrialEvent = (
    TrialTracked
    | TrialStarted
    | TrialTested
    | TrialCompleted
    | TrialStopped
    | TrialPaused
    | TrialContinued
    | AttemptFailed
    | TrialFailed
    | TrialReopened
)


@dataclass(frozen=True)
class Finalization:
    """That the test set was opened, and for what."""

    asked: FinalizationStarted
    moment: float | None
    """When, in seconds since 1970 UTC; None where the events were folded without their times."""


@dataclass(frozen=True)
class UseOfTestSet:
    """That the test set was looked at with a trial's network, outside of any finalization."""

    asked: TrialOpenedTestSet
    moment: float | None
    """When, in seconds since 1970 UTC; None where the events were folded without their times."""


@dataclass
class GpuHours:
    """Time between the events of each session; what lies between two sessions costs nothing.

    A session that was killed counts up to its last event, which is all that is known of it.
    """

    seconds: float = 0.0
    """Wall time of all sessions."""
    gpu_seconds: float = 0.0
    """The same, times the GPUs that running trials held."""
    latest: float | None = None
    """When the last event of the running session was written; None between sessions."""
    held: dict[str, float] = field(default_factory=dict)
    """GPUs by running trial."""

    def begin(self, moment: float) -> None:
        """A session starts."""
        self.latest = moment
        self.held.clear()

    def advance(self, moment: float) -> None:
        """Time passes; a clock that was set back costs nothing."""
        if self.latest is not None and moment > self.latest:
            self.seconds, self.gpu_seconds = self.until(moment)
            self.latest = moment

    def end(self) -> None:
        """The session is over."""
        self.latest = None
        self.held.clear()

    def until(self, moment: float) -> tuple[float, float]:
        """Seconds and GPU seconds if the running session lasts to that moment."""
        passed = 0.0 if self.latest is None else max(0.0, moment - self.latest)
        return self.seconds + passed, self.gpu_seconds + passed * sum(self.held.values())


@dataclass
class Study:
    """A search as its events tell it."""

    name: str = ""
    space: str = ""
    seed: int = 0
    sessions: int = 0
    ended: Literal["finished", "interrupted", "failed"] | None = None
    reason: str | None = None
    outlook: Outlook | None = None
    """What further trials were expected to bring when the last session ended; None while one runs."""
    trials: dict[str, Trial] = field(default_factory=dict)
    """The configurations that were tried, each with the search's own seed: all that the choice of the next one, the
    budget of trials and the stopping rules know of."""
    replicates: dict[str, Trial] = field(default_factory=dict)
    """Trials that run one of those configurations again with another seed; see `orchestrator.algorithms.replicates`."""
    finals: dict[str, Trial] = field(default_factory=dict)
    """Trials that run leading configurations on all training identities for the test set; see
    `orchestrator.algorithms.finalization`."""
    finalizations: list[Finalization] = field(default_factory=list)
    """Each time that the test set was opened for the best configurations."""
    test_set_uses: list[UseOfTestSet] = field(default_factory=list)
    """Each time that it, or the test set of another data set, was opened for the network of one trial."""
    queue: list[str] = field(default_factory=list)
    """Keys of the trials that wait for an attempt, in the order in which they get one."""
    completed: list[str] = field(default_factory=list)
    """Keys of the completed configurations in the order in which they were."""
    failed: list[TrialFailed] = field(default_factory=list)
    """Trials that failed for good in this session since one last completed."""
    attached: list[list[Observation]] = field(default_factory=list)
    """Finished trials of each earlier search, for the model."""
    extended: dict[str, JsonValue] | None = None
    """The resolved space where it is no longer that of the launch."""
    gpu_hours: GpuHours = field(default_factory=GpuHours)

    def apply(self, event: Event, moment: float | None = None) -> None:
        """Takes one event in; `moment` is when it was written, in seconds since 1970.

        An epoch that is reported again is known already and changes nothing.
        """
        if moment is not None and not isinstance(event, SessionStarted):
            self.gpu_hours.advance(moment)
        match event:
            case TrialReported():  # nearly all events
                self._add_epoch(event, self.trials.get(event.trial) or self.all_trials[event.trial])
            case SearchCreated():
                self.name, self.space, self.seed = event.search, event.space, event.seed
            case SessionStarted():
                self._start_session(event, moment)
            case SessionEnded():
                self.ended, self.reason, self.outlook = event.state, event.reason, event.outlook
                self._interrupt_running()
                self.gpu_hours.end()
            case TrialSuggested():
                self._add(event)
            case ObservationsAttached():
                self.attached.append(event.observations)
            case SearchExtended():
                self.extended = event.space
                if self.ended == "finished":
                    self.ended, self.reason = "interrupted", "extended; resume continues"
            case FinalizationStarted():
                self.finalizations.append(Finalization(event, moment))
                self.ended = "interrupted" if self.ended == "finished" else self.ended
            case TrialOpenedTestSet():
                self.test_set_uses.append(UseOfTestSet(event, moment))
            case _:
                self._apply_to_trial(event, self.all_trials[event.trial])

    @property
    def own_test_set_uses(self) -> list[UseOfTestSet]:
        """Those of the search's own data set."""
        return [use for use in self.test_set_uses if use.asked.data is None]

    @property
    def all_trials(self) -> Mapping[str, Trial]:
        """Configurations, then repeats, then those for the test set, by their keys."""
        return ChainMap(self.finals, self.replicates, self.trials)

    def _add(self, event: TrialSuggested) -> None:
        trial = Trial(event.trial, event.index, event.params, event.source, event.seed, event.epochs, event.note)
        trial.repeats, trial.fold, trial.finalization = event.repeats, event.fold, event.finalization
        trial.until = event.until
        asked = [each.asked for each in self.finalizations if each.asked.finalization == event.finalization]
        trial.evaluation = asked[0].evaluation if asked else []
        kind = self.finals if event.finalization else self.replicates if event.repeats else self.trials
        kind[trial.key] = trial
        self.queue.append(trial.key)

    def _add_epoch(self, event: TrialReported, trial: Trial) -> None:
        if event.result.epoch > trial.epoch:
            trial.results.append(event.result)
            trial.lost_in_a_row = 0
            trial.load = event.load
            trial.gpu_seconds += event.result.seconds * trial.gpus

    def _apply_to_trial(self, event: TrialEvent, trial: Trial) -> None:
        match event:
            case TrialTracked():
                trial.mlflow_run_id = event.mlflow_run_id
                return
            case TrialStarted():
                trial.status, trial.attempts, trial.gpus = TrialStatus.RUNNING, event.attempt, event.gpus
                trial.threads = event.threads
                self.gpu_hours.held[trial.key] = event.gpus
                self._dequeue(trial)
                return
            case TrialTested():
                if event.data is None:
                    trial.test = event.evaluation
                else:
                    trial.other_tests[event.data.fingerprint] = event.evaluation
                return
            case TrialCompleted():
                trial.status, trial.reason = TrialStatus.COMPLETED, None
                self.completed += [] if trial.repeats else [trial.key]
                self.failed.clear()
            case TrialStopped():
                trial.status, trial.reason, trial.stopped_by = (
                    TrialStatus.STOPPED,
                    f"{event.rule}: {event.reason}",
                    event.rule,
                )
            case TrialPaused():
                trial.status, trial.reason = TrialStatus.PAUSED, event.reason
                trial.pauses.append(event.epoch)
                trial.forecast = event.forecast or trial.forecast
            case TrialContinued():
                trial.status, trial.reason, trial.until = TrialStatus.PENDING, event.reason, event.until
                trial.forecast = event.forecast or trial.forecast
            case AttemptFailed():
                trial.status, trial.reason = TrialStatus.PENDING, event.reason
                trial.failures[event.failure] += 1
                trial.lost_in_a_row += event.failure == "worker_lost"
            case TrialFailed():
                trial.status, trial.reason = TrialStatus.FAILED, event.reason
                self.failed.append(event)
            case TrialReopened():
                trial.status, trial.stopped_by = TrialStatus.PENDING, None
                trial.failures.clear()
                trial.lost_in_a_row = 0
                self.ended = "interrupted" if self.ended == "finished" else self.ended
        self.gpu_hours.held.pop(trial.key, None)
        self._dequeue(trial)
        if trial.status == TrialStatus.PENDING:
            self.queue.append(trial.key)

    def _dequeue(self, trial: Trial) -> None:
        if trial.key in self.queue:
            self.queue.remove(trial.key)

    def _start_session(self, event: SessionStarted, moment: float | None) -> None:
        self.sessions, self.ended, self.reason, self.outlook = event.session, None, None, None
        self.failed.clear()
        self._interrupt_running()
        self.queue = [trial.key for trial in unfinished(self) if trial.status == TrialStatus.PENDING]
        if moment is not None:
            self.gpu_hours.begin(moment)

    def _interrupt_running(self) -> None:
        for trial in self.all_trials.values():
            if trial.status == TrialStatus.RUNNING:
                trial.status = TrialStatus.PENDING

    def counts(self) -> dict[str, int]:
        """Number of trials in each status, those that run a configuration again among them, all statuses named."""
        found = Counter(trial.status for trial in self.all_trials.values())
        return {status.value: found[status] for status in TrialStatus}


def fold(events: Iterable[Event]) -> Study:
    """The state after the events, without their times."""
    study = Study()
    for event in events:
        study.apply(event)
    return study


def fold_records(records: Iterable[Record], journal: Path | None = None, study: Study | None = None) -> Study:
    """The state after the events of a journal; given the study of those before them, that study.

    Raises:
        JournalError: an event is about a trial that no event before it suggested; names the journal and the line.
    """
    study = study or Study()
    for record in records:
        try:
            study.apply(record.event, record.time)
        except KeyError as error:
            raise JournalError(
                f"{journal or 'the journal'}:{record.number}: about trial {error.args[0]!r}, which no line before "
                "suggests; restore the file from a copy"
            ) from error
    return study


def may_retry(trial: Trial, failure: FailureKind) -> bool:
    """Whether a trial whose attempt just failed this way is tried again."""
    failed = trial.lost_in_a_row if failure == "worker_lost" else trial.failures[failure]
    return failed < ATTEMPTS[failure]


def unfinished(study: Study) -> list[Trial]:
    """Trials that were suggested and are not over, paused ones among them, in the order of their suggestion.

    Repeats come after configurations.
    """
    configurations = sorted(study.trials.values(), key=lambda trial: trial.index)
    others = (*study.replicates.values(), *study.finals.values())
    return [trial for trial in (*configurations, *others) if not trial.is_over]
