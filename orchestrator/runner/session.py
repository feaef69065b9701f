"""Runs a search from wherever its journal stands: launching and resuming are the same code path."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from orchestrator.algorithms.ax_process import AxProcess
from orchestrator.base.errors import Exit
from orchestrator.base.hints import hint
from orchestrator.base.process import Process, children
from orchestrator.base.uris import without_passwords
from orchestrator.cluster.capacity import Capacity, unplaced
from orchestrator.cluster.metrics import Exporter, exported, search_labels
from orchestrator.cluster.names import job_metadata, marked
from orchestrator.cluster.node_check import Expected, check_nodes, expected_here, why_unfit
from orchestrator.cluster.ray import (
    RAY_LOG,
    Connection,
    HeadHealth,
    LiveNode,
    connect,
    disconnect,
    keep_messages,
    live_nodes,
)
from orchestrator.cluster.resources import Allocation, allocate
from orchestrator.runner.budget_left import nothing_new, trials_again_left, trials_left
from orchestrator.runner.control import Requests
from orchestrator.runner.data_staging import data_source
from orchestrator.runner.model_check import ModelCheck
from orchestrator.runner.recover_epochs import recover_epochs
from orchestrator.runner.stop_request import StopRequest
from orchestrator.runner.supervision import Supervisor
from orchestrator.runner.worker import trainable
from orchestrator.space.objective import check_costs
from orchestrator.stores.base import SearchFolder
from orchestrator.stores.cache import storage_name
from orchestrator.stores.push import open_recorder
from orchestrator.stores.staging import DataSource
from orchestrator.stores.storage_probe import remove_token
from orchestrator.study.description import Options, SearchDescription, current_space, read_description
from orchestrator.study.events import (
    SessionEnded,
    SessionStarted,
    TrialReopened,
)
from orchestrator.study.recorder import Recorder
from orchestrator.study.study import Study, unfinished
from orchestrator.tracking.sync import tracker_of, tracking_uri
from trainer.formatting import first_line

# A trial's MLflow run exists before the trial starts unless MLflow is slower than this.
RUN_PATIENCE_S = 20.0
# What a stop may take before the process leaves without Ray's consent: a signal to the whole process group, as Slurm
# sends it, kills Ray's own servers too, and Ray then hangs for a minute and aborts.
STOP_PATIENCE_S = 20.0
WATCH_PERIOD_S = 0.5
NODE_DIED = "Ray's node on this machine died"
HEAD_LOST = "the head of the Ray cluster is gone"
# What MLflow gets at the end of a session to take what is still queued; the rest is sent by the next one.
DRAIN_S = 30.0
# What a storage with a URI gets to take the last events when Ray does not let go of the process.
LAST_WORDS_S = 5.0


class SessionCallbacks(NamedTuple):
    """Who is told what while a search runs; all are called from the search's process and must not block."""

    started: Callable[[Recorder, SearchDescription], None]
    """The recorder is open; subscribe to it to hear every event."""
    connected: Callable[[Connection, Allocation, str], None]
    """The cluster is there; the last argument is MLflow's address."""
    noticed: Callable[[str, str], None] = lambda label, text: None
    """Something about the cluster that people should know: a label and a line."""
    stopping: Callable[[str | None, int], None] = lambda wish, running: None
    """A stop was asked for, just now: who wants it, and how many trials run, whose state is saved first."""


class SessionResult(NamedTuple):
    """How a session ended."""

    study: Study
    description: SearchDescription
    exit_code: Exit
    unsent: int
    """Events that MLflow has not taken."""


def run_search(
    folder: SearchFolder, watch: SessionCallbacks, *, overrides: Options | None = None, retry_failed: bool = False
) -> SessionResult:
    """Drives the search until it is finished, interrupted or failed.

    Args:
        folder: a search that exists.
        watch: listeners.
        overrides: options of this session where they differ from the launch's.
        retry_failed: whether trials that failed for good are tried again.

    Raises:
        LeaseError: another process drives it.
        JournalError: its journal is damaged or cannot be written.
        EnvironmentProblem: the cluster cannot run it.
        DataError: a trial found its data damaged.
        CircuitBroken: trials failed one after another in the same way.
    """
    description = read_description(folder.description)
    with open_recorder(folder) as recorder:
        if retry_failed:
            reopen_failed(recorder)
        return _Session(folder, description, overrides or description.options, recorder, watch).run()


def reopen_failed(recorder: Recorder) -> None:
    """Lets every failed trial be tried again."""
    for trial in list(recorder.study.all_trials.values()):
        if trial.status == "failed":
            recorder.record(TrialReopened(trial=trial.key))


