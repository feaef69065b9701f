"""When a budget is spent, and how time and failures are counted."""

from __future__ import annotations

from pathlib import Path

import pytest
from events import completed, continued, paused, reported, started, suggested

from orchestrator.algorithms.budget import spent
from orchestrator.algorithms.health import broken_circuit
from orchestrator.algorithms.scoring import ranked, trials_since_improvement
from orchestrator.space.objective import Objective
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.local import local_search
from orchestrator.study.events import Event, SessionEnded, SessionStarted, TrialFailed, TrialStarted
from orchestrator.study.journal import Record
from orchestrator.study.study import GpuHours, Study, fold, fold_records

SESSION = SessionStarted(session=1, host="h", pid=1)
ENDED = SessionEnded(state="interrupted", reason="")


def space(*budget: str) -> SearchSpace:
    return SearchSpace.load("smoke.yaml", overrides=[f"budget.{each}" for each in budget])


def told(*events: tuple[float, Event]) -> Study:
    """A study of events at given seconds."""
    return fold_records(Record(number, moment, event) for number, (moment, event) in enumerate(events, 1))


def test_a_search_without_other_budgets_ends_with_its_trials() -> None:
    study = fold([*completed(0, 0.5), *completed(1, 0.5)])
    assert spent(study, space("trials=3")) is None
    found = spent(study, space("trials=2"))
    assert found is not None
    assert (found.reason, found.at_once) == ("2 trials", False)


def test_epochs_count_over_all_trials_and_end_the_running_ones_too() -> None:
    study = fold([*completed(0, 0.5, 0.6), suggested(1), started(1), reported(1, 1)])
    assert spent(study, space("epochs=4")) is None
    found = spent(study, space("epochs=3"))
    assert found is not None
    assert found.at_once


def test_hours_are_those_of_the_sessions_and_not_the_time_between_them() -> None:
    study = told((0, SESSION), (1800, ENDED), (90_000, SESSION), (90_900, suggested(0)))
    assert study.gpu_hours.seconds == 2700
    assert spent(study, space("hours=1")) is None
    assert spent(study, space("hours=1"), moment=91_799) is None
    assert spent(study, space("hours=1"), moment=91_800) is not None


def test_a_killed_session_counts_up_to_its_last_event() -> None:
    study = told((0, SESSION), (60, suggested(0)), (10_000, SESSION), (10_010, suggested(1)))
    assert study.gpu_hours.seconds == 70


def test_gpu_hours_are_those_that_running_trials_held() -> None:
    two = TrialStarted(trial="t0000", attempt=1, gpus=2)
    done = completed(0, 0.5)[-1]
    study = told((0, SESSION), (100, suggested(0)), (200, two), (500, done), (900, suggested(1)))
    assert study.gpu_hours.gpu_seconds == 600
    assert spent(study, space("gpu_hours=0.2")) is None
    assert spent(study, space("gpu_hours=0.1")) is not None


def test_a_paused_trial_holds_no_gpu_until_it_goes_on() -> None:
    begins = TrialStarted(trial="t0000", attempt=1, gpus=2)
    again = begins.model_copy(update={"attempt": 2})
    before = ((0, SESSION), (100, suggested(0)), (200, begins), (500, paused(0, 1)), (5000, continued(0)))
    study = told(*before, (6000, again), (6100, completed(0, 0.5)[-1]))
    assert study.gpu_hours.gpu_seconds == 2 * (300 + 100)
    assert spent(told(*before), space("gpu_hours=0.2"), moment=9000) is None


def test_a_clock_that_was_set_back_costs_nothing() -> None:
    spending = GpuHours()
    spending.begin(1000.0)
    spending.advance(400.0)
    spending.advance(1010.0)
    assert spending.seconds == 10


@pytest.mark.parametrize(("value", "ends"), [(0.79, False), (0.8, True)])
def test_a_target_that_is_reached_ends_the_search(value: float, ends: bool) -> None:
    found = spent(fold(completed(0, value)), space("target=0.8"))
    assert (found is not None and found.at_once) == ends


def test_patience_counts_completed_trials_since_the_best_in_the_order_of_their_completion() -> None:
    events = [event for index, value in enumerate((0.3, 0.5, 0.4, 0.5)) for event in completed(index, value)]
    assert trials_since_improvement(fold(events), Objective()) == 2
    assert trials_since_improvement(fold(events), Objective(goal="minimize")) == 3
    assert spent(fold(events), space("trials=9", "patience=3")) is None
    found = spent(fold(events), space("trials=9", "patience=2"))
    assert found is not None
    assert not found.at_once, "a running trial may yet improve the search"


def test_a_trial_that_breaks_a_constraint_ranks_below_all_that_keep_it_and_reaches_no_target() -> None:
    objective = Objective(epoch="last", constraints=("mINP >= 0.2",))
    study = fold([*completed(0, 0.3), *completed(1, 0.5)])
    assert [trial.key for trial, _ in ranked(study, objective)] == ["t0001", "t0000"]
    high = Objective(goal="minimize", constraints=("mINP >= 0.2",))
    assert [trial.key for trial, _ in ranked(study, high)] == ["t0001", "t0000"]
    assert [trial.key for trial, _ in ranked(study, Objective(goal="minimize"))] == ["t0000", "t0001"]


FOLDER = local_search(Path("/runs/s"))


def failing(index: int, reason: str = "KeyError: x", failure: str = "error") -> list[Event]:
    key = f"t{index:04d}"
    return [suggested(index), TrialFailed.model_validate({"trial": key, "failure": failure, "reason": reason})]


def broken(*events: list[Event]) -> bool:
    return broken_circuit(fold([event for some in events for event in some]), FOLDER) is not None


def test_three_equal_failures_in_a_row_break_the_circuit() -> None:
    assert broken(failing(0), failing(1), failing(2))
    assert not broken(failing(0), failing(1))
    assert broken(failing(0, "other"), failing(1), failing(2), failing(3))


def test_failures_that_differ_or_lie_around_a_completed_trial_do_not() -> None:
    assert not broken(failing(0), failing(1, "KeyError: y"), failing(2))
    assert not broken(failing(0), failing(1, failure="hang"), failing(2))
    assert not broken(failing(0), failing(1), completed(2, 0.5), failing(3))
    assert not broken(failing(0), failing(1), [SESSION], failing(2))


def test_configurations_that_diverge_say_nothing_about_the_next_one() -> None:
    for failure in ("diverged", "out_of_memory"):
        assert not broken(*(failing(index, failure=failure) for index in range(5)))


def test_a_broken_circuit_names_the_failure_and_the_way_on() -> None:
    error = broken_circuit(fold([event for index in range(3) for event in failing(index)]), FOLDER)
    assert error is not None
    assert "KeyError: x" in str(error)
    assert "reidsearch resume s --errored retry --storage /runs" in str(error)
    assert "reidsearch logs s/t0002 --storage /runs" in str(error)
    assert error.exit_code == 1
    error = broken_circuit(
        fold([event for index in range(3) for event in failing(index, failure="bad_config")]), FOLDER
    )
    assert "resume" not in str(error), "which keeps the setting"
    assert "launch a new one" in str(error)
