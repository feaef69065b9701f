"""The state folded from events, and the decisions that are functions of it."""

from __future__ import annotations

from events import completed, continued, paused, reported, started, suggested

from orchestrator.algorithms.scoring import ranked, score
from orchestrator.space.objective import Objective
from orchestrator.study.events import (
    AttemptFailed,
    Forecast,
    SearchCreated,
    SessionEnded,
    SessionStarted,
    TrialFailed,
    TrialStopped,
)
from orchestrator.study.study import fold, may_retry, unfinished


def failed(index: int, failure: str = "worker_lost", attempt: int = 1) -> AttemptFailed:
    return AttemptFailed.model_validate(
        {"trial": f"t{index:04d}", "attempt": attempt, "failure": failure, "reason": "because"}
    )


SESSION = SessionStarted(session=1, host="h", pid=1)


def test_a_search_is_named_and_seeded_by_its_first_event() -> None:
    study = fold([SearchCreated(search="s", space="f", seed=7), SESSION])
    assert (study.name, study.seed, study.sessions) == ("s", 7, 1)


def test_a_trial_goes_from_pending_to_running_to_completed() -> None:
    events = completed(0, 0.1, 0.2)
    assert fold(events[:1]).trials["t0000"].status == "pending"
    assert fold(events[:2]).trials["t0000"].status == "running"
    study = fold(events)
    assert study.trials["t0000"].status == "completed"
    assert study.trials["t0000"].epoch == 2
    assert study.counts()["completed"] == 1


def test_an_epoch_reported_again_changes_nothing() -> None:
    events = [suggested(0), started(0), reported(0, 1, 0.3), reported(0, 2, 0.4)]
    study = fold([*events, reported(0, 1, 0.9), reported(0, 2, 0.9)])
    assert [result.validation.mAP for result in study.trials["t0000"].results] == [0.3, 0.4]  # type: ignore[union-attr]


def test_a_trial_running_when_its_session_ended_or_died_is_pending_again() -> None:
    running = [SESSION, suggested(0), started(0)]
    assert fold([*running, SessionEnded(state="interrupted", reason="SIGTERM")]).trials["t0000"].status == "pending"
    assert fold([*running, SESSION]).trials["t0000"].status == "pending"


PAUSED = [SESSION, suggested(0), started(0), reported(0, 1, 0.3), paused(0, 1)]


def test_a_paused_trial_holds_no_slot_waits_for_no_attempt_and_is_not_over() -> None:
    study = fold([*PAUSED, suggested(1), started(1)])
    trial = study.trials["t0000"]
    assert (trial.status, trial.pauses, trial.is_over, trial.reason) == ("paused", [1], False, "because")
    assert study.queue == [] and list(study.gpu_hours.held) == ["t0001"]
    assert trial in unfinished(study) and study.counts()["paused"] == 1


def test_a_paused_trial_stays_paused_over_sessions_however_they_end() -> None:
    study = fold([*PAUSED, SessionEnded(state="interrupted", reason="SIGTERM"), SESSION, SESSION])
    assert study.trials["t0000"].status == "paused" and study.queue == []


def test_a_continued_trial_waits_for_an_attempt_until_its_next_pause() -> None:
    study = fold([*PAUSED, continued(0, until=2)])
    trial = study.trials["t0000"]
    assert (trial.status, trial.until, study.queue) == ("pending", 2, ["t0000"])
    for event in (started(0, 2), reported(0, 2, 0.5), paused(0, 2), continued(0)):
        study.apply(event)
    assert (trial.until, trial.pauses, trial.epoch, study.queue) == (None, [1, 2], 2, ["t0000"])


