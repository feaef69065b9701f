"""Predicted values of stopped trials."""

from __future__ import annotations

import math
import statistics

import pytest
from events import completed, epoch_result, started, suggested
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.algorithms.ax_experiment import CURVES, ax_experiment, predicted_value
from orchestrator.space.problems import SpaceError
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.events import Event, TrialReported, TrialStopped
from orchestrator.study.study import fold

ESTIMATED = "algorithm={noise: queries, stopped: estimated}"
POINT = {"optim.learning_rate": 1e-3, "clips.identities": 3, "model.attention_gate": "softmax"}
VALUES = st.floats(0, 1, allow_subnormal=False)


def stopped(index: int, *curve: float) -> list[Event]:
    key = f"t{index:04d}"
    epochs = [TrialReported(trial=key, result=epoch_result(epoch, value)) for epoch, value in enumerate(curve, 1)]
    end = TrialStopped(trial=key, rule="asha", epoch=len(curve), reason="")
    return [suggested(index, **POINT), started(index), *epochs, end]


def whole(index: int, *curve: float) -> list[Event]:
    return [suggested(index, **POINT), *completed(index, *curve)[1:]]


def told(*events: list[Event], settings: str = ESTIMATED) -> list[dict[str, object]]:
    space = SearchSpace.load("smoke.yaml", overrides=[settings])
    trials: list[dict[str, object]] = ax_experiment(space, 0, fold([each for part in events for each in part]))[
        "trials"
    ]
    return trials


def test_the_gain_is_that_of_completed_trials_from_the_same_evaluation_on() -> None:
    found = predicted_value([0.1, 0.2], [[0.0, 0.3, 0.5], [0.1, 0.2, 0.6], [0.0, 0.1, 0.4]], error=0.03)
    assert found is not None
    gains = [0.2, 0.4, 0.3]
    assert found.value == pytest.approx(0.2 + 0.3)
    assert found.standard_error == pytest.approx(math.hypot(statistics.stdev(gains), 0.03))


@given(
    own=st.lists(VALUES, min_size=1, max_size=3),
    ends=st.lists(VALUES, min_size=CURVES, max_size=6),
    error=st.floats(0, 0.1),
)
def test_an_estimate_is_never_surer_than_a_value_that_was_reached(
    own: list[float], ends: list[float], error: float
) -> None:
    found = predicted_value(own, [[*own, end] for end in ends], error)
    assert found is not None
    assert found.standard_error >= error
    assert min(ends) - 1e-9 <= found.value <= max(ends) + 1e-9


def test_too_few_curves_that_went_further_give_none() -> None:
    assert predicted_value([0.1], [[0.1, 0.2]] * (CURVES - 1) + [[0.1]], error=0.0) is None
    assert predicted_value([], [[0.1, 0.2]] * CURVES, error=0.0) is None


def test_by_default_a_stopped_trial_is_abandoned_to_the_model() -> None:
    curves = [whole(index, 0.1, 0.2 + 0.1 * index) for index in range(3)]
    trials = told(*curves, stopped(3, 0.2), settings="algorithm={noise: queries}")
    assert trials[3]["state"] == "abandoned"


def test_with_estimates_a_stopped_trial_is_told_with_a_larger_error_than_completed_ones() -> None:
    curves = [whole(index, 0.1, 0.2 + 0.1 * index) for index in range(3)]
    trials = told(*curves, stopped(3, 0.2))
    assert trials[3]["state"] == "completed"
    assert trials[3]["value"] == pytest.approx(0.2 + 0.2)
    assert trials[3]["standard_error"] == pytest.approx(math.hypot(0.1, 0.03))
    assert all(trial["standard_error"] == pytest.approx(0.03) for trial in trials[:3])


def test_as_long_as_too_few_trials_are_completed_stopped_ones_stay_abandoned() -> None:
    trials = told(whole(0, 0.1, 0.2), whole(1, 0.1, 0.3), stopped(2, 0.2))
    assert trials[2]["state"] == "abandoned"


def test_a_smaller_is_better_objective_is_estimated_in_its_own_sign() -> None:
    curves = [whole(index, 0.9, 0.5 + 0.1 * index) for index in range(3)]
    space = SearchSpace.load("smoke.yaml", overrides=[ESTIMATED, "objective.goal=minimize"])
    events = [event for curve in [*curves, stopped(3, 0.8)] for event in curve]
    assert ax_experiment(space, 0, fold(events))["trials"][3]["value"] == pytest.approx(0.8 - 0.3)


@pytest.mark.parametrize("settings", ["algorithm={stopped: estimated}", "algorithm={name: sobol, stopped: estimated}"])
def test_estimates_without_errors_or_without_a_model_are_refused(settings: str) -> None:
    with pytest.raises(SpaceError, match=r"algorithm\.stopped"):
        SearchSpace.load("smoke.yaml", overrides=[settings])
