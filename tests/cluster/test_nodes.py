"""Searches on clusters of several nodes that come and go."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from running import Search, metric_points, mlflow_runs, results_of
from several_nodes import several_nodes

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
        first = nodes.add()
        # Enough of them to go on until Ray has noticed the loss of a node.
        search.launch("--address", nodes.address, *SLOW, "--trials", "7")
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
