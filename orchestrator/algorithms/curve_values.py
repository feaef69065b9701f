"""Values of trainings at some of their steps, and the scale on which a model sees them.

n rows, d coordinates.
"""

from __future__ import annotations

from typing import NamedTuple, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

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
