"""Same identity or not: against a reference that tries every threshold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.evaluation.verification import Verification, verify

DISTANCES = st.lists(st.integers(0, 12).map(lambda value: value / 4), min_size=1, max_size=120)


def found(matching: list[float], others: list[float]) -> Verification:
    return verify(np.array(matching, np.float32), np.array(others, np.float32))


def operating_points(matching: list[float], others: list[float]) -> list[tuple[float, float]]:
    """(FPR, TPR) of every threshold, ascending."""
    rates = [
        tuple(sum(each <= limit for each in kind) / len(kind) for kind in (others, matching))
        for limit in sorted({*matching, *others})
    ]
    return [(0.0, 0.0), *rates]  # type: ignore[list-item]


@given(DISTANCES, DISTANCES)
def test_rates_and_roc_are_those_of_trying_every_threshold(matching: list[float], others: list[float]) -> None:
    points = operating_points(matching, others)
    verification = found(matching, others)
    for power, value in enumerate(verification.metrics.TPR.values(), 1):
        if len(others) < 10**power:
            assert value is None
        else:
            assert value == max(tpr for fpr, tpr in points if fpr <= 10**-power + 1e-12)
    assert set(verification.roc) <= set(points)
    assert verification.roc == sorted(verification.roc)


@given(DISTANCES, DISTANCES)
def test_the_equal_error_rate_lies_where_the_straight_lines_between_thresholds_cross(
    matching: list[float], others: list[float]
) -> None:
    points = operating_points(matching, others)
    after = next(place for place, (fpr, tpr) in enumerate(points) if fpr >= 1 - tpr)
    (low, first), (high, second) = points[after - 1], points[after]
    share = (1 - first - low) / ((1 - first - low) + (high - 1 + second))
    error = found(matching, others).metrics.EER
    assert abs(error - (low + share * (high - low))) < 1e-9


@given(DISTANCES, st.lists(st.integers(0, 400).map(lambda value: value / 100), min_size=100, max_size=300))
def test_the_threshold_keeps_its_false_positive_rate(matching: list[float], others: list[float]) -> None:
    metrics = found(matching, others).metrics
    if metrics.threshold is None:
        assert metrics.TPR["TPR@FPR=1e-2"] == 0
        return
    near, far = (np.array(kind, np.float32) for kind in (matching, others))
    assert (far <= metrics.threshold.distance).mean() == metrics.threshold.false_positive_rate <= 0.01
    assert (near <= metrics.threshold.distance).mean() == metrics.TPR["TPR@FPR=1e-2"]


def test_separate_kinds_have_no_errors_and_equal_distances_are_as_good_as_chance() -> None:
    assert found([0.1] * 5, [0.9] * 200).metrics.EER == 0
    assert found([0.5] * 5, [0.5] * 200).metrics.EER == 0.5
    assert found([0.5] * 5, [0.5] * 200).metrics.threshold is None


@pytest.mark.parametrize(("matching", "others"), [([], [1.0]), ([1.0], []), ([float("nan")], [1.0])])
def test_without_a_pair_of_each_kind_and_with_nan_nothing_is_measured(
    matching: list[float], others: list[float]
) -> None:
    with pytest.raises(ValueError, match=r"both needed|NaN"):
        found(matching, others)
