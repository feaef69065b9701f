"""The summary of a search that is read from its folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from searches import a_search

from orchestrator.base.errors import SearchError
from orchestrator.stores.base import SearchFolder
from orchestrator.study.events import SessionStarted
from orchestrator.study.journal import Journal
from orchestrator.study.lease import Lease
from orchestrator.summary import read_summary


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
