"""What a training reaches at its end, from its curve and from others: the posterior of the process of `curve_kernel`.

n rows, m points, d coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from scipy.linalg import cho_solve, solve_triangular
from scipy.special import ndtr

from orchestrator.algorithms.curve_kernel import (
    JITTER,
    Hyperparameters,
    Rows,
    apart,
    final_covariance,
    final_variance,
    fit,
    value_covariance,
)
from orchestrator.algorithms.curve_values import Array, Ints, Observations, Scale

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
            final_variance(points, self.hyperparameters),
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


# --- expected improvement ---------------------------------------------------------------------------------------------

TINY = 1e-300  # improvement whose logarithm stands for that of none


def expected_improvement(mean: Array, deviation: Array, best: float) -> Array:
    """Of normal distributions over a value (Jones et al. 1998)."""
    away = (mean - best) / deviation
    density = np.exp(-0.5 * away**2) / math.sqrt(2 * math.pi)
    improvement: Array = deviation * (density + away * ndtr(away))
    return improvement


def log_improvement_rate(mean: Array, gain: Array, best: float, cost: Array | float) -> Array:
    """(m,): logarithm of the expected improvement per epoch of each training.

    Args:
        mean: (m,): of g.
        gain: (m,): see `Posterior.gain`.
        best: the value that counts as reached.
        cost: (m,) or one number: epochs to the end of each training, of a typical duration; positive.
    """
    found: Array = np.log(np.maximum(expected_improvement(mean, gain, best), TINY)) - np.log(cost)
    return found
