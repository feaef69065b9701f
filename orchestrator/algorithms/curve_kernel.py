"""A Gaussian process over points, steps and runs: what a training reaches at its end, from its curve and from others.

The value of run r, a training at point x, at step t in (0, 1] (a share of its epochs) is

    y(x, t, r) = g(x) + u(r) + c(x, t) + e(r, t) + noise

    g  the value at the end of training, without luck: a level, a quadratic trend in each coordinate, and a process with
       a Matérn-5/2 kernel and a lengthscale for each coordinate
    u  luck of the run: what another seed would change
    c  the curve's way to its end, similar at similar points
    e  the same, of the run alone

c and e are 0 at t = 1: each is a sum over `RATES` of a process with covariance b / (t + t' + b), as a mixture of
exponential decays has (Swersky et al. 2014, arXiv:1406.3896, eq. 6), less its value at t = 1. An observation at t = 1
therefore tells of g and u alone. Hyperparameters are the maximum of their posterior, under log-normal priors.

Rows may be of earlier searches (warm start), which measured something else: search k has, in place of g,

    g_k(x) = level_k + rho (g(x) - level) + sqrt(1 - rho^2) difference_k(x),    rho = 1 / sqrt(1 + v)

with a level and a difference of its own. The difference has the kernel of g without its level, and v, its variance in
units of that of g, is a hyperparameter: where an earlier search does not agree with this one, rho goes to 0 and it says
nothing. Its values are in units of their own spread, so that their level and scale do not matter.

Points are rows of coordinates in [0, 1]. Values are larger where better; the model works in units of their spread and
cuts off what lies far below most of them (`Scale`).

n rows, m points, d coordinates.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Self

import numpy as np
from scipy.linalg import cho_solve
from scipy.optimize import minimize

from orchestrator.algorithms.curve_values import Array, Ints, Observations

# The two rates of decay b, in shares of a training: curves bend early, or all the way.
RATES = (0.05, 0.5)
# Prior variances, in squared units of the values' spread. Of the level, and of the curve that all points share:
LEVEL, SHARED_CURVE = 1.0, 4.0
# log-normal priors (median, sd of the logarithm) of the variances of g, u, c (by rate), e (by rate) and the noise,
VARIANCES = ((0.6, 0.7), (0.02, 1.2), (1.0, 1.2), (1.0, 1.2), (0.1, 1.2), (0.1, 1.2), (0.01, 1.2))
# of lengthscales: the median is 0.5 up to 3 coordinates and grows with the root of their number, as distances do
# (Hvarfner et al. 2024, arXiv:2402.02229),
LENGTHSCALE, LENGTHSCALE_SD = 0.5, 0.8
# of the trend's variance, which the coordinates share,
TREND, TREND_SD = 0.3, 1.5
# and of the variance of the difference of an earlier search, in units of that of g.
DIFFERENCE, DIFFERENCE_SD = 1.0, 2.0
JITTER = 1e-5
BOUNDS_SCALE, BOUNDS_VARIANCE, BOUNDS_TREND = (-4.0, 4.0), (-9.0, 2.5), (-12.0, 3.0)  # of the logarithms
BOUNDS_DIFFERENCE = (-6.0, 6.0)
STEPS = 80  # of L-BFGS; the posterior is flat around its maximum


class Hyperparameters(NamedTuple):
    """The model's settings, all positive, in its own units."""

    scales: Array
    """(d,): lengthscales of g."""
    curve_scales: Array
    """(d,): lengthscales of c."""
    final: float
    """Variance of g."""
    run: float
    """Variance of u."""
    by_point: Array
    """(2,): variances of c by rate."""
    by_run: Array
    """(2,): variances of e by rate."""
    noise: float
    difference: float
    """Variance of the difference of an earlier search, in units of that of g."""
    trend: Array
    """(d,): variances of the linear and of the quadratic trend of g along each coordinate."""

    @classmethod
    def of(cls, logarithms: Array) -> Self:
        """From a vector of 3 d + 8 logarithms, in the order of the fields."""
        d = (len(logarithms) - 8) // 3
        values = np.exp(logarithms)
        final, run, slow, fast, own_slow, own_fast, noise, difference = values[2 * d : 2 * d + 8].tolist()
        by_point, by_run = np.array([slow, fast]), np.array([own_slow, own_fast])
        return cls(values[:d], values[d : 2 * d], final, run, by_point, by_run, noise, difference, values[2 * d + 8 :])

    def correlation(self, apart: Array) -> Array:
        """Of final values less their levels; arguments as `apart` returns them."""
        found: Array = (1 + self.difference) ** (-0.5 * apart)
        return found


