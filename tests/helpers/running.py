"""The real command in a process of its own, for end-to-end tests."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
from waiting import PATIENCE_S, wait_until

from orchestrator.cluster.names import PROCESS_PREFIX
from orchestrator.stores.local import LocalStore
from trainer.files import write_atomically

COMMAND = [sys.executable, "-m", "orchestrator"]


def is_attempt_server(process: psutil.Process) -> bool:
    """Whether the process forks attempts."""
    # Where titles can be set its arguments are one string, which may have lost its end.
    return "trainer.child orchestrator.runner.attempt_serv" in " ".join(process.cmdline())


def is_attempt(process: psutil.Process) -> bool:
    """Whether it is a fork that trains a trial, whose title tells which; the loader's workers below it have the same.

    Raises:
        psutil.Error: it has ended.
    """
    command, parent = process.cmdline(), process.parent()
    is_named = bool(command) and command[0].startswith(PROCESS_PREFIX)
    return is_named and parent is not None and is_attempt_server(parent)


class Search:
    """A search driven by the real command."""

    def __init__(self, storage: Path, name: str) -> None:
        self.storage = storage
        self.name = name
        self.folder = storage / name
        self.process: subprocess.Popen[str] | None = None
        self.log = storage / f"{name}.log"
        self.family: set[psutil.Process] = set()
        self.environment: dict[str, str] | None = None
        """Of the command; ours where None."""
        self.command = COMMAND

    def start(self, *arguments: str) -> None:
        """Starts `reidsearch ARGUMENTS --storage STORAGE` in a process group of its own."""
        self.storage.mkdir(parents=True, exist_ok=True)
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [*self.command, *arguments, "--storage", str(self.storage)],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                text=True,
                env=self.environment,
            )

    def launch(self, *arguments: str, space: str = "smoke.yaml") -> None:
        self.start("launch", "--space", space, "--name", self.name, *arguments)

    def resume(self) -> None:
        self.start("resume", self.name)

    def wait(self) -> int:
        """Exit code, once the process ends by itself."""
        assert self.process is not None
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still running:\n{self.log.read_text()}") from None

    def kill(self) -> None:
        """SIGKILL to the driver alone: what is left must end by itself."""
        assert self.process is not None
        self.remember_family()
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        assert self.survivors() == []

    def remember_family(self) -> None:
        """Notes the processes of ours that the driver has brought forth: those that train and that propose.

        Ray's own agents are left out; they may outlive a killed driver by minutes.
        """
        assert self.process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.process.pid).children(recursive=True):
                proposes = process.cmdline()[-1:] == ["orchestrator.algorithms.ax_worker"]
                if proposes or is_attempt_server(process) or is_attempt(process):
                    self.family.add(process)

    def survivors(self) -> list[psutil.Process]:
        """Those of them that do not end."""
        _, alive = psutil.wait_procs(self.family, timeout=PATIENCE_S)
        return alive

    def until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Waits until the status of the running search fulfils the condition."""
        document: dict[str, Any] = {}

        def holds() -> bool:
            nonlocal document
            assert self.process is not None
            assert self.process.poll() is None, f"it ended:\n{self.log.read_text()}"
            if not (self.folder / "journal.jsonl").exists():
                return False
            document = self.status()
            return condition(document)

        wait_until(holds, lambda: f"it never came to that:\n{self.log.read_text()}", pause=0.1)
        self.remember_family()
        return document

    def status(self) -> dict[str, Any]:
        """What `status --json` would print, read by the same function."""
        from orchestrator.show.status import status_document
        from orchestrator.stores.base import existing_search
        from orchestrator.summary import read_summary

        return status_document(read_summary(existing_search(LocalStore(self.storage), self.name)))


class Gates:
    """Trials of a search that is yet to be launched which can be held after an epoch (`evidence/sitecustomize.py`)."""

    def __init__(self, search: Search, trials: Sequence[str]) -> None:
        self._folder = search.storage / f"{search.name}.gates"
        self._folder.mkdir(parents=True)
        self._trials = trials
        evidence = str(Path(__file__).with_name("evidence"))
        search.environment = {**os.environ, "PYTHONPATH": evidence, "GATES": str(self._folder)}

    def hold_after(self, epoch: int) -> None:
        """Lets each go on to the end of the epoch and no further, unless it is told to stop."""
        for trial in self._trials:
            write_atomically(self._folder / trial, str(epoch))

    def open(self) -> None:
        """Lets all go on."""
        for trial in self._trials:
            (self._folder / trial).unlink()


def command(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`reidsearch ARGUMENTS`, finished."""
    environment = {name: value for name, value in os.environ.items() if name != "FORCE_COLOR"}
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        cwd=cwd,
        env=environment,
        check=False,
    )


@contextlib.contextmanager
def served(*words: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address that `reidsearch WORDS` says and its process, which ends with the block."""
    command, environment = [*COMMAND, *words, "--port", "0"], {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process
        finally:
            process.terminate()


def mlflow_runs(storage: Path) -> dict[str, list[Any]]:
    """MLflow's runs by trial; the search's own run is called "-"."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{storage / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("reidsearch")
    assert experiment is not None
    runs: dict[str, list[Any]] = {}
    for run in client.search_runs([experiment.experiment_id], max_results=1000):
        runs.setdefault(run.data.tags["reidsearch.trial"], []).append(run)
    return runs


def metric_points(storage: Path, run_id: str, metric: str) -> list[tuple[int, float, int]]:
    """All points (step, value, timestamp) of a metric, in the order of their steps."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{storage / 'mlflow.db'}")
    points = client.get_metric_history(run_id, metric)
    return sorted((point.step, point.value, point.timestamp) for point in points)


def results_of(folder: Path, trial: str) -> list[dict[str, Any]]:
    """The lines of a trial's own results file."""
    text = (folder / "trials" / trial / "results.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]
