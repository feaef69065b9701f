"""MLflow as a projection of the journal: one parent run per search, one child run per trial, each point once.

A thread reads events in order and sends them. It never raises into the search and the search never waits for it beyond
a moment before a trial starts. What could not be sent stays in the queue; what a dead process did not send is sent by
the next session, which goes through the whole journal again: runs are found by their tags and a point that carries its
original timestamp replaces itself.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
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
    TrialReported,
    TrialStarted,
    TrialSuggested,
)
from orchestrator.folder import SearchFolder
from orchestrator.journal import Record
from trainer.wording import first_line

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

# The client's own patience is 7 retries over 4 minutes per call; ours is the queue.
CLIENT_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
EXPERIMENT = "reidsearch"
PARENT_TAG = "mlflow.parentRunId"
SEARCH_TAG = "reidsearch.search"
TRIAL_TAG = "reidsearch.trial"
# The trial tag of a search's own run.
NO_TRIAL = "-"
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0


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
        """Waits until the trial has its run, for a while; says whether it has."""
        return self._runs[trial].wait(seconds)

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
                self._client.log_artifact(
                    self.run_of[event.trial], str(self._folder.trial(event.trial) / "config.json")
                )
            case TrialReported():
                self._log_epoch(event)
            case TrialCompleted():
                self._terminate(self.run_of[event.trial], "FINISHED", moment)
            case TrialFailed():
                run = self.run_of[event.trial]
                self._client.set_tag(run, "failure", event.failure)
                self._client.set_tag(run, "reason", event.reason[:5000])
                self._terminate(run, "FAILED", moment)
            case SessionEnded():
                status = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}[event.state]
                self._terminate(self._ensure_parent(moment), status, moment)
            case _:
                pass

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

            logging.getLogger("mlflow").setLevel(logging.WARNING)
            client = MlflowClient(tracking_uri=self._uri)
            found = client.get_experiment_by_name(EXPERIMENT)
            if found is None:
                location = self._artifacts.absolute().as_uri() if self._uri.startswith("sqlite:") else None
                experiment = client.create_experiment(EXPERIMENT, artifact_location=location)
            else:
                experiment = found.experiment_id
            self._connection = client, experiment
        return self._connection

    def _ensure_parent(self, moment: float) -> str:
        if self._parent is None:
            self._parent = self._find({SEARCH_TAG: self._uid, TRIAL_TAG: NO_TRIAL}) or self._create(
                self._folder.name, {SEARCH_TAG: self._uid, TRIAL_TAG: NO_TRIAL}, moment
            )
            self._client.log_artifact(self._parent, str(self._folder.description))
        return self._parent

    def _create_trial(self, event: TrialSuggested, moment: float) -> None:
        tags = {SEARCH_TAG: self._uid, TRIAL_TAG: event.trial}
        run = self._find(tags)
        if run is None:
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

    def _find(self, tags: Mapping[str, str]) -> str | None:
        condition = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        found = self._client.search_runs([self._experiment], condition, max_results=1)
        return found[0].info.run_id if found else None

    def _create(self, name: str, tags: Mapping[str, str], moment: float) -> str:
        run = self._client.create_run(
            self._experiment, start_time=round(moment * 1000), tags={**self._tags, **tags}, run_name=name
        )
        return str(run.info.run_id)

    def _terminate(self, run: str, status: str, moment: float) -> None:
        self._client.set_terminated(run, status, end_time=round(moment * 1000))
