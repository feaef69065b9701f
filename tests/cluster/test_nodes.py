"""Searches on clusters of several nodes that come and go."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
from running import Gates, Search, metric_points, mlflow_runs, results_of
from several_nodes import several_nodes
from waiting import wait_until

pytestmark = pytest.mark.e2e

EPOCHS = 100
# Trials of some seconds, as many at once as the cluster holds.
SLOW = (
    *("--set", f"optim.epochs={EPOCHS}", "--set", "clips.frames=4", "--set", "model.height=64"),
    *("--set", "budget.concurrent=null", "--cpus-per-trial", "1"),
)
HEAD_LOST_WITHIN_S = 90


@pytest.mark.long
def test_trials_use_a_node_that_joins_and_go_on_elsewhere_when_one_is_lost(tmp_path: Path) -> None:
    search = Search(tmp_path / "runs", "nodes")
    with several_nodes(tmp_path) as nodes:
        search.environment = nodes.environment
        # Enough of them to go on until Ray has noticed the loss of a node.
        search.launch("--address", nodes.address, *SLOW, "--trials", "7")
        wait_until(lambda: "waiting for one" in search.log.read_text(), search.log.read_text)
        first = nodes.add()
        search.until(lambda document: any(trial["epoch"] > 2 for trial in document["trials"]))
        second = nodes.add()
        joined = time.monotonic()
        search.until(lambda _: bool(second.attempts()))
        print(f"an attempt runs on the new node after {time.monotonic() - joined:.1f} s")
        search.until(lambda document: sum(trial["status"] == "running" for trial in document["trials"]) == 2)
        assert len(first.attempts()) == len(second.attempts()) == 1
        nodes.remove(first)
        removed = time.monotonic()
        search.until(lambda document: any(trial["attempts"] > 1 for trial in document["trials"]))
        print(f"its trial goes on {time.monotonic() - removed:.1f} s after the other one was lost")
        assert search.wait() == os.EX_OK, search.log.read_text()
    log = search.log.read_text()
    assert "is lost; its trials go on elsewhere" in log
    assert "has joined: holds 1 trial at once" in log
    assert "state-dump" not in log
    document = search.status()
    assert [trial["status"] for trial in document["trials"]] == ["completed"] * 7
    retried = [trial for trial in document["trials"] if trial["attempts"] > 1]
    assert len(retried) == 1
    for trial in document["trials"]:
        epochs = [line["epoch"] for line in results_of(search.folder, trial["trial"])]
        assert epochs == list(range(1, EPOCHS + 1))
    # It went on from a checkpoint: no epoch is in its log twice except for the one that was under way.
    text = (search.folder / "trials" / retried[0]["trial"] / "log.txt").read_text()
    assert "attempt 2" in text
    runs = mlflow_runs(search.storage)
    assert {trial: len(found) for trial, found in runs.items()} == dict.fromkeys(runs, 1)
    assert len(metric_points(search.storage, runs["t0000"][0].info.run_id, "mAP")) == EPOCHS


@pytest.mark.long
def test_a_search_whose_head_is_lost_ends_resumable_and_goes_on_in_another_cluster(tmp_path: Path) -> None:
    search = Search(tmp_path / "runs", "headless")
    with several_nodes(tmp_path) as nodes:
        search.environment = nodes.environment
        nodes.add()
        search.launch("--address", nodes.address, *SLOW)
        search.until(lambda document: any(trial["epoch"] > 2 for trial in document["trials"]))
        nodes.remove(nodes.head)
        lost = time.monotonic()
        assert search.wait() == 75, search.log.read_text()
        assert time.monotonic() - lost < HEAD_LOST_WITHIN_S
        print(f"ended {time.monotonic() - lost:.1f} s after the head was killed")
    done = {trial["trial"]: trial["epoch"] for trial in search.status()["trials"]}
    with several_nodes(tmp_path) as nodes:
        search.environment = nodes.environment
        nodes.add()
        search.start("resume", search.name, "--address", nodes.address)
        assert search.wait() == os.EX_OK, search.log.read_text()
    document = search.status()
    assert [trial["status"] for trial in document["trials"]] == ["completed"] * 4
    assert max(done.values()) > 2
    for trial in document["trials"]:
        assert [line["epoch"] for line in results_of(search.folder, trial["trial"])] == list(range(1, EPOCHS + 1))


@pytest.mark.long
def test_trials_have_a_gpu_each_on_the_node_that_has_gpus_and_know_it_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials, names = [f"t{number:04d}" for number in range(3)], [f"MIG-{number}" for number in range(8)]
    search = Search(tmp_path / "runs", "gpus")
    gates = Gates(search, trials)
    assert search.environment is not None
    for name in ("PYTHONPATH", "GATES"):  # attempts have the environment of their node
        monkeypatch.setenv(name, search.environment[name])
    with several_nodes(tmp_path) as nodes:
        search.environment = nodes.environment
        nodes.add(num_cpus=8)
        node = nodes.add(num_cpus=8, num_gpus=8, env_vars={"CUDA_VISIBLE_DEVICES": ",".join(names)})
        gates.hold_after(0)
        count = str(len(trials))
        settings = ("--trials", count, "--concurrent", count, "--set", "replicates=0", "--set", "algorithm.name=random")
        search.launch("--address", nodes.address, *settings)
        search.until(lambda _: len(node.attempts()) == len(trials))
        gates.open()
        assert search.wait() == os.EX_OK, search.log.read_text()
    logs = [(search.folder / "trials" / trial / "log.txt").read_text() for trial in trials]
    seen = [re.search("attempt 1 on GPU (.*), 1 of it", log) for log in logs]
    assert len({found[1] for found in seen if found and found[1] in names}) == len(trials)
