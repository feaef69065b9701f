"""Same identity or not: against a reference that tries every threshold."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.evaluation.verification import FoldVerification, Verification, share_nearer, verify, verify_folds

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


# Pairs in folds

FOLDS = st.lists(
    st.lists(st.tuples(st.integers(0, 8).map(lambda value: value / 4), st.booleans()), min_size=1, max_size=12),
    min_size=2,
    max_size=4,
).map(lambda folds: [[(0.5, True), (0.75, False), *fold] for fold in folds])


def found_in_folds(folds: list[list[tuple[float, bool]]]) -> FoldVerification:
    rows = [(*pair, number) for number, fold in enumerate(folds) for pair in fold]
    distances, same, numbers = zip(*rows, strict=True)
    return verify_folds(np.array(distances, np.float32), np.array(same), np.array(numbers))


def accuracy(pairs: list[tuple[float, bool]], threshold: float) -> float:
    return sum((distance <= threshold) == same for distance, same in pairs) / len(pairs)


@given(FOLDS)
def test_a_fold_is_judged_at_the_smallest_threshold_that_is_best_on_all_others(
    folds: list[list[tuple[float, bool]]],
) -> None:
    verification = found_in_folds(folds)
    for number, fold in enumerate(folds):
        others = [pair for other, pairs in enumerate(folds) if other != number for pair in pairs]
        candidates = [-1.0, *sorted({distance for distance, _ in others})]
        accepts = max(candidates, key=lambda threshold: (accuracy(others, threshold), -threshold))
        metrics = verification.by_fold[number]
        assert {distance for distance, _ in others if distance <= metrics.threshold} == {
            distance for distance, _ in others if distance <= accepts
        }
        assert metrics.accuracy == accuracy(fold, metrics.threshold)
        same, different = ([distance for distance, kind in fold if kind == wanted] for wanted in (True, False))
        assert (
            pytest.approx(np.mean([(one < other) + (one == other) / 2 for one in same for other in different]))
            == metrics.AUC
        )
        assert metrics.EER == found(same, different).metrics.EER
    accuracies = [metrics.accuracy for metrics in verification.by_fold.values()]
    assert verification.mean_accuracy == pytest.approx(np.mean(accuracies))
    assert verification.standard_error == pytest.approx(np.std(accuracies, ddof=1) / len(accuracies) ** 0.5)


@given(FOLDS, st.randoms())
def test_neither_the_order_of_pairs_nor_the_unit_of_distances_changes_what_folds_say(
    folds: list[list[tuple[float, bool]]], chance: random.Random
) -> None:
    mixed = [chance.sample([(4 * distance, same) for distance, same in fold], len(fold)) for fold in folds]
    for one, other in zip(found_in_folds(folds).by_fold.values(), found_in_folds(mixed).by_fold.values(), strict=True):
        assert (one.accuracy, one.EER, one.AUC) == (other.accuracy, other.EER, other.AUC)


def test_a_threshold_lies_halfway_to_the_next_pair_and_a_perfect_network_makes_no_error() -> None:
    verification = found_in_folds([[(0.25, True), (1.0, False)], [(0.5, True), (1.25, False)]])
    assert [metrics.threshold for metrics in verification.by_fold.values()] == [0.875, 0.625]
    assert (verification.mean_accuracy, verification.standard_error) == (1, 0)
    assert {(metrics.EER, metrics.AUC) for metrics in verification.by_fold.values()} == {(0, 1)}


def test_equal_distances_are_as_good_as_chance_and_go_to_one_side_together() -> None:
    for metrics in found_in_folds([[(0.5, True), (0.5, False)]] * 3).by_fold.values():
        assert (metrics.accuracy, metrics.EER, metrics.AUC) == (0.5, 0.5, 0.5)
        assert metrics.threshold < 0.5  # of equally good thresholds the smallest: none is accepted


def test_where_none_should_be_accepted_none_is_also_in_a_process_that_flushes_denormal_numbers() -> None:
    torch.set_flush_denormal(True)
    assert found_in_folds([[(0.0, True), (0.0, False), (0.0, False)]] * 2).mean_accuracy == pytest.approx(2 / 3)


def test_neighbouring_distances_are_kept_apart_by_their_threshold() -> None:
    near, far = 1.0, float(np.nextafter(1.0, 2))
    found = verify_folds(np.array([near, far] * 2), np.array([True, False] * 2), np.array([0, 0, 1, 1]))
    assert found.mean_accuracy == 1


@pytest.mark.parametrize(
    ("folds", "said"),
    [
        ([[(0.5, True), (0.75, False)]], "1 fold; its threshold comes from others"),
        ([[(0.5, True)], [(0.5, True)]], "fold 0 has 1 pairs of the same identity and 0 of different ones"),
        ([[(float("nan"), True), (1, False)], [(0.5, True), (0.75, False)]], "distances are NaN"),
    ],
)
def test_one_fold_a_fold_of_one_kind_and_nan_are_refused(folds: list[list[tuple[float, bool]]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        found_in_folds(folds)


def test_share_of_nearer_matching_pairs_counts_ties_half() -> None:
    assert share_nearer(np.array([0.1, 0.5]), np.array([0.3, 0.5])) == (2 + 0 + 0.5) / 4
