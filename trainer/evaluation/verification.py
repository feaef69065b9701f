"""Same identity or not: error rates of a threshold on the distance, over all pairs of a query and the gallery.

Or, where a data set has a list of pairs in folds, over that list. P pairs of the same identity, N pairs of different
ones. A pair is accepted, taken for the same identity, where its distance is at most the threshold.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_left
from collections.abc import Mapping
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from trainer.result import DistanceThreshold, PairMetrics, VerificationMetrics

PAIRS = 10, 100, 1_000, 10_000
"""False positive rates 1e-1 to 1e-4, as 1 in so many pairs."""
CHOSEN = 100  # 1 in so many is the false positive rate that a threshold is chosen for
ROC_POINTS = 100

Distances = Float[np.ndarray, " P"]


class Verification(NamedTuple):
    """The metrics of all thresholds, and points of the ROC curve."""

    metrics: VerificationMetrics
    roc: list[tuple[float, float]]
    """False and true positive rate of thresholds, ascending, at most 102 points: dense where few pairs are accepted."""


def verify(matching: Float[np.ndarray, " P"], others: Float[np.ndarray, " N"]) -> Verification:
    """Error rates from the distances of pairs of the same identity and of pairs of different ones.

    Sorts copies: 4 bytes a pair in float32, no table of thresholds.

    Raises:
        ValueError: there is no pair of either kind, or a distance is NaN.
    """
    if not len(matching) or not len(others):
        raise ValueError(f"{len(matching)} pairs of the same identity and {len(others)} of different ones; both needed")
    positives, negatives = np.sort(matching), np.sort(others)
    if np.isnan(positives[-1]) or np.isnan(negatives[-1]):  # sorted last
        raise ValueError("distances are NaN, so there is no threshold")
    tpr = {f"TPR@FPR=1e-{power}": _tpr(positives, negatives, pairs) for power, pairs in enumerate(PAIRS, 1)}
    metrics = VerificationMetrics(
        EER=_equal_error_rate(positives, negatives),
        TPR=tpr,
        threshold=_threshold(positives, negatives, CHOSEN),
        matching_pairs=len(positives),
        other_pairs=len(negatives),
    )
    return Verification(metrics, _roc(positives, negatives))


class FoldVerification(NamedTuple):
    """How well pairs in folds are told apart, each fold by what the others say."""

    by_fold: Mapping[int, PairMetrics]
    """By the number of the fold, ascending."""

    @property
    def mean_accuracy(self) -> float:
        """Mean of the folds' accuracies."""
        return fmean(fold.accuracy for fold in self.by_fold.values())

    @property
    def standard_error(self) -> float:
        """Of `mean_accuracy`: the deviation of the folds' accuracies over the root of their number."""
        return stdev(fold.accuracy for fold in self.by_fold.values()) / math.sqrt(len(self.by_fold))


def verify_folds(
    distances: Float[np.ndarray, " pairs"], same: Bool[np.ndarray, " pairs"], folds: Int[np.ndarray, " pairs"]
) -> FoldVerification:
    """Each fold's accuracy at the threshold that is best on the pairs of all others (Huang et al. 2007, LFW).

    Of thresholds that are equally good the smallest counts. It lies halfway between the last distance that it accepts
    and the next; just below all where none should be accepted.

    Args:
        distances: of both tracklets of each pair.
        same: whether they show the same identity.
        folds: number of each pair's fold.

    Raises:
        ValueError: there is one fold only, one lacks pairs of either kind, or a distance is NaN.
    """
    numbers = np.unique(folds).tolist()
    if len(numbers) < 2:
        raise ValueError(f"{len(numbers)} fold; its threshold comes from others, so two are needed")
    if np.isnan(distances).any():
        raise ValueError("distances are NaN, so there is no threshold")
    distances = distances.astype(np.float64)
    by_fold = {}
    for number in numbers:
        own = folds == number
        threshold = _best_threshold(distances[~own], same[~own])
        positives, negatives = np.sort(distances[own & same]), np.sort(distances[own & ~same])
        if not len(positives) or not len(negatives):
            raise ValueError(
                f"fold {number} has {len(positives)} pairs of the same identity and {len(negatives)} of different "
                "ones; both needed"
            )
        by_fold[number] = PairMetrics(
            accuracy=float(((distances[own] <= threshold) == same[own]).mean()),
            threshold=threshold,
            EER=_equal_error_rate(positives, negatives),
            AUC=share_nearer(positives, negatives),
            matching_pairs=len(positives),
            other_pairs=len(negatives),
        )
    return FoldVerification(by_fold)


