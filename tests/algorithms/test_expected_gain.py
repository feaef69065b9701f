"""What further trials are expected to bring: its worth in the model's own world, and what a search does with it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from searches import trials_of_rates
from summaries import summary_of

from orchestrator.algorithms.budget import spent
from orchestrator.algorithms.curve_kernel import Hyperparameters, Prior
from orchestrator.algorithms.curve_values import Array, Observations, Scale
from orchestrator.algorithms.expected_gain import AHEAD, ENOUGH, candidates, outlook, played_gains
from orchestrator.algorithms.learning_curves import CurveModel
from orchestrator.show.search_text import outlook_line
from orchestrator.show.status import status_document
from orchestrator.space.problems import SpaceError
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.events import Outlook, SessionEnded, SessionStarted
from orchestrator.study.study import Study, fold

HILL = [round(0.7 - 2 * (index / 24 - 0.4) ** 2 + 0.01 * (index % 3), 3) for index in range(24)]


def space(*overrides: str) -> SearchSpace:
    return SearchSpace.load("smoke.yaml", overrides=["budget.trials=60", *overrides])


SPACE = space()


def study_of(values: list[float]) -> Study:
    return fold(trials_of_rates(SPACE, values))


def world(seed: int, count: int, noise: float) -> tuple[CurveModel, Array]:
    """A model of values that its own prior has drawn, and points."""
    draws = np.random.default_rng(seed)
    prior = Prior.of(2)
    h = Hyperparameters.of(prior.mean)._replace(run=noise, noise=1e-4)
    points = draws.random((count, 2))
    values = np.sin(5 * points[:, 0]) + math.sqrt(noise) * draws.standard_normal(count)
    told = Observations.of(points, np.ones(count), np.arange(count), values)
    return CurveModel.of(told, Scale(0.0, 1.0, -1e9, -1e9), h), points


def gains(seed: int, trials: int, *, count: int = 12, noise: float = 0.05) -> Array:
    model, points = world(seed, count, noise)
    draws = np.random.default_rng(seed)
    return played_gains(model, np.vstack([points, candidates(points[:4], draws)]), count, trials, draws)


def test_more_trials_bring_more_and_none_bring_nothing() -> None:
    brought = [gains(0, trials).mean() for trials in (0, 2, 10)]
    assert brought[0] == 0
    assert brought[0] < brought[1] < brought[2]


def test_less_is_left_where_more_is_known() -> None:
    assert np.mean([gains(seed, 5, count=60).mean() for seed in range(3)]) < np.mean(
        [gains(seed, 5, count=6).mean() for seed in range(3)]
    )


def test_what_is_told_in_a_played_world_is_told_as_in_the_model() -> None:
    """With one further point and no noise the gain is the positive part of its difference from the best one."""
    model, points = world(1, 8, 1e-8)
    asked = np.array([[0.31, 0.5]])
    played = played_gains(model, np.vstack([points, asked]), 8, 1, np.random.default_rng(0))
    mean, covariance = model.final(np.vstack([points, asked]))
    best = int(mean[:8].argmax())
    spread = math.sqrt(covariance[best, best] + covariance[8, 8] - 2 * covariance[best, 8])
    drawn = mean[8] - mean[best] + spread * np.random.default_rng(1).standard_normal(100_000)
    error = np.maximum(drawn, 0).std() / math.sqrt(len(played))
    assert played.mean() == pytest.approx(np.maximum(drawn, 0).mean(), abs=4 * error + 0.01)


def test_candidates_lie_in_the_cube_and_near_the_best() -> None:
    best = np.full((4, 3), 0.5)
    found = candidates(best, np.random.default_rng(0))
    assert ((found >= 0) & (found <= 1)).all()
    assert np.quantile(np.abs(found - 0.5).max(1), 0.1) < 0.1


# --- searches --------------------------------------------------------------------------------------------------------


def test_an_outlook_is_a_pure_function_of_the_study() -> None:
    first, second = outlook(study_of(HILL), SPACE), outlook(study_of(HILL), SPACE)
    assert first == second
    assert first is not None
    assert first.trials == AHEAD
    assert first.low <= first.gain <= first.high


@pytest.mark.parametrize(
    ("values", "overrides"),
    [
        (HILL[: ENOUGH - 1], ()),
        ([0.5] * 24, ()),
        (HILL, ("algorithm.name=sobol",)),
        (HILL, ("objective.constraints=[mINP >= 0.1]",)),
        (HILL, ("objective.metric='mAP, -hours'",)),
    ],
)
def test_where_no_model_tells_there_is_no_outlook(values: list[float], overrides: tuple[str, ...]) -> None:
    assert outlook(study_of(values), space(*overrides)) is None


def test_a_search_ends_when_less_is_expected_than_its_budget_asks_for() -> None:
    study = study_of(HILL)
    ahead = outlook(study, SPACE)
    assert ahead is not None
    assert spent(study, space(f"budget.gain={0.9 * ahead.gain}")) is None
    end = spent(study, space(f"budget.gain={1.1 * ahead.gain}"))
    assert end is not None
    assert not end.at_once, "running trials are trained to their end"
    assert "10 more trials are expected to improve mAP by less than" in end.reason
    assert spent(study_of(HILL[:5]), space("budget.gain=0.5")) is None, "too few trials to tell"


@pytest.mark.parametrize("other", ["algorithm.name=random", "objective.metric='mAP, -hours'"])
def test_a_limit_on_the_expected_gain_without_a_model_is_refused_in_one_line(other: str) -> None:
    with pytest.raises(SpaceError) as caught:
        space("budget.gain=0.002", other)
    (line,) = caught.value.problems
    assert "budget.gain" in str(line)


def ended(ahead: Outlook | None) -> Study:
    return fold([SessionStarted(session=1, host="h", pid=1), SessionEnded(state="finished", reason="", outlook=ahead)])


def test_the_end_of_a_search_says_what_more_trials_would_bring() -> None:
    study = ended(Outlook(trials=10, gain=0.004, low=0.0, high=0.013))
    found = summary_of(study)
    assert outlook_line(found) == "10 more trials: +0.4 mAP, 95 % 0.0 to 1.3"
    assert status_document(found)["outlook"] == {"trials": 10, "gain": 0.004, "low": 0.0, "high": 0.013}
    study.apply(SessionStarted(session=2, host="h", pid=1))
    assert outlook_line(summary_of(study)) == "", "a search that goes on has another one"
    assert outlook_line(summary_of(ended(None))) == ""


def test_less_of_what_is_minimized_is_an_improvement() -> None:
    ahead = ended(Outlook(trials=10, gain=0.25, low=0.1, high=0.5))
    line = outlook_line(summary_of(ahead, space("objective.goal=minimize")))
    assert line == "10 more trials: -25.0 mAP, 95 % -10.0 to -50.0"
