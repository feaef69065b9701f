"""What a training costs, from the measured durations of others: a model of the logarithm of seconds over a space.

Ridge regression on the trend features of `orchestrator.algorithms.learning_curves`: the prior shrinks to the mean, and
the most probable ratio of its variance to that of the noise is taken, as in the evidence framework (MacKay 1992,
"Bayesian interpolation"). The model exists only where it tells costs apart.

m points, n trainings, d coordinates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

from orchestrator.algorithms.curve_kernel import trend_features
from orchestrator.algorithms.curve_values import Array

# Trainings without which nothing is said of costs.
LEAST_MEASURED = 8
# The smallest error of a predicted logarithm: costs that differ by less count as equal.
LEAST_ERROR = 0.05
# No training counts as so many times cheaper or dearer than the mean, however it is predicted.
LARGEST_RATIO = 8.0
# Prior variance of a weight in units of the noise's.
RATIOS = np.geomspace(1e-3, 1e4, 22)


@dataclass(frozen=True)
class CostModel:
    """Costs in units of a typical one, so that it does not matter in what seconds are measured."""

    center: float
    """Mean logarithm of the measured seconds; a training of so many costs 1."""
    origin: Array
    """(2 d,): mean of the features of the measured trainings."""
    weights: Array
    """(2 d,)."""

    @classmethod
    def fitted(cls, points: Array, seconds: Array) -> Self | None:
        """The model of whole trainings at points (n, d); None if it cannot tell their costs apart.

        It can if its predictions of each training from the others differ by more than they err.

        Args:
            points: (n, d), in [0, 1].
            seconds: (n,), positive: of a whole training.
        """
        if len(seconds) < LEAST_MEASURED:
            return None
        features, logarithms = trend_features(points), np.log(seconds)
        origin, center = features.mean(0), float(logarithms.mean())
        left, scales, right = np.linalg.svd(features - origin, full_matrices=False)
        along = left.T @ (logarithms - center)
        ratio = _most_probable_ratio(scales, along, logarithms - center)
        kept = ratio * scales**2 / (1 + ratio * scales**2)
        leverage = 1 / len(seconds) + left**2 @ kept
        errors = (logarithms - center - left @ (kept * along)) / np.maximum(1 - leverage, 1e-9)
        if (logarithms - errors).std() <= max(LEAST_ERROR, math.sqrt((errors**2).mean())):
            return None
        return cls(center, origin, right.T @ (ratio * scales / (1 + ratio * scales**2) * along))

    def predicted(self, points: Array) -> Array:
        """(m,): cost of a whole training at each point (m, d)."""
        return _limited((trend_features(points) - self.origin) @ self.weights)

    def measured(self, seconds: Array) -> Array:
        """(m,): cost of whole trainings that take so many seconds (m,)."""
        return _limited(np.log(seconds) - self.center)


def _most_probable_ratio(scales: Array, along: Array, values: Array) -> float:
    """The ratio of `RATIOS` with the largest evidence, the variance of the noise at its maximum.

    Args:
        scales: singular values of the features.
        along: values in the coordinates of the features' left singular vectors.
        values: (n,), of mean 0.
    """
    grown = 1 + RATIOS[:, None] * scales**2
    degrees = len(values) - 1
    squares = values @ values - along @ along + (along**2 / grown).sum(1)
    evidence = -degrees * np.log(np.maximum(squares, 1e-12 * degrees)) - np.log(grown).sum(1)
    return float(RATIOS[evidence.argmax()])


def _limited(logarithms: Array) -> Array:
    limit = math.log(LARGEST_RATIO)
    found: Array = np.exp(np.clip(logarithms, -limit, limit))
    return found
