"""Carries out the steps of a search: starts attempts, and records what they report and how they end."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.algorithms.async_suggester import AsyncSuggester
from orchestrator.algorithms.health import DiskFull, broken_circuit
from orchestrator.algorithms.suggest import AskModel, Proposal
from orchestrator.algorithms.trial_configs import trial_config
from orchestrator.cluster.names import trial_title
from orchestrator.runner.checkpoints import drop_checkpoint
from orchestrator.runner.epochs import record_epoch
from orchestrator.runner.next_step import (
    AddTrial,
    ContinueTrial,
    EndPaused,
    SearchOver,
    StartAttempt,
    Wait,
    failure_of_trial,
    next_step,
    pause_after_epoch,
    propose,
    question_ahead,
    step_of,
)
from orchestrator.runner.stop_request import StopRequest
from orchestrator.runner.supervision import Supervisor
from orchestrator.runner.trial_spec import CONFIG_FILE, HANG_FILE, AttemptResult, TrialSpec, WorkerMessage
from orchestrator.runner.watchdog import hung
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import SearchFolder
from orchestrator.stores.staging import DataSource
from orchestrator.study.description import HANG_AFTER_S
from orchestrator.study.events import (
    AttemptFailed,
    FailureKind,
    TrialCompleted,
    TrialReported,
    TrialStarted,
    TrialTested,
)
from orchestrator.study.journal import Record
from orchestrator.study.recorder import Recorder
from orchestrator.study.study import Study
from trainer.errors import DataError
from trainer.files import write_atomically

if TYPE_CHECKING:
    from trainer.config import TrialConfig


class AttemptSettings(NamedTuple):
    """What all attempts of a session have in common."""

    threads: int
    """CPU threads of one trial."""
    gpus: float = 0.0
    """GPUs of one trial."""
    hang_after: float = HANG_AFTER_S
    """Seconds without a step after which an attempt counts as hung."""
    data: DataSource = DataSource()
    """Where nodes get the data set from, unless it lies where the configuration says."""


class TrialRunner:
    """The part of a session that acts on the study, whatever executes the attempts.

    Every event is recorded before anything acts on it. An error that a method raises ends the search.
    """

    def __init__(
        self,
        recorder: Recorder,
        space: SearchSpace,
        folder: SearchFolder,
        stop: StopRequest,
        suggester: AsyncSuggester,
        settings: AttemptSettings,
        before_start: Callable[[str], object] = lambda trial: None,
    ) -> None:
        """Continues from whatever the recorder holds.

        Args:
            recorder: the search so far; receives every event.
            space: the search space.
            folder: holds the trials' folders.
            stop: once requested, attempts that end are no failures.
            suggester: asks the model.
            settings: of every attempt.
            before_start: called with a trial's key before each of its attempts.
        """
        self._recorder = recorder
        self._space = space
        self._folder = folder
        self._stop = stop
        self._suggester = suggester
        self._settings = settings
        self._before_start = before_start
        self._supervisor = Supervisor(recorder, space, folder, stop)
        self._proposal: Proposal | None = None
        recorder.subscribe(self._forget_proposal)

    @property
    def _study(self) -> Study:
        return self._recorder.study

    def next_attempt(self, free: int) -> TrialSpec | Wait | SearchOver:
        """Starts the next attempt; `Wait` if there is none to start now.

        Args:
            free: places for trials that are free, at least 1.
        """
        step = next_step(self._study, self._space, time.time(), self._propose)
        if isinstance(step, AskModel):
            found = self._suggester.take(step, self._study, free=free)
            step = step_of(self._study, self._space, found) or Wait()
        match step:
            case StartAttempt(trial):
                return self._start(trial)
            case AddTrial(event, config):
                self._recorder.record(event)
                return self._start(event.trial, config)
            case ContinueTrial(event):
                self._recorder.record(event)
                return self._start(event.trial)
            case EndPaused(stopped):
                for each in stopped:
                    self._recorder.record(each)
                    drop_checkpoint(self._folder, each.trial)
                return self.next_attempt(free)
            case _:
                return step

    def supervise(self, live: Collection[str]) -> None:
        """Stops trials that are not to go on, and asks the model ahead. To be called often.

        Args:
            live: keys of the trials whose attempts run.
        """
        if not self._supervisor.look(live) or self._stop.requested:
            return
        if (question := question_ahead(self._study, self._space, self._propose)) is not None:
            self._suggester.want(question)

    def receive(self, key: str, message: WorkerMessage) -> bool:
        """Records what an attempt reports; whether the trial is over."""
        trial = self._study.all_trials[key]
        if message.test is not None and trial.test is None:
            self._recorder.record(TrialTested(trial=key, evaluation=message.test))
        if message.epoch_result is None:
            return False
        record_epoch(self._recorder, self._space, key, message.epoch_result, message.load)
        return trial.is_over

    def end_attempt(self, key: str, result: AttemptResult | None, reason: str = "") -> None:
        """Records how an attempt ended. A trial that was stopped with the whole search stays unfinished.

        Args:
            key: of the trial.
            result: the attempt's own; None if it was lost.
            reason: why it was lost, as far as known.

        Raises:
            DiskFull, DataError, CircuitBroken: the failure ends the search.
        """
        trial = self._study.all_trials[key]
        if trial.is_over:
            return
        if result is not None and result.state == "completed":
            self._recorder.record(TrialCompleted(trial=key))
        elif result is not None and result.state == "paused" and (pause := pause_after_epoch(trial)) is not None:
            self._recorder.record(pause)
        elif result is not None and result.failure is not None:
            self._attempt_failed(key, result.failure, result.reason)
        elif not self._stop.requested:
            self._attempt_lost(key, reason if result is None else result.reason)

    def _propose(self, study: Study, space: SearchSpace) -> Proposal:
        """As `propose`, once for each state of the study."""
        if self._proposal is None:
            self._proposal = propose(study, space)
        return self._proposal

    def _forget_proposal(self, record: Record) -> None:
        if not isinstance(record.event, TrialReported):
            self._proposal = None

    def _start(self, key: str, config: TrialConfig | None = None) -> TrialSpec:
        """Records the trial's next attempt and returns what its worker needs."""
        trial, settings = self._study.all_trials[key], self._settings
        text = (config or trial_config(self._space, trial)).model_dump_json(indent=2) + "\n"
        out = self._folder.trial(key)
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / CONFIG_FILE, text)
        (out / HANG_FILE).unlink(missing_ok=True)
        self._supervisor.started(key)
        self._before_start(key)
        attempt = trial.attempts + 1
        self._recorder.record(TrialStarted(trial=key, attempt=attempt, gpus=settings.gpus, threads=settings.threads))
        return TrialSpec(
            search=self._folder.path,
            trial=key,
            attempt=attempt,
            until=trial.until,
            config=text,
            threads=settings.threads,
            gpus=settings.gpus,
            hang_after=settings.hang_after,
            fold=trial.fold,
            tests=trial.finalization > 0,
            storage=self._folder.store.uri,
            start=self._recorder.starts[key],
            data=settings.data,
            title=trial_title(self._folder.name, key, trial.params),
        )

    def _attempt_lost(self, key: str, reason: str) -> None:
        """Records that an attempt ended without a result although it was not asked to."""
        if hung(self._folder.trial(key) / HANG_FILE):
            where = f"where it stood is in trials/{key}/{HANG_FILE}"
            self._attempt_failed(key, "hang", f"no step within {self._settings.hang_after:g} s; {where}")
        else:
            self._attempt_failed(key, "worker_lost", reason or "the process that ran the trial died")

    def _attempt_failed(self, key: str, failure: FailureKind, reason: str) -> None:
        attempt = self._study.all_trials[key].attempts
        failed = AttemptFailed(trial=key, attempt=attempt, failure=failure, reason=reason)
        self._recorder.record(failed)
        if failure == "disk_full":
            # All trials write to the same disk. The trial stays unfinished: a resume continues it.
            raise DiskFull(self._folder, reason)
        if (end := failure_of_trial(self._study, failed)) is None:
            return
        self._recorder.record(end)
        if failure == "bad_data":
            raise DataError(reason)  # all trials read the same files
        if (broken := broken_circuit(self._study, self._folder)) is not None:
            raise broken
