"""Runs a search from wherever its journal stands: launching and resuming are the same code path."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from orchestrator.cluster.connection import Connection, Share, connect, disconnect, share_out
from orchestrator.engine.adoption import adopt_finished_epochs
from orchestrator.engine.control import Requests
from orchestrator.engine.stopping import StopRequest
from orchestrator.engine.supervision import Supervisor
from orchestrator.engine.trial import trainable
from orchestrator.errors import EnvironmentProblem, Exit
from orchestrator.history.description import Options, SearchDescription, read_description
from orchestrator.history.events import (
    SessionEnded,
    SessionStarted,
    TrialReopened,
)
from orchestrator.history.extension import current_space
from orchestrator.history.folder import SearchFolder
from orchestrator.history.ledger import Ledger, owned_ledger
from orchestrator.history.study import Study, unfinished
from orchestrator.process import Process
from orchestrator.search.ax_process import AxProcess, missing_for
from orchestrator.search.budget import Spent, spent
from orchestrator.search.finalization import finals_left
from orchestrator.search.objective import check_costs
from orchestrator.search.replication import repeats_left
from orchestrator.tracking.tracked import tracker_of, tracking_uri
from trainer.wording import first_line

# A trial's MLflow run exists before the trial starts unless MLflow is slower than this.
RUN_PATIENCE_S = 20.0
# What a stop may take before the process leaves without Ray's consent: a signal to the whole process group, as Slurm
# sends it, kills Ray's own servers too, and Ray then hangs for a minute and aborts.
STOP_PATIENCE_S = 20.0
WATCH_PERIOD_S = 0.5
NODE_DIED = "Ray's node on this machine died"
# What MLflow gets at the end of a session to take what is still queued; the rest is sent by the next one.
DRAIN_S = 30.0


class Watch(NamedTuple):
    """Who is told what while a search runs; all are called from the search's process and must not block."""

    started: Callable[[Ledger, SearchDescription], None]
    """The ledger is open; subscribe to it to hear every event."""
    connected: Callable[[Connection, Share, str], None]
    """The cluster is there; the last argument is MLflow's address."""


class Ending(NamedTuple):
    """How a session ended."""

    study: Study
    description: SearchDescription
    exit_code: Exit
    unsent: int
    """Events that MLflow has not taken."""


def drive(
    folder: SearchFolder, watch: Watch, *, overrides: Options | None = None, retry_failed: bool = False
) -> Ending:
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
    with owned_ledger(folder) as ledger:
        if retry_failed:
            reopen_failed(ledger)
        return _Session(folder, description, overrides or description.options, ledger, watch).run()


def reopen_failed(ledger: Ledger) -> None:
    """Lets every failed trial be tried again."""
    for trial in list(ledger.study.all_trials.values()):
        if trial.status == "failed":
            ledger.record(TrialReopened(trial=trial.key))


