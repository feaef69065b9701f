"""Confidence intervals of the difference between two configurations, over the seeds that they were trained with."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from orchestrator.algorithms.replicates import t_quantile

METRIC = "mAP"
"""Whose noise is estimated."""

Runs = Mapping[tuple[int, int | None], float]
"""The metric of one configuration's trainings, by seed and validation fold (None where there are no folds)."""


class SeedDifference(NamedTuple):
    """Difference of two configurations over seeds."""

    delta: float
    """Mean of the second minus mean of the first."""
    low: float
    """Lower end of the 95 % confidence interval of `delta`."""
    high: float
    """Upper end of the interval."""
    runs: tuple[int, int]
    """Number of trainings of the first and of the second configuration."""
    freedom: int
    """Degrees of freedom of the estimate of the noise."""
    paired: bool
    """Whether trainings of the same seed and fold were compared with each other."""

    @property
    def exceeds(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def seed_difference(before: Runs, after: Runs, others: Sequence[Sequence[float]] = ()) -> SeedDifference | None:
    """The difference of two configurations' means with its confidence interval (Student 1908), None without repeats.

    On several folds, which differ by more than seeds do, trainings of the same seed and fold are compared in pairs.
    Otherwise the noise is the pooled standard deviation of both configurations and of `others`, values of repeated
    trainings of further configurations, as in an analysis of variance. A configuration that was trained once can then
    be compared, too.
    """
    assert before and after
    common = sorted(before.keys() & after.keys(), key=str)
    if any(fold is not None for _, fold in common) and len(common) > 1:
        return _paired([after[run] - before[run] for run in common])
    delta = statistics.fmean(after.values()) - statistics.fmean(before.values())
    repeated = [list(group) for group in (before.values(), after.values(), *others) if len(group) > 1]
    freedom = sum(len(group) - 1 for group in repeated)
    if freedom == 0:
        return None
    variance = sum(statistics.variance(group) * (len(group) - 1) for group in repeated) / freedom
    margin = t_quantile(freedom) * math.sqrt(variance * (1 / len(before) + 1 / len(after)))
    return SeedDifference(delta, delta - margin, delta + margin, (len(before), len(after)), freedom, paired=False)


def _paired(differences: Sequence[float]) -> SeedDifference:
    count, delta = len(differences), statistics.fmean(differences)
    margin = t_quantile(count - 1) * statistics.stdev(differences) / math.sqrt(count)
    return SeedDifference(delta, delta - margin, delta + margin, (count, count), count - 1, paired=True)


def welch_interval(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the difference of the means of two samples of two values at least (Welch 1947).

    The difference itself at both ends where neither sample varies.
    """
    parts = [(statistics.variance(sample) / len(sample), len(sample) - 1) for sample in (first, second)]
    total = sum(part for part, _ in parts)
    difference = statistics.fmean(first) - statistics.fmean(second)
    if total == 0:
        return difference, difference
    freedom = total**2 / sum(part**2 / degrees for part, degrees in parts)
    margin = t_quantile(freedom) * math.sqrt(total)
    return difference - margin, difference + margin
