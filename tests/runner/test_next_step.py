"""The next step of a search, as a function of its study alone."""

from __future__ import annotations

import math

import pytest
from events import completed, epoch_result, reported, started, suggested
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from searches import completed as completed_in_smoke

from orchestrator.algorithms.suggest import AskModel
from orchestrator.runner.next_step import (
    AddTrial,
    SearchOver,
    StartAttempt,
    Step,
    Wait,
    failure_of_trial,
    next_step,
    propose,
    question_ahead,
    stop_after_epoch,
    stops_for_budget,
    trials_left,
)
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.events import (
    AttemptFailed,
    Event,
    FailureKind,
    FinalizationStarted,
    SearchCreated,
    SessionStarted,
    TrialCompleted,
    TrialFailed,
    TrialReported,
    TrialStarted,
    TrialStopped,
)
from orchestrator.study.study import ATTEMPTS, Study, fold

NOW = 2e9
SESSION = SessionStarted(session=1, host="h", pid=1)


def space(*overrides: str, trials: int = 3) -> SearchSpace:
    return SearchSpace.load("smoke.yaml", overrides=[f"budget.trials={trials}", "algorithm.name=sobol", *overrides])


def study_of(*events: Event) -> Study:
    return fold([SearchCreated(search="s", space="0", seed=7), SESSION, *events])


def lost(index: int, attempt: int = 1, failure: FailureKind = "worker_lost") -> AttemptFailed:
    return AttemptFailed(trial=f"t{index:04d}", attempt=attempt, failure=failure, reason="x")


def test_a_new_search_adds_its_first_trial_with_its_seed_and_epochs() -> None:
    step = next_step(study_of(), space("optim.epochs=5"), NOW)
    assert isinstance(step, AddTrial)
    assert (step.event.trial, step.event.index, step.event.seed, step.event.epochs) == ("t0000", 0, 7, 5)
    assert step.config is not None and step.config.optim.epochs == 5 and step.config.seed == 7


def test_the_same_study_gives_the_same_step() -> None:
    assert next_step(study_of(), space(), NOW) == next_step(study_of(), space(), NOW)


def test_trials_that_wait_come_before_new_ones_in_the_order_of_their_suggestion_then_of_their_failure() -> None:
    events: list[Event] = [suggested(0), started(0), suggested(1), started(1), suggested(2), started(2)]
    interrupted = study_of(*events, SessionStarted(session=2, host="h", pid=2))
    assert interrupted.queue == ["t0000", "t0001", "t0002"]
    assert next_step(interrupted, space(), NOW) == StartAttempt("t0000")
    for event in (started(0, 2), lost(0, 2)):
        interrupted.apply(event)
    assert interrupted.queue == ["t0001", "t0002", "t0000"], "a retry waits for those that wait already"


def test_a_trial_that_was_stopped_while_it_waited_does_not_start() -> None:
    study = study_of(suggested(0), TrialStopped(trial="t0000", rule="user", epoch=0, reason="x"))
    assert not isinstance(next_step(study, space(), NOW), StartAttempt)


def test_nothing_is_over_while_a_trial_runs_that_may_fail() -> None:
    study = study_of(*completed_in_smoke(0, 0.3), suggested(1), started(1))
    assert next_step(study, space(trials=2), NOW) == Wait()
    study.apply(lost(1))
    assert next_step(study, space(trials=2), NOW) == StartAttempt("t0001")
    study.apply(started(1, 2))
    study.apply(TrialCompleted(trial="t0001"))
    assert next_step(study, space(trials=2), NOW) == SearchOver("2 trials")


def test_the_best_is_replicated_once_all_configurations_are_over() -> None:
    replicated, events = space("replicates=2", trials=2), [*completed_in_smoke(0, 0.3), *completed_in_smoke(1, 0.6)]
    assert next_step(study_of(*events[:-1]), replicated, NOW) == Wait()
    step = next_step(study_of(*events), replicated, NOW)
    assert isinstance(step, AddTrial)
    assert (step.event.trial, step.event.repeats, step.event.source) == ("t0001-r1", "t0001", "repeat")
    assert step.event.epochs == 3 and step.event.seed != 7


def test_an_opened_test_set_comes_before_everything_but_waiting_trials() -> None:
    opened = FinalizationStarted(finalization=1, leaders=["t0000"], seeds=1, epochs=9, by="me")
    study = study_of(*completed_in_smoke(0, 0.3), opened)
    step = next_step(study, space(trials=50), NOW)
    assert isinstance(step, AddTrial)
    assert (step.event.trial, step.event.finalization, step.event.epochs) == ("t0000-f1", 1, 9)
    study.apply(step.event)
    assert next_step(study, space(trials=50), NOW) == StartAttempt("t0000-f1")
    study.apply(TrialStarted(trial="t0000-f1", attempt=1))
    assert next_step(study, space(trials=50), NOW) == Wait()


def test_a_model_is_asked_once_the_initial_design_is_over_and_ahead_of_a_free_place() -> None:
    with_model = space("algorithm.name=ax", trials=9)
    study = study_of(*(event for index in range(6) for event in completed_in_smoke(index, 0.1 * index)))
    step = next_step(study, with_model, NOW)
    assert isinstance(step, AskModel)
    assert question_ahead(study, with_model) == step
    assert question_ahead(study, space(trials=6)) is None
    assert question_ahead(study_of(), with_model) is None, "the first points need no model"


