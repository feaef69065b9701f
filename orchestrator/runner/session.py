"""One session of a search, from its first event to its last: launching and resuming are the same."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from orchestrator.algorithms.async_suggester import AsyncSuggester
from orchestrator.algorithms.ax_process import AxProcess
from orchestrator.algorithms.expected_gain import outlook
from orchestrator.algorithms.health import IN_A_ROW, WHOLE, proposals
from orchestrator.base.errors import Exit
from orchestrator.base.hints import hint
from orchestrator.base.process import share_heap
from orchestrator.base.uris import without_passwords
from orchestrator.cluster.capacity import Capacity, unplaced
from orchestrator.cluster.growth import await_nodes, request_slots
from orchestrator.cluster.metrics import Exporter, search_labels
from orchestrator.cluster.names import job_metadata, marked
from orchestrator.cluster.node_check import Expected, check_nodes, expected_here, why_unfit
from orchestrator.cluster.planning import share_of_this_machine
from orchestrator.cluster.ray import RAY_LOG, Connection, LiveNode, connect, disconnect, keep_messages, live_nodes
from orchestrator.cluster.resources import Allocation, allocate
from orchestrator.runner.checkpoints import drop_checkpoints, stopped_trials
from orchestrator.runner.control import Requests
from orchestrator.runner.data_staging import data_source
from orchestrator.runner.epochs import recover_epochs
from orchestrator.runner.exit_guard import ExitGuard, exit_after
from orchestrator.runner.model_check import ModelCheck
from orchestrator.runner.next_step import SearchOver, next_step, stops_for_budget, trials_left
from orchestrator.runner.stop_request import StopRequest
from orchestrator.runner.trial_runner import AttemptSettings, TrialRunner
from orchestrator.runner.worker import trainable
from orchestrator.space.objective import check_costs
from orchestrator.space.plugins import changed_plugins, plugins_of
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import SearchFolder
from orchestrator.stores.staging import DataSource
from orchestrator.stores.storage_probe import remove_token
from orchestrator.study.description import Options, SearchDescription, current_space, read_description
from orchestrator.study.events import SessionEnded, SessionStarted, TrialReopened, TrialSuggested
from orchestrator.study.journal import Record
from orchestrator.study.recorder import Recorder
from orchestrator.study.study import Study, TrialStatus
from orchestrator.tracking.sync import tracker_of, tracking_uri
from trainer.formatting import first_line

# A trial's MLflow run exists before the trial starts unless MLflow is slower than this.
RUN_PATIENCE_S = 20.0
# For MLflow to take what is still queued at the end of a session; the next session sends the rest.
DRAIN_S = 30.0
# After a signal: Slurm kills what is left 30 s later.
STOP_DRAIN_S = 10.0
# A request to the model may lack the results of concurrent / STALE_PART trials: trials need not wait for Ax then, and
# there are few of these beside the trials whose results are unknown anyway.
STALE_PART = 4


class SessionCallbacks(NamedTuple):
    """Functions called while a search runs, in its process. They must not block."""

    started: Callable[[Recorder, SearchDescription], None]
    """The recorder is open; its subscribers receive every event."""
    connected: Callable[[Connection, Allocation, str], None]
    """The cluster is there; the last argument is MLflow's address."""
    noticed: Callable[[str, str], None] = lambda label, text: None
    """A label and a line for people, about the cluster or the model."""
    stopping: Callable[[str | None, int], None] = lambda wish, running: None
    """A stop was just requested: by which wish, and how many trials run, whose state is saved first."""


class SessionResult(NamedTuple):
    """How a session ended."""

    study: Study
    description: SearchDescription
    exit_code: Exit
    unsent: int
    """Events that MLflow has not taken."""


def run_search(
    folder: SearchFolder, callbacks: SessionCallbacks, *, overrides: Options | None = None, retry_failed: bool = False
) -> SessionResult:
    """Runs the search until it is finished, interrupted or failed.

    Args:
        folder: a search that exists.
        callbacks: called while it runs.
        overrides: options of this session where they differ from the launch's.
        retry_failed: whether trials that failed for good are tried again.

    Raises:
        LeaseError: another process drives it.
        SearchError: this machine, where no cluster is joined, can never hold a trial.
        JournalError: its journal is damaged or cannot be written.
        EnvironmentProblem: the cluster cannot run it, or a plug-in of its space is not installed.
        DataError: a trial found its data damaged.
        CircuitBroken: trials failed one after another in the same way.
    """
    share_heap()
    description = read_description(folder.description)
    with folder.store.record(folder) as recorder:
        space, options = current_space(description, recorder.study), overrides or description.options
        share_of_this_machine(space, options)
        if retry_failed:
            reopen_failed(recorder)
        for line in changed_plugins(space, description.versions):
            callbacks.noticed("plug-in", line)
        context = SessionContext(folder, description, space, options, recorder.study.sessions + 1)
        return _Session(context, recorder, callbacks).run()


def reopen_failed(recorder: Recorder) -> None:
    """Lets every failed trial be tried again."""
    for trial in list(recorder.study.all_trials.values()):
        if trial.status == TrialStatus.FAILED:
            recorder.record(TrialReopened(trial=trial.key))


