"""Requests to a running search, and the answers to those who ask."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from events import completed, suggested
from waiting import PATIENCE_S

from orchestrator.base.errors import SearchError
from orchestrator.runner import control
from orchestrator.runner.control import Requests
from orchestrator.runner.stop_request import StopRequest
from orchestrator.runner.supervision import Supervisor
from orchestrator.runner.trial_spec import STOP_FILE
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import SearchFolder
from orchestrator.stores.local import local_search
from orchestrator.study.events import Event
from orchestrator.study.journal import Journal, read_journal
from orchestrator.study.lease import Lease
from orchestrator.study.recorder import Recorder
from orchestrator.study.study import fold_records

EVENTS: list[Event] = [*completed(0, 0.5), suggested(1), suggested(2)]


@pytest.fixture
def folder(tmp_path: Path) -> SearchFolder:
    found = local_search(tmp_path / "s")
    found.trial("t0001").mkdir(parents=True)
    journal = Journal(found.journal)
    for event in EVENTS:
        journal.append(event)
    journal.close()
    return found


def supervisor(folder: SearchFolder, *overrides: str) -> tuple[Supervisor, Recorder, StopRequest]:
    recorder, stop = Recorder(Journal(folder.journal)), StopRequest()
    space = SearchSpace.load("smoke.yaml", overrides=overrides)
    return Supervisor(recorder, space, folder, stop), recorder, stop


def test_a_trial_of_a_search_that_nothing_drives_is_given_up_at_once(folder: SearchFolder) -> None:
    answer = control.stop(folder, "t0001")
    assert answer.done
    trial = fold_records(read_journal(folder.journal)).trials["t0001"]
    assert (trial.status, trial.reason) == ("stopped", f"user: {control.STOPPED_BY_USER}")


def test_a_search_that_nothing_drives_has_nothing_to_stop_and_that_is_said(folder: SearchFolder) -> None:
    before = folder.journal.read_bytes()
    answer = control.stop(folder, None)
    assert answer.done
    assert "no process drives it" in answer.text
    assert folder.journal.read_bytes() == before


@pytest.mark.parametrize(("trial", "why"), [("t0009", "no trial 't0009'"), ("t0000", r"is over already \(completed\)")])
def test_a_trial_that_is_unknown_or_over_cannot_be_stopped(folder: SearchFolder, trial: str, why: str) -> None:
    with pytest.raises(SearchError, match=why):
        control.stop(folder, trial)


def test_a_driver_that_does_not_answer_is_named(folder: SearchFolder) -> None:
    with Lease(folder.lease):
        answer = control.stop(folder, "t0001", patience=0.1)
    assert not answer.done
    assert "has not answered yet" in answer.text


def test_the_driver_journals_the_stop_before_it_tells_the_attempt_and_then_answers(folder: SearchFolder) -> None:
    watch, recorder, stop = supervisor(folder)
    with Lease(folder.lease):
        asking = threading.Thread(target=lambda: answers.append(control.stop(folder, "t0001", patience=PATIENCE_S)))
        answers: list[control.Answer] = []
        asking.start()
        while not Requests(folder).pending():
            time.sleep(0.01)
        watch.look(live=["t0001"])
        asking.join()
    assert answers[0].done
    assert recorder.study.trials["t0001"].status == "stopped"
    assert (folder.trial("t0001") / STOP_FILE).exists()
    assert not stop.requested


def test_a_waiting_trial_is_stopped_without_telling_anybody(folder: SearchFolder) -> None:
    watch, recorder, _ = supervisor(folder)
    (folder.requests).mkdir()
    (folder.requests / "t0001").touch()
    watch.look(live=[])
    assert recorder.study.trials["t0001"].status == "stopped"
    assert not (folder.trial("t0001") / STOP_FILE).exists()


def test_a_request_for_the_whole_search_stops_it_and_tells_its_running_trials(folder: SearchFolder) -> None:
    watch, recorder, stop = supervisor(folder)
    (folder.requests).mkdir()
    (folder.requests / control.WHOLE_SEARCH).touch()
    watch.look(live=["t0001"])
    assert stop.wish == "reidsearch stop"
    assert (folder.trial("t0001") / STOP_FILE).exists()
    assert recorder.study.trials["t0001"].status == "pending", "it goes on when the search is resumed"
    assert Requests(folder).pending() == []


def test_a_new_attempt_forgets_what_the_last_one_was_told(folder: SearchFolder) -> None:
    watch, _, stop = supervisor(folder)
    stop.request("SIGTERM")
    watch.look(live=["t0001"])
    watch.started("t0001")
    assert not (folder.trial("t0001") / STOP_FILE).exists()


def test_a_budget_that_is_spent_at_once_gives_up_all_unfinished_trials(folder: SearchFolder) -> None:
    watch, recorder, stop = supervisor(folder, "budget.target=0.4")
    watch.look(live=["t0001"])
    assert [trial.status for trial in recorder.study.trials.values()] == ["completed", "stopped", "stopped"]
    assert recorder.study.trials["t0001"].reason == "budget: mAP 0.5 of t0000 reaches the target 0.4"
    assert (folder.trial("t0001") / STOP_FILE).exists()
    assert not stop.requested, "the search ends by itself, as finished"


def test_requests_to_an_earlier_driver_are_forgotten(folder: SearchFolder) -> None:
    (folder.requests).mkdir()
    (folder.requests / "t0001").touch()
    Requests(folder).clear()
    assert Requests(folder).pending() == []
