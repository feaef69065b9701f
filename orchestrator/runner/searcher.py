"""The searcher that Ray Tune asks for trials: it records everything in the recorder before anything happens."""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from orchestrator.algorithms.async_suggester import AsyncSuggester
from orchestrator.algorithms.ax_process import AxProcess
from orchestrator.algorithms.budget import spent
from orchestrator.algorithms.finalization import Final, final_seed, next_final
from orchestrator.algorithms.health import IN_A_ROW, DiskFull, broken_circuit, proposals
from orchestrator.algorithms.replicates import Replicate, next_replicate
from orchestrator.algorithms.suggest import ALGORITHMS, AskModel, Exhausted, Proposal, Suggestion
from orchestrator.algorithms.trial_configs import trial_config
from orchestrator.cluster.names import trial_title
from orchestrator.runner.attempt import HANG_FILE, TrialSpec
from orchestrator.runner.stop_request import StopRequest
from orchestrator.runner.supervision import Supervisor
from orchestrator.runner.watchdog import hung
from orchestrator.runner.worker import read_message
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import SearchFolder
from orchestrator.stores.cache import storage_uri
from orchestrator.stores.staging import DataSource
from orchestrator.study.description import HANG_AFTER_S
from orchestrator.study.events import (
    AttemptFailed,
    FailureKind,
    Source,
    TrialCompleted,
    TrialFailed,
    TrialReported,
    TrialStarted,
    TrialSuggested,
    TrialTested,
)
from orchestrator.study.journal import Record
from orchestrator.study.recorder import Recorder, record_epoch
from orchestrator.study.study import Trial, may_retry, unfinished
from trainer.errors import DataError
from trainer.files import write_atomically

# What running attempts get to finish their step and save their state before Tune takes their workers away.
STEP_PATIENCE_S = 10.0
# One in so many of the trials that run may end while the model thinks without its answer being thrown away.
STALE_PART = 4
# Tune pickles its searcher, and would copy it with all the state of a running search. Ours never leaves this process:
# a "copy" is the same object, found by its number.
_ALIVE: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()


def _same(number: int) -> Any:
    return _ALIVE[number]