def warn_of_random_points(recorder: Recorder, notice: Callable[[str, str], None]) -> None:
    """Lets `notice` be called as soon as `IN_A_ROW` random points in a row have stood in for the model's proposals."""

    def listen(record: Record) -> None:
        if isinstance(record.event, TrialSuggested) and record.event.note and not record.event.repeats:
            known = proposals(recorder.study)
            if known.in_a_row == IN_A_ROW:
                notice("model", f"{IN_A_ROW} proposals in a row had to be random points; {known}")

    recorder.subscribe(listen)


def tell_of_whole_trials(recorder: Recorder, notice: Callable[[str, str], None]) -> None:
    """Lets `notice` be called once, with the reason, as soon as trials run whole that could pause."""
    told: list[str] = []

    def listen(record: Record) -> None:
        event = record.event
        if isinstance(event, TrialSuggested) and event.note.startswith(WHOLE) and not told:
            told.append(event.note)
            notice("model", event.note)

    recorder.subscribe(listen)


@dataclass(frozen=True)
class SessionContext:
    """What a session runs, and with which options."""

    folder: SearchFolder
    description: SearchDescription
    space: SearchSpace
    options: Options
    number: int
    """Of the session, from 1."""

    @property
    def tracking_uri(self) -> str:
        """Where MLflow keeps the runs."""
        return tracking_uri(self.folder, self.options)

    @property
    def concurrent(self) -> int | None:
        """Trials at once at most; None for as many as fit."""
        return self.options.concurrent or self.space.budget.concurrent

    @property
    def data_name(self) -> str:
        """Name of the data set; says so if it is synthetic."""
        return marked(self.description.data_name, synthetic=self.description.synthetic)

    @property
    def resume_command(self) -> str:
        """The command that continues the search."""
        return hint("resume", self.folder.name, storage=self.folder.storage)

    def data_source(self) -> DataSource:
        """Where nodes get the data set from."""
        return data_source(self.options, self.space, self.folder)

    def job_metadata(self) -> dict[str, str]:
        """What Ray's list of jobs shows of the search."""
        return job_metadata(
            self.folder.name,
            space=self.space.name,
            data=self.data_name,
            storage=without_passwords(self.folder.storage),
            tracking=without_passwords(self.tracking_uri),
        )

    def expected_nodes(self) -> Expected:
        """What every node of a cluster must have to run trials of the search."""
        source = self.data_source()
        is_fetched = source.pack is not None or source.generated is not None
        data = self.space.config(self.space.any_sample()).data
        if source.root is not None:
            data = data.model_copy(update={"root": Path(source.root)})
        fingerprint = self.description.data_fingerprint
        plugins = [plugin.package for plugin in plugins_of(self.space)]
        return expected_here(self.folder.store, None if is_fetched else data, fingerprint, plugins)

    def allocate(self, nodes: Sequence[LiveNode], trials: int) -> Allocation:
        """What each of the remaining trials gets of the nodes."""
        all_of_each = [node.all for node in nodes]
        return allocate(all_of_each, self.options.resources(self.space), concurrent=self.concurrent, trials=trials)


