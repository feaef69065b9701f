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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, solve_triangular
from scipy.optimize import minimize
from scipy.special import ndtr

Array: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

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
# Values further below the median than so many interquartile ranges say no more than that a point is bad.
FAR_BELOW = 3.0
EQUAL = 1e-9  # standard deviation of values that do not differ
WHOLE = 3  # completed trainings from which the spread is that of final values alone


class Observations(NamedTuple):
    """Values of trainings at some of their steps."""

    points: Array
    """(n, d), in [0, 1]."""
    steps: Array
    """(n,), in (0, 1]: the share of the training that was done."""
    runs: Ints
    """(n,): rows of the same training have the same number."""
    values: Array
    """(n,), larger is better; minus infinity of a training that diverged."""
    searches: Ints
    """(n,): 0 of this search, another number for each earlier one."""

    @classmethod
    def of(cls, points: Array, steps: Array, runs: Ints, values: Array) -> Self:
        """Of this search."""
        return cls(points, steps, runs, values, np.zeros(len(steps), dtype=int))

    def of_search(self, number: int) -> Self:
        """The rows of one search."""
        is_its = self.searches == number
        return type(self)(*(part[is_its] for part in self))


class Scale(NamedTuple):
    """From the objective's units to those of the model: 0 is the mean of final values, 1 their standard deviation."""

    center: float
    deviation: float
    """Positive."""
    lowest: float
    """Values below count as this one."""
    diverged: float
    """The value of a training that diverged: that of the worst one that did not, if it is not lower than `lowest`."""

    @classmethod
    def of(cls, observations: Observations) -> Self | None:
        """The scale of the observations of this search; None if there are none, or all are equal."""
        return cls._of_rows(observations.of_search(0))

    @classmethod
    def _of_rows(cls, observations: Observations) -> Self | None:
        _, steps, runs, values, _ = observations
        finite = np.isfinite(values)
        if not finite.any():
            return None
        is_last = finite & (steps >= _last_steps(steps, runs))
        quarter, median, three_quarters = np.quantile(values[is_last], [0.25, 0.5, 0.75])
        lowest = float(median - FAR_BELOW * max(three_quarters - quarter, 1e-6))
        told = cls(0.0, 1.0, lowest, max(lowest, float(values[is_last].min())))
        cut = told.to_model(values)
        last = cut[steps >= _last_steps(steps, runs)]
        final = cut[steps >= 1]
        reference = final if len(final) >= WHOLE else last
        deviation = max(float(reference.std()), float(last.std()))
        if deviation < EQUAL:
            deviation = float(cut.std())
        return told._replace(center=float(reference.mean()), deviation=deviation) if deviation >= EQUAL else None

    def to_model(self, values: Array) -> Array:
        """Values in units of the model."""
        cut = np.where(np.isneginf(values), self.diverged, np.maximum(values, self.lowest))
        return (cut - self.center) / self.deviation

    def scaled(self, observations: Observations) -> Observations:
        """With values in units of the model; those of each earlier search in units of their own spread."""
        values = self.to_model(observations.values)
        for search in set(observations.searches.tolist()) - {0}:
            its = observations.of_search(search)
            scale = Scale._of_rows(its)
            values[observations.searches == search] = 0.0 if scale is None else scale.to_model(its.values)
        return observations._replace(values=values)


def _last_steps(steps: Array, runs: Ints) -> Array:
    """(n,): for each row the last step of its run."""
    _, places = np.unique(runs, return_inverse=True)
    last = np.zeros(places.max() + 1)
    np.maximum.at(last, places, steps)
    return last[places]


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


def _final_variance(points: Array, h: Hyperparameters) -> Array:
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


# --- the posterior ---------------------------------------------------------------------------------------------------


class Normal(NamedTuple):
    """Independent normal distributions."""

    mean: Array
    """(m,)."""
    deviation: Array
    """(m,)."""