def share_nearer(matching: Float[np.ndarray, " matching"], others: Float[np.ndarray, " others"]) -> float:
    """How often a pair of the first kind is nearer than one of the second, ties half: the area under the ROC curve.

    Raises:
        ValueError: there are no pairs of a kind.
    """
    if not len(matching) or not len(others):
        raise ValueError("there is nothing to compare: no pairs of a kind")
    ordered = np.sort(others)
    further = [len(others) - np.searchsorted(ordered, matching, side).mean() for side in ("left", "right")]
    return float(np.mean(further)) / len(others)


def _best_threshold(distances: Float[np.ndarray, " pairs"], same: Bool[np.ndarray, " pairs"]) -> float:
    order = distances.argsort()
    ascending = distances[order]
    # Correct pairs if the nearest 0, 1, 2 ... are accepted, beyond those if none is; equal distances go together.
    gains = np.concatenate([[0], np.where(same[order], 1, -1).cumsum()])
    gains[1:-1][ascending[1:] == ascending[:-1]] = -len(distances)
    accepted = int(gains.argmax())
    if accepted == 0:
        # Below 0 the next number that is not denormal: processes that train take those for 0.
        nearest = float(ascending[0])
        return min(math.nextafter(nearest, -math.inf), nearest - sys.float_info.min)
    if accepted == len(ascending):
        return float(ascending[-1])
    last, first = float(ascending[accepted - 1]), float(ascending[accepted])
    return min((last + first) / 2, math.nextafter(first, -math.inf))


def _tpr(positives: Distances, negatives: Distances, pairs: int) -> float | None:
    """Largest true positive rate at a false positive rate of at most 1 / pairs; None where it is not measurable."""
    if len(negatives) < pairs:
        return None
    return _share_below(positives, _first_refused(negatives, pairs))


def _first_refused(negatives: Distances, pairs: int) -> float:
    """The distance that every threshold of a false positive rate of at most 1 / pairs is below."""
    return float(negatives[len(negatives) // pairs])


def _threshold(positives: Distances, negatives: Distances, pairs: int) -> DistanceThreshold | None:
    """Halfway between the last distance that is accepted and the first that must not be.

    None where it is not measurable, and where no threshold accepts a pair at all.
    """
    if len(negatives) < pairs:
        return None
    refused = _first_refused(negatives, pairs)
    below = [float(kind[place - 1]) for kind in (positives, negatives) if (place := kind.searchsorted(refused))]
    if not below:
        return None
    return DistanceThreshold(distance=(max(below) + refused) / 2, false_positive_rate=_share_below(negatives, refused))


def _equal_error_rate(positives: Distances, negatives: Distances) -> float:
    """Where false positive and false negative rate are equal, on the line between neighbouring thresholds."""

    def is_past(distance: float) -> bool:
        false_negatives = len(positives) - positives.searchsorted(distance, "right")
        false_positives = negatives.searchsorted(distance, "right")
        return bool(int(false_positives) * len(positives) >= int(false_negatives) * len(negatives))

    # Of either kind, the first distance that is past the crossing.
    places = ((kind, bisect_left(kind, True, key=is_past)) for kind in (positives, negatives))
    crossing = min(float(kind[place]) for kind, place in places if place < len(kind))
    before = _share_below(negatives, crossing), 1 - _share_below(positives, crossing)
    after = _share_below(negatives, crossing, "right"), 1 - _share_below(positives, crossing, "right")
    gap, overshoot = before[1] - before[0], after[0] - after[1]
    return before[0] + (after[0] - before[0]) * gap / (gap + overshoot)


def _roc(positives: Distances, negatives: Distances) -> list[tuple[float, float]]:
    counts = np.unique(np.geomspace(1, len(negatives), ROC_POINTS).astype(np.int64))
    refused = [float(negatives[count]) for count in (0, *counts.tolist()) if count < len(negatives)]
    points = {(_share_below(negatives, each), _share_below(positives, each)) for each in refused}
    return sorted({(0.0, 0.0), *points, (1.0, 1.0)})


def _share_below(distances: Distances, limit: float, side: str = "left") -> float:
    """Share of sorted distances below the limit; with side "right", at most it."""
    return int(distances.searchsorted(distances.dtype.type(limit), side)) / len(distances)  # type: ignore[call-overload]
