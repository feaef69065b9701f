"""The lease: one live writer, dead ones recognised."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from running import command

from orchestrator.base.errors import LeaseError
from orchestrator.study.lease import STALE_AFTER_S, Lease, current_holder

HOLD = """
import sys, time
from pathlib import Path
from orchestrator.base.errors import LeaseError
from orchestrator.study.lease import Lease
try:
    with Lease(Path(sys.argv[1])):
        print("won", flush=True)
        time.sleep(60)
except LeaseError:
    print("lost", flush=True)
"""

# Twenty processes that do the same at the same moment: forks of one that has everything imported.
AT_ONCE = """
import os, sys, time
from pathlib import Path
from orchestrator.runner.launch import create_search
from orchestrator.study.description import Options
from orchestrator.base.errors import OrchestratorError
from orchestrator.stores.base import search_folder
from orchestrator.stores.local import LocalStore
from orchestrator.study.lease import Lease
from orchestrator.runner.prepare_space import prepare_space
what, storage, data = sys.argv[1], LocalStore(Path(sys.argv[2])), sys.argv[3]
space = prepare_space("smoke.yaml", data=data, overrides=(), storage=storage, dry_run=False)
create = lambda: create_search(space, storage=storage, name="one", seed=0, options=Options())
if what == "lease":
    create()
start, starter = os.pipe()
finish, finisher = os.pipe()
answered, answer = os.pipe()
def say(words):
    os.write(1, words.encode() + b"\\n")
    os.write(answer, b".")
for number in range(20):
    if os.fork() == 0:
        os.close(starter), os.close(finisher)
        os.read(start, 1)
        try:
            with Lease((search_folder(storage, "one") if what == "lease" else create()).lease):
                say("won")
                os.read(finish, 1)
        except OrchestratorError as error:
            say(str(error))
        os._exit(0)
time.sleep(0.2)
os.close(starter)
# The winner lets go only when all have had their turn, however slow the machine.
answers = b""
while len(answers) < 20:
    answers += os.read(answered, 20)
os.close(finisher)
for number in range(20):
    os.wait()
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


def test_a_lease_that_was_taken_over_is_neither_kept_alive_nor_removed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.study.lease.HEARTBEAT_S", 0.01)
    other = json.dumps({"host": "elsewhere", "boot": "x", "pid": 1, "started": 1})
    with Lease(path):
        path.write_text(other)
        os.utime(path, (1e9, 1e9))
        time.sleep(0.1)
        assert path.stat().st_mtime == 1e9
    assert path.read_text() == other


@pytest.mark.parametrize("what", ["lease", "launch"])
def test_of_twenty_processes_that_want_the_same_search_exactly_one_wins(
    tmp_path: Path, mini_mars: Path, what: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", AT_ONCE, what, str(tmp_path), str(mini_mars)],
        capture_output=True,
        text=True,
        check=True,
    )
    answers = done.stdout.splitlines()
    refused = {"lease": "already driven by process", "launch": "create"}[what]
    assert len(answers) == 20
    assert answers.count("won") == 1
    assert sum(refused in answer for answer in answers) == 19, answers
    assert [path.name for path in tmp_path.glob("*/journal.jsonl")]


@pytest.mark.e2e
@pytest.mark.long
def test_of_twenty_launches_of_one_name_exactly_one_runs(tmp_path: Path) -> None:
    arguments = ("launch", "--space", "smoke.yaml", "--name", "one", "--trials", "1", "--storage", str(tmp_path))
    with ThreadPoolExecutor(20) as pool:
        ended = list(pool.map(lambda number: command(*arguments), range(20)))
    assert sorted(done.returncode for done in ended) == [0] + [3] * 19, [done.stderr for done in ended]
    assert all("search" in done.stderr and "Traceback" not in done.stderr for done in ended if done.returncode == 3)
    document = json.loads(command("status", "one", "--storage", str(tmp_path), "--json").stdout)
    assert (document["state"], document["counts"]["completed"]) == ("finished", 1)
    assert not list(tmp_path.glob(".one.*")), "a draft was left behind"
