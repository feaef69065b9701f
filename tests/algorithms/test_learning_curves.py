"""The model of learning curves: its formulas against slow ones, its properties, and histories that say little."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import approx_fprime
from strategies import quick

from orchestrator.algorithms.curve_kernel import (
    JITTER,
    LEVEL,
    RATES,
    SHARED_CURVE,
    Hyperparameters,
    Prior,
    Rows,
    final_covariance,
    fit,
    loss,
    trend_features,
    value_covariance,
)
from orchestrator.algorithms.curve_values import Array, Observations, Scale
from orchestrator.algorithms.learning_curves import CurveModel, log_improvement_rate

seeds = st.integers(0, 2**31 - 1)
UNIT = Scale(center=0.0, deviation=1.0, lowest=-1e9, diverged=-1e9)


def curves(
    seed: int, *, trials: int = 6, d: int = 2, steps: tuple[float, ...] = (0.1, 0.4, 1.0), searches: int = 1
) -> Observations:
    """Curves that rise to a value that depends on the point, with noise; the trials are dealt among searches."""
    draws = np.random.default_rng(seed)
    runs = np.repeat(np.arange(trials), len(steps))
    points, at = draws.random((trials, d))[runs], np.tile(steps, trials)
    values = np.sin(3 * points[:, 0]) - np.exp(-4 * at) + 0.05 * draws.standard_normal(len(runs))
    return Observations(points, at, runs, values, runs % searches)


def settings_of(seed: int, d: int) -> Array:
    """Logarithms of hyperparameters that are probable under the prior."""
    prior = Prior.of(d)
    found: Array = prior.mean + 0.5 * prior.deviation * np.random.default_rng(seed).standard_normal(len(prior.mean))
    return found


def model_of(observations: Observations, seed: int = 0) -> CurveModel:
    return CurveModel.of(observations, UNIT, Hyperparameters.of(settings_of(seed, observations.points.shape[1])))


# --- formulas --------------------------------------------------------------------------------------------------------


def slow_covariance(a: tuple[Array, float, int, int], b: tuple[Array, float, int, int], h: Hyperparameters) -> float:
    """Of two values without noise, one pair of coordinates after the other."""
    (x, s, run, search), (z, t, other, other_search) = a, b

    def matern(distance: float) -> float:
        return (1 + math.sqrt(5) * distance + 5 * distance**2 / 3) * math.exp(-math.sqrt(5) * distance)

    total = 0.0
    for i in range(len(x)):
        linear = (2 * x[i] - 1) * (2 * z[i] - 1)
        quadratic = (1.5 * (2 * x[i] - 1) ** 2 - 0.5) * (1.5 * (2 * z[i] - 1) ** 2 - 0.5)
        total += h.trend[i] * (linear + quadratic)
    total += h.final * matern(math.sqrt(sum(((x[i] - z[i]) / h.scales[i]) ** 2 for i in range(len(x)))))
    # rho g + sqrt(1 - rho^2) difference of an earlier search, g of this one.
    rho = 1 / math.sqrt(1 + h.difference)
    share, other_share = (rho if each else 1.0 for each in (search, other_search))
    is_same = search == other_search
    total *= share * other_share + is_same * math.sqrt(1 - share**2) * math.sqrt(1 - other_share**2)
    total += LEVEL * is_same
    near = matern(math.dist(x / h.curve_scales, z / h.curve_scales))
    total += h.run * (run == other)
    for k, rate in enumerate(RATES):

        def decays(p: float, q: float, rate: float = rate) -> float:
            return rate / (p + q + rate)

        # Covariance of f(s) - f(1) with f(t) - f(1), of a process f with covariance `decays`.
        ended = decays(s, t) - decays(s, 1) - decays(1, t) + decays(1, 1)
        ended /= decays(0, 0) - 2 * decays(0, 1) + decays(1, 1)
        total += ended * (SHARED_CURVE + h.by_point[k] * near + h.by_run[k] * (run == other))
    return float(total)


@given(seed=seeds)
@quick
def test_the_covariance_is_that_of_the_formula(seed: int) -> None:
    points, steps, runs, _, searches = curves(seed, trials=4, searches=3)
    h = Hyperparameters.of(settings_of(seed, 2))
    rows = list(zip(points, steps, runs, searches, strict=True))
    slow = [[slow_covariance(a, b, h) for b in rows] for a in rows]
    told = Rows(points, steps, runs, searches)
    np.testing.assert_allclose(value_covariance(told, told, h), slow, rtol=1e-5, atol=1e-5)


@given(seed=seeds)
@quick
def test_the_gradient_of_the_loss_is_its_slope(seed: int) -> None:
    observations, at = curves(seed, d=3, searches=3), settings_of(seed, 3)
    slope = approx_fprime(at, lambda logarithms: loss(logarithms, observations).value, 1e-6)
    np.testing.assert_allclose(loss(at, observations).gradient, slope, rtol=1e-3, atol=1e-3)


@given(seed=seeds)
@quick
def test_the_covariance_of_any_rows_is_positive_definite(seed: int) -> None:
    points, steps, runs, _, searches = curves(seed, trials=8, steps=(0.01, 0.3, 0.3, 1.0), searches=3)
    told = Rows(points, steps, runs, searches)
    covariance = value_covariance(told, told, Hyperparameters.of(settings_of(seed, 2)))
    np.testing.assert_allclose(covariance, covariance.T, rtol=1e-12)
    assert np.linalg.eigvalsh(covariance).min() > -1e-9


def test_a_posterior_is_that_of_the_normal_distribution_of_all_values() -> None:
    """The plain conditional of a joint normal distribution, by the whole matrix."""
    observations = curves(3, searches=2)
    model, h = model_of(observations), Hyperparameters.of(settings_of(0, 2))
    asked = np.array([[0.2, 0.7], [0.9, 0.1]])
    joint = Rows(
        np.vstack([observations.points, asked]),
        np.append(observations.steps, [1.0, 1.0]),
        np.append(observations.runs, [50, 51]),
        np.append(observations.searches, [0, 0]),
    )
    covariance = value_covariance(joint, joint, h)
    covariance[-2:, -2:] = final_covariance(asked, asked, h)
    n = len(observations.steps)
    gain = np.linalg.inv(covariance[:n, :n] + (h.noise + 1e-5) * np.eye(n))
    found = model.final(asked)
    values = UNIT.scaled(observations).values
    np.testing.assert_allclose(found.mean, covariance[n:, :n] @ gain @ values, rtol=1e-6)
    left = covariance[n:, n:] - covariance[n:, :n] @ gain @ covariance[:n, n:]
    np.testing.assert_allclose(found.covariance, left, rtol=1e-6, atol=1e-9)


def test_the_trend_is_a_line_and_a_parabola_of_mean_zero() -> None:
    features = trend_features(np.linspace(0, 1, 1001)[:, None])
    np.testing.assert_allclose(features[[0, 500, 1000]], [[-1, 1], [0, -0.5], [1, 1]])
    np.testing.assert_allclose(features.mean(0), 0, atol=2e-3)


# --- properties ------------------------------------------------------------------------------------------------------


@given(seed=seeds)
@quick
def test_the_gain_of_a_training_is_the_variance_that_its_last_value_takes_away(seed: int) -> None:
    model = model_of(curves(seed), seed)
    new = np.random.default_rng(seed).random((1, 2))
    (gain,) = model.posterior(new).gain()
    after = model.believing(Rows.of(new, np.array([1.0]), np.array([99])))
    (before,), (left,) = np.diag(model.final(new).covariance), np.diag(after.final(new).covariance)
    assert gain**2 == pytest.approx(before - left, rel=1e-5, abs=1e-8)


def test_what_is_believed_changes_no_mean() -> None:
    observations = curves(1)
    model = model_of(observations)
    rows = Rows.of(np.array([[0.3, 0.3]]), np.array([1.0]), np.array([99]))
    believed = model.believing(rows)
    asked = np.array([[0.3, 0.3], [0.8, 0.2]])
    np.testing.assert_array_equal(believed.final(asked).mean, model.final(asked).mean)
    value = model.forecasts(rows.points, rows.runs).mean
    told = Observations(
        *(np.concatenate(pair) for pair in zip(observations, (*rows[:3], value, rows.searches), strict=True))
    )
    np.testing.assert_allclose(believed.final(asked).mean, model_of(told).final(asked).mean, rtol=1e-6)
    np.testing.assert_allclose(believed.final(asked).covariance, model_of(told).final(asked).covariance, rtol=1e-6)


@given(mean=st.floats(-3, 3), gain=st.floats(0.05, 2), more=st.floats(0, 1))
@quick
def test_the_improvement_rate_rises_with_mean_and_gain_and_falls_with_cost(
    mean: float, gain: float, more: float
) -> None:
    def rate_of(mean: float, gain: float, cost: float) -> float:
        (found,) = log_improvement_rate(np.array([mean]), np.array([gain]), 0.5, cost)
        return float(found)

    usual = rate_of(mean, gain, 5)
    assert rate_of(mean + more, gain, 5) >= usual
    assert rate_of(mean, gain * (1 + more), 5) >= usual
    assert rate_of(mean, gain, 5 * (1 + more)) == pytest.approx(usual - math.log(1 + more))


@given(seed=seeds, step=st.sampled_from([0.0, 0.1, 0.4]))
@quick
def test_the_error_of_a_run_left_out_is_that_of_a_model_without_its_later_values(seed: int, step: float) -> None:
    observations = curves(seed, searches=2)
    model, run = model_of(observations, seed), 2
    (found,) = model.left_out([run], [step])
    kept = (observations.runs != run) | (observations.steps <= step)
    without = model_of(Observations(*(part[kept] for part in observations)), seed)
    last = (observations.runs == run) & (observations.steps == 1.0)
    mean, deviation = without.posterior(observations.points[last], np.array([run])).end()
    h = model.hyperparameters
    assert found.error[0] == pytest.approx(observations.values[last][0] - mean[0], abs=1e-6)
    assert found.deviation[0] ** 2 == pytest.approx(deviation[0] ** 2 + h.noise + JITTER, rel=1e-5)


# --- what it learns --------------------------------------------------------------------------------------------------


def test_a_forecast_follows_from_the_other_curves() -> None:
    """Twelve whole curves rise by the same amount; so does the one that has only begun."""
    known = curves(5, trials=12)
    begun = Observations.of(np.array([[0.5, 0.5]]), np.array([0.4]), np.array([99]), np.array([math.sin(1.5) - 0.2]))
    told = Observations(*(np.concatenate(pair) for pair in zip(known, begun, strict=True)))
    model = CurveModel.fitted(told)
    assert model is not None
    (mean,), (deviation,) = model.forecasts(begun.points, begun.runs)
    assert mean == pytest.approx(math.sin(1.5), abs=0.1)
    assert deviation < 0.2


def test_the_model_knows_the_luck_of_a_training_from_that_of_its_point() -> None:
    """Ten points trained four times each: their values differ by 0.3 between seeds."""
    draws = np.random.default_rng(0)
    points = np.repeat(draws.random((10, 1)), 4, axis=0)
    values = 2 * points[:, 0] + 0.3 * draws.standard_normal(40)
    model = CurveModel.fitted(Observations.of(points, np.ones(40), np.arange(40), values))
    assert model is not None
    assert 0.2 < math.sqrt(model.noise) < 0.4


# --- histories that say little ---------------------------------------------------------------------------------------


def observed(values: list[float], steps: list[float], runs: list[int]) -> Observations:
    points = np.array([[0.1 * (run + 1), 0.5] for run in runs])
    return Observations.of(points, np.array(steps), np.array(runs), np.array(values))


def test_equal_values_or_none_make_no_model() -> None:
    assert CurveModel.fitted(observed([0.5, 0.5], [1.0, 1.0], [0, 1])) is None
    assert CurveModel.fitted(observed([-math.inf, -math.inf], [0.5, 1.0], [0, 0])) is None


@pytest.mark.parametrize(
    "observations",
    [
        observed([0.1, 0.2, 0.3], [0.1, 0.2, 0.3], [0, 0, 0]),
        observed([0.5, 0.6], [1.0, 1.0], [0, 1]),
        observed([0.5, 0.6, 0.4], [1.0, 1.0, 1.0], [0, 1, 2]),
        observed([0.5, 0.6, -math.inf], [1.0, 1.0, 0.1], [0, 1, 2]),
    ],
    ids=["one trial", "two trials", "one epoch", "one diverged"],
)
def test_the_fewest_values_make_a_model_with_finite_forecasts(observations: Observations) -> None:
    model = CurveModel.fitted(observations)
    assert model is not None
    found = model.forecasts(np.array([[0.1, 0.5], [0.9, 0.9]]), np.array([0, -1]))
    assert np.isfinite(found.mean).all() and (found.deviation > 0).all()


def test_a_training_that_diverged_counts_as_the_worst_and_one_far_below_as_little_worse() -> None:
    values = [0.70, 0.71, 0.72, 0.73, -50.0]
    scale = Scale.of(observed([*values, -math.inf], [1.0] * 6, list(range(6))))
    assert scale is not None
    found = scale.to_model(np.array([*values, -math.inf]))
    assert found[-1] == found.min() == found[-2] > -5
    assert found[:4].tolist() == sorted(found[:4])


def test_values_in_percent_give_the_same_forecasts_in_percent() -> None:
    usual = curves(4)
    scaled = usual._replace(values=7 + 100 * usual.values)
    first, second = CurveModel.fitted(usual), CurveModel.fitted(scaled)
    assert first is not None and second is not None
    asked, runs = np.array([[0.3, 0.3]]), np.array([-1])
    (percent,), (share,) = second.forecasts(asked, runs).mean, first.forecasts(asked, runs).mean
    assert percent == pytest.approx(7 + 100 * share, rel=1e-3)


def test_a_fit_is_better_than_the_medians_of_its_priors() -> None:
    observations = curves(6)
    scale = Scale.of(observations)
    assert scale is not None
    told = observations._replace(values=scale.to_model(observations.values))
    found = fit(told)
    logarithms = np.log(np.concatenate([np.atleast_1d(field) for field in found]))
    assert loss(logarithms, told).value < loss(Prior.of(2).mean, told).value
