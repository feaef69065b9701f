"""Ray Tune in the process of the search: all of its callbacks lead to a `TrialRunner`, and none of its state is read.

Tune asks its searcher for trials, its scheduler whether a trial goes on after a result, and its stopper whether the
whole run ends.
"""

from __future__ import annotations

import os
import re
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.execution import class_cache
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from orchestrator.cluster.names import named_after, tune_name
from orchestrator.cluster.resources import Allocation
from orchestrator.runner.next_step import SearchOver, Wait
from orchestrator.runner.stop_request import StopRequest
from orchestrator.runner.trial_runner import TrialRunner
from orchestrator.runner.worker import read_message
from trainer.child import last_line

# What running attempts get to finish their step and save their state before Tune takes their workers away.
STEP_PATIENCE_S = 10.0
# The last line of a traceback.
EXCEPTION = re.compile(r"[\w.]+(?:Error|Exception|Exit)\b")
# Tune pickles its searcher, and would copy it with all the state of a running search. Ours never leaves this process:
# a "copy" is the same object, found by its number.
_ALIVE: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()


def _same(number: int) -> Any:
    return _ALIVE[number]


class TuneSearcher(Searcher):
    """Hands out the attempts of a `TrialRunner` and passes on what Tune says of them.

    No method raises into Tune, which would end the search with its state lost: an error is kept in `failure`, asks Tune
    to stop, and is raised by the session once Tune has returned.
    """

    def __init__(self, runner: TrialRunner, stop: StopRequest, capacity: Callable[[], int]) -> None:
        """Starts nothing yet.

        Args:
            runner: acts on the study.
            stop: once requested, no further attempt starts.
            capacity: trials that the cluster holds now, as nodes join and are lost.
        """
        super().__init__()
        self._runner = runner
        self._stop = stop
        self._capacity = capacity
        self._live: dict[str, str] = {}
        self._deaths: dict[str, str] = {}
        self.failure: BaseException | None = None
        _ALIVE[id(self)] = self

    def __reduce__(self) -> Any:
        return _same, (id(self),)

    @property
    def handed_out(self) -> int:
        """Trials that Ray was given and has not given back."""
        return len(self._live)

    def suggest(self, trial_id: str) -> Any:
        """The next attempt as a `TrialSpec` in JSON, None to be asked again later, or FINISHED."""
        return self._guard(lambda: self._suggest(trial_id))

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Records the epoch that a running trial reported, unless `on_epoch` has."""
        self.on_epoch(trial_id, result)

    def on_epoch(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Records the epoch; whether the trial stops after it."""
        return bool(self._guard(lambda: self._on_epoch(trial_id, result)))

    def on_death(self, trial_id: str, reason: str) -> None:
        """Remembers why a worker died until Tune says that its trial is over."""
        self._deaths[trial_id] = reason

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Records how an attempt ended."""
        self._guard(lambda: self._on_complete(trial_id, result, error))

    def ends_now(self) -> bool:
        """Whether Tune is to end all workers; supervises the running trials each time it is asked."""
        # Tune takes SIGUSR1 for itself when it starts, and ends the search on it as if nobody had asked for that.
        self._stop.listen_again()
        self._guard(lambda: self._runner.supervise(self._live.values()))
        if not self._stop.requested:
            return False
        return self.failure is not None or not self._live or self._stop.lasts(STEP_PATIENCE_S)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the only state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the only state."""

    def _guard(self, action: Callable[[], Any]) -> Any:
        if self.failure is not None:
            return None
        try:
            return action()
        except Exception as error:  # noqa: BLE001  # kept, and raised by the session after Tune has stopped
            self.failure = error
            self._stop.request()
            return None

    def _suggest(self, trial_id: str) -> Any:
        free = self._capacity() - len(self._live)
        if self._stop.requested or free <= 0:
            return None
        step = self._runner.next_attempt(free)
        if isinstance(step, SearchOver):
            return Searcher.FINISHED
        if isinstance(step, Wait):
            return None
        self._live[trial_id] = step.trial
        return step.model_dump(mode="json")

    def _on_epoch(self, trial_id: str, result: dict[str, Any]) -> bool:
        key, message = self._live.get(trial_id), read_message(result)
        return key is not None and message is not None and self._runner.receive(key, message)

    def _on_complete(self, trial_id: str, result: dict[str, Any] | None, error: bool) -> None:
        key, reason = self._live.pop(trial_id, None), self._deaths.pop(trial_id, "")
        if key is None:
            return
        message = None if error else read_message(result)
        self._runner.end_attempt(key, None if message is None else message.attempt_result, reason)


