"""How a cluster is shared out among trials."""

from __future__ import annotations

import signal
import subprocess

import pytest

from orchestrator.cluster import connection
from orchestrator.cluster.connection import share_out
from orchestrator.errors import EnvironmentProblem


def shared(resources: dict[str, float], concurrent: int | None = None, gpus: float | None = None, trials: int = 100):
    return share_out(resources, concurrent=concurrent, gpus_per_trial=gpus, trials=trials)[:3]


@pytest.mark.parametrize(
    ("resources", "settings", "expected"),
    [
        ({"CPU": 2.0}, {}, (2, 1, 0)),
        ({"CPU": 16.0}, {"concurrent": 4}, (4, 4, 0)),
        ({"CPU": 2.0}, {"concurrent": 8}, (2, 1, 0)),
        ({"CPU": 8.0}, {"trials": 3}, (3, 2, 0)),
        ({"CPU": 16.0, "GPU": 2.0}, {}, (2, 8, 1.0)),
        ({"CPU": 16.0, "GPU": 2.0}, {"gpus": 0.5}, (4, 4, 0.5)),
        ({"CPU": 16.0, "GPU": 4.0}, {"gpus": 2}, (2, 8, 2)),
        ({"CPU": 16.0, "GPU": 4.0}, {"gpus": 0.3}, (12, 1, 0.3)),
        ({"CPU": 16.0, "GPU": 4.0}, {"concurrent": 3}, (3, 5, 1.0)),
        ({"CPU": 16.0, "GPU": 4.0}, {"gpus": 0}, (16, 1, 0)),
    ],
)
def test_a_trial_gets_a_gpu_where_there_is_one_and_its_share_of_the_cores(resources, settings, expected) -> None:
    assert shared(resources, **settings) == expected


def test_gpus_that_are_not_there_are_an_environment_problem() -> None:
    with pytest.raises(EnvironmentProblem, match="--gpus-per-trial 1: the cluster has 0 GPUs"):
        shared({"CPU": 2.0}, gpus=1)


def test_training_on_cores_is_said_in_one_line() -> None:
    reason = share_out({"CPU": 2.0}, concurrent=None, gpus_per_trial=None, trials=8).reason
    assert reason == "no GPU in the cluster: 2 at once, 1 of 2 CPU cores each"


def test_a_node_that_does_not_start_in_time_is_ended_and_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[subprocess.Popen[bytes]] = []
    bystander = subprocess.Popen(["sleep", "60"])

    def start(**settings: object) -> str:
        begun.append(subprocess.Popen(["sleep", "60"]))
        if len(begun) < connection.NODE_STARTS:
            raise Exception("The current node timed out during startup.")  # as Ray does
        return "started"

    monkeypatch.setattr(connection, "_ray", start)
    try:
        assert connection._started_here() == "started"
        assert [process.wait() for process in begun[:-1]] == [-signal.SIGKILL] * (connection.NODE_STARTS - 1)
        assert begun[-1].poll() is bystander.poll() is None
    finally:
        for process in (*begun, bystander):
            process.kill()
            process.wait()


def test_a_node_that_never_starts_is_an_environment_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(**settings: object) -> None:
        raise Exception("The current node timed out during startup.\nAnd more.")  # as Ray does

    monkeypatch.setattr(connection, "_ray", start)
    with pytest.raises(EnvironmentProblem, match="could not be reached on this machine: The current node timed out"):
        connection.connect(None)