class Prior(NamedTuple):
    """Normal distributions of the logarithms of hyperparameters."""

    mean: Array
    deviation: Array
    bounds: list[tuple[float, float]]

    @classmethod
    def of(cls, d: int) -> Self:
        """The prior for d coordinates."""
        scale = LENGTHSCALE * math.sqrt(max(d, 3) / 3)
        variances, deviations_of = zip(*VARIANCES, strict=True)
        medians = [scale] * 2 * d + [*variances, DIFFERENCE] + [TREND / d] * d
        deviations = [LENGTHSCALE_SD] * 2 * d + [*deviations_of, DIFFERENCE_SD] + [TREND_SD] * d
        bounds = [BOUNDS_SCALE] * 2 * d + [BOUNDS_VARIANCE] * len(VARIANCES) + [BOUNDS_DIFFERENCE] + [BOUNDS_TREND] * d
        return cls(np.log(medians), np.array(deviations), bounds)


# --- the covariance --------------------------------------------------------------------------------------------------


def decay(steps: Array, others: Array, rate: float) -> Array:
    """(n, m): covariance of curves that end at 0, in units of their variance at step 0; 0 where a step is 1."""

    def mixture(first: Array | float, second: Array | float) -> Array:
        return np.asarray(rate / (first + second + rate))

    to_end = mixture(steps, 1.0)[:, None] + mixture(1.0, others)[None]
    found: Array = mixture(steps[:, None], others[None]) - to_end + mixture(1.0, 1.0)
    return found / (mixture(0.0, 0.0) - 2 * mixture(0.0, 1.0) + mixture(1.0, 1.0))


def trend_features(points: Array) -> Array:
    """(m, 2 d): the Legendre polynomials of degree 1 and 2 of each coordinate."""
    centred = 2 * points - 1
    return np.hstack([centred, 1.5 * centred**2 - 0.5])


class _Matern(NamedTuple):
    """The Matérn-5/2 correlation and its derivative."""

    value: Array
    slope: Array
    """Derivative by the logarithm of a lengthscale, per squared scaled distance along its coordinate."""


def _matern(squares: Array) -> _Matern:
    """Of squared distances in lengthscales."""
    root = np.sqrt(5 * squares + 1e-12)
    tail = np.exp(-root)
    return _Matern((1 + root + root**2 / 3) * tail, (5 / 3) * (1 + root) * tail)


def _squared_distances(points: Array, others: Array) -> Array:
    norms = (points**2).sum(1)[:, None] + (others**2).sum(1)[None]
    distances: Array = np.maximum(norms - 2 * points @ others.T, 0.0)
    return distances


def apart(searches: Ints, others: Ints) -> Array:
    """(n, m): 0 for rows of the same search, 1 for rows of this one and an earlier one, 2 for two earlier ones."""
    are_different = searches[:, None] != others[None]
    found: Array = are_different * ((searches > 0)[:, None].astype(float) + (others > 0)[None])
    return found


def final_covariance(points: Array, others: Array, h: Hyperparameters, apart: Array | None = None) -> Array:
    """(m, n): prior covariance of g; with `apart` (m, n), see there, of what earlier searches have in its place."""
    trend = (trend_features(points) * np.tile(h.trend, 2)) @ trend_features(others).T
    distances = _squared_distances(points / h.scales, others / h.scales)
    varying: Array = trend + h.final * _matern(distances).value
    if apart is None:
        return LEVEL + varying
    covariance: Array = LEVEL * (apart == 0) + varying * h.correlation(apart)
    return covariance


def final_variance(points: Array, h: Hyperparameters) -> Array:
    """(m,): the diagonal of `final_covariance`."""
    variance: Array = LEVEL + h.final + trend_features(points) ** 2 @ np.tile(h.trend, 2)
    return variance


class Rows(NamedTuple):
    """Where observations are made: points (n, d), steps (n,), runs (n,), searches (n,); a run of -1 is a new one."""

    points: Array
    steps: Array
    runs: Ints
    searches: Ints

    @classmethod
    def of(cls, points: Array, steps: Array, runs: Ints) -> Self:
        """Of this search."""
        return cls(points, steps, runs, np.zeros(len(steps), dtype=int))


def value_covariance(rows: Rows, others: Rows, h: Hyperparameters) -> Array:
    """(n, m): prior covariance of values without noise. Rows of different new runs (-1) are different runs."""
    same = ((rows.runs[:, None] == others.runs[None]) & (rows.runs >= 0)[:, None]).astype(float)
    near = _matern(_squared_distances(rows.points / h.curve_scales, others.points / h.curve_scales)).value
    between = apart(rows.searches, others.searches)
    covariance: Array = final_covariance(rows.points, others.points, h, between) + h.run * same
    for rate, by_point, by_run in zip(RATES, h.by_point, h.by_run, strict=True):
        covariance += decay(rows.steps, others.steps, rate) * (SHARED_CURVE + by_point * near + by_run * same)
    return covariance


