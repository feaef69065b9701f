"""Whole searches under kills at random moments; `make chaos` runs more of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT
from kills import KINDS, SLOW, processes_of
from running import Search
from waiting import wait_until

from orchestrator.study.events import SessionEnded, TrialReported
from orchestrator.study.journal import read_journal

# `make chaos` does thirty of them; in `make test` test_search.py kills its driver and a trial.
pytestmark = [pytest.mark.e2e, pytest.mark.long]


def test_five_kills_lose_no_epoch_repeat_no_epoch_and_leave_no_process(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tests/helpers/chaos.py"), "search", "--kills", "5", "--seed", "0"]
    with subprocess.Popen([*command, "--keep", str(tmp_path / "kept")], stdout=subprocess.PIPE, text=True) as chaos:
        try:
            output, _ = chaos.communicate()
        finally:
            # Ends its search as well.
            chaos.terminate()
    assert chaos.returncode == 0, output
    assert "5 kills" in output


# Ray's node ends with each of these: the driver leaves in good order. All others are replaced, or not missed.
END_THE_SESSION = {"raylet", "GCS", "dashboard agent", "agent of runtime environments"}


def test_whichever_process_is_killed_the_search_goes_on_or_ends_with_75_and_is_resumed(tmp_path: Path) -> None:
    search = Search(tmp_path, "one")
    search.launch("--trials", "1", "--concurrent", "1", *SLOW, "--set", "optim.epochs=5000")
    try:
        for kind in sorted(KINDS, key=lambda kind: (kind in END_THE_SESSION, kind)):
            kill(search, kind)
            if kind in END_THE_SESSION:
                assert search.wait() == 75, f"{kind}: {search.log.read_text()}"
                end = read_journal(search.folder / "journal.jsonl")[-1].event
                assert isinstance(end, SessionEnded) and end.state == "interrupted", kind
                search.resume()
            await_epoch(search, kind)
    finally:
        assert search.process is not None
        search.process.send_signal(signal.SIGINT)
        assert search.wait() == 130
    assert epochs(search) == list(range(1, len(epochs(search)) + 1)), "an epoch was lost, or counted twice"


def kill(search: Search, kind: str) -> None:
    """Kills the processes of a kind, once there are some, while the trial trains."""
    await_epoch(search, f"before {kind}")
    assert search.process is not None
    driver = search.process.pid
    wait_until(lambda: processes_of(driver, kind), lambda: f"no {kind}: {search.log.read_text()}")
    for process in processes_of(driver, kind):
        os.kill(process, signal.SIGKILL)


def await_epoch(search: Search, when: str) -> None:
    """Waits until one more epoch is reported; a driver that ends meanwhile is a failure."""
    before = len(epochs(search))

    def is_reported() -> bool:
        assert search.process is not None and search.process.poll() is None, f"{when}: {search.log.read_text()}"
        return len(epochs(search)) > before

    wait_until(is_reported, lambda: f"{when}: {search.log.read_text()}", pause=0.2)


def epochs(search: Search) -> list[int]:
    """The epochs of the trial, as the journal has them."""
    if not (search.folder / "journal.jsonl").exists():
        return []
    events = [record.event for record in read_journal(search.folder / "journal.jsonl")]
    return [event.result.epoch for event in events if isinstance(event, TrialReported)]
