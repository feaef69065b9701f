"""Searches handed to a cluster as jobs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from running import COMMAND, Search
from several_nodes import several_nodes

from orchestrator.__main__ import run
from orchestrator.cli.declared import command, command_arguments
from orchestrator.cli.launch import NOT_PASSED_ON
from orchestrator.cli.options import LaunchOptions
from orchestrator.cluster import submit as submission
from orchestrator.cluster.submit import SHIPPED, SPACE_FILE, shipment


def test_a_command_reads_its_own_options_again() -> None:
    found: list[LaunchOptions] = []
    read = command(example="")(_noted(found))
    words = ["--space", "smoke.yaml", "--seed", "3", "--concurrent=2", "--set", "a=1", "--set", "b=-1", "--strict"]
    words += ["--gpus-per-trial", "0.5", "--memory-per-trial", "2 GiB", "--hang-after", "1234567.5"]
    read.main(words, standalone_mode=False)
    read.main(command_arguments(found[0]), standalone_mode=False)
    assert found[0] == found[1]
    assert (found[0].seed, found[0].overrides, found[0].hang_after) == (3, ("a=1", "b=-1"), 1234567.5)
    assert command_arguments(found[0], without=NOT_PASSED_ON) == [
        *("--seed", "3", "--hang-after", "1234567.5", "--strict", "--concurrent", "2", "--gpus-per-trial", "0.5"),
        *("--memory-per-trial", "2 GiB"),
    ]


def _noted(found: list[LaunchOptions]) -> Callable[[LaunchOptions], int]:
    def note(given: LaunchOptions) -> int:
        found.append(given)
        return 0

    return note


def test_a_shipment_is_the_code_that_runs_here_and_the_space() -> None:
    with shipment("name: x\n") as folder:
        assert {entry.name for entry in folder.iterdir()} == {*SHIPPED, SPACE_FILE}
        assert not list(folder.rglob("__pycache__"))
        code = "import orchestrator, trainer; print(orchestrator.__file__, trainer.__file__)"
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
        assert done.stdout.count(str(folder)) == 2
    assert not folder.exists()


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What would have been handed over."""
    found: dict[str, Any] = {}

    def submit(dashboard: str, name: str, arguments: list[str], **others: Any) -> submission.Job:
        found.update(dashboard=dashboard, name=name, arguments=arguments, **others)
        return submission.Job(f"{name}-abc", None)

    monkeypatch.setattr(submission, "submit", submit)
    return found


def test_launch_hands_over_the_checked_space_with_its_overrides(submitted: dict[str, Any], tmp_path: Path) -> None:
    words = ["--space", "smoke.yaml", "--name", "far", "--set", "optim.epochs=7", "--trials", "2"]
    assert run(["launch", *words, "--storage", str(tmp_path), "--submit", "http://head:8265"]) == 0
    assert submitted["arguments"] == [
        *("launch", "--space", SPACE_FILE, "--name", "far", "--storage", str(tmp_path), "--trials", "2")
    ]
    assert "epochs: 7" in submitted["space"]
    assert submitted["metadata"]["search"] == "far"
    assert not list(tmp_path.iterdir())


def test_a_space_that_is_wrong_is_not_handed_over(submitted: dict[str, Any], tmp_path: Path) -> None:
    words = ["--space", "smoke.yaml", "--set", "optim.epoch=7", "--storage", str(tmp_path)]
    assert run(["launch", *words, "--submit", "http://head:8265"]) == 3
    assert not submitted


@pytest.mark.parametrize(
    "words",
    [
        ["launch", "--space", "smoke.yaml", "--submit", "http://head:8265"],
        ["resume", "far", "--storage", "runs", "--submit", "http://head:8265"],
        ["launch", "--space", "smoke.yaml", "--follow"],
        ["launch", "--space", "smoke.yaml", "--storage", "/r", "--data", "mars", "--submit", "http://head:8265"],
        ["launch", "--space", "smoke.yaml", "--storage", "/r", "--dry-run", "--submit", "http://head:8265"],
        [
            *("launch", "--space", "smoke.yaml", "--storage", "/r", "--submit", "http://head:8265"),
            *("--tracking-uri", "postgresql://user:secret@db/mlflow"),
        ],
    ],
)
def test_what_the_cluster_could_not_find_is_a_usage_error(words: list[str], submitted: dict[str, Any]) -> None:
    assert run(words) == click.UsageError.exit_code
    assert not submitted


@pytest.mark.e2e
@pytest.mark.long
def test_a_search_runs_as_a_job_whose_code_travels_with_it(tmp_path: Path) -> None:
    search = Search(tmp_path / "runs", "job")
    # One node: of two on one machine the second unpacks the shipped code anew where the driver is running from.
    with several_nodes(tmp_path, dashboard=True, head_cpus=2) as nodes:
        search.environment = nodes.environment
        url = f"http://{nodes.dashboard}"
        words = [*COMMAND, "cluster", "plan", "smoke.yaml", "--address", url, "--json"]
        plan = json.loads(subprocess.run(words, env=nodes.environment, capture_output=True, check=True).stdout)
        search.launch("--submit", url, "--follow", "--trials", "2")
        assert search.wait() == os.EX_OK, search.log.read_text()
        token = (tmp_path / "token").read_text()
        request = urllib.request.Request(f"{url}/api/jobs/", headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request) as reply:
            jobs = [job for job in json.load(reply) if job["type"] == "SUBMISSION"]
    assert [node["cpus"] for node in plan["nodes"]] == [2]
    assert plan["most"] == 2
    text = search.log.read_text()
    assert token not in text
    assert "trial=t0001 completed" in text
    assert [trial["status"] for trial in search.status()["trials"]] == ["completed"] * 2
    (job,) = jobs
    assert job["status"] == "SUCCEEDED"
    assert job["metadata"]["search"] == "job"
    assert token not in json.dumps(jobs)
