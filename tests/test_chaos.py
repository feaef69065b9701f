"""Whole searches under kills at random moments; `make chaos` runs more of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from kills import KINDS, SLOW, processes_of
from running import Search
from waiting import wait_until

from orchestrator.history.events import SessionEnded, TrialReported
from orchestrator.history.journal import read_journal

# `make chaos` does thirty of them; in `make test` test_search.py kills its driver and a trial.
pytestmark = [pytest.mark.e2e, pytest.mark.long]


def test_five_kills_lose_no_epoch_repeat_no_epoch_and_leave_no_process(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).with_name("chaos.py")), "search", "--kills", "5", "--seed", "0"]
    with subprocess.Popen([*command, "--keep", str(tmp_path / "kept")], stdout=subprocess.PIPE, text=True) as chaos:
        try:
            output, _ = chaos.communicate()
        finally:
            # Ends its search as well.
            chaos.terminate()
    assert chaos.returncode == 0, output
    assert "5 kills" in output


# Without these there is no Ray any more: the driver leaves in good order. All others are replaced, or not missed.
END_THE_SESSION = {"raylet", "GCS"}


def test_whichever_process_is_killed_the_search_goes_on_or_ends_with_75_and_is_resumed(tmp_path: Path) -> None:
    search = Search(tmp_path, "one")
    search.launch("--trials", "1", "--concurrent", "1", *SLOW, "--set", "optim.epochs=5000")
    assert search.process is not None
    try:
        for kind in sorted(KINDS, key=lambda kind: (kind in END_THE_SESSION, kind)):
            epoch = epochs(search)[-1:]
            wait_until(lambda kind=kind: processes_of(search.process.pid, kind), search.log.read_text)
            for process in processes_of(search.process.pid, kind):
                os.kill(process, signal.SIGKILL)
            if kind in END_THE_SESSION:
                assert search.wait() == 75, f"{kind}: {search.log.read_text()}"
                end = read_journal(search.folder / "journal.jsonl")[-1].event
                assert isinstance(end, SessionEnded) and end.state == "interrupted", kind
                search.resume()
            wait_until(
                lambda epoch=epoch: epochs(search)[-1:] > epoch, lambda kind=kind: f"{kind}: {search.log.read_text()}"
            )
    finally:
        search.process.send_signal(signal.SIGINT)
        assert search.wait() == 130
    assert epochs(search) == list(range(1, len(epochs(search)) + 1)), "an epoch was lost, or counted twice"


def epochs(search: Search) -> list[int]:
    """The epochs of all trials, as the journal has them."""
    if not (search.folder / "journal.jsonl").exists():
        return []
    events = [record.event for record in read_journal(search.folder / "journal.jsonl")]
    return [event.result.epoch for event in events if isinstance(event, TrialReported)]
