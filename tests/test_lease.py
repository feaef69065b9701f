"""The lease: one live writer, dead ones recognised."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.errors import LeaseError
from orchestrator.lease import STALE_AFTER_S, Lease, current_holder

HOLD = """
import sys, time
from pathlib import Path
from orchestrator.errors import LeaseError
from orchestrator.lease import Lease
try:
    with Lease(Path(sys.argv[1])):
        print("won", flush=True)
        time.sleep(60)
except LeaseError:
    print("lost", flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lease"


def test_a_held_lease_names_its_holder_and_is_free_again_afterwards(path: Path) -> None:
    with Lease(path):
        holder = current_holder(path)
        assert holder is not None
        assert holder.pid == os.getpid()
        with pytest.raises(LeaseError, match=f"already driven by process {os.getpid()}"), Lease(path):
            pass
    assert current_holder(path) is None
    with Lease(path):
        pass


def test_the_lease_of_a_killed_process_is_taken_over_at_once(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "won\n"
        assert current_holder(path) is not None
        process.kill()
        process.wait()
        assert current_holder(path) is None
        with Lease(path):
            pass


def test_a_later_process_with_the_same_number_is_not_taken_for_the_holder(path: Path) -> None:
    with Lease(path):
        fields = json.loads(path.read_text())
    path.write_text(json.dumps({**fields, "started": fields["started"] - 1}))
    assert current_holder(path) is None


def test_a_holder_on_another_machine_counts_until_its_heartbeat_is_old(path: Path) -> None:
    path.write_text(json.dumps({"host": "elsewhere", "boot": "x", "pid": 1, "started": 1}))
    assert current_holder(path) is not None
    old = time.time() - STALE_AFTER_S - 1
    os.utime(path, (old, old))
    assert current_holder(path) is None


def test_a_lease_cut_short_counts_until_it_is_old(path: Path) -> None:
    path.write_text('{"host": "els')
    with pytest.raises(LeaseError, match="an unknown host"), Lease(path):
        pass


@pytest.mark.timeout(60)
def test_of_many_processes_that_want_the_lease_exactly_one_wins(path: Path) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True) for _ in range(12)
    ]
    try:
        answers = [process.stdout.readline().strip() for process in processes]  # type: ignore[union-attr]
        assert sorted(answers) == ["lost"] * 11 + ["won"]
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdout.close()  # type: ignore[union-attr]