class _Session:
    """One process's turn at a search, from the first event it records to the last."""

    def __init__(
        self,
        folder: SearchFolder,
        description: SearchDescription,
        options: Options,
        ledger: Ledger,
        watch: Watch,
    ) -> None:
        self._folder = folder
        self._description = description
        self._space = current_space(description, ledger.study)
        self._options = options
        self._ledger = ledger
        self._watch = watch
        self._number = ledger.study.sessions + 1
        self._uri = tracking_uri(folder, options)
        self._tracker = tracker_of(folder, description, self._uri, ledger)
        self._ax = AxProcess(folder.logs / "ax.log")
        self._stop = StopRequest()
        self._supervisor = Supervisor(ledger, self._space, folder, self._stop)
        self._over = threading.Event()
        self._node: Process | None = None

    def run(self) -> Ending:
        """From SessionStarted to SessionEnded."""
        self._ledger.record(SessionStarted(session=self._number, host=socket.gethostname(), pid=os.getpid()))
        Requests(self._folder).clear()
        adopt_finished_epochs(self._folder, self._space, self._ledger)
        self._supervisor.keep_budget(live=())
        self._watch.started(self._ledger, self._description)
        self._tracker.start()
        try:
            with self._stop:
                threading.Thread(target=self._leave_in_time, name="watchdog", daemon=True).start()
                exit_code = self._search()
        except BaseException as error:
            self._ledger.record(SessionEnded(state="failed", reason=first_line(error)))
            raise
        finally:
            self._over.set()
            self._ax.close()
            unsent = self._tracker.close(DRAIN_S)
        return Ending(self._ledger.study, self._description, exit_code, unsent)

    def _search(self) -> Exit:
        if self._remaining() == 0:
            return self._end()
        connection = connect(self._options.address)
        self._node = connection.node
        try:
            self._stop.listen_again()
            self._tune(connection)
        finally:
            disconnect()
        return self._end()

    def _leave_in_time(self) -> None:
        """Ends the process in good order when Ray does not let go of it after a signal or a request to stop.

        Without the node that it started here Tune would wait for workers for ever: its death asks for a stop, too.
        """
        while self._stop.wish is None:
            if self._over.wait(WATCH_PERIOD_S):
                return
            if self._node is not None and not self._node.is_alive():
                self._stop.request(NODE_DIED)
        if not self._over.wait(STOP_PATIENCE_S):
            self._ledger.record(SessionEnded(state="interrupted", reason=self._stop.wish))
            print(f"{self._folder.name}: stopped; `reidsearch resume` continues it", file=sys.stderr, flush=True)
            os._exit(self._exit_of_signal())

    def _exit_of_signal(self) -> Exit:
        # 75 asks a batch system to put the job back into its queue, which a user who stops it does not want.
        preempted = self._stop.signal not in (None, signal.SIGINT) or self._stop.wish == NODE_DIED
        return Exit.PREEMPTED if preempted else Exit.INTERRUPTED

    def _tune(self, connection: Connection) -> None:
        """Lets Tune run trials until the searcher has no more, or a stop is requested."""
        from ray import tune

        from orchestrator.engine.scheduler import JournalScheduler
        from orchestrator.engine.searcher import AxSearcher, StopWith

        share = self._share(connection)
        check_costs(self._space.objective, share.gpus)
        if (missing := missing_for(self._space.algorithm.method)) is not None:
            raise EnvironmentProblem(f"algorithm.method: {missing}")
        self._watch.connected(connection, share, self._uri)
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(share.concurrent)
        searcher = AxSearcher(
            self._ledger,
            self._space,
            self._folder,
            self._ax,
            self._stop,
            concurrent=share.concurrent,
            threads=share.cpus,
            gpus=share.gpus,
            hang_after=self._options.hang_after,
            before_start=self._await_run,
        )
        tuner = tune.Tuner(
            tune.with_resources(trainable, {"cpu": share.cpus, "gpu": share.gpus}),
            # A reused worker saves the seconds that a new one needs; attempts are processes of their own anyway.
            tune_config=tune.TuneConfig(
                search_alg=searcher, scheduler=JournalScheduler(searcher), num_samples=-1, reuse_actors=True
            ),
            # Always a new experiment: Tune's own state is never read again.
            run_config=tune.RunConfig(
                name=f"session-{self._number}",
                storage_path=str(self._folder.path / "tune"),
                stop=StopWith(searcher),
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        except Exception:
            # The signal that stopped us may have reached Ray's servers too; what then breaks in Tune is no failure.
            # What the searcher kept (a full disk, damaged data) is one all the same, and is raised below.
            if self._stop.wish is None and searcher.failure is None:
                raise
        if searcher.failure is not None:
            raise searcher.failure

    def _share(self, connection: Connection) -> Share:
        return share_out(
            connection.resources,
            concurrent=self._options.concurrent or self._space.budget.concurrent,
            gpus_per_trial=self._options.gpus_per_trial,
            trials=self._remaining(),
        )

    def _remaining(self) -> int:
        """Trials that may still run: unfinished ones, new ones while there are a budget and points, then repeats."""
        study, end = self._ledger.study, self._nothing_new()
        if end is not None:
            return len(unfinished(study)) + self._repeats_left(end) + self._finals_left()
        over = sum(trial.is_over for trial in study.trials.values())
        return max(len(unfinished(study)), self._space.budget.trials - over)

    def _repeats_left(self, end: Spent) -> int:
        """Repeats still to be suggested when no new configuration is."""
        return 0 if end.ends_repeats else sum(1 for _ in repeats_left(self._ledger.study, self._space))

    def _finals_left(self) -> int:
        """Trainings for the test set still to be suggested."""
        return sum(1 for _ in finals_left(self._ledger.study))

    def _nothing_new(self) -> Spent | None:
        """Why no more configurations are suggested, or None where there may be."""
        # They import torch, for which looking at a search should not wait.
        from orchestrator.search.algorithms import ALGORITHMS
        from orchestrator.search.suggest import Exhausted

        study = self._ledger.study
        end = spent(study, self._space, time.time())
        if end is not None:
            return end
        step = ALGORITHMS[self._space.algorithm.name](self._space, study.seed, study)
        return Spent(step.reason, at_once=False) if isinstance(step, Exhausted) else None

    def _await_run(self, trial: str) -> None:
        self._tracker.wait_for_run(trial, RUN_PATIENCE_S)

    def _end(self) -> Exit:
        study = self._ledger.study
        end = self._nothing_new()
        if unfinished(study) or end is None or self._repeats_left(end) or self._finals_left():
            self._ledger.record(SessionEnded(state="interrupted", reason=self._stop.wish or "Ray ended early"))
            return self._exit_of_signal()
        counts = study.counts()
        if counts["completed"] == 0:
            self._ledger.record(SessionEnded(state="failed", reason="no trial completed"))
            return Exit.SEARCH_FAILED
        self._ledger.record(SessionEnded(state="finished", reason=end.reason))
        return Exit.SOME_TRIALS_FAILED if counts["failed"] else Exit.OK
