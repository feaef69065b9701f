"""What people see: lines and tables without noise, and the SYNTHETIC mark where it belongs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from events import completed, reported, started, suggested
from rich.console import Console

from orchestrator.errors import SearchError
from orchestrator.history.description import Options, SearchDescription, read_description, write_description
from orchestrator.history.events import AttemptFailed, Event, SessionEnded, SessionStarted, TrialFailed
from orchestrator.history.folder import SearchFolder
from orchestrator.history.journal import Record
from orchestrator.history.loading import LoadedSearch
from orchestrator.history.study import fold
from orchestrator.shortform import number, percent
from orchestrator.space import SearchSpace
from orchestrator.views.display import (
    pages_command,
    summary_line,
    trials_table,
    uniform_attention,
)
from orchestrator.views.eventline import event_line
from orchestrator.views.status import status_document

FAILED = TrialFailed(trial="t0002", failure="diverged", reason="DivergedError: loss/osm is nan in epoch 2")
EVENTS: list[Event] = [
    SessionStarted(session=1, host="h", pid=1),
    *completed(0, 0.2, 0.25),
    *completed(1, 0.3, 0.4567),
    suggested(2),
    started(2),
    AttemptFailed(trial="t0002", attempt=1, failure="diverged", reason=FAILED.reason),
    FAILED,
    suggested(3),
    started(3),
    reported(3, 1, 0.1),
]


@pytest.fixture(scope="module")
def description() -> SearchDescription:
    return SearchDescription(
        search="s",
        uid="s-1",
        created="2026-11-22T00:00:00+00:00",
        seed=0,
        synthetic=True,
        data_fingerprint="0",
        options=Options(),
        command=["reidsearch", "launch"],
        host="h",
        commit=None,
        versions={},
        space=SearchSpace.from_yaml("smoke.yaml"),
    )


def document(description: SearchDescription, events: list[Event], *, driven: bool = True) -> dict[str, Any]:
    return status_document(LoadedSearch(SearchFolder(Path("/runs/s")), description, fold(events), is_driven=driven))


def drawn(table: object, width: int = 100) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(table)
    return console.export_text()


def test_a_table_shows_each_trial_its_figures_in_per_cent_and_why_it_failed(description: SearchDescription) -> None:
    lines = drawn(trials_table(document(description, EVENTS), width=100)).splitlines()
    assert lines[0].split() == ["trial", "state", "epoch", "mAP", "rank1", "a"]
    assert lines[1].split() == ["t0000", "completed", "2", "25.0", "25.0", "0.5"]
    assert lines[2].split() == ["t0001", "completed", "2", "45.7", "45.7", "0.5", "best?"]
    assert "loss/osm is nan" in lines[3]
    assert lines[4].split() == ["t0003", "running", "1", "10.0", "10.0", "0.5"]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_table_never_wraps_a_row(description: SearchDescription, width: int) -> None:
    lines = drawn(trials_table(document(description, EVENTS), width=width), width).splitlines()
    assert len(lines) == 5


def test_the_summary_counts_and_names_the_best(description: SearchDescription) -> None:
    assert summary_line(document(description, EVENTS)) == (
        "s: running; 2/4 trials completed, 1 running, 1 failed, best mAP 45.7 (t0001, one seed, not confirmed)"
    )


def test_trials_whose_attention_is_uniform_are_named(description: SearchDescription) -> None:
    found = document(description, EVENTS)
    assert uniform_attention(found) == ""
    for trial, entropy in zip(found["trials"], (1.0, 0.99, 0.996, 1.0), strict=True):
        trial["metrics"]["attention/entropy"] = entropy
    assert uniform_attention(found).startswith("is uniform (entropy 1.00) in t0000, t0002, t0003:")


def test_the_state_is_what_the_last_session_said_or_what_its_lease_shows(description: SearchDescription) -> None:
    assert document(description, EVENTS)["state"] == "running"
    assert document(description, EVENTS, driven=False)["state"] == "interrupted"
    assert document(description, EVENTS, driven=False)["counts"]["running"] == 0
    for state in ("finished", "interrupted", "failed"):
        ended = [*EVENTS, SessionEnded.model_validate({"state": state, "reason": ""})]
        assert document(description, ended, driven=False)["state"] == state


def test_a_search_without_completed_trials_has_no_best(description: SearchDescription) -> None:
    assert document(description, EVENTS[-3:])["best"] is None


def test_every_event_that_people_care_about_is_one_line() -> None:
    lines = [event_line(Record(number, 0.0, event)) for number, event in enumerate(EVENTS, 1)]
    shown = [line for line in lines if line]
    assert all("\n" not in line and line.startswith("1970-01-01T00:00:00Z ") for line in shown)
    assert any("epoch=2 loss=0.500 mAP=45.7" in line for line in shown)
    assert any("failed=diverged for good" in line for line in shown)


def test_what_a_terminal_would_obey_is_shown_and_not_obeyed(description: SearchDescription) -> None:
    wild = "\x1b[2J\x07 two\nlines"
    events = [*EVENTS[:-4], AttemptFailed(trial="t0002", attempt=1, failure="worker_lost", reason=wild)]
    events += [FAILED.model_copy(update={"reason": wild}), SessionEnded(state="interrupted", reason=wild)]
    lines = [line for number, event in enumerate(events, 1) if (line := event_line(Record(number, 0.0, event)))]
    found = document(description, events, driven=False)
    shown = "".join([*lines, summary_line(found), drawn(trials_table(found, width=200)).replace("\n", "")])
    assert shown.isprintable()
    assert shown.count("two\\nlines") == 4


def test_numbers_are_short_and_missing_shares_are_a_dash() -> None:
    assert [number(value) for value in (0.000123456, 3, "x", True)] == ["0.0001235", "3", "x", "True"]
    assert percent({}, "mAP") == "-"


def test_the_command_that_opens_mlflow_quotes_its_address() -> None:
    folder = SearchFolder(Path("/a b/first"))
    assert pages_command("sqlite:////a b/mlflow.db", folder).endswith("reidsearch ui first --storage '/a b'")
    assert pages_command("http://127.0.0.1:5000", folder) == "open http://127.0.0.1:5000"


def test_a_description_is_read_back_equal_and_damage_is_named(description: SearchDescription, tmp_path: Path) -> None:
    path = tmp_path / "search.yaml"
    write_description(path, description)
    assert read_description(path) == description
    path.write_text(path.read_text().replace("format: 1", "format: 2"))
    with pytest.raises(SearchError, match=r"search\.yaml: format"):
        read_description(path)
    path.write_text("")
    with pytest.raises(SearchError, match=r"search\.yaml: is empty"):
        read_description(path)


def test_a_search_whose_output_nobody_reads_any_more_goes_on() -> None:
    program = (
        "import sys; from pathlib import Path; from orchestrator.views.display import Display; "
        "from orchestrator.history.events import TrialStarted; from orchestrator.history.folder import SearchFolder; "
        "from orchestrator.history.journal import Record; display = Display(SearchFolder(Path('/runs/s'))); "
        "sys.stdin.readline(); "
        "event = TrialStarted(trial='t0000', attempt=1); "
        "[display._print_event(Record(1, 1e9, event)) for _ in range(3)]; display.line('a', 'b'); print('went on')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    process.stderr.close()
    process.stdin.write("\n")
    process.stdin.close()
    assert process.stdout.read() == "went on\n"
    assert process.wait() == 0
