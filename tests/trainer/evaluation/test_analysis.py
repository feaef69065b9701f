"""What queries found: ranks and misses against a slow reference, cameras, pairs, and the choice of queries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import RankingCase, quick, ranking_cases, seeds
from torch import Tensor

from trainer.config import Distance
from trainer.data.dataset import Tracklet
from trainer.evaluation.analysis import (
    CameraPrecision,
    camera_matrix,
    choose_queries,
    distance_sample,
    nearest,
    precision_by_camera,
    ranked_queries,
)
from trainer.evaluation.metrics import evaluate_ranking, pairwise_distance
from trainer.evaluation.retrieval import RetrievalData


def tracklets(identities: Tensor | list[int], cameras: Tensor | list[int]) -> list[Tracklet]:
    """Of one frame each, named by their place."""
    labels = zip(torch.as_tensor(identities).tolist(), torch.as_tensor(cameras).tolist(), strict=True)
    return [Tracklet((f"{place}.jpg",), identity, camera) for place, (identity, camera) in enumerate(labels)]


def sides(arguments: RankingCase) -> tuple[list[Tracklet], list[Tracklet]]:
    return (
        tracklets(arguments.query_ids, arguments.query_cameras),
        tracklets(arguments.gallery_ids, arguments.gallery_cameras),
    )


def embeddings(query: int, gallery: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    rows = torch.randn(query + gallery, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return rows[:query], rows[query:]


def data_of(
    embedded: tuple[Tensor, Tensor], query: list[Tracklet], gallery: list[Tracklet], distance: Distance = "cosine"
) -> RetrievalData:
    return RetrievalData(query, gallery, *embedded, distance)


# --- ranked and missed


@quick
@given(arguments=ranking_cases(ties=True), count=st.integers(0, 15))
def test_ranked_and_missed_matches_are_those_of_the_slow_reference(arguments: RankingCase, count: int) -> None:
    labels = reference.Gallery(*(labels.tolist() for labels in arguments[1:]))
    slow = reference.rank(arguments.distances.numpy(), labels, "standard")
    for found, expected in zip(ranked_queries(arguments.distances, *sides(arguments), count=count), slow, strict=True):
        matches = [item.rank for item in (*found.ranked, *found.missed) if item.verdict == "match"]
        assert all(item.rank > count for item in found.missed)
        if expected is None:
            assert math.isnan(found.average_precision) and not matches
        else:
            assert found.average_precision == pytest.approx(expected.average_precision)
            assert (matches[0], len(matches) / matches[-1]) == (expected.first, expected.inverse_negative_penalty)


@quick
@given(arguments=ranking_cases(ties=True))
def test_junk_and_the_identity_by_its_own_camera_are_never_shown(arguments: RankingCase) -> None:
    for found in ranked_queries(arguments.distances, *sides(arguments), count=20):
        shown = [(item.tracklet.identity, item.tracklet.camera) for item in found.ranked]
        assert (found.query.identity, found.query.camera) not in shown
        assert -1 not in {identity for identity, _ in shown}
        assert [item.rank for item in found.ranked] == list(range(1, len(shown) + 1))
        assert [item.distance for item in found.ranked] == sorted(item.distance for item in found.ranked)


def test_verdicts_tell_matches_strangers_and_distractors() -> None:
    query, gallery = tracklets([1], [1]), tracklets([2, 0, 1, 1, -1], [1, 1, 2, 1, 2])
    (found,) = ranked_queries(torch.tensor([[0.3, 0.2, 0.1, 0.0, 0.0]]), query, gallery)
    assert [item.verdict for item in found.ranked] == ["match", "distractor", "wrong"]
    assert found.missed == ()


def test_nearest_of_chosen_queries_are_those_of_all_queries() -> None:
    query, gallery = embeddings(6, 30)
    asked, searched = tracklets([1, 2, 3] * 2, [1] * 6), tracklets([1, 2, 3, 0, -1] * 6, [1, 2, 2] * 10)
    everything = ranked_queries(pairwise_distance(query, gallery, "cosine"), asked, searched, count=4)
    chosen = nearest(data_of((query, gallery), asked, searched), [4, 1], count=4)
    assert [found.query for found in chosen] == [asked[4], asked[1]]
    for found, place in zip(chosen, (4, 1), strict=True):
        assert [item.tracklet for item in found.ranked] == [item.tracklet for item in everything[place].ranked]
        assert found.average_precision == pytest.approx(everything[place].average_precision)


def test_precision_follows_the_protocol() -> None:
    distances, query, gallery = torch.tensor([[0.1, 0.2]]), tracklets([1], [1]), tracklets([2, 1], [2, 2])
    by_protocol = [
        ranked_queries(distances, query, gallery, protocol=protocol)[0].average_precision
        for protocol in ("standard", "mars_official")
    ]
    assert by_protocol == [0.5, 0.25]


def test_nan_distances_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        ranked_queries(torch.tensor([[math.nan, 0.2]]), tracklets([1], [1]), tracklets([2, 1], [2, 2]))


# --- cameras


@quick
@given(seed=seeds)
def test_precision_by_camera_is_that_of_the_camera_s_gallery_alone(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    identities, cameras = (torch.randint(low, 4, (18,), generator=generator) for low in (-1, 1))
    query, gallery = embeddings(6, 12, seed)
    asked, searched = tracklets(identities[:6].abs() + 1, cameras[:6]), tracklets(identities[6:], cameras[6:])
    found = precision_by_camera(data_of((query, gallery), asked, searched, "euclidean"))
    for column, camera in enumerate(found.cameras):
        places = [place for place, tracklet in enumerate(searched) if tracklet.camera == camera]
        distances = pairwise_distance(query, gallery[places], "euclidean")
        alone = ranked_queries(distances, asked, [searched[place] for place in places])
        expected = [row.average_precision for row in alone]
        np.testing.assert_allclose(found.average_precision[:, column], expected, rtol=1e-12)


def test_with_one_gallery_camera_the_matrix_holds_the_map_of_the_whole() -> None:
    query, gallery = embeddings(8, 20)
    identities = [1, 2, 3, 4]
    asked, searched = tracklets(identities * 2, [1] * 8), tracklets(identities * 5, [2] * 20)
    precision = precision_by_camera(data_of((query, gallery), asked, searched))
    matrix = camera_matrix(precision, [tracklet.camera for tracklet in asked])
    labels = [torch.tensor(column) for column in (identities * 2, identities * 5, [1] * 8, [2] * 20)]
    whole = evaluate_ranking(pairwise_distance(query, gallery, "cosine"), *labels)
    assert matrix.cameras == (1, 2)
    assert matrix.mean_ap[0, 1] == pytest.approx(whole.mean_ap)
    assert np.isnan(matrix.mean_ap).tolist() == [[True, False], [True, True]]
    assert matrix.queries.tolist() == [[0, 8], [0, 0]]


def test_matrix_means_are_over_queries_with_a_match() -> None:
    precision = CameraPrecision((1, 3), np.array([[math.nan, 0.5], [math.nan, 1.0], [0.25, math.nan]]))
    matrix = camera_matrix(precision, [1, 1, 3])
    np.testing.assert_array_equal(matrix.mean_ap, [[math.nan, 0.75], [0.25, math.nan]])
    assert matrix.queries.tolist() == [[0, 2], [1, 0]]


# --- pairs


def test_few_pairs_are_all_in_the_sample_with_their_kind() -> None:
    query, gallery = embeddings(2, 5)
    asked, searched = tracklets([1, 2], [1, 1]), tracklets([1, 1, 2, 0, -1], [1, 2, 2, 1, 1])
    sample = distance_sample(data_of((query, gallery), asked, searched, "euclidean"))
    distances = pairwise_distance(query, gallery, "euclidean")
    kinds = [(sample.matching, [(0, 1), (1, 2)]), (sample.others, [(0, 2), (0, 3), (1, 0), (1, 1), (1, 3)])]
    for found, expected in kinds:
        assert sorted(found) == pytest.approx(sorted(float(distances[pair]) for pair in expected))


def test_a_sample_is_limited_drawn_without_repetition_and_the_same_every_time() -> None:
    query, gallery = embeddings(20, 40)
    asked, searched = tracklets([1, 2] * 10, [1] * 20), tracklets([1, 2] * 20, [2] * 40)
    one, again, other = (
        distance_sample(data_of((query, gallery), asked, searched), count=50, seed=seed) for seed in (0, 0, 1)
    )
    for kind in (0, 1):
        assert len(set(one[kind])) == 50
        np.testing.assert_array_equal(one[kind], again[kind])
        assert set(one[kind]) != set(other[kind])


# --- the choice of queries


def test_chosen_queries_are_the_worst_the_median_and_the_best() -> None:
    precision = np.random.default_rng(0).permutation(101) / 100
    precision[precision == 0.5] = math.nan
    chosen = choose_queries(precision, ~np.isnan(precision), 9)
    assert precision[chosen].tolist() == [0, 0.01, 0.02, 0.48, 0.49, 0.51, 0.98, 0.99, 1]


@quick
@given(seed=seeds, queries=st.integers(0, 30), count=st.integers(0, 40))
def test_choice_is_valid_distinct_ascending_and_repeatable(seed: int, queries: int, count: int) -> None:
    generator = np.random.default_rng(seed)
    valid = generator.random(queries) < 0.7
    precision = np.where(valid, generator.integers(0, 3, queries) / 2, math.nan)
    chosen = choose_queries(precision, valid, count, seed)
    assert len(set(chosen)) == len(chosen) == min(count, valid.sum())
    assert valid[chosen].all()
    assert (np.diff(precision[chosen]) >= 0).all()
    assert chosen == choose_queries(precision, valid, count, seed)


def test_the_seed_chooses_among_equals() -> None:
    precision, valid = np.ones(100), np.ones(100, dtype=bool)
    assert choose_queries(precision, valid, 6, seed=0) != choose_queries(precision, valid, 6, seed=1)
