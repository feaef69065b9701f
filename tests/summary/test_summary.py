"""The summary of a search that is read from its folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from events import completed, reported, started, suggested
from searches import a_search, pausing_events
from summaries import summary_of

from orchestrator.base.errors import SearchError
from orchestrator.stores.base import SearchFolder
from orchestrator.study.events import SessionStarted, TrialCompleted
from orchestrator.study.journal import Journal
from orchestrator.study.lease import Lease
from orchestrator.study.study import fold
from orchestrator.summary import find_trial, read_summary


@pytest.fixture
def folder(tmp_path: Path) -> SearchFolder:
    return a_search(tmp_path / "first")


def test_best_names_the_best_configuration(folder: SearchFolder) -> None:
    assert read_summary(folder).trial("best").key == "t0001"


def test_a_trial_that_is_not_there_is_refused_with_those_that_are(folder: SearchFolder) -> None:
    with pytest.raises(SearchError, match=r"first has no trial 't0007' \(there: t0000, t0001; "):
        read_summary(folder).trial("t0007")


def test_without_a_completed_trial_none_is_best(folder: SearchFolder) -> None:
    lines = folder.journal.read_text().splitlines(keepends=True)
    folder.journal.write_text("".join(lines[:3]))
    with pytest.raises(SearchError, match="no trial is completed yet"):
        read_summary(folder).trial("best")


def test_a_search_runs_while_a_process_drives_it_and_is_interrupted_when_that_is_gone(folder: SearchFolder) -> None:
    assert read_summary(folder).state == "finished"
    journal = Journal(folder.journal)
    journal.append(SessionStarted(session=2, host="h", pid=1))
    journal.close()
    with Lease(folder.lease):
        assert read_summary(folder).state == "running"
    assert read_summary(folder).state == "interrupted"


def test_a_summary_keeps_its_moment_while_the_search_goes_on() -> None:
    study = fold([*completed(0, 0.4), suggested(1), started(1)])
    summary = summary_of(study, is_driven=True)
    for event in (reported(1, 1, 0.9), TrialCompleted(trial="t0001")):
        study.apply(event)
    assert summary.counts == {"pending": 0, "running": 1, "paused": 0, "completed": 1, "stopped": 0, "failed": 0}
    assert summary.trial("best").key == "t0000"
    assert summary.trial("t0001").results == []


def test_a_trial_whose_driver_was_killed_waits_for_a_resume_and_the_study_is_left_as_it_was() -> None:
    study = fold([SessionStarted(session=1, host="h", pid=1), suggested(0), started(0)])
    summary = summary_of(study, is_driven=False)
    assert (summary.state, summary.trial("t0000").status) == ("interrupted", "pending")
    assert study.trials["t0000"].status == "running"


def test_a_trial_is_found_by_its_name_and_a_search_stands_for_its_best(folder: SearchFolder) -> None:
    assert [find_trial(folder.store, name)[1].key for name in ("first", "first/best", "first/t0000")] == [
        "t0001",
        "t0001",
        "t0000",
    ]


def test_forecasts_are_those_of_trials_that_never_reached_their_end() -> None:
    events = pausing_events()
    found = summary_of(fold(events), is_driven=True)
    assert {key: forecast.value for key, forecast in found.forecasts.items()} == {
        "t0000": 0.5,
        "t0002": 0.781,
        "t0003": 0.5,
    }


def test_a_paused_trial_stays_paused_when_nobody_drives_the_search() -> None:
    found = summary_of(fold(pausing_events()), is_driven=False)
    assert (found.counts["paused"], found.counts["pending"], found.counts["running"]) == (1, 1, 0)
