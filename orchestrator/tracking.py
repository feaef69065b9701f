"""MLflow as a projection of the journal: one parent run per search, one child run per trial, each point once.

A thread reads events in order and sends them. It never raises into the search and the search never waits for it beyond
a moment before a trial starts. What could not be sent stays in the queue; what a dead process did not send is sent by
the next session, which goes through the whole journal again: runs are found by their tags and a point that carries its
original timestamp replaces itself. A run whose creation reached the server after its reply was given up for lost is a
copy; the copies of a run are removed when the run ends.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.events import (
    Event,
    SearchCreated,
    SessionEnded,
    SessionStarted,
    TrialCompleted,
    TrialFailed,
    TrialReopened,
    TrialReported,
    TrialStarted,
    TrialStopped,
    TrialSuggested,
)
from orchestrator.folder import SearchFolder
from orchestrator.journal import Record
from orchestrator.tracking_database import is_database, prepare_database
from trainer.wording import first_line

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

# The client's own patience is 7 retries over 4 minutes per call; ours is the queue. A call that the client repeats by
# itself after a lost reply makes a second run; ours looks for the first one before.
CLIENT_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Standard output is for what the search has to say.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
EXPERIMENT = "reidsearch"
PARENT_TAG = "mlflow.parentRunId"
SEARCH_TAG = "reidsearch.search"
TRIAL_TAG = "reidsearch.trial"
# The trial tag of a search's own run.
NO_TRIAL = "-"
FIRST_PAUSE_S = 1.0
# No longer than this goes by between the return of a server and the first event that it gets.
LONGEST_PAUSE_S = 10.0
# A trial's run takes a fraction of a second to make once MLflow is connected; only the first one may take longer.
USUAL_PATIENCE_S = 1.0
LONGEST_TAG = 5000


class Tracker:
    """Sends events to MLflow from a thread of its own."""

    def __init__(
        self,
        uri: str,
        folder: SearchFolder,
        *,
        uid: str,
        artifacts: Path,
        tags: Mapping[str, str],
        on_run: Callable[[str, str], None],
    ) -> None:
        """Prepares; nothing is sent before `start`.

        Args:
            uri: where MLflow keeps runs.
            folder: the search.
            uid: tells this search from others of the same name.
            artifacts: folder for artifacts of an experiment that does not exist yet.
            tags: flat tags of every run.
            on_run: called in the tracker's thread with (trial, run id) when a trial has its run.
        """
        self._projection = _Projection(uri, folder, uid, artifacts, tags)
        self._on_run = on_run
        self._events: queue.Queue[Record | None] = queue.Queue()
        self._runs: dict[str, threading.Event] = {}
        self._closing = threading.Event()
        self._idle = threading.Condition()
        self._unsent = 0
        self._is_late = False
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self.problem: str | None = None
        """Why nothing can be sent at the moment."""

    def start(self) -> None:
        """Begins to send what `put` brings."""
        self._thread.start()

    def put(self, record: Record) -> None:
        """Takes an event; returns at once."""
        with self._idle:
            self._unsent += 1
        if isinstance(record.event, TrialSuggested):
            self._runs[record.event.trial] = threading.Event()
        self._events.put(record)

    def wait_for_run(self, trial: str, seconds: float) -> bool:
        """Waits until the trial has its run, for a while; says whether it has.

        An outage costs its first trial a moment and the later ones nothing.
        """
        if self._projection.is_connected:
            seconds = min(seconds, USUAL_PATIENCE_S)
        end = time.monotonic() + (0 if self._is_late else seconds)
        while not self._runs[trial].wait(min(POLL_S, max(0, end - time.monotonic()))):
            if self.problem is not None or time.monotonic() >= end:
                self._is_late = True
                return False
        return True

    def close(self, seconds: float) -> int:
        """Waits for the queue to drain, for a while, and stops; returns the number of events not sent."""
        with self._idle:
            self._idle.wait_for(lambda: self._unsent == 0, timeout=seconds)
            unsent = self._unsent
        self._closing.set()
        self._events.put(None)
        self._thread.join(timeout=CLOSE_GRACE_S)
        return unsent

    def _work(self) -> None:
        while (record := self._events.get()) is not None:
            if not self._send(record):
                return
            if isinstance(record.event, TrialSuggested):
                trial = record.event.trial
                self._on_run(trial, self._projection.run_of[trial])
                self._runs[trial].set()
            with self._idle:
                self._unsent -= 1
                # Only once it has caught up: behind a slow server each trial would wait otherwise.
                self._is_late = self._is_late and self._unsent > 0
                self._idle.notify_all()

    def _send(self, record: Record) -> bool:
        """Sends until it worked; False when the tracker closes first."""
        pause = FIRST_PAUSE_S
        while not self._closing.is_set():
            try:
                self._projection.apply(record.event, record.time)
                self.problem = None
                return True
            except Exception as error:  # noqa: BLE001  # whatever a tracking server does, the search goes on
                self.problem = first_line(error)
                log.warning("MLflow: %s; trying again in %.0f s", self.problem, pause)
            self._closing.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)
        return False


POLL_S = 0.05
# What a call to a hanging server may still take when the tracker closes.
CLOSE_GRACE_S = 12.0


class _Projection:
    """Writes one event at a time; applying an event twice changes nothing."""

    def __init__(self, uri: str, folder: SearchFolder, uid: str, artifacts: Path, tags: Mapping[str, str]) -> None:
        self._uri = uri
        self._uid = uid
        self._folder = folder
        self._artifacts = artifacts
        self._tags = dict(tags)
        self._connection: tuple[MlflowClient, str] | None = None
        self._parent: str | None = None
        self.run_of: dict[str, str] = {}

    def apply(self, event: Event, moment: float) -> None:
        match event:
            case SearchCreated():
                self._ensure_parent(moment)
            case SessionStarted():
                self._client.update_run(self._ensure_parent(moment), status="RUNNING")
            case TrialSuggested():
                self._create_trial(event, moment)
            case TrialStarted(attempt=1):
                self._keep(self.run_of[event.trial], self._folder.trial(event.trial) / "config.json")
            case TrialReported():
                self._log_epoch(event)
            case TrialCompleted():
                self._end_trial(event.trial, "FINISHED", moment)
            case TrialStopped():
                self._end_trial(event.trial, "KILLED", moment, stopped=event.rule, reason=event.reason)
            case TrialFailed():
                self._end_trial(event.trial, "FAILED", moment, failure=event.failure, reason=event.reason)
            case TrialReopened():
                self._client.update_run(self.run_of[event.trial], status="RUNNING")
            case SessionEnded():
                status = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}[event.state]
                self._terminate(self._ensure_parent(moment), NO_TRIAL, status, moment)
            case _:
                pass

    @property
    def is_connected(self) -> bool:
        """Whether MLflow has answered in this session."""
        return self._connection is not None

    @property
    def _client(self) -> MlflowClient:
        return self._connect()[0]

    @property
    def _experiment(self) -> str:
        return self._connect()[1]

    def _connect(self) -> tuple[MlflowClient, str]:
        """The client and the experiment; the first touch creates the database before any trial runs."""
        if self._connection is None:
            os.environ.update({key: os.environ.get(key, value) for key, value in CLIENT_ENVIRONMENT.items()})
            from mlflow import MlflowClient

            # What goes wrong comes as an exception, too, and is said once in our own words.
            logging.getLogger("mlflow").setLevel(logging.CRITICAL)
            prepare_database(self._uri, self._artifacts)
            client = MlflowClient(tracking_uri=self._uri)
            found = client.get_experiment_by_name(EXPERIMENT)
            if found is None:
                # A server has its own place; a database alone would let MLflow put them into the current folder.
                location = self._artifacts.absolute().as_uri() if is_database(self._uri) else None
                experiment = client.create_experiment(EXPERIMENT, artifact_location=location)
            else:
                experiment = found.experiment_id
            self._connection = client, experiment
        return self._connection

    def _ensure_parent(self, moment: float) -> str:
        if self._parent is None:
            tags = self._identity(NO_TRIAL)
            found = self._find(tags)
            parent = found[0] if found else self._create(self._folder.name, tags, moment)
            self._keep(parent, self._folder.description)
            self._parent = parent
        return self._parent

    def _identity(self, trial: str) -> dict[str, str]:
        """The tags that only one run should have."""
        return {SEARCH_TAG: self._uid, TRIAL_TAG: trial}

    def _keep(self, run: str, file: Path) -> None:
        # A trial that has been cleared away by hand has nothing to keep, and must not hold up what comes after it.
        if file.exists():
            self._client.log_artifact(run, str(file))

    def _create_trial(self, event: TrialSuggested, moment: float) -> None:
        tags = self._identity(event.trial)
        found = self._find(tags)
        if found:
            run = found[0]
        else:
            own = {
                PARENT_TAG: self._ensure_parent(moment),
                "trial": event.trial,
                "source": event.source,
                "seed": str(event.seed),
            }
            run = self._create(f"{self._folder.name}/{event.trial}", tags | own, moment)
        self._log_params(run, event)
        self.run_of[event.trial] = run

    def _log_params(self, run: str, event: TrialSuggested) -> None:
        from mlflow.entities import Param

        self._client.log_batch(run, params=[Param(name, str(value)) for name, value in event.params.items()])

    def _log_epoch(self, event: TrialReported) -> None:
        from mlflow.entities import Metric

        result = event.result
        run = self.run_of[event.trial]
        moment = round(result.time * 1000)
        metrics = [Metric(name, value, moment, result.epoch) for name, value in result.metrics().items()]
        self._client.log_batch(run, metrics=metrics)

    def _find(self, tags: Mapping[str, str]) -> list[str]:
        """The runs with these tags, always in the same order."""
        condition = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        found = self._client.search_runs([self._experiment], condition)
        return sorted(run.info.run_id for run in found)

    def _create(self, name: str, tags: Mapping[str, str], moment: float) -> str:
        run = self._client.create_run(
            self._experiment, start_time=round(moment * 1000), tags={**self._tags, **tags}, run_name=name
        )
        return str(run.info.run_id)

    def _end_trial(self, trial: str, status: str, moment: float, **tags: str) -> None:
        run = self.run_of[trial]
        for name, value in tags.items():
            self._client.set_tag(run, name, value[:LONGEST_TAG])
        self._terminate(run, trial, status, moment)

    def _terminate(self, run: str, trial: str, status: str, moment: float) -> None:
        for copy in self._find(self._identity(trial)):
            if copy != run:
                self._client.delete_run(copy)
        self._client.set_terminated(run, status, end_time=round(moment * 1000))