def test_a_finite_space_is_over_with_its_last_point() -> None:
    finite = space("algorithm.name=grid", "optim.learning_rate=1e-3", "clips.identities=4", trials=50)
    study, steps = study_of(), list[Step]()
    while isinstance(step := next_step(study, finite, NOW), AddTrial):
        for event in (step.event, TrialStarted(trial=step.event.trial, attempt=1)):
            study.apply(event)
        study.apply(TrialCompleted(trial=step.event.trial))
        steps.append(step)
    assert len(steps) == 2
    assert step == SearchOver("every point of the grid was tried")


@pytest.mark.parametrize("failure", ATTEMPTS)
def test_a_trial_fails_for_good_after_as_many_attempts_as_its_failure_is_worth(failure: FailureKind) -> None:
    study, most = study_of(suggested(0)), min(ATTEMPTS[failure], 9)
    for attempt in range(1, int(most) + 1):
        failed = lost(0, attempt, failure)
        for event in (started(0, attempt), failed):
            study.apply(event)
        found = failure_of_trial(study, failed)
        is_last = attempt == ATTEMPTS[failure]
        assert (found is not None) == is_last
        assert next_step(study, space(), NOW) == StartAttempt("t0000")
        if found is not None:
            study.apply(found)
            assert study.queue == []
    assert math.isinf(ATTEMPTS["disk_full"])


def test_a_budget_that_is_spent_stops_unfinished_trials_but_a_target_leaves_replicates() -> None:
    events: list[Event] = [*completed(0, 0.1, 0.2, 0.5), suggested(1), started(1), reported(1, 1, 0.1), suggested(2)]
    stops = stops_for_budget(study_of(*events), space("budget.target=0.4"), NOW)
    assert [(stop.trial, stop.rule, stop.epoch) for stop in stops] == [("t0001", "budget", 1), ("t0002", "budget", 0)]
    assert stops_for_budget(study_of(*events), space("budget.target=0.6"), NOW) == []
    replicate = suggested(1).model_copy(update={"trial": "t0000-r1", "repeats": "t0000"})
    study = study_of(*completed(0, 0.1, 0.2, 0.5), replicate)
    assert stops_for_budget(study, space("budget.target=0.4"), NOW) == []
    assert [stop.trial for stop in stops_for_budget(study, space("budget.epochs=3"), NOW)] == ["t0000-r1"]


def test_the_rule_stops_the_trial_that_falls_behind_after_its_latest_epoch() -> None:
    halving = space("stopping.rule=asha", "stopping.grace=1")
    study = study_of(suggested(0), started(0), reported(0, 1, 0.5), suggested(1), started(1), reported(1, 1, 0.1))
    assert stop_after_epoch(study, halving, study.trials["t0000"]) is None
    stop = stop_after_epoch(study, halving, study.trials["t0001"])
    assert stop is not None and (stop.trial, stop.rule, stop.epoch) == ("t0001", "asha", 1)
    assert stop_after_epoch(study, space(), study.trials["t0001"]) is None


def test_trials_left_count_all_that_may_still_run() -> None:
    events = [*completed_in_smoke(0, 0.3), suggested(1)]
    assert trials_left(study_of(), space(trials=5), NOW) == 5
    assert trials_left(study_of(*events), space(trials=5), NOW) == 4
    assert trials_left(study_of(*events[:-1]), space("replicates=2", trials=1), NOW) == 2
    assert trials_left(study_of(*events[:-1]), space(trials=1), NOW) == 0


ENDS = ("completed", "worker_lost", "diverged", "out_of_memory", "stopped")


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(ENDS)), max_size=40), st.integers(1, 4))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_however_attempts_end_a_search_ends_and_leaves_no_trial_unfinished(
    ends: list[tuple[int, str]], slots: int
) -> None:
    searched, study, running = space("replicates=1", trials=4), study_of(), list[str]()
    left = list(ends)
    for _ in range(200):
        step = next_step(study, searched, NOW, propose)
        over = isinstance(step, SearchOver)
        if over or isinstance(step, Wait) or len(running) == slots:
            assert not (over and running)
            if over:
                break
            place, end = left.pop(0) if left else (0, "completed")
            key = running.pop(place % len(running))
            for event in end_of(study, key, end):
                study.apply(event)
            continue
        key = step.event.trial if isinstance(step, AddTrial) else step.trial  # type: ignore[union-attr]
        if isinstance(step, AddTrial):
            study.apply(step.event)
        study.apply(TrialStarted(trial=key, attempt=study.all_trials[key].attempts + 1))
        running.append(key)
    assert over
    assert all(trial.is_over for trial in study.all_trials.values())
    assert trials_left(study, searched, NOW) == 0
    assert len(study.trials) == 4


def end_of(study: Study, key: str, end: str) -> list[Event]:
    """How an attempt ends; a failure that is not retried ends the trial."""
    if end == "completed":
        return [TrialReported(trial=key, result=epoch_result(3, 0.5)), TrialCompleted(trial=key)]
    if end == "stopped":
        return [TrialStopped(trial=key, rule="user", epoch=0, reason="x")]
    failed = AttemptFailed(trial=key, attempt=study.all_trials[key].attempts, failure=end, reason="x")  # type: ignore[arg-type]
    before = study.all_trials[key].failures[end] + 1  # type: ignore[index]
    gone = before >= ATTEMPTS[end]  # type: ignore[index]
    return [failed, *([TrialFailed(trial=key, failure=end, reason="x")] if gone else [])]  # type: ignore[arg-type]