class _Session:
    """One process's turn at a search, from the first event it records to the last."""

    def __init__(self, context: SessionContext, recorder: Recorder, callbacks: SessionCallbacks) -> None:
        self._context = context
        self._recorder = recorder
        self._callbacks = callbacks
        self._tracker = tracker_of(context.folder, context.description, context.tracking_uri, recorder)
        self._ax = AxProcess(context.folder.logs / "ax.log")
        self._stop = StopRequest(self._on_stop)
        self._guard = ExitGuard(context.folder, recorder, self._stop)

    def run(self) -> SessionResult:
        """From SessionStarted to SessionEnded."""
        with self._stop:
            self._begin()
            try:
                with self._guard:
                    exit_code = self._search()
            except BaseException as error:
                self._recorder.record(SessionEnded(state="failed", reason=first_line(error)))
                raise
            finally:
                self._ax.close()
                unsent = self._tracker.close(STOP_DRAIN_S if self._stop.requested else DRAIN_S)
        return SessionResult(self._recorder.study, self._context.description, exit_code, unsent)

    def _begin(self) -> None:
        folder, space, recorder = self._context.folder, self._context.space, self._recorder
        recorder.record(SessionStarted(session=self._context.number, host=socket.gethostname(), pid=os.getpid()))
        Requests(folder).clear()
        recover_epochs(folder, space, recorder)
        for event in stops_for_budget(recorder.study, space, time.time()):
            recorder.record(event)
        self._callbacks.started(recorder, self._context.description)
        warn_of_random_points(recorder, self._callbacks.noticed)
        tell_of_whole_trials(recorder, self._callbacks.noticed)
        self._tracker.start()

    def _search(self) -> Exit:
        if isinstance(next_step(self._recorder.study, self._context.space, time.time()), SearchOver):
            return self._end()
        model_check = self._model_check()
        model_check.ask()
        connection = self._connect()
        if connection is None:
            return self._end()
        keep_messages(self._context.folder.logs / RAY_LOG)
        try:
            with self._guard.connected(connection):
                self._stop.listen_again()
                model_check.wait(lambda: self._stop.requested)
                if not self._stop.requested:
                    try:
                        self._run_trials(connection)
                    finally:
                        if connection.head is not None:
                            request_slots(0, 0, 0)
        finally:
            disconnect()
        return self._end()

    def _model_check(self) -> ModelCheck:
        return ModelCheck(
            self._ax,
            self._context.space,
            self._recorder.study,
            self._callbacks.noticed,
            is_new=self._context.number == 1,
            resume=self._context.resume_command,
        )

    def _connect(self) -> Connection | None:
        """The cluster; None if a stop was requested meanwhile."""
        options = self._context.options
        with self._guard.connecting():
            if self._stop.requested:
                return None
            try:
                return connect(options.address, insecure=options.insecure, metadata=self._context.job_metadata())
            except BaseException:
                if self._stop.signal is None:
                    raise
                return None  # the signal reached what Ray had started, too

    def _run_trials(self, connection: Connection) -> None:
        """Lets Tune run trials until there are no more, or a stop is requested."""
        from orchestrator.runner.searcher import TuneSearcher, tuner_of

        context, check = self._context, None
        if connection.head is None:
            nodes = live_nodes()
        else:
            asked = context.options.resources(context.space)
            request_slots(1, asked.cpus_per_trial or 1, asked.gpus_per_trial or 0)
            nodes = await_nodes(lambda: self._stop.requested, self._callbacks.noticed)
            if self._stop.requested:
                return
            check = context.expected_nodes()
            check_nodes(nodes, check)
        left = trials_left(self._recorder.study, context.space, time.time())
        allocation = context.allocate(nodes, left)
        if connection.head is not None:
            most = min(context.concurrent or allocation.concurrent, left)
            request_slots(most, allocation.cpus, allocation.gpus, allocation.memory)
        limited = context.space.budget.gpu_hours is not None
        check_costs(context.space.objective, allocation.gpus, is_limited=limited)
        self._callbacks.connected(connection, allocation, context.tracking_uri)
        searcher = TuneSearcher(self._trial_runner(allocation), self._stop, lambda: room.now)
        room = Capacity(
            allocation,
            context.concurrent,
            nodes,
            self._callbacks.noticed,
            waiting=lambda: unplaced(searcher.handed_out),
            on_join=lambda node: None if check is None else why_unfit(node, check),
        )
        state, name = context.folder.path / "tune", context.folder.name
        stopped = stopped_trials(self._recorder.study)
        tuner = tuner_of(searcher, trainable, allocation, search=name, session=context.number, state=state)
        room.start()
        try:
            with self._gauges():
                tuner.fit()
        except Exception:
            # The signal that stopped us may have reached Ray's servers too; what then breaks in Tune is no failure.
            # An error that the searcher kept (a full disk, damaged data) is raised below.
            if self._stop.wish is None and searcher.failure is None:
                raise
        finally:
            room.close()
            if check is not None:
                remove_token(self._context.folder.store, check.token)
            drop_checkpoints(context.folder, self._recorder.study, stopped)
        if searcher.failure is not None:
            raise searcher.failure

    def _trial_runner(self, allocation: Allocation) -> TrialRunner:
        context, concurrent = self._context, allocation.concurrent
        return TrialRunner(
            self._recorder,
            context.space,
            context.folder,
            self._stop,
            AsyncSuggester(self._ax, context.space, stale=0 if concurrent == 1 else max(1, concurrent // STALE_PART)),
            AttemptSettings(allocation.cpus, allocation.gpus, context.options.hang_after, context.data_source()),
            before_start=lambda trial: self._tracker.wait_for_run(trial, RUN_PATIENCE_S),
        )

    def _gauges(self) -> Exporter:
        context = self._context
        return Exporter(
            self._recorder,
            context.space.objective,
            search_labels(context.folder.name, context.data_name),
            budget=context.space.budget.trials,
            unsent=lambda: self._tracker.unsent,
        )

    def _on_stop(self, wish: str | None) -> None:
        with self._recorder.lock:
            running = sum(trial.status == TrialStatus.RUNNING for trial in self._recorder.study.all_trials.values())
        self._callbacks.stopping(wish, running)
        self._guard.stop_requested()

    def _end(self) -> Exit:
        study = self._recorder.study
        step = next_step(study, self._context.space, time.time())
        if not isinstance(step, SearchOver):
            self._recorder.record(SessionEnded(state="interrupted", reason=self._stop.wish or "Ray ended early"))
            return exit_after(self._stop)
        counts = study.counts()
        if counts["completed"] == 0:
            self._recorder.record(SessionEnded(state="failed", reason="no trial completed"))
            return Exit.SEARCH_FAILED
        ahead = outlook(study, self._context.space)
        self._recorder.record(SessionEnded(state="finished", reason=step.reason, outlook=ahead))
        return Exit.SOME_TRIALS_FAILED if counts["failed"] else Exit.OK
