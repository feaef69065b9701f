"""What speaks against a result, and what a search took."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from events import epoch_result
from scipy.stats import ttest_ind
from searches import POINT, completed, pausing_events, write_search
from small_spaces import FLAG, GATE, IDENTITIES, MARGIN, RATE, space_of

from orchestrator.space.search_space import SearchSpace
from orchestrator.study.events import (
    Event,
    SessionEnded,
    SessionStarted,
    TrialCompleted,
    TrialContinued,
    TrialReported,
    TrialStarted,
    TrialStopped,
    TrialSuggested,
)
from orchestrator.study.study import fold
from orchestrator.summary import read_summary
from orchestrator.summary.costs import search_costs
from orchestrator.summary.intervals import welch_interval
from orchestrator.summary.warnings import Notice, on_bounds, place_in_range, warnings

SMOKE = SearchSpace.load("smoke.yaml", overrides=["budget.trials=9"])
ENDING = SessionEnded(state="finished", reason="enough")


def told(folder: Path, *events: Event, fits: dict[str, float | None] | None = None) -> dict[str, Notice]:
    """The warnings and notes about a search, by kind."""
    summary = read_summary(write_search(folder / "first", SMOKE, events))
    return {notice.kind: notice for notice in warnings(summary, fits or {})}


def repeat(index: int, number: int, value: float) -> list[Event]:
    key, first = f"t{index:04d}-r{number}", f"t{index:04d}"
    suggestion = {
        "trial": key,
        "index": index,
        "params": POINT,
        "source": "repeat",
        "seed": number,
        "epochs": 3,
        "repeats": first,
    }
    return [
        TrialSuggested.model_validate(suggestion),
        TrialStarted(trial=key, attempt=1),
        TrialReported(trial=key, result=epoch_result(3, value)),
        TrialCompleted(trial=key),
    ]


def repeats(index: int, *values: float) -> list[Event]:
    return [event for number, value in enumerate(values, 1) for event in repeat(index, number, value)]


def test_three_fresh_seeds_confirm_and_fewer_do_not(tmp_path: Path) -> None:
    assert "one seed" in told(tmp_path / "1", *completed(0, 0.4), ENDING)["not_confirmed"].text
    two = told(tmp_path / "2", *completed(0, 0.4), *repeats(0, 0.4, 0.5), ENDING)
    assert "only 2 of 3" in two["not_confirmed"].text
    assert "not_confirmed" not in told(tmp_path / "3", *completed(0, 0.4), *repeats(0, 0.4, 0.5, 0.45), ENDING)


def test_leaders_whose_means_differ_by_less_than_their_noise_are_called_alike(tmp_path: Path) -> None:
    both = [*completed(0, 0.5), *completed(1, 0.4)]
    near = told(tmp_path / "a", *both, *repeats(0, 0.4, 0.5, 0.45), *repeats(1, 0.41, 0.5, 0.43), ENDING)
    assert "leaders_alike" in near
    far = told(tmp_path / "b", *both, *repeats(0, 0.5, 0.51, 0.52), *repeats(1, 0.3, 0.31, 0.32), ENDING)
    assert "leaders_alike" not in far


def test_trials_of_different_precision_are_named(tmp_path: Path) -> None:
    def computed(index: int, precision: str) -> list[Event]:
        before, reported, after = completed(index, 0.4)[:2], completed(index, 0.4)[2], completed(index, 0.4)[3:]
        assert isinstance(reported, TrialReported)
        result = reported.result.model_copy(update={"precision": precision})
        return [*before, reported.model_copy(update={"result": result}), *after]

    mixed = told(tmp_path / "a", *computed(0, "bf16"), *computed(1, "fp32"), *computed(2, "fp32"), ENDING)
    assert "2 trials in fp32, 1 trial in bf16" in mixed["mixed_precision"].text
    # Results of before this was recorded say nothing.
    assert "mixed_precision" not in told(tmp_path / "b", *computed(0, "bf16"), *computed(1, ""), ENDING)


def test_the_difference_of_means_has_the_interval_of_welch() -> None:
    first, second = (0.4, 0.5, 0.45, 0.47), (0.3, 0.38, 0.31)
    expected = ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    assert welch_interval(first, second) == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert welch_interval((0.5, 0.5), (0.4, 0.4)) == pytest.approx((0.1, 0.1))


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"optim.learning_rate": 1e-5}, [("optim.learning_rate", "lower")]),
        ({"optim.learning_rate": 9.9e-2}, [("optim.learning_rate", "upper")]),
        ({"optim.learning_rate": 2e-5, "clips.flip": 0.02}, []),
        ({"clips.flip": 1.0, "clips.identities": 2}, [("clips.flip", "upper"), ("clips.identities", "lower")]),
        ({"model.pooling": "mean", "loss.osm_detach": False}, []),
        ({"gone": 1.0}, []),
    ],
)
def test_values_at_an_end_of_their_range_are_found_on_its_own_scale(params: Any, expected: Any) -> None:
    parameters = {
        "optim.learning_rate": RATE,
        "clips.flip": MARGIN,
        "clips.identities": IDENTITIES,
        "model.pooling": GATE,
        "loss.osm_detach": FLAG,
    }
    assert on_bounds(space_of(parameters), params) == expected


def test_an_ordered_choice_has_ends_too() -> None:
    sizes = {"type": "choice", "values": [8, 16, 32], "ordered": True}
    parameter = space_of({"clips.identities": sizes}).parameters["clips.identities"]
    assert [place_in_range(parameter, value) for value in (8, 16, 32)] == [0, 0.5, 1]


def test_a_best_configuration_on_a_bound_is_a_warning(tmp_path: Path) -> None:
    low = SMOKE.parameters["optim.learning_rate"]
    found = told(tmp_path, *completed(0, 0.4, **{"optim.learning_rate": low.low}), ENDING)  # type: ignore[union-attr]
    assert "optim.learning_rate" in found["on_bound"].text
    assert found["on_bound"].level == "warning"


def test_uniform_attention_of_the_best_trial_is_a_warning(tmp_path: Path) -> None:
    result = epoch_result(3, 0.4).model_copy(update={"attention": {"entropy": 0.999}})
    events = completed(0, 0.4)
    events[2] = TrialReported(trial="t0000", result=result)
    assert told(tmp_path, *events, ENDING)["uniform_attention"].level == "warning"


def test_dropped_queries_are_named(tmp_path: Path) -> None:
    result = epoch_result(3, 0.4)
    assert result.validation is not None
    judged = result.validation.model_copy(update={"dropped_queries": 5})
    events = completed(0, 0.4)
    events[2] = TrialReported(trial="t0000", result=result.model_copy(update={"validation": judged}))
    assert "5 of 15 queries" in told(tmp_path, *events, ENDING)["dropped_queries"].text


def test_trials_that_are_all_alike_and_a_poor_model_are_warnings(tmp_path: Path) -> None:
    events = [event for index in range(3) for event in completed(index, 0.4)]
    found = told(tmp_path, *events, ENDING, fits={"mAP": 0.1})
    assert {found[kind].level for kind in ("all_alike", "poor_fit")} == {"warning"}
    assert "poor_fit" not in told(tmp_path / "b", *events, ENDING, fits={"mAP": 0.8})
    assert "poor_fit" not in told(tmp_path / "c", *events, ENDING, fits={"mAP": None})


def test_warnings_come_before_notes_and_synthetic_data_is_one(tmp_path: Path) -> None:
    levels = [notice.level for notice in told(tmp_path, *completed(0, 0.4), ENDING).values()]
    assert levels == sorted(levels, key=lambda level: level != "warning")
    assert "synthetic" in told(tmp_path / "b", ENDING)
    assert "none_completed" in told(tmp_path / "c", ENDING)


def stopped(rule: str, epochs: int) -> list[Event]:
    suggestion = {"trial": "t0000", "index": 0, "params": POINT, "source": "sobol", "seed": 0, "epochs": 3}
    return [
        SessionStarted(session=1, host="h", pid=1),
        TrialSuggested.model_validate(suggestion),
        TrialStarted(trial="t0000", attempt=1, gpus=0.5),
        *(TrialReported(trial="t0000", result=epoch_result(epoch, 0.1)) for epoch in range(1, epochs + 1)),
        TrialStopped.model_validate({"trial": "t0000", "rule": rule, "epoch": epochs, "reason": "behind"}),
    ]


def test_early_stopping_saves_the_epochs_that_are_left_at_the_pace_of_those_run() -> None:
    found = search_costs(fold(stopped("asha", 1)))
    (trial,) = found.trials
    assert (trial.epochs, trial.planned) == (1, 3)
    assert trial.hours == pytest.approx(1 / 3600)
    assert found.saved_hours == pytest.approx(2 / 3600)
    assert found.saved_gpu_hours == pytest.approx(1 / 3600)
    assert found.stopped_early == 1


@pytest.mark.parametrize("rule", ["user", "budget"])
def test_what_a_user_or_a_used_up_budget_ends_saves_nothing(rule: str) -> None:
    assert search_costs(fold(stopped(rule, 1))).saved_hours == 0


@pytest.mark.parametrize(("paused", "saved"), [(True, 15), (False, 0)])
def test_a_paused_trial_that_a_used_up_budget_ends_has_saved_its_epochs_a_training_one_has_not(
    paused: bool, saved: int
) -> None:
    ending = TrialStopped(trial="t0000", rule="budget", epoch=5, reason="10 epochs")
    going_on = [] if paused else [TrialContinued(trial="t0000", until=10, reason="")]
    (trial, *_) = search_costs(fold([*pausing_events(), *going_on, ending])).trials
    assert (trial.trial, trial.epochs_saved) == ("t0000", saved)


def test_a_paused_trial_saves_its_epochs_until_it_is_continued() -> None:
    events = pausing_events()
    first = next(index for index, event in enumerate(events) if isinstance(event, TrialContinued))
    before, after = search_costs(fold(events[:first])), search_costs(fold(events))
    assert (before.paused, before.continued, before.stopped_early, before.epochs_saved) == (4, 0, 0, 60)
    assert (after.paused, after.continued, after.stopped_early, after.epochs_saved) == (4, 2, 1, 30)
    assert after.saved_hours == pytest.approx(30 / 3600)
