"""MLflow as a projection: complete, without duplicates, and never in the way."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from events import completed, reported, started, suggested
from running import metric_points, mlflow_runs

from orchestrator.events import Event, SearchCreated, SessionEnded, SessionStarted, TrialFailed
from orchestrator.folder import SearchFolder
from orchestrator.journal import Record
from orchestrator.tracking import Tracker

pytestmark = pytest.mark.timeout(120)

EVENTS: list[Event] = [
    SearchCreated(search="s", space="0", seed=0),
    SessionStarted(session=1, host="h", pid=1),
    *completed(0, 0.2, 0.4),
    suggested(1),
    started(1),
    reported(1, 1, 0.1),
    TrialFailed(trial="t0001", failure="diverged", reason="loss is nan"),
    SessionEnded(state="finished", reason=""),
]


@pytest.fixture
def folder(tmp_path: Path) -> SearchFolder:
    folder = SearchFolder(tmp_path / "s")
    for key in ("t0000", "t0001"):
        folder.trial(key).mkdir(parents=True)
        (folder.trial(key) / "config.json").write_text("{}")
    folder.description.write_text("search: s\n")
    return folder


def tracked(
    folder: SearchFolder, events: list[Event], uri: str | None = None, patience: float = 60
) -> tuple[int, Tracker]:
    tracker = Tracker(
        uri or f"sqlite:///{folder.path.parent / 'mlflow.db'}",
        folder,
        uid="s-1",
        artifacts=folder.path.parent / "artifacts",
        tags={"search": "s", "synthetic": "true"},
        on_run=lambda trial, run: None,
    )
    tracker.start()
    for number, event in enumerate(events, 1):
        tracker.put(Record(number, 1e9 + number, event))
    return tracker.close(patience), tracker


def test_the_whole_journal_can_be_sent_again_and_nothing_is_doubled(folder: SearchFolder) -> None:
    for events in (EVENTS[:6], EVENTS, EVENTS):
        assert tracked(folder, events)[0] == 0
    runs = mlflow_runs(folder.path.parent)
    assert {trial: len(found) for trial, found in runs.items()} == {"-": 1, "t0000": 1, "t0001": 1}
    (first,), (second,), (parent,) = runs["t0000"], runs["t0001"], runs["-"]
    assert metric_points(folder.path.parent, first.info.run_id, "mAP") == [
        (1, 0.2, 1_000_000_001_000),
        (2, 0.4, 1_000_000_002_000),
    ]
    assert (first.info.status, second.info.status, parent.info.status) == ("FINISHED", "FAILED", "FINISHED")
    assert second.data.tags["reason"] == "loss is nan"
    assert first.data.params == {"a": "0.5"}
    assert first.info.run_name == "s/t0000"


def test_configuration_and_description_are_kept_as_artifacts(folder: SearchFolder) -> None:
    tracked(folder, EVENTS)
    kept = {path.name for path in (folder.path.parent / "artifacts").rglob("*") if path.is_file()}
    assert kept == {"config.json", "search.yaml"}


def test_a_server_that_refuses_costs_the_search_no_time_and_is_reported(folder: SearchFolder) -> None:
    began = time.monotonic()
    unsent, tracker = tracked(folder, EVENTS, "http://127.0.0.1:9", patience=0.5)
    assert unsent == len(EVENTS)
    assert tracker.problem is not None
    assert time.monotonic() - began < 30