class FinalValues(NamedTuple):
    """The joint posterior of final values."""

    mean: Array
    """(m,)."""
    covariance: Array
    """(m, m)."""


@dataclass(frozen=True)
class Posterior:
    """What the model holds of some points, in its own units."""

    model: CurveModel
    points: Array
    """(m, d)."""
    runs: Ints
    """(m,): the trainings at the points that are asked about; -1 for new ones."""
    mean: Array
    """(m,): of g."""
    half: Array
    """(n, m): the covariance of the rows with g at the points, solved by the Cholesky factor."""
    prior: Array
    """(m,): prior variance of g."""

    def end(self) -> Normal:
        """Of g + u: where each run ends, without the noise of its last evaluation."""
        h, rows = self.model.hyperparameters, self.model.rows
        own = ((rows.runs[:, None] == self.runs[None]) & (self.runs >= 0)[None]).astype(float)
        half = self.half + h.run * self.model.solved(own)
        mean = self.mean + h.run * own.T @ self.model.weights
        return Normal(mean, np.sqrt(np.maximum(self.prior + h.run - (half**2).sum(0), 1e-8)))

    def gain(self) -> Array:
        """(m,): standard deviation of the change of g's mean by the value of each training at its end."""
        h = self.model.hyperparameters
        rows = Rows.of(self.points, np.ones(len(self.points)), self.runs)
        half = self.model.solved(value_covariance(self.model.rows, rows, h))
        variance = self.prior + h.run + h.noise + JITTER - (half**2).sum(0)
        covariance = self.prior - (self.half * half).sum(0)
        gain: Array = np.abs(covariance) / np.sqrt(np.maximum(variance, 1e-6))
        return gain


class LeftOut(NamedTuple):
    """Forecasts of the last values of some runs by a model that does not know them, in units of the model."""

    error: Array
    """(m,): value less forecast."""
    deviation: Array
    """(m,): that the model gives the error."""