class JournalScheduler(FIFOScheduler):
    """Starts trials in Tune's order and stops those that the searcher says.

    It holds no state of its own. Tune loses a scheduler's state when a search is restored, and pickles its schedulers;
    a copy of this one asks the same searcher, which is never copied.
    """

    def __init__(self, searcher: TuneSearcher) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._searcher = searcher

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Tells the searcher first: Tune does not pass it the result after which a trial is stopped."""
        stops = self._searcher.on_epoch(trial.trial_id, result)
        return TrialScheduler.STOP if stops else TrialScheduler.CONTINUE

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Tells the searcher why: Tune keeps it in a file."""
        file = trial.error_file
        self._searcher.on_death(trial.trial_id, "" if file is None else _reason(Path(file)))

    def debug_string(self) -> str:
        """What Tune prints where it prints at all."""
        return "trials are stopped by the journal"


def _reason(file: Path) -> str:
    """The exception at the end of what Tune wrote about a failure, otherwise the first line after its date."""
    try:
        lines = [line for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    except OSError:
        return ""
    dates = [number for number, line in enumerate(lines) if line.startswith("Failure # ")]
    latest = lines[dates[-1] + 1 :] if dates else lines
    if not latest:
        return ""
    last = last_line(latest[-1])
    return last if EXCEPTION.match(last) else last_line(latest[0])


class StopWith(Stopper):
    """Stops every trial as soon as the searcher says so."""

    def __init__(self, searcher: TuneSearcher) -> None:
        self._searcher = searcher

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No trial is stopped on its own."""
        return False

    def stop_all(self) -> bool:
        """Whether the search is to end now; Tune asks several times a second."""
        return self._searcher.ends_now()


def tuner_of(
    searcher: TuneSearcher, trainable: Any, allocation: Allocation, *, search: str, session: int, state: Path
) -> tune.Tuner:
    """The `tune.Tuner` of one session. Tune writes its state at the end, and none of it is read again.

    Args:
        searcher: decides everything.
        trainable: runs an attempt.
        allocation: what a trial gets, and how many run at once.
        search: name of the search.
        session: its number, from 1.
        state: folder for what Tune writes.
    """
    keep_secrets()
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(allocation.concurrent)
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "inf"
    per_trial = {"cpu": allocation.cpus, "gpu": allocation.gpus}
    per_trial |= {"memory": allocation.memory} if allocation.memory else {}
    return tune.Tuner(
        tune.with_resources(named_after(search, trainable), per_trial),
        # A reused worker saves the seconds that a new one needs; attempts are processes of their own anyway.
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=JournalScheduler(searcher),
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=lambda trial: tune_name(trial.config),
            trial_dirname_creator=lambda trial: tune_name(trial.config),
        ),
        run_config=tune.RunConfig(
            name=f"session-{session}", storage_path=str(state), stop=StopWith(searcher), verbose=0
        ),
    )


def keep_secrets() -> None:
    """Lets Tune pass nothing of our environment to its workers except settings of Ray.

    It would pass AWS's keys, too, whatever the storage, on the command line of a worker, which others read in the list
    of processes, and which Ray logs. Workers find credentials where they run (docs/howto-storage.md).
    """
    passed = class_cache.ENV_VARS_TO_PROPAGATE
    passed.intersection_update({name for name in passed if name.startswith("RAY_")})
