"""A search in a bucket: the machine that drove it is lost with its disk, another one goes on."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from object_store import CREDENTIALS, Machines, object_store
from running import COMMAND
from several_nodes import several_nodes
from waiting import PATIENCE_S

from orchestrator.base.process import exclusive
from orchestrator.show.status import status_document
from orchestrator.stores import open_store
from orchestrator.stores.base import existing_search
from orchestrator.stores.object_store import forget_when
from orchestrator.stores.objects import objects_at
from orchestrator.study.events import TrialReported
from orchestrator.study.journal import read_journal
from orchestrator.summary import read_summary

NAME = "moved"
EPOCHS = 12


@contextmanager
def begun(log: Path, uri: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """The command in a process of its own, which ends with the block."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*COMMAND, *arguments, "--storage", uri], stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def status(uri: str) -> dict[str, Any]:
    forget_when()
    return status_document(read_summary(existing_search(open_store(uri), NAME)))


def sent_results(uri: str, trial: str) -> list[str]:
    """Lines of the trial's results in the bucket."""
    folder = existing_search(open_store(uri), NAME)
    folder.store.pull_trial(folder, trial, "results.jsonl")
    return (folder.trial(trial) / "results.jsonl").read_text().splitlines()


def until(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert process.poll() is None, f"it ended:\n{log.read_text()}"
        assert time.monotonic() < end, f"it never came to that:\n{log.read_text()}"
        time.sleep(0.2)


def kill(process: subprocess.Popen[bytes], folder: Path) -> None:
    """The driver is gone without a word; the attempts that it has brought forth end by themselves."""
    process.send_signal(signal.SIGKILL)
    process.wait()
    for lock in folder.glob("trials/*/lock"):
        with exclusive(lock, 60):
            pass


@pytest.mark.e2e
@pytest.mark.long
def test_a_search_in_a_bucket_outlives_the_machine_that_drove_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    machines, log = Machines(tmp_path / "machines", monkeypatch), tmp_path / "log"
    with object_store() as store, ExitStack() as stack:
        uri = store.bucket()
        machines.become("first")
        arguments = ("--space", "smoke.yaml", "--name", NAME, "--set", f"optim.epochs={EPOCHS}", "--concurrent", "1")
        arguments = (*arguments, "--set", "stopping={rule: promote, first: 0.25}")
        process = stack.enter_context(begun(log, uri, "launch", *arguments, "--trials", "2"))
        until(lambda: (open_store(uri).path / NAME / "journal.jsonl").exists(), process, log)
        machines.become("looking")
        until(lambda: objects_at(uri).exists(f"{NAME}/trials/t0000/uploaded.json"), process, log)
        until(lambda: status(uri)["counts"]["paused"] >= 1, process, log)
        machines.become("first")
        kill(process, open_store(uri).path / NAME)
        shutil.rmtree(tmp_path / "machines/first")
        machines.become("looking")
        before = status(uri)
        assert before["state"] == "interrupted"
        known = epochs_of(uri)

        machines.become("second")
        process = stack.enter_context(begun(log, uri, "resume", NAME))
        assert process.wait(PATIENCE_S) == 0, log.read_text()
        machines.become("looking")
        after = status(uri)
        assert after["state"] == "finished"
        assert (after["counts"]["completed"], after["counts"]["stopped"]) == (1, 2), "a third of three goes on"
        found = epochs_of(uri)
        assert known.items() <= found.items()
        for trial in after["trials"]:
            lines = sent_results(uri, trial["trial"])
            sent = {(trial["trial"], line["epoch"]): line["time"] for line in map(json.loads, lines)}
            assert len(sent) == (EPOCHS if trial["status"] == "completed" else EPOCHS // 4)
            left = objects_at(uri).listing(f"{NAME}/trials/{trial['trial']}")
            assert any("last.pt" in each.path for each in left) == (trial["status"] == "completed"), "it is dropped"
            first = (trial["trial"], 1)
            assert first not in known or known[first] == sent[first], "no trial begins anew"


@pytest.mark.e2e
@pytest.mark.long
def test_a_trial_goes_on_from_the_bucket_on_a_node_that_shares_nothing_with_the_lost_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "120")  # machines are busy where tests run
    machines, log = Machines(tmp_path / "machines", monkeypatch), tmp_path / "log"
    with object_store() as store, several_nodes(tmp_path) as nodes, ExitStack() as stack:
        uri = store.bucket()
        first = nodes.add(env_vars={"XDG_CACHE_HOME": str(tmp_path / "machines/node-1")})
        machines.become("driver")
        for name in ("RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
            monkeypatch.setenv(name, nodes.environment[name])
        arguments = ("--space", "smoke.yaml", "--name", NAME, "--set", f"optim.epochs={EPOCHS}", "--trials", "1")
        arguments = (*arguments, "--set", "stopping={rule: promote, first: 0.25}")
        process = stack.enter_context(begun(log, uri, "launch", *arguments, "--address", nodes.address))
        machines.become("looking")
        note = f"{NAME}/trials/t0000/uploaded.json"
        until(lambda: objects_at(uri).exists(note) and status(uri)["trials"][0]["epoch"] >= 3, process, log)
        nodes.remove(first)
        nodes.add(env_vars={"XDG_CACHE_HOME": str(tmp_path / "machines/node-2")})
        known = epochs_of(uri)
        assert process.wait(PATIENCE_S) == 0, log.read_text()
        assert status(uri)["counts"]["completed"] == 1
        lines = sent_results(uri, "t0000")
        sent = {("t0000", line["epoch"]): line["time"] for line in map(json.loads, lines)}
        assert len(sent) == EPOCHS
        assert known["t0000", 1] == sent["t0000", 1], "it does not begin anew"
        where = {path.relative_to(tmp_path / "machines").parts[0] for path in tmp_path.rglob("checkpoint/last.pt")}
        assert where == {"node-1", "node-2"}


def epochs_of(uri: str) -> dict[tuple[str, int], float]:
    """When each epoch of each trial was trained, as the journal in the bucket says."""
    forget_when()
    events = [record.event for record in read_journal(existing_search(open_store(uri), NAME).journal)]
    reported = [event for event in events if isinstance(event, TrialReported)]
    keys = [(event.trial, event.result.epoch) for event in reported]
    assert len(keys) == len(set(keys)), "no epoch is told twice"
    return {(event.trial, event.result.epoch): event.result.time for event in reported}
