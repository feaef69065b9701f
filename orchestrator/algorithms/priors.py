"""Priors on parameters: how much a point agrees with the values that are probably good (piBO).

The acquisition is multiplied by prior(x) ** (beta / n), with n trials so far and beta a tenth of the budget (Hvarfner
et al. 2022, arXiv:2204.11051, eq. 6), so that a wrong prior is forgotten as evidence comes. To the logarithm of an
acquisition that is an added term.

m points.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from orchestrator.algorithms.curve_values import Array

SHARE_OF_BUDGET = 0.1  # beta
# By how sure a value is: the standard deviation around its place in the range, and the weight of a uniform density, so
# that no point is ever ruled out.
WIDTHS = {"weak": 0.3, "medium": 0.15, "strong": 0.07}
FLOORS = {"weak": 0.5, "medium": 0.25, "strong": 0.1}


class ParameterPrior(NamedTuple):
    """The prior of one parameter, on its places in [0, 1]."""

    place: float
    width: float
    floor: float
    values: int
    """Number of values of a choice without an order, among which only the value itself is near; 0 of anything else."""

    @classmethod
    def of(cls, place: float, sure: str, values: int = 0) -> ParameterPrior:
        """Of a value at a place, one of so many `values` where the parameter is a choice without an order."""
        return cls(place, WIDTHS[sure], FLOORS[sure], values)

    def density(self, places: Array) -> Array:
        """(m,): relative to the uniform density: the mean over all places, or values, is 1, and `floor` the least."""
        if self.values:
            near = self.values * (np.abs(places - self.place) < 0.5 / self.values).astype(float)
        else:
            inside = ndtr((1 - self.place) / self.width) - ndtr(-self.place / self.width)
            scaled = (places - self.place) / self.width
            near = np.exp(-0.5 * scaled**2) / (math.sqrt(2 * math.pi) * self.width * inside)
        found: Array = self.floor + (1 - self.floor) * near
        return found


def prior_weight(trials: int, budget: int) -> float:
    """The exponent of the prior, beta / n.

    Args:
        trials: started so far.
        budget: trials of the whole search.
    """
    return SHARE_OF_BUDGET * budget / max(trials, 1)