class _Session:
    """One process's turn at a search, from the first event it records to the last."""

    def __init__(
        self,
        folder: SearchFolder,
        description: SearchDescription,
        options: Options,
        recorder: Recorder,
        watch: SessionCallbacks,
    ) -> None:
        self._folder = folder
        self._description = description
        self._space = current_space(description, recorder.study)
        self._options = options
        self._recorder = recorder
        self._watch = watch
        self._number = recorder.study.sessions + 1
        self._uri = tracking_uri(folder, options)
        self._tracker = tracker_of(folder, description, self._uri, recorder)
        self._ax = AxProcess(folder.logs / "ax.log")
        self._model_check = ModelCheck(
            self._ax,
            self._space,
            recorder.study,
            watch.noticed,
            is_new=self._number == 1,
            resume=hint("resume", folder.name, storage=folder.path.parent),
        )
        self._stop = StopRequest(self._on_stop)
        self._supervisor = Supervisor(recorder, self._space, folder, self._stop)
        self._over = threading.Event()
        self._is_connecting = False
        self._node: tuple[Process, ...] = ()
        self._head: HeadHealth | None = None

    def run(self) -> SessionResult:
        """From SessionStarted to SessionEnded."""
        with self._stop:
            return self._run()

    def _run(self) -> SessionResult:
        self._recorder.record(SessionStarted(session=self._number, host=socket.gethostname(), pid=os.getpid()))
        Requests(self._folder).clear()
        recover_epochs(self._folder, self._space, self._recorder)
        self._supervisor.keep_budget(live=())
        self._watch.started(self._recorder, self._description)
        self._tracker.start()
        try:
            threading.Thread(target=self._leave_in_time, name="watchdog", daemon=True).start()
            exit_code = self._search()
        except BaseException as error:
            self._recorder.record(SessionEnded(state="failed", reason=first_line(error)))
            raise
        finally:
            self._over.set()
            self._ax.close()
            unsent = self._tracker.close(DRAIN_S)
        return SessionResult(self._recorder.study, self._description, exit_code, unsent)

    def _search(self) -> Exit:
        if self._remaining() == 0:
            return self._end()
        self._model_check.ask()
        self._is_connecting = True  # before the question: a stop from here on ends the process
        if self._stop.requested:
            return self._end()
        try:
            connection = connect(self._options.address, insecure=self._options.insecure, metadata=self._metadata())
        except BaseException:
            if self._stop.signal is None:
                raise
            return self._end()  # the signal reached what Ray had started, too
        finally:
            self._is_connecting = False
        keep_messages(self._folder.logs / RAY_LOG)
        self._node = connection.node
        self._head = None if connection.head is None else HeadHealth(connection.head)
        try:
            self._stop.listen_again()
            self._model_check.wait(lambda: self._stop.requested)
            if not self._stop.requested:
                self._tune(connection)
        finally:
            self._node = ()  # that it ends now is no loss
            disconnect()
        return self._end()

    def _on_stop(self, wish: str | None) -> None:
        with self._recorder.lock:
            running = sum(trial.status == "running" for trial in self._recorder.study.all_trials.values())
        self._watch.stopping(wish, running)
        if self._is_connecting:
            # No trial runs yet, and what is starting would answer in half a minute at best, with errors of Ray's.
            self._leave()

    def _leave_in_time(self) -> None:
        """Ends the process in good order when Ray does not let go of it after a signal or a request to stop.

        Without the node that it started here, or the head of the cluster that it joined, Tune would wait for workers
        for ever: their death asks for a stop, too.
        """
        while self._stop.wish is None:
            if self._over.wait(WATCH_PERIOD_S):
                return
            if not all(process.is_alive() for process in self._node):
                self._stop.request(NODE_DIED)
            elif self._head is not None and self._head.is_lost():
                self._stop.request(HEAD_LOST)
        if not self._over.wait(STOP_PATIENCE_S):
            self._leave()

    def _leave(self) -> None:
        """Ends the process here and now; the next session goes on from what the journal holds."""
        self._recorder.record(SessionEnded(state="interrupted", reason=self._stop.wish))
        if self._recorder.uplink is not None:
            self._recorder.uplink.finish(LAST_WORDS_S)
        resume = hint("resume", self._folder.name, storage=self._folder.path.parent)
        print(f"{self._folder.name}: stopped; `{resume}` continues it", file=sys.stderr, flush=True)
        for process in children() if self._is_connecting else ():  # what Ray has started so far
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        os._exit(self._exit_of_signal())

    def _exit_of_signal(self) -> Exit:
        # 75 asks a batch system to put the job back into its queue, which a user who stops it does not want.
        preempted = self._stop.signal not in (None, signal.SIGINT) or self._stop.wish in (NODE_DIED, HEAD_LOST)
        return Exit.PREEMPTED if preempted else Exit.INTERRUPTED

    def _tune(self, connection: Connection) -> None:
        """Lets Tune run trials until the searcher has no more, or a stop is requested."""
        from orchestrator.runner.searcher import TuneSearcher
        from orchestrator.runner.tuning import tuner_of

        nodes = live_nodes()
        check = None
        if connection.head is not None:
            check = self._expected()
            check_nodes(nodes, check)
        share = self._share(nodes)
        check_costs(self._space.objective, share.gpus)
        self._watch.connected(connection, share, self._uri)
        searcher = TuneSearcher(
            self._recorder,
            self._space,
            self._folder,
            self._ax,
            self._stop,
            concurrent=share.concurrent,
            threads=share.cpus,
            gpus=share.gpus,
            hang_after=self._options.hang_after,
            before_start=self._await_run,
            data=self._data_source(),
            capacity=lambda: room.now,
            say=self._watch.noticed,
        )
        room = Capacity(
            share,
            self._concurrent(),
            nodes,
            self._watch.noticed,
            waiting=lambda: unplaced(searcher.handed_out),
            on_join=lambda node: None if check is None else why_unfit(node, check),
        )
        state = self._folder.path / "tune"
        name = self._folder.name
        tuner = tuner_of(searcher, trainable, share, search=name, session=self._number, state=state)
        room.start()
        try:
            with exported(self._gauges()):
                tuner.fit()
        except Exception:
            # The signal that stopped us may have reached Ray's servers too; what then breaks in Tune is no failure.
            # What the searcher kept (a full disk, damaged data) is one all the same, and is raised below.
            if self._stop.wish is None and searcher.failure is None:
                raise
        finally:
            room.close()
            if check is not None:
                remove_token(check.storage, check.token)
        if searcher.failure is not None:
            raise searcher.failure

    def _share(self, nodes: Sequence[LiveNode]) -> Allocation:
        return allocate(
            [node.all for node in nodes],
            self._options.resources(self._space),
            concurrent=self._concurrent(),
            trials=self._remaining(),
        )

    def _metadata(self) -> dict[str, str]:
        """What Ray's list of jobs tells of the search."""
        return job_metadata(
            self._folder.name,
            space=self._space.name,
            data=self._data(),
            storage=without_passwords(storage_name(self._folder.path.parent)),
            tracking=without_passwords(self._uri),
        )

    def _data(self) -> str:
        return marked(self._description.data_name, synthetic=self._description.synthetic)

    def _gauges(self) -> Exporter:
        return Exporter(
            self._recorder,
            self._space.objective,
            search_labels(self._folder.name, self._data()),
            budget=self._space.budget.trials,
            unsent=lambda: self._tracker.unsent,
        )

    def _concurrent(self) -> int | None:
        return self._options.concurrent or self._space.budget.concurrent

    def _expected(self) -> Expected:
        """What every node of a cluster must be like to run trials of this search."""
        source = self._data_source()
        is_fetched = source.pack is not None or source.generated is not None
        data = self._space.config(self._space.any_sample()).data
        if source.root is not None:
            data = data.model_copy(update={"root": Path(source.root)})
        storage, fingerprint = self._folder.path.parent, self._description.data_fingerprint
        return expected_here(storage, None if is_fetched else data, fingerprint)

    def _data_source(self) -> DataSource:
        return data_source(self._options, self._space, self._folder)

    def _remaining(self) -> int:
        return trials_left(self._recorder.study, self._space, time.time())

    def _await_run(self, trial: str) -> None:
        self._tracker.wait_for_run(trial, RUN_PATIENCE_S)

    def _end(self) -> Exit:
        study = self._recorder.study
        end = nothing_new(study, self._space, time.time())
        if unfinished(study) or end is None or trials_again_left(study, self._space, end):
            self._recorder.record(SessionEnded(state="interrupted", reason=self._stop.wish or "Ray ended early"))
            return self._exit_of_signal()
        counts = study.counts()
        if counts["completed"] == 0:
            self._recorder.record(SessionEnded(state="failed", reason="no trial completed"))
            return Exit.SEARCH_FAILED
        self._recorder.record(SessionEnded(state="finished", reason=end.reason))
        return Exit.SOME_TRIALS_FAILED if counts["failed"] else Exit.OK
