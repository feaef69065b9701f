"""The model of what trainings cost, and the decision that counts improvement per second."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from events import completed, continued, paused, reported, started, suggested
from hypothesis import given
from small_spaces import random_point
from strategies import quick, seeds

from orchestrator.algorithms.ax_experiment import ax_experiment
from orchestrator.algorithms.coded_points import CodedSpace
from orchestrator.algorithms.costs import LARGEST_RATIO, LEAST_MEASURED, RATIOS, CostModel
from orchestrator.algorithms.curve_history import CurveTrial, Evaluated, History, cost_model
from orchestrator.algorithms.curve_kernel import trend_features
from orchestrator.algorithms.curve_values import Array
from orchestrator.algorithms.freeze_thaw import Continue, Decision, Start, answer, decide
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.events import Event
from orchestrator.study.study import fold

EPOCHS = 16
QUESTION = {"parameters": {name: {"type": "float", "low": 0.0, "high": 1.0} for name in "xy"}, "constraints": []}
PLANE = CodedSpace.of(QUESTION)


def measured(count: int, *, seed: int = 0, spread: float = 4.0, noise: float = 0.05) -> tuple[Array, Array]:
    """Points of three coordinates, and seconds that grow with the first one."""
    draws = np.random.default_rng(seed)
    points = draws.random((count, 3))
    return points, 100 * spread ** (points[:, 0] - 0.5) * np.exp(noise * draws.standard_normal(count))


def model(points: Array, seconds: Array) -> CostModel:
    found = CostModel.fitted(points, seconds)
    assert found is not None
    return found


# --- the model -------------------------------------------------------------------------------------------------------


@given(seed=seeds)
@quick
def test_the_weights_are_those_of_least_squares_with_a_penalty_and_a_mean_without_one(seed: int) -> None:
    points, seconds = measured(20, seed=seed)
    found = model(points, seconds)
    features = trend_features(points)
    candidates = []
    for ratio in RATIOS:
        penalty = np.hstack([np.zeros((6, 1)), np.eye(6) / np.sqrt(ratio)])
        rows = np.vstack([np.hstack([np.ones((20, 1)), features - features.mean(0)]), penalty])
        fitted, *_ = np.linalg.lstsq(rows, np.concatenate([np.log(seconds), np.zeros(6)]), rcond=None)
        candidates.append(fitted)
    errors = [np.abs(fitted - [found.center, *found.weights]).max() for fitted in candidates]
    assert min(errors) < 1e-9


def test_a_prediction_is_near_the_truth_and_counts_a_typical_training_as_one() -> None:
    found = model(*measured(40))
    at = np.array([[0.0, 0.5, 0.5], [0.5, 0.5, 0.5], [1.0, 0.5, 0.5]])
    assert found.predicted(at) == pytest.approx([0.5, 1, 2], rel=0.15)
    assert found.measured(np.exp([found.center])) == pytest.approx([1.0])


def test_the_unit_of_time_does_not_matter() -> None:
    points, seconds = measured(12)
    hours, minutes = model(points, seconds / 3600), model(points, seconds / 60)
    assert hours.predicted(points) == pytest.approx(minutes.predicted(points))
    assert hours.measured(seconds / 3600) == pytest.approx(minutes.measured(seconds / 60))


def test_few_trainings_and_costs_that_do_not_differ_give_no_model() -> None:
    points, seconds = measured(20)
    assert CostModel.fitted(points[: LEAST_MEASURED - 1], seconds[: LEAST_MEASURED - 1]) is None
    assert CostModel.fitted(points, np.full(20, 7.0)) is None
    assert CostModel.fitted(*measured(20, spread=1.04, noise=0.0)) is None, "costs that hardly differ"
    assert CostModel.fitted(np.full((20, 3), 0.5), seconds) is None, "one point"


def test_noise_is_rarely_taken_for_a_difference() -> None:
    fooled = [CostModel.fitted(*measured(12, seed=seed, spread=1.0, noise=0.3)) for seed in range(100)]
    assert sum(found is not None for found in fooled) <= 8


def test_more_features_than_trainings_are_no_obstacle() -> None:
    points, seconds = measured(40)
    points = np.hstack([points, np.random.default_rng(1).random((40, 20))])
    found = model(points, seconds)
    assert np.corrcoef(np.log(found.predicted(points)), points[:, 0])[0, 1] > 0.9


def test_no_training_counts_as_much_cheaper_or_dearer_than_the_mean() -> None:
    found = model(*measured(40, spread=1e6))
    ends = found.predicted(np.array([[0.0, 0.5, 0.5], [1.0, 0.5, 0.5]]))
    assert ends == pytest.approx([1 / LARGEST_RATIO, LARGEST_RATIO])
    assert found.measured(np.array([1e-9, 1e9])) == pytest.approx([1 / LARGEST_RATIO, LARGEST_RATIO])


# --- decisions -------------------------------------------------------------------------------------------------------


def trial(x: float, y: float, value: float, seconds: float | None) -> CurveTrial:
    return CurveTrial(np.array([x, y]), "completed", EPOCHS, EPOCHS, EPOCHS, 0, [Evaluated(EPOCHS, value, x)], seconds)


def waiting(x: float, y: float, seconds: float | None, until: int = 4, epochs: int = EPOCHS) -> CurveTrial:
    values = [Evaluated(end, 1.0 - 0.5 * 2.0**-end, x) for end in (1, 2, 4)]
    return CurveTrial(np.array([x, y]), "paused", epochs, until, until, 1, values, seconds)


def valley(spread: float, *more: CurveTrial) -> History:
    """Equal hills to both sides of a symmetric grid of trials, of which the left one is the cheap one."""
    grid = [(x, y) for x in (0.05, 0.35, 0.65, 0.95) for y in (0.1, 0.5, 0.9)]
    known = [trial(x, y, -20 * (abs(x - 0.5) - 0.3) ** 2 - (y - 0.6) ** 2, 5 * spread ** (x - 0.5)) for x, y in grid]
    return History(PLANE, [*known, *more], (EPOCHS,), (), 0)


def point(decision: Decision | None) -> Array:
    assert isinstance(decision, Start)
    return decision.places


@pytest.mark.parametrize("spread", [8.0, 1 / 8])
def test_of_two_equally_promising_points_the_cheaper_one_starts(spread: float) -> None:
    for seed in range(4):
        x, _ = point(decide(replace(valley(spread), seed=seed)))
        assert (x < 0.5) == (spread > 1)


@pytest.mark.parametrize("spread", [8.0, 1 / 8])
def test_of_two_equally_promising_paused_trials_the_cheaper_one_goes_on(spread: float) -> None:
    known = valley(spread, *(waiting(x, 0.62, 5 * spread ** (x - 0.5)) for x in (0.2, 0.8)))
    found = decide(known)
    assert isinstance(found, Continue)
    assert (known.trials[found.trial].places[0] < 0.5) == (spread > 1)


def test_equal_costs_leave_every_decision_as_it_is_without_durations() -> None:
    pair = [waiting(x, 0.62, 5.0) for x in (0.2, 0.8)]
    for known in (valley(1.0), valley(1.0, *pair), valley(1.02)):
        unmeasured = replace(known, trials=[replace(each, seconds=None) for each in known.trials])
        for seed in range(3):
            with_durations, without = decide(replace(known, seed=seed)), decide(replace(unmeasured, seed=seed))
            assert with_durations is not None and without is not None
            question = {**QUESTION, "trials": [{"trial": f"t{place}"} for place in range(len(known.trials))]}
            assert answer(question, known.space, with_durations) == answer(question, known.space, without)


def test_a_trial_of_more_epochs_costs_more() -> None:
    draws = np.random.default_rng(0)
    trials = [replace(trial(x, y, y, 2.0), epochs=round(8 * 4**x)) for x, y in draws.random((20, 2))]
    costs = cost_model(History(PLANE, trials, (EPOCHS,), (), 0))
    assert costs is not None
    assert costs.predicted(np.array([[1.0, 0.5]])) > 3 * costs.predicted(np.array([[0.0, 0.5]]))


# --- the question ----------------------------------------------------------------------------------------------------


def seconds_told(*events: Event) -> object:
    """Of the first trial, as the model is told."""
    overrides = ["stopping={rule: freeze_thaw, first: 0.25}", "optim.epochs=8", "budget.trials=20"]
    space = SearchSpace.load("smoke.yaml", overrides=[*overrides, "evaluation.every=1"])
    at = suggested(0, **random_point(space, 0, 0)).model_copy(update={"epochs": 8, "until": 2})  # type: ignore[arg-type]
    question = ax_experiment(space, 0, fold([at, *events]))
    return json.loads(json.dumps(question, allow_nan=False))["trials"][0]["seconds"]


def lasting(epoch: int, seconds: float, evaluation: float = 0.0) -> Event:
    event = reported(0, epoch, 0.1 * epoch)
    timed = event.result.model_copy(update={"seconds": seconds, "evaluation_seconds": evaluation})
    return event.model_copy(update={"result": timed})


def test_a_slow_first_epoch_does_not_count_and_evaluations_do() -> None:
    begun = [started(0), lasting(1, 60.0), lasting(2, 5.0), lasting(3, 7.123456, 3.0)]
    assert seconds_told(*begun, paused(0, 3)) == pytest.approx(5 + 3 / 3)
    assert seconds_told(started(0), lasting(1, 7.123456), paused(0, 1)) == 7.12, "three digits"


def test_gpus_that_are_held_multiply_seconds() -> None:
    two = started(0).model_copy(update={"gpus": 2.0})
    assert seconds_told(two, lasting(1, 5.0), paused(0, 1)) == 10.0


def test_the_durations_of_a_trial_that_trains_are_those_before_its_pause() -> None:
    assert seconds_told(started(0), lasting(1, 5.0)) is None
    gone_on = [started(0), lasting(1, 5.0), lasting(2, 5.0), paused(0, 2), continued(0), started(0, 2)]
    assert seconds_told(*gone_on) == seconds_told(*gone_on, lasting(3, 500.0)) == 5.0


def test_durations_of_no_length_are_no_measurement() -> None:
    assert seconds_told(started(0), lasting(1, 0.0), paused(0, 1)) is None


def test_a_completed_trial_is_told_with_its_durations() -> None:
    _, *rest = completed(0, 0.1, 0.2, 0.3)
    assert seconds_told(*rest) == 1.0
