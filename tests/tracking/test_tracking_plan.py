"""What events ask of MLflow: merged, in order, and without what is there already."""

from __future__ import annotations

from pathlib import Path

import pytest
from events import completed, reported, started, suggested

from orchestrator.stores.local import local_search
from orchestrator.study import events
from orchestrator.tracking.projection import (
    ATTEMPTS_TO_WAIT_FOR,
    LONGEST_DELAY_S,
    SEARCH_RUN,
    Plan,
    Point,
    Run,
    Writes,
    leave_out,
)

OPENING: list[events.Event] = [
    events.SearchCreated(search="s", space="0", seed=0),
    events.SessionStarted(session=1, host="h", pid=1),
]
NOW = 100.0


def planned(*events: events.Event) -> Plan:
    plan = Plan(local_search(Path("s")))
    for moment, event in enumerate(events, 1):
        plan.add(event, float(moment))
    return plan


def writes_of(plan: Plan, key: str) -> Writes:
    (found,) = (writes for writes in plan.next(NOW, 100) if writes.key == key)
    return found


def test_all_events_of_a_trial_become_one_piece_of_work() -> None:
    (writes,) = planned(*completed(0, 0.2, 0.4)).next(NOW, 100)
    assert writes.creation is not None
    assert writes.creation.name == "s/t0000"
    assert writes.creation.start == 1000
    assert writes.params == {"a": "0.5"}
    assert [(point.step, point.value) for point in writes.points if point.metric == "mAP"] == [(1, 0.2), (2, 0.4)]
    assert [file.name for file in writes.files] == ["config.json"]
    assert (writes.status, writes.end) == ("FINISHED", 5000)
    assert writes.events == 5


def test_the_last_event_decides_about_the_status() -> None:
    failed = events.TrialFailed(trial="t0000", failure="error", reason="why")
    plan = planned(suggested(0), failed, events.TrialReopened(trial="t0000"))
    assert (writes_of(plan, "t0000").status, writes_of(plan, "t0000").end) == ("RUNNING", None)
    plan.add(events.TrialStopped(trial="t0000", rule="asha", epoch=1, reason="worse"), 9.0)
    assert (writes_of(plan, "t0000").status, writes_of(plan, "t0000").end) == ("KILLED", 9000)
    assert writes_of(plan, "t0000").tags == {"failure": "error", "reason": "worse", "stopped": "asha"}


def test_a_paused_trial_is_scheduled_until_it_is_continued_or_ends() -> None:
    pause = events.TrialPaused(
        trial="t0000", epoch=1, reason="until epoch 1", forecast=events.Forecast(value=0.5, error=0.04)
    )
    plan = planned(suggested(0), started(0), reported(0, 1, 0.2), pause)
    writes = writes_of(plan, "t0000")
    assert (writes.status, writes.end) == ("SCHEDULED", None)
    assert writes.tags == {"pauses": "1", "pause_reason": "until epoch 1"}
    plan.add(
        events.TrialContinued(trial="t0000", until=2, reason="better", forecast=events.Forecast(value=0.6, error=0.03)),
        5.0,
    )
    assert (writes.status, writes.end, writes.tags["continue_reason"]) == ("RUNNING", None, "better")
    plan.add(pause.model_copy(update={"epoch": 2, "forecast": None}), 6.0)
    assert (writes.status, writes.tags["pauses"]) == ("SCHEDULED", "1, 2")
    plan.add(events.TrialStopped(trial="t0000", rule="freeze_thaw", epoch=2, reason="paused for good"), 7.0)
    assert (writes.status, writes.end) == ("KILLED", 7000)
    forecasts = [(point.metric, point.value, point.step) for point in writes.points if "forecast" in point.metric]
    assert forecasts == [
        ("forecast/value", 0.5, 1),
        ("forecast/error", 0.04, 1),
        ("forecast/value", 0.6, 1),
        ("forecast/error", 0.03, 1),
    ]


def test_what_mlflow_need_not_know_is_no_work() -> None:
    plan = planned()
    assert not plan.add(events.TrialTracked(trial="t0000", mlflow_run_id="x"), 1.0)
    assert not plan.add(events.AttemptFailed(trial="t0000", attempt=1, failure="error", reason=""), 1.0)
    assert not plan.add(started(0, attempt=2), 1.0)
    assert plan.pause(NOW) is None


