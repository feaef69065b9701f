"""A search that goes on while its MLflow is out of reach, and what it then finds there."""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from events import reported, started, suggested
from proxy import Mode, Proxy
from waiting import PATIENCE_S

from orchestrator.stores.local import local_search
from orchestrator.study.events import Event, SearchCreated, SessionEnded, SessionStarted, TrialCompleted
from orchestrator.study.journal import Journal
from orchestrator.study.recorder import Recorder
from orchestrator.tracking.tracker import Tracker

# `OUTAGE_S=60 pytest ...` for the long version.
OUTAGE_S = float(os.environ.get("OUTAGE_S", "4"))
EPOCHS = 4
# A fast search: each trial is suggested, started, reports its epochs and completes at such a rate.
EVENTS_PER_S = 20.0
EPOCH_S = (EPOCHS + 3) / EPOCHS / EVENTS_PER_S


class Course(NamedTuple):
    """What was noted while a search went through an outage."""

    recording: list[float]
    """Seconds that recording each event took."""
    waiting: list[float]
    """Seconds that each trial waited for its run."""
    draining: float
    """Seconds from the return of MLflow until it had everything."""
    unsent: int
    trials: int

    def __str__(self) -> str:
        return (
            f"{len(self.recording)} events of {self.trials} trials, recorded in "
            f"{1000 * statistics.median(self.recording):.1f} ms (p95 {1000 * self.slow_recording:.1f}, worst "
            f"{1000 * max(self.recording):.1f}); trials waited {sum(self.waiting):.1f} s in all; "
            f"drained in {self.draining:.1f} s"
        )

    @property
    def slow_recording(self) -> float:
        """95th percentile of the time to record an event."""
        return statistics.quantiles(self.recording, n=20)[-1]


class Journey:
    """A search of many short trials, recorded as a driver does it, with no driver's work in between."""

    def __init__(self, folder: Path, uri: str, uid: str) -> None:
        self.folder = local_search(folder)
        folder.mkdir()
        self.folder.description.write_text("search: s\n")
        self._recorder = Recorder(Journal(self.folder.journal))
        self._tracker = Tracker(
            uri, self.folder, uid=uid, artifacts=folder / "artifacts", tags={}, on_run=lambda trial, run: None
        )
        self._recorder.subscribe(self._tracker.put)
        self._tracker.start()
        self._recording: list[float] = []
        self._waiting: list[float] = []

    def through(self, proxy: Proxy, mode: Mode) -> Course:
        """One trial before the outage, as many as fit into it, one after it."""
        self._record(SearchCreated(search="s", space="0", seed=0))
        self._record(SessionStarted(session=1, host="h", pid=1))
        self._trial(0)
        proxy.become(mode)
        end, trials = time.monotonic() + OUTAGE_S, 1
        while time.monotonic() < end:
            self._trial(trials)
            trials += 1
        proxy.become("pass")
        back = time.monotonic()
        self._trial(trials)
        self._record(SessionEnded(state="finished", reason=""))
        unsent = self._tracker.close(PATIENCE_S)
        return Course(self._recording, self._waiting, time.monotonic() - back, unsent, trials + 1)

    def _record(self, event: Event) -> None:
        began = time.monotonic()
        self._recorder.record(event)
        self._recording.append(time.monotonic() - began)

    def _trial(self, index: int) -> None:
        key = f"t{index:04d}"
        self.folder.trial(key).mkdir(parents=True)
        (self.folder.trial(key) / "config.json").write_text("{}")
        self._record(suggested(index))
        began = time.monotonic()
        self._tracker.wait_for_run(key, 20)
        self._waiting.append(time.monotonic() - began)
        self._record(started(index))
        for epoch in range(1, EPOCHS + 1):
            time.sleep(EPOCH_S)
            self._record(reported(index, epoch, epoch / 10))
        self._record(TrialCompleted(trial=key))


def check_all_there_once(uri: str, uid: str, course: Course) -> None:
    """MLflow has each run, each parameter and each point of the search exactly once."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("reidsearch")
    assert experiment is not None
    runs: dict[str, list[Any]] = {}
    for run in client.search_runs([experiment.experiment_id], f"tags.`reidsearch.search` = '{uid}'", max_results=1000):
        runs.setdefault(run.data.tags["reidsearch.trial"], []).append(run)
    assert {trial: len(found) for trial, found in runs.items()} == {
        "-": 1,
        **{f"t{index:04d}": 1 for index in range(course.trials)},
    }
    for (run,) in runs.values():
        assert run.info.status == "FINISHED"
        if run.data.tags["reidsearch.trial"] == "-":
            continue
        points = client.get_metric_history(run.info.run_id, "mAP")
        assert sorted((point.step, point.value) for point in points) == [(e, e / 10) for e in range(1, EPOCHS + 1)]
        assert run.data.params == {"a": "0.5"}
        assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["config.json"]


def free_port() -> int:
    """A port on the loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@contextmanager
def mlflow_server(folder: Path, store: str, *more: str) -> Iterator[int]:
    """The port of an MLflow server of our own on the loopback, with `more` options."""
    port = free_port()
    options = ["--backend-store-uri", store, "--artifacts-destination", str(folder / "artifacts"), "--workers", "1"]
    options += more
    with (folder / "server.log").open("ab") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), *options],
            stdout=log,
            stderr=log,
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )
    try:
        _await_health(server, port, folder / "server.log")
        yield port
    finally:
        server.terminate()
        server.wait(30)


def _await_health(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"MLflow's server did not start:\n{log.read_text()}")
