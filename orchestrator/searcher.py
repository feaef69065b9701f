"""The searcher that Ray Tune asks for trials: it records everything in the ledger before anything happens."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from orchestrator.attempt import Assignment
from orchestrator.ax_process import AxFailed, AxProcess
from orchestrator.events import (
    AttemptFailed,
    FailureKind,
    TrialCompleted,
    TrialFailed,
    TrialReported,
    TrialStarted,
    TrialSuggested,
)
from orchestrator.folder import SearchFolder
from orchestrator.ledger import Ledger
from orchestrator.space import SearchSpace, SpaceError
from orchestrator.stopping import StopRequest
from orchestrator.study import may_retry, unfinished
from orchestrator.suggest import Suggestion, initial_suggestion, model_question, random_point
from orchestrator.trial import read_message
from trainer.atomic import write_atomically
from trainer.errors import DataError

# Tune pickles its searcher, and would copy it with all the state of a running search. Ours never leaves this process:
# a "copy" is the same object, found by its number.
_ALIVE: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()


def _same(number: int) -> Any:
    return _ALIVE[number]


class AxSearcher(Searcher):
    """Proposes trials from a space and turns what Tune tells into events.

    No method raises into Tune, which would end the search with its state lost: an unforeseen error is kept in
    `failure`, asks Tune to stop, and is raised by the launcher once Tune has let go of the workers.
    """

    def __init__(
        self,
        ledger: Ledger,
        space: SearchSpace,
        folder: SearchFolder,
        ax: AxProcess,
        stop: StopRequest,
        *,
        concurrent: int,
        threads: int,
        before_start: Callable[[str], None] = lambda trial: None,
    ) -> None:
        """Continues whatever the ledger holds: unfinished trials come first.

        Args:
            ledger: the search so far; receives every event.
            space: what is searched.
            folder: where trials live.
            ax: the model.
            stop: once requested, nothing more is handed out.
            concurrent: trials that run at once.
            threads: CPU threads of one trial.
            before_start: called with each trial's key before its first attempt is handed out.
        """
        super().__init__()
        self._ledger = ledger
        self._space = space
        self._folder = folder
        self._ax = ax
        self._stop = stop
        self._concurrent = concurrent
        self._threads = threads
        self._before_start = before_start
        self._waiting = deque(trial.key for trial in unfinished(ledger.study))
        self._live: dict[str, str] = {}
        self.failure: BaseException | None = None
        _ALIVE[id(self)] = self

    def __reduce__(self) -> Any:
        return _same, (id(self),)

    # --- what Tune calls ---------------------------------------------------------------------------------------------

    def suggest(self, trial_id: str) -> Any:
        """The next assignment, None to be asked again later, or FINISHED."""
        return self._guard(lambda: self._suggest(trial_id))

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Records the epoch that a running trial reported."""
        self._guard(lambda: self._on_result(trial_id, result))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Records how an attempt ended; one that was merely stopped with the search stays unfinished."""
        self._guard(lambda: self._on_complete(trial_id, result, error))

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the only state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the only state."""

    # --- behind the guard --------------------------------------------------------------------------------------------

    def _guard(self, action: Callable[[], Any]) -> Any:
        if self.failure is not None:
            return None
        try:
            return action()
        except Exception as error:  # noqa: BLE001  # kept, and raised by the launcher after Tune has stopped
            self.failure = error
            self._stop.request()
            return None

    def _suggest(self, trial_id: str) -> Any:
        if self._stop.requested or len(self._live) >= self._concurrent:
            return None
        if self._waiting:
            return self._start(trial_id, self._waiting.popleft())
        if len(self._ledger.study.trials) >= self._space.budget.trials:
            # FINISHED is final to Tune, but a running trial may yet fail and want another attempt.
            return None if self._live else Searcher.FINISHED
        suggestion = self._next_point()
        if suggestion is None:
            return None
        return self._start(trial_id, self._create(suggestion))

    def _next_point(self) -> Suggestion | None:
        study = self._ledger.study
        suggestion = initial_suggestion(self._space, study.seed, study)
        if suggestion is not None:
            return suggestion
        try:
            if not self._ax.is_thinking:
                self._ax.ask(model_question(self._space, study.seed, study))
            params = self._ax.poll()
            if params is None:
                return None
            self._space.trial_config(params)
            return Suggestion(params, "ax")
        except (AxFailed, SpaceError):
            return Suggestion(random_point(self._space, study.seed, len(study.trials)), "random")

    def _create(self, suggestion: Suggestion) -> str:
        study = self._ledger.study
        index = len(study.trials)
        key = f"t{index:04d}"
        config = self._space.trial_config(suggestion.params, seed=study.seed)
        self._ledger.record(
            TrialSuggested(trial=key, index=index, params=suggestion.params, source=suggestion.source, seed=config.seed)
        )
        return key

    def _start(self, trial_id: str, key: str) -> dict[str, Any]:
        trial = self._ledger.study.trials[key]
        out = self._folder.trial(key)
        out.mkdir(parents=True, exist_ok=True)
        config = self._space.trial_config(trial.params, seed=trial.seed)
        write_atomically(out / "config.json", config.model_dump_json(indent=2) + "\n")
        self._before_start(key)
        attempt = trial.attempts + 1
        self._ledger.record(TrialStarted(trial=key, attempt=attempt))
        self._live[trial_id] = key
        assignment = Assignment(search=self._folder.path, trial=key, attempt=attempt, threads=self._threads)
        return assignment.model_dump(mode="json")

    def _on_result(self, trial_id: str, result: dict[str, Any]) -> None:
        key, message = self._live.get(trial_id), read_message(result)
        if key is None or message is None or message.epoch_result is None:
            return
        # Ax takes ten seconds of processor time to import: not before the first trials are under way.
        self._ax.start()
        if message.epoch_result.epoch > self._ledger.study.trials[key].epoch:
            self._ledger.record(TrialReported(trial=key, result=message.epoch_result))

    def _on_complete(self, trial_id: str, result: dict[str, Any] | None, error: bool) -> None:
        key = self._live.pop(trial_id, None)
        if key is None:
            return
        message = read_message(result)
        outcome = None if message is None or error else message.outcome
        if outcome is not None and outcome.state == "completed":
            self._ledger.record(TrialCompleted(trial=key))
        elif outcome is not None and outcome.failure is not None:
            self._attempt_failed(key, outcome.failure, outcome.reason)
        elif not self._stop.requested:
            self._attempt_failed(key, "worker_lost", "the process that ran the trial died")

    def _attempt_failed(self, key: str, failure: FailureKind, reason: str) -> None:
        trial = self._ledger.study.trials[key]
        self._ledger.record(AttemptFailed(trial=key, attempt=trial.attempts, failure=failure, reason=reason))
        if may_retry(trial, failure):
            self._waiting.append(key)
            return
        self._ledger.record(TrialFailed(trial=key, failure=failure, reason=reason))
        if failure == "bad_data":
            # Every other trial reads the same files.
            self.failure = DataError(reason)
            self._stop.request()


class StopWith(Stopper):
    """Stops every trial as soon as a stop is requested."""

    def __init__(self, stop: StopRequest) -> None:
        self._stop = stop
        _ALIVE[id(self)] = self

    def __reduce__(self) -> Any:
        return _same, (id(self),)

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No trial is stopped on its own."""
        return False

    def stop_all(self) -> bool:
        """Whether the search is to end now."""
        return self._stop.requested
