"""Events per second that MLflow takes: a journal sent into an SQLite database, and over HTTP into a server on one.

    python -m benchmarks.bench_tracking

Each run is a search of its own whose trials report all figures that a trial has, and is sent as after an outage:
everything is there when the sending begins. Then the same journal is sent again, as a resumed session does. Medians;
processor time is that of the sender and of the server. Calls are those of MLflow's client in a first sending; the ones
that it makes of itself are part of the time of the call that made them.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from benchmarks.measuring import LEAST_RUNS, say
from orchestrator.stores.base import SearchFolder
from orchestrator.stores.local import local_search
from orchestrator.study.events import (
    Event,
    SearchCreated,
    SessionEnded,
    SessionStarted,
    TrialCompleted,
    TrialReported,
    TrialStarted,
    TrialSuggested,
)
from orchestrator.study.journal import Record
from orchestrator.tracking.content import About, Artifact, Content
from orchestrator.tracking.tracker import Tracker
from trainer.result import EpochResult, Evaluation

PARAMS = 14  # of the largest spaces that are shipped
BEGAN = 1.8e9
START_S = 120.0
DRAIN_S = 600.0
CALLS = (
    *("create_run", "log_batch", "log_artifact", "update_run", "set_terminated", "set_tag", "search_runs"),
    *("get_run", "delete_run", "get_experiment_by_name", "log_inputs"),
)


class Sending(NamedTuple):
    """One journal on its way."""

    wall_s: float
    cpu_s: float
    server_cpu_s: float


def main() -> None:
    """Prints two JSON lines for each place."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--runs", type=int, default=LEAST_RUNS)
    parser.add_argument("--about", action="store_true", help="with data sets, evaluations and the session's table")
    parser.add_argument("--places", nargs="+", choices=("sqlite", "server"), default=("sqlite", "server"))
    arguments = parser.parse_args()
    events = _search(arguments.trials, arguments.epochs)
    with tempfile.TemporaryDirectory() as name:
        if "sqlite" in arguments.places:
            _measure("sqlite", Path(name), f"sqlite:///{name}/sqlite.db", None, events, arguments)
        if "server" in arguments.places:
            with _server(Path(name)) as (uri, server):
                _measure("server", Path(name), uri, server, events, arguments)


def _measure(
    place: str,
    parent: Path,
    uri: str,
    server: psutil.Process | None,
    events: list[Event],
    arguments: argparse.Namespace,
) -> None:
    calls = Calls()
    told = About("mars", "f" * 64, False, (), lambda moment: Content([Artifact("trials.json", "{}")]))
    about = told if arguments.about else None
    first: list[Sending] = []
    again: list[Sending] = []
    # The first run imports MLflow and makes the database; it is not counted.
    for number in range(arguments.runs + 1):
        folder = _folder(parent / f"{place}-{number}", arguments.trials, evaluated=arguments.about)
        with calls.counted() if number else calls.untouched():
            first.append(_send(events, folder, uri, server, about))
        again.append(_send(events, folder, uri, server, about))
    for name, sendings in (("first", first[1:]), ("again", again[1:])):
        medians = Sending(*(statistics.median(column) for column in zip(*sendings, strict=True)))
        say(
            place=place,
            sending=name,
            events=len(events),
            runs=arguments.runs,
            events_per_s=round(len(events) / medians.wall_s, 1),
            **{key: round(value, 3) for key, value in medians._asdict().items()},
            **({"calls": calls.summary(arguments.runs)} if name == "first" else {}),
        )