class TuneSearcher(Searcher):
    """Proposes trials from a space and turns what Tune tells into events.

    No method raises into Tune, which would end the search with its state lost: an unforeseen error is kept in
    `failure`, asks Tune to stop, and is raised by the launcher once Tune has let go of the workers.
    """

    def __init__(
        self,
        recorder: Recorder,
        space: SearchSpace,
        folder: SearchFolder,
        ax: AxProcess,
        stop: StopRequest,
        *,
        concurrent: int,
        threads: int,
        gpus: float = 0.0,
        hang_after: float = HANG_AFTER_S,
        before_start: Callable[[str], None] = lambda trial: None,
        data: DataSource = DataSource(),  # noqa: B008  # frozen
        capacity: Callable[[], int] | None = None,
        say: Callable[[str, str], None] = lambda label, text: None,
    ) -> None:
        """Continues whatever the recorder holds: unfinished trials come first.

        Args:
            recorder: the search so far; receives every event.
            space: what is searched.
            folder: where trials live.
            ax: the model.
            stop: once requested, nothing more is handed out.
            concurrent: trials that run at once.
            threads: CPU threads of one trial.
            gpus: GPUs of one trial.
            hang_after: seconds without a step after which an attempt counts as hung.
            before_start: called with each trial's key before its first attempt is handed out.
            data: where nodes get the data set from, unless it lies where the configuration says.
            capacity: trials that the cluster holds now, as nodes join and are lost; None is always `concurrent`.
            say: told a label and a line for people; must not block.
        """
        super().__init__()
        self._recorder = recorder
        self._space = space
        self._folder = folder
        self._stop = stop
        self._threads = threads
        self._gpus = gpus
        self._hang_after = hang_after
        # Of several trials at once each would wait for the model in turn if it had to know the very latest result; of
        # many some always end while it thinks, and a quarter of them is little beside those whose ends are unknown.
        self._ahead = AsyncSuggester(ax, space, stale=0 if concurrent == 1 else max(1, concurrent // STALE_PART))
        self._step: Proposal | None = None
        recorder.subscribe(self._forget_step)
        self._supervisor = Supervisor(recorder, space, folder, stop)
        self._before_start = before_start
        self._data = data
        self._storage = storage_uri(folder.path.parent)
        self._capacity = capacity or (lambda: concurrent)
        self._say = say
        self._waiting = deque(trial.key for trial in unfinished(recorder.study))
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

    # --- what Tune calls ---------------------------------------------------------------------------------------------

    def suggest(self, trial_id: str) -> Any:
        """The next spec, None to be asked again later, or FINISHED."""
        return self._guard(lambda: self._suggest(trial_id))

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Records the epoch that a running trial reported, unless `on_epoch` has."""
        self.on_epoch(trial_id, result)

    def on_epoch(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Records the epoch; whether the trial stops after it. Asked by Tune's scheduler."""
        return bool(self._guard(lambda: self._on_epoch(trial_id, result)))

    def on_death(self, trial_id: str, reason: str) -> None:
        """Remembers why a worker died until Tune says that its trial is over."""
        self._deaths[trial_id] = reason

    def ends_now(self) -> bool:
        """Whether Tune should let go of all workers; looks after the running trials each time it is asked."""
        # Tune takes SIGUSR1 for itself when it starts, and ends the search on it as if nobody had asked for that.
        self._stop.listen_again()
        self._guard(self._look)
        if not self._stop.requested:
            return False
        return self.failure is not None or not self._live or self._stop.lasts(STEP_PATIENCE_S)

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
        if self._stop.requested or len(self._live) >= self._capacity():
            return None
        study = self._recorder.study
        while self._waiting:
            key = self._waiting.popleft()
            if not study.all_trials[key].is_over:
                return self._start(trial_id, key)
        if (final := next_final(study)) is not None:
            return self._start(trial_id, self._create_final(final))
        end = spent(study, self._space, time.time())
        if end is not None:
            return self._nothing_left() if end.ends_replicates else self._repeat(trial_id)
        step = self._next_step()
        free = self._capacity() - len(self._live)
        found = self._ahead.take(step, study, free=free) if isinstance(step, AskModel) else step
        if isinstance(found, Exhausted):
            return self._repeat(trial_id)
        return None if found is None else self._start(trial_id, self._create(found))

    def _repeat(self, trial_id: str) -> Any:
        """Runs a leading configuration again, now that no new one is to come."""
        repeat = next_replicate(self._recorder.study, self._space)
        return self._nothing_left() if repeat is None else self._start(trial_id, self._create_repeat(repeat))

    def _nothing_left(self) -> Any:
        # FINISHED is final to Tune, but a running trial may yet fail and want another attempt, or be among the best
        # and then be repeated.
        return None if self._live else Searcher.FINISHED

    def _next_step(self) -> Proposal:
        """What the space's algorithm says, computed once for each state of the study."""
        if self._step is None:
            study = self._recorder.study
            self._step = ALGORITHMS[self._space.algorithm.name](self._space, study.seed, study)
        return self._step

    def _forget_step(self, record: Record) -> None:
        if not isinstance(record.event, TrialReported):
            self._step = None

    def _look(self) -> None:
        """After the running trials, and whether the model can be asked about the next one."""
        if not self._supervisor.look(self._live.values()) or self._stop.requested:
            return
        study = self._recorder.study
        if spent(study, self._space) is None and isinstance(step := self._next_step(), AskModel):
            self._ahead.want(step)

    def _create(self, suggestion: Suggestion) -> str:
        study = self._recorder.study
        index = len(study.trials)
        key = f"t{index:04d}"
        config = self._space.config(suggestion.params, seed=study.seed)
        self._recorder.record(
            TrialSuggested(
                trial=key,
                index=index,
                params=suggestion.params,
                source=suggestion.source,
                seed=config.seed,
                note=suggestion.note,
            )
        )
        known = proposals(study)
        if suggestion.note and known.in_a_row == IN_A_ROW:
            self._say("model", f"{IN_A_ROW} proposals in a row had to be random points; {known}")
        return key

    def _create_repeat(self, repeat: Replicate) -> str:
        return self._create_again(repeat.key, repeat.original, "repeat", repeat.seed, fold=repeat.fold)

    def _create_final(self, final: Final) -> str:
        seed = final_seed(self._recorder.study.seed, final.number)
        asked = {"finalization": final.finalization, "epochs": final.epochs}
        return self._create_again(final.key, final.original, "finalize", seed, **asked)

    def _create_again(self, key: str, original: Trial, source: Source, seed: int, **others: int | None) -> str:
        """A trial that runs the configuration of another one with a seed of its own."""
        same = {"index": original.index, "params": original.params, "repeats": original.key}
        event = {"trial": key, "source": source, "seed": seed, **same, **others}
        self._recorder.record(TrialSuggested.model_validate(event))
        return key

    def _start(self, trial_id: str, key: str) -> dict[str, Any]:
        trial = self._recorder.study.all_trials[key]
        out = self._folder.trial(key)
        out.mkdir(parents=True, exist_ok=True)
        config = trial_config(self._space, trial)
        text = config.model_dump_json(indent=2) + "\n"
        write_atomically(out / "config.json", text)
        (out / HANG_FILE).unlink(missing_ok=True)
        self._supervisor.started(key)
        self._before_start(key)
        attempt = trial.attempts + 1
        self._recorder.record(TrialStarted(trial=key, attempt=attempt, gpus=self._gpus, threads=self._threads))
        self._live[trial_id] = key
        spec = TrialSpec(
            search=self._folder.path,
            trial=key,
            attempt=attempt,
            threads=self._threads,
            gpus=self._gpus,
            hang_after=self._hang_after,
            fold=trial.fold,
            tests=trial.finalization > 0,
            storage=self._storage,
            config=None if self._storage is None else text,
            start=self._recorder.starts[key],
            data=self._data,
            title=trial_title(self._folder.name, key, trial.params),
        )
        return spec.model_dump(mode="json")

    def _on_epoch(self, trial_id: str, result: dict[str, Any]) -> bool:
        key, message = self._live.get(trial_id), read_message(result)
        if key is None or message is None:
            return False
        if message.test is not None and self._recorder.study.all_trials[key].test is None:
            self._recorder.record(TrialTested(trial=key, evaluation=message.test))
        if message.epoch_result is None:
            return False
        record_epoch(self._recorder, self._space, key, message.epoch_result, message.load)
        return self._recorder.study.all_trials[key].is_over

    def _on_complete(self, trial_id: str, result: dict[str, Any] | None, error: bool) -> None:
        key, died_of = self._live.pop(trial_id, None), self._deaths.pop(trial_id, "")
        if key is None or self._recorder.study.all_trials[key].is_over:
            return
        message = read_message(result)
        attempt_result = None if message is None or error else message.attempt_result
        if attempt_result is not None and attempt_result.state == "completed":
            self._recorder.record(TrialCompleted(trial=key))
        elif attempt_result is not None and attempt_result.failure is not None:
            self._attempt_failed(key, attempt_result.failure, attempt_result.reason)
        elif not self._stop.requested:
            self._lost(key, died_of if attempt_result is None else attempt_result.reason)

    def _lost(self, key: str, reason: str) -> None:
        """An attempt ended without a result, and nobody here had asked it to."""
        if hung(self._folder.trial(key) / HANG_FILE):
            where = f"where it stood is in trials/{key}/{HANG_FILE}"
            self._attempt_failed(key, "hang", f"no step within {self._hang_after:g} s; {where}")
        else:
            self._attempt_failed(key, "worker_lost", reason or "the process that ran the trial died")

    def _attempt_failed(self, key: str, failure: FailureKind, reason: str) -> None:
        trial = self._recorder.study.all_trials[key]
        self._recorder.record(AttemptFailed(trial=key, attempt=trial.attempts, failure=failure, reason=reason))
        if failure == "disk_full":
            # Every other trial writes there, too. The trial stays unfinished: a resume takes it up.
            self.failure = DiskFull(self._folder, reason)
            self._stop.request()
            return
        if may_retry(trial, failure):
            self._waiting.append(key)
            return
        self._recorder.record(TrialFailed(trial=key, failure=failure, reason=reason))
        # Every other trial reads the same files.
        study = self._recorder.study
        self.failure = DataError(reason) if failure == "bad_data" else broken_circuit(study, self._folder)
        if self.failure is not None:
            self._stop.request()


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