@dataclass(frozen=True)
class CurveModel:
    """The process, given observations; its units are those of `scale`."""

    scale: Scale
    hyperparameters: Hyperparameters
    rows: Rows
    root: Array
    """(n, n): lower Cholesky factor of the rows' covariance."""
    weights: Array
    """(n,): the inverse covariance times the values."""

    @classmethod
    def of(cls, observations: Observations, scale: Scale, hyperparameters: Hyperparameters) -> Self:
        """The model with given hyperparameters."""
        points, steps, runs, values, searches = scale.scaled(observations)
        rows = Rows(points, steps, runs, searches)
        covariance = value_covariance(rows, rows, hyperparameters)
        covariance[np.diag_indices(len(values))] += hyperparameters.noise + JITTER
        root: Array = np.asarray(np.linalg.cholesky(covariance), dtype=float)
        weights: Array = cho_solve((root, True), values, check_finite=False)
        return cls(scale, hyperparameters, rows, root, weights)

    @classmethod
    def fitted(cls, observations: Observations) -> Self | None:
        """The model with the most probable hyperparameters; None if the values do not differ."""
        scale = Scale.of(observations)
        if scale is None:
            return None
        return cls.of(observations, scale, fit(scale.scaled(observations)))

    def solved(self, right: Array) -> Array:
        """(n, m): the Cholesky factor's inverse times a matrix."""
        found: Array = solve_triangular(self.root, right, lower=True, check_finite=False)
        return found

    def posterior(self, points: Array, runs: Ints | None = None) -> Posterior:
        """Of points (m, d), and of these runs (m,) of this search there; None for new ones."""
        between = apart(self.rows.searches, np.zeros(len(points), dtype=int))
        covariance = final_covariance(self.rows.points, points, self.hyperparameters, between)
        return Posterior(
            self,
            points,
            np.full(len(points), -1) if runs is None else runs,
            covariance.T @ self.weights,
            self.solved(covariance),
            _final_variance(points, self.hyperparameters),
        )

    def final(self, points: Array) -> FinalValues:
        """Of g at points (m, d), in the objective's units."""
        found = self.posterior(points)
        prior = final_covariance(points, points, self.hyperparameters)
        unit = self.scale.deviation
        return FinalValues(self.scale.center + unit * found.mean, unit**2 * (prior - found.half.T @ found.half))

    def left_out(self, runs: Sequence[int], steps: Sequence[float]) -> list[LeftOut]:
        """By step: forecasts of each run's last value by all other runs and by its own values up to that step.

        Step 0 leaves all of its values out. In closed form, from the inverse of the covariance (Rasmussen and Williams
        2006, eqs. 5.10 to 5.12, for blocks of rows); the hyperparameters stay those of all values.
        """
        inverse = cho_solve((self.root, True), np.eye(len(self.root)), check_finite=False)
        found = np.empty((len(steps), 2, len(runs)))
        for number, run in enumerate(runs):
            own = np.flatnonzero(self.rows.runs == run)
            covariance = np.linalg.inv(inverse[np.ix_(own, own)])
            errors = covariance @ self.weights[own]
            for place, step in enumerate(steps):
                known = np.flatnonzero(self.rows.steps[own[:-1]] <= step)
                slope = np.linalg.solve(covariance[np.ix_(known, known)], covariance[known, -1])
                variance = covariance[-1, -1] - slope @ covariance[known, -1]
                found[place, :, number] = errors[-1] - slope @ errors[known], math.sqrt(max(variance, JITTER))
        return [LeftOut(*each) for each in found]

    @property
    def noise(self) -> float:
        """Variance of the value of a whole training around g, in the objective's units squared."""
        return self.scale.deviation**2 * (self.hyperparameters.run + self.hyperparameters.noise)

    def forecasts(self, points: Array, runs: Ints) -> Normal:
        """Of where runs (m,) at points (m, d) end, in the objective's units."""
        mean, deviation = self.posterior(points, runs).end()
        return Normal(self.scale.center + self.scale.deviation * mean, self.scale.deviation * deviation)

    def believing(self, rows: Rows) -> Self:
        """The model as if each of these rows had been observed at its posterior mean.

        That leaves every mean as it is (Ginsbourger et al. 2010, "kriging believer") and lowers deviations; so rows
        stand for trainings whose values are not known yet.
        """
        h = self.hyperparameters
        across = self.solved(value_covariance(self.rows, rows, h))
        covariance = value_covariance(rows, rows, h) - across.T @ across
        covariance[np.diag_indices(len(rows.steps))] += h.noise + JITTER
        corner = np.linalg.cholesky(covariance)
        root = np.block([[self.root, np.zeros_like(across)], [across.T, corner]])
        both = Rows(*(np.concatenate(pair) for pair in zip(self.rows, rows, strict=True)))
        weights = np.concatenate([self.weights, np.zeros(len(corner))])
        return type(self)(self.scale, h, both, root, weights)


# --- what a step of training is worth --------------------------------------------------------------------------------

TINY = 1e-300  # improvement whose logarithm stands for that of none


def expected_improvement(mean: Array, deviation: Array, best: float) -> Array:
    """Of normal distributions over a value (Jones et al. 1998)."""
    away = (mean - best) / deviation
    density = np.exp(-0.5 * away**2) / math.sqrt(2 * math.pi)
    improvement: Array = deviation * (density + away * ndtr(away))
    return improvement


def worth(mean: Array, gain: Array, best: float, cost: Array | float) -> Array:
    """(m,): logarithm of the improvement that an epoch of each training is expected to bring.

    Args:
        mean: (m,): of g.
        gain: (m,): see `Posterior.gain`.
        best: the value that counts as reached.
        cost: (m,) or one number: epochs to the end of each training, of a typical duration; positive.
    """
    found: Array = np.log(np.maximum(expected_improvement(mean, gain, best), TINY)) - np.log(cost)
    return found