def test_the_latest_forecast_of_a_pause_or_a_continuation_is_the_trials() -> None:
    first, second = Forecast(value=0.5, error=0.1), Forecast(value=0.6, error=0.05)
    study = fold([*PAUSED[:-1], paused(0, 1).model_copy(update={"forecast": first})])
    trial = study.trials["t0000"]
    assert trial.forecast == first
    study.apply(continued(0).model_copy(update={"forecast": second}))
    assert trial.forecast == second
    study.apply(paused(0, 2))
    assert trial.forecast == second, "a pause without a forecast takes none away"


def test_a_trial_that_paused_for_good_is_stopped_by_its_rule() -> None:
    stopped = TrialStopped(trial="t0000", rule="promote", epoch=1, reason="paused for good")
    trial = fold([*PAUSED, stopped]).trials["t0000"]
    assert (trial.status, trial.stopped_by, trial.is_over) == ("stopped", "promote", True)


def test_a_lost_worker_is_retried_three_times_and_a_divergence_never() -> None:
    events = [suggested(0), started(0)]
    for attempt in range(1, 5):
        events.append(failed(0, attempt=attempt))
        assert may_retry(fold(events).trials["t0000"], "worker_lost") == (attempt < 4)
    for failure in ("diverged", "bad_data", "bad_config", "error"):
        assert not may_retry(fold([suggested(0), started(0), failed(0, failure)]).trials["t0000"], failure)


def test_workers_that_are_lost_again_and_again_cost_no_trial_that_gets_on_in_between() -> None:
    events = [suggested(0)]
    for attempt in range(1, 11):
        events += [started(0, attempt), reported(0, attempt), failed(0, attempt=attempt)]
        assert may_retry(fold(events).trials["t0000"], "worker_lost")
    again = [failed(0, attempt=attempt) for attempt in range(11, 14)]
    assert not may_retry(fold([*events, *again]).trials["t0000"], "worker_lost")


def test_failures_of_one_kind_do_not_use_up_the_retries_of_another() -> None:
    events = [suggested(0), started(0), failed(0), failed(0), failed(0, "out_of_memory")]
    assert may_retry(fold(events).trials["t0000"], "out_of_memory")


def test_a_completed_trial_carries_no_reason_of_an_earlier_failure() -> None:
    events = completed(0, 0.5)
    lost = [*events[:2], failed(0)]
    assert fold(lost).trials["t0000"].reason == "because"
    assert fold([*lost, *events[2:]]).trials["t0000"].reason is None


def test_unfinished_trials_come_in_the_order_of_their_suggestion() -> None:
    over = TrialFailed(trial="t0001", failure="diverged", reason="nan")
    study = fold([suggested(2), suggested(0), suggested(1), over, *completed(3, 0.5)])
    assert [trial.key for trial in unfinished(study)] == ["t0000", "t0002"]


def test_the_score_is_taken_from_the_last_or_the_best_evaluated_epoch() -> None:
    trial = fold([*completed(0, 0.2, 0.5, 0.4)[:-1], reported(0, 4)]).trials["t0000"]
    last, best = score(trial, Objective()), score(trial, Objective(epoch="best"))
    assert last is not None and best is not None
    assert (last.value, last.result.epoch) == (0.4, 3)
    assert (best.value, best.result.epoch) == (0.5, 2)
    assert last.standard_error == 0.03
    worst = score(trial, Objective(epoch="best", goal="minimize"))
    assert worst is not None
    assert worst.value == 0.2


def test_a_trial_without_evaluation_has_no_score() -> None:
    assert score(fold([suggested(0), started(0), reported(0, 1)]).trials["t0000"], Objective()) is None


def test_trials_are_ranked_by_their_score_and_only_completed_ones_count() -> None:
    events = [*completed(0, 0.3), *completed(1, 0.6), *completed(2, 0.6), suggested(3), started(3), reported(3, 1, 0.9)]
    assert [trial.key for trial, _ in ranked(fold(events), Objective())] == ["t0001", "t0002", "t0000"]
    assert [t.key for t, _ in ranked(fold(events), Objective(goal="minimize"))] == ["t0000", "t0001", "t0002"]