# --- fitting ---------------------------------------------------------------------------------------------------------


class _Pairs(NamedTuple):
    """What the covariance of all pairs of rows is made of, whatever the hyperparameters."""

    squares: Array
    """(n, n, d): squared differences along each coordinate."""
    same: Array
    """(n, n): 1 where both rows are of one run."""
    decays: Array
    """(2, n, n): by rate."""
    trend: Array
    """(n, 2 d)."""
    apart: Array
    """(n, n): see `apart`."""


def _pairs(observations: Observations) -> _Pairs:
    points, steps, runs, _, searches = observations
    squares = (points[:, None] - points[None]) ** 2
    decays = np.array([decay(steps, steps, rate) for rate in RATES])
    same = (runs[:, None] == runs[None]).astype(float)
    return _Pairs(squares, same, decays, trend_features(points), apart(searches, searches))


class Loss(NamedTuple):
    """The negative logarithm of the posterior of hyperparameters, up to a constant."""

    value: float
    gradient: Array
    """By the logarithms of the hyperparameters."""


def loss(logarithms: Array, observations: Observations) -> Loss:
    """Of `Hyperparameters.of(logarithms)`, given observations in units of the model."""
    return _loss(logarithms, _pairs(observations), observations.values, Prior.of(observations.points.shape[1]))


def _loss(logarithms: Array, pairs: _Pairs, values: Array, prior: Prior) -> Loss:
    """As `loss`; Rasmussen and Williams 2006, eqs. 5.8 and 5.9."""
    h = Hyperparameters.of(logarithms)
    final, curve = _matern(pairs.squares @ h.scales**-2), _matern(pairs.squares @ h.curve_scales**-2)
    by_point = np.tensordot(h.by_point, pairs.decays, 1)
    unshared = np.tensordot(h.by_run, pairs.decays, 1) + h.run
    correlation = h.correlation(pairs.apart)
    varying = correlation * (h.final * final.value + (pairs.trend * np.tile(h.trend, 2)) @ pairs.trend.T)
    covariance = LEVEL * (pairs.apart == 0) + SHARED_CURVE * pairs.decays.sum(0) + varying
    covariance += by_point * curve.value + unshared * pairs.same
    covariance[np.diag_indices(len(values))] += h.noise + JITTER
    try:
        root = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        return Loss(1e6, np.zeros_like(logarithms))
    inverse = cho_solve((root, True), np.eye(len(values)), check_finite=False)
    weights = inverse @ values
    evidence = 0.5 * values @ weights + np.log(np.diag(root)).sum()
    slope = 0.5 * (inverse - np.outer(weights, weights))  # of the evidence by the covariance
    related = slope * correlation
    along, along_curve = (
        slope_of.ravel() @ pairs.squares.reshape(-1, len(h.scales))
        for slope_of in (related * final.slope, slope * by_point * curve.slope)
    )
    near, own = slope * curve.value, slope * pairs.same
    trend = (pairs.trend * (related @ pairs.trend)).sum(0).reshape(2, -1).sum(0)
    differing = -0.5 * h.difference / (1 + h.difference) * (slope * pairs.apart * varying).sum()
    gradient = np.concatenate(
        [
            h.final * along * h.scales**-2,
            along_curve * h.curve_scales**-2,
            [h.final * (related * final.value).sum(), h.run * own.sum()],
            h.by_point * (pairs.decays * near).sum((1, 2)),
            h.by_run * (pairs.decays * own).sum((1, 2)),
            [h.noise * np.trace(slope), differing],
            h.trend * trend,
        ]
    )
    away = (logarithms - prior.mean) / prior.deviation
    return Loss(float(evidence + 0.5 * away @ away), gradient + away / prior.deviation)


def fit(observations: Observations, *, steps: int = STEPS) -> Hyperparameters:
    """The most probable hyperparameters, given observations in units of the model."""
    prior, pairs = Prior.of(observations.points.shape[1]), _pairs(observations)
    found = minimize(
        lambda logarithms: _loss(logarithms, pairs, observations.values, prior),
        prior.mean,
        jac=True,
        method="L-BFGS-B",
        bounds=prior.bounds,
        options={"maxiter": steps},
    )
    return Hyperparameters.of(found.x if np.isfinite(found.fun) and found.fun < 1e6 else prior.mean)
