"""Problems made of recorded trainings: every proposal is answered by the nearest training that was not used yet.

A folder of tables holds `*.npz` files in the form of TaskSet (Metz et al. 2020): `names` (D), `log` (D, whether a
hyperparameter is searched on a logarithmic scale), `hp` (N, D), and `valid` (N, E), losses of which lower is better.
Values that are not finite are diverged trainings. `valid` may also be (N, S, E) for S seeds: merit is then the mean
over seeds, and a trial shows the curve of one seed, drawn at random.
"""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

import numpy as np

from benchmarks.search.problems import Point, Vector

TRIALS = 60
# A loss may be larger than the median by orders of magnitude; below this merit all are as bad.
WORST = -3.0


class Table:
    """Recorded trainings of one task; `place` gives the nearest one in the unit cube of the search's scales."""

    trials = TRIALS

    def __init__(self, path: Path) -> None:
        """Reads a table.

        Raises:
            KeyError, ValueError: the file has another form.
        """
        with np.load(path) as arrays:
            points, logarithmic, valid = arrays["hp"].astype(float), arrays["log"].astype(bool), arrays["valid"]
        self.name = path.stem
        points = np.where(logarithmic, np.log(np.where(logarithmic, points, 1.0)), points)
        low, high = points.min(0), points.max(0)
        self._points = (points - low) / np.where(high > low, high - low, 1.0)
        self._curves = self._scaled(valid.astype(float).reshape(len(points), -1, valid.shape[-1]))
        self._index = {tuple(point): number for number, point in enumerate(self._points.tolist())}
        self._merit = np.where(np.isfinite(self._curves[:, :, -1]), self._curves[:, :, -1], WORST).mean(1)
        self.dimensions, self.epochs = int(self._points.shape[1]), int(valid.shape[-1])

    @staticmethod
    def _scaled(losses: Vector) -> Vector:
        """Losses (N, S, E) on the scale of merit; NaN from the first value that is not finite."""
        diverged = np.logical_or.accumulate(~np.isfinite(losses), axis=-1)
        ends = np.where(diverged[:, :, -1], np.inf, losses[:, :, -1]).mean(1)
        median, best = np.median(ends), ends.min()
        merit = np.maximum((median - losses) / (median - best), WORST)
        merit[diverged] = np.nan
        return merit

    @property
    def intraclass_correlation(self) -> float:
        """The share of the variance of last values between points, ICC(1): 1 where seeds make no difference.

        Raises:
            ValueError: the table has one seed.
        """
        ends = self._curves[:, :, -1]
        ends = ends[np.isfinite(ends).all(1)]
        seeds = ends.shape[1]
        if seeds < 2:
            raise ValueError(f"{self.name}: one seed per point tells nothing about seeds")
        between, within = seeds * ends.mean(1).var(ddof=1), ends.var(1, ddof=1).mean()
        return float((between - within) / (between + (seeds - 1) * within))

    def place(self, point: Point, taken: Set[tuple[float, ...]]) -> list[float]:
        """See `Problem`."""
        order = np.argsort(((self._points - np.asarray(point)) ** 2).sum(1), kind="stable")
        near = (tuple(self._points[number].tolist()) for number in order)
        # A rule that stops nearly every trial after an epoch gets through the whole table: rows are then used again.
        return list(next((found for found in near if found not in taken), tuple(self._points[order[0]].tolist())))

    def merit(self, point: Point) -> float:
        """See `Problem`."""
        return float(self._merit[self._index[tuple(point)]])

    def curve(self, point: Point, noise: np.random.Generator) -> Vector:
        """See `Problem`."""
        curves = self._curves[self._index[tuple(point)]]
        chosen: Vector = curves[noise.integers(len(curves))]
        return chosen

    def standard_error(self, point: Point) -> float:
        """Unknown: all trials share the validation set."""
        return 0.0