class Calls:
    """How often MLflow's client is called, and for how long."""

    def __init__(self) -> None:
        self._seconds: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Counts what is called meanwhile."""
        from mlflow import MlflowClient

        originals = {name: getattr(MlflowClient, name) for name in CALLS}
        for name, original in originals.items():
            setattr(MlflowClient, name, self._timed(name, original))
        try:
            yield
        finally:
            for name, original in originals.items():
                setattr(MlflowClient, name, original)

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """Counts nothing."""
        yield

    def summary(self, runs: int) -> dict[str, dict[str, float]]:
        """Calls in a run and the median of their milliseconds, by name."""
        return {
            name: {"calls": len(taken) / runs, "ms": round(1000 * statistics.median(taken), 1)}
            for name, taken in sorted(self._seconds.items())
        }

    def _timed(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*positional: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return original(*positional, **named)
            finally:
                self._seconds[name].append(time.perf_counter() - began)

        return timed


def _send(
    events: list[Event], folder: SearchFolder, uri: str, server: psutil.Process | None, about: About | None
) -> Sending:
    tracker = Tracker(
        uri,
        folder,
        uid=folder.name,
        artifacts=folder.path.parent / "artifacts",
        tags={"search": "s", "space": "attn_cl", "synthetic": "true"},
        on_run=lambda trial, run: None,
        about=about,
    )
    for number, event in enumerate(events, 1):
        tracker.put(Record(number, BEGAN + number, event))
    wall, cpu, server_cpu = time.perf_counter(), time.process_time(), _cpu_of(server)
    tracker.start()
    unsent = tracker.close(DRAIN_S)
    sending = Sending(time.perf_counter() - wall, time.process_time() - cpu, _cpu_of(server) - server_cpu)
    if unsent:
        raise RuntimeError(f"MLflow has not got {unsent} events: {tracker.problem}")
    return sending


def _search(trials: int, epochs: int) -> list[Event]:
    events: list[Event] = [
        SearchCreated(search="s", space="0", seed=0),
        SessionStarted(session=1, host="h", pid=1),
    ]
    for index in range(trials):
        key = f"t{index:04d}"
        params = {f"group.parameter{number}": index + number / 10 for number in range(PARAMS)}
        events += [
            TrialSuggested(trial=key, index=index, params=params, source="sobol", seed=0, epochs=epochs),
            TrialStarted(trial=key, attempt=1),
            *(TrialReported(trial=key, result=_result(epoch)) for epoch in range(1, epochs + 1)),
            TrialCompleted(trial=key),
        ]
    return [*events, SessionEnded(state="finished", reason="")]


def _result(epoch: int) -> EpochResult:
    figures = {name: epoch / 100 for name in ("mAP", "mINP", "rank1", "rank5", "rank10", "rank20")}
    return EpochResult(
        epoch=epoch,
        losses={name: 1.0 / epoch for name in ("total", "identity", "triplet", "center", "osm", "attention")},
        learning_rate=1e-3,
        validation=Evaluation(
            **figures, mAP_standard_error=0.03, attention_entropy=0.5, protocol="mars", queries=10, dropped_queries=0
        ),
        images_per_second=100.0,
        data_wait_share=0.1,
        seconds=1.0,
        time=BEGAN + epoch,
    )


def _folder(path: Path, trials: int, *, evaluated: bool) -> SearchFolder:
    folder = local_search(path)
    path.mkdir()
    folder.split.write_text("{}")
    for index in range(trials):
        key = f"t{index:04d}"
        folder.trial(key).mkdir(parents=True)
        (folder.trial(key) / "config.json").write_text("{}")
        if evaluated:
            _write_evaluation(folder.trial(key) / "evaluation")
    folder.description.write_text("search: s\n")
    return folder


def _write_evaluation(out: Path) -> None:
    """As large as that of a trial on real data: curves at 50 ranks, three charts."""
    out.mkdir()
    curve = [rank / 50 for rank in range(1, 51)]
    (out / "evaluation.json").write_text(json.dumps({"cmc": {"embeddings": curve, "re-ranked": curve}}))
    for name in ("cmc", "distances", "cameras"):
        (out / f"{name}.png").write_bytes(bytes(55_000))


def _cpu_of(server: psutil.Process | None) -> float:
    """Processor seconds of the server and of its workers so far."""
    if server is None:
        return 0.0
    times = [process.cpu_times() for process in (server, *server.children(recursive=True))]
    return sum(taken.user + taken.system for taken in times)


@contextmanager
def _server(folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """An MLflow server of our own on the loopback."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = int(found.getsockname()[1])
    uri = f"http://127.0.0.1:{port}"
    options = ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", f"{folder}/kept"]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1", *options],
            stdout=log,
            stderr=log,
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )
    try:
        _await_health(uri, process)
        yield uri, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(30)


def _await_health(uri: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{uri}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError("MLflow's server did not start")


if __name__ == "__main__":
    main()