def test_the_searchs_own_run_is_made_first_and_ended_last() -> None:
    plan = planned(*OPENING, *completed(0, 0.2), events.SessionEnded(state="finished", reason=""))
    assert [writes.key for writes in plan.creations(NOW, 9)] == [SEARCH_RUN]
    plan.made(plan.creations(NOW, 9)[0])
    assert [writes.key for writes in plan.creations(NOW, 9)] == ["t0000"]
    (trial,) = plan.next(NOW, 9)
    plan.done(trial)
    (search,) = plan.next(NOW, 9)
    assert (search.key, search.status) == (SEARCH_RUN, "FINISHED")


def test_runs_take_turns_in_the_order_in_which_they_were_heard_of() -> None:
    plan = planned(suggested(0), suggested(1), suggested(2))
    assert [writes.key for writes in plan.next(NOW, 2)] == ["t0000", "t0001"]
    plan.done(plan.next(NOW, 1)[0])
    plan.add(reported(0, 1), 5.0)
    assert [writes.key for writes in plan.next(NOW, 9)] == ["t0001", "t0002", "t0000"]


def test_what_is_refused_lets_others_go_first_and_is_tried_ever_less_often() -> None:
    plan = planned(suggested(0), suggested(1))
    (writes,) = plan.next(NOW, 1)
    delays, now = [], NOW
    for attempt in range(1, 12):
        plan.refused(writes, now)
        assert [other.key for other in plan.next(now, 9)] == ["t0001"]
        assert plan.stuck == (writes.events if attempt >= ATTEMPTS_TO_WAIT_FOR else 0)
        delays.append(writes.due - now)
        now = writes.due
        assert [other.key for other in plan.next(now, 9)] == ["t0000", "t0001"]
    assert delays[:4] == [1, 2, 4, 8]
    assert delays[-1] == LONGEST_DELAY_S


def test_a_plan_of_nothing_but_refusals_says_when_to_go_on() -> None:
    plan = planned(suggested(0))
    assert plan.pause(NOW) == 0
    plan.refused(plan.next(NOW, 1)[0], NOW)
    assert plan.pause(NOW) == 1
    assert plan.pause(NOW + 1) == 0


@pytest.mark.parametrize(("of_run", "left"), [({}, [1, 2, 3]), ({"mAP": (2, 0)}, [3]), ({"mINP": (9, 0)}, [1, 2, 3])])
def test_points_are_left_out_up_to_the_last_one_of_their_own_metric(
    of_run: dict[str, tuple[int, int]], left: list[int]
) -> None:
    writes = Writes("t0000", points=[Point("mAP", 0.5, 0, step) for step in (1, 2, 3)])
    leave_out(writes, Run("r", "a", last=of_run))
    assert [point.step for point in writes.points] == left


def test_of_a_finished_run_that_was_found_nothing_is_written_again() -> None:
    (writes,) = planned(*completed(0, 0.2, 0.4)).next(NOW, 9)
    last = {point.metric: (point.step, point.time) for point in writes.points}
    leave_out(writes, Run("r", "a", "FINISHED", 5000, frozenset(writes.params), dict(writes.tags), last))
    assert writes == Writes("t0000", creation=writes.creation, events=writes.events)


def test_of_a_run_that_was_found_whatever_differs_is_written() -> None:
    writes = Writes("t0000", params={"a": "1"}, tags={"x": "new"}, status="FINISHED", end=2)
    leave_out(writes, Run("r", "a", "FINISHED", 1, frozenset(), {"x": "old"}, {}))
    assert writes == Writes("t0000", params={"a": "1"}, tags={"x": "new"}, status="FINISHED", end=2)


def test_a_run_is_made_after_the_one_that_it_is_shown_under() -> None:
    plan = planned(*OPENING, suggested(0), suggested(1).model_copy(update={"repeats": "t0000"}), suggested(2))
    order = []
    while due := plan.creations(NOW, 9):
        order.append([writes.key for writes in due])
        for writes in due:
            plan.made(writes)
    assert order == [[SEARCH_RUN], ["t0000", "t0002"], ["t0001"]]


def test_a_repeat_says_what_it_repeats() -> None:
    plan = planned(suggested(0), suggested(1).model_copy(update={"repeats": "t0000"}))
    first, second = (writes.creation for writes in plan.next(NOW, 9))
    assert first is not None
    assert second is not None
    assert "repeats" not in first.tags
    assert second.tags["repeats"] == "t0000"


def test_a_trial_that_is_known_only_by_its_end_is_no_error() -> None:
    assert writes_of(planned(events.TrialCompleted(trial="t0000")), "t0000").creation is None
