"""The figures of a ranking: against a slow reference, scikit-learn, and by their properties."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import reference
import torch
from hypothesis import given
from sklearn.metrics import average_precision_score
from strategies import EmbeddingsCase, RankingCase, embeddings_cases, quick, ranking_cases

from trainer.config import Distance
from trainer.data.dataset import Precision
from trainer.evaluation import metrics
from trainer.evaluation.metrics import (
    JUNK,
    Ranking,
    evaluate_query,
    evaluate_ranking,
    pairwise_distance,
    rank_embeddings,
)

PROTOCOLS: tuple[Precision, ...] = get_args(Precision)
METRICS: tuple[Distance, ...] = get_args(Distance)
every_metric = pytest.mark.parametrize("metric", METRICS)
every_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)


def case(
    distances: list[list[float]],
    query: list[tuple[int, int]],
    gallery: list[tuple[int, int]],
) -> RankingCase:
    """Queries and gallery given as (identity, camera)."""
    labels = [torch.tensor(column) for side in (query, gallery) for column in zip(*side, strict=True)]
    return RankingCase(torch.tensor(distances), labels[0], labels[2], labels[1], labels[3])


def assert_same(left: Ranking, right: Ranking) -> None:
    for one, other in zip(left, right, strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)


def assert_is_reference(ranking: Ranking, arguments: RankingCase, protocol: Precision) -> None:
    labels = reference.Gallery(*(labels.tolist() for labels in arguments[1:]))
    ranked = reference.rank(arguments.distances.numpy(), labels, protocol)
    kept = [query for query in ranked if query is not None]
    areas = [query.average_precision if query else math.nan for query in ranked]
    np.testing.assert_allclose(ranking.average_precision, areas)
    np.testing.assert_allclose(ranking.cmc, reference.cmc(ranked, len(ranking.cmc)))
    assert ranking.mean_ap == pytest.approx(np.nanmean(areas))
    assert ranking.mean_inp == pytest.approx(np.mean([query.inverse_negative_penalty for query in kept]))
    assert ranking.valid.tolist() == [query is not None for query in ranked]
    assert ranking.dropped == len(ranked) - len(kept)


# --- slow reference and scikit-learn


@every_protocol
@quick
@given(arguments=ranking_cases(ties=False) | ranking_cases(ties=True))
def test_figures_are_the_slow_reference_ties_too(protocol: Precision, arguments: RankingCase) -> None:
    assert_is_reference(evaluate_ranking(*arguments, protocol=protocol), arguments, protocol)


@every_protocol
def test_figures_do_not_depend_on_how_queries_are_chunked(protocol: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    distances = torch.rand(7, 30, generator=generator)
    distances[2:4] = distances[2:4].mul(3).floor()
    labels = [torch.randint(0, high, (size,), generator=generator) for high, size in ((4, 7), (4, 30))]
    arguments = RankingCase(distances, *labels, torch.ones(7, dtype=torch.long), torch.arange(30) % 3)
    whole = evaluate_ranking(*arguments, protocol=protocol)
    monkeypatch.setattr(metrics, "BLOCK", 61)
    assert_same(evaluate_ranking(*arguments, protocol=protocol), whole)


@quick
@given(arguments=ranking_cases(ties=False))
def test_standard_average_precision_is_scikit_learns(arguments: RankingCase) -> None:
    ranking = evaluate_ranking(*arguments)
    for query in ranking.valid.nonzero().flatten():
        same = arguments.gallery_ids == arguments.query_ids[query]
        same_camera = arguments.gallery_cameras == arguments.query_cameras[query]
        kept = (arguments.gallery_ids != -1) & ~(same & same_camera)
        expected = average_precision_score(same[kept], -arguments.distances[query][kept])
        assert ranking.average_precision[query].item() == pytest.approx(expected)


def test_trapezoids_start_from_precision_one() -> None:
    arguments = case([[0.1, 0.2, 0.3]], [(1, 1)], [(2, 2), (1, 2), (1, 3)])
    # Precisions 0, 1/2, 2/3 after 1; recall rises by 1/2 at the second and at the third.
    expected = ((0 + 1 / 2) / 2 + (1 / 2 + 2 / 3) / 2) / 2
    assert evaluate_ranking(*arguments, protocol="mars_official").mean_ap == pytest.approx(expected)
    assert evaluate_ranking(*arguments, protocol="standard").mean_ap == pytest.approx((1 / 2 + 2 / 3) / 2)


@every_protocol
@quick
@given(arguments=ranking_cases(ties=True))
def test_the_fast_path_agrees_with_the_plain_formula(protocol: Precision, arguments: RankingCase) -> None:
    fast = evaluate_ranking(*arguments, protocol=protocol)
    found = []
    for query, distances in enumerate(arguments.distances):
        same = arguments.gallery_ids == arguments.query_ids[query]
        by_its_camera = same & (arguments.gallery_cameras == arguments.query_cameras[query])
        left_out = by_its_camera | (arguments.gallery_ids == JUNK)
        found.append(evaluate_query(distances, same, left_out, protocol=protocol))
    assert [each is not None for each in found] == fast.valid.tolist()
    plain = [each for each in found if each is not None]
    expected = [each.average_precision for each in plain]
    assert fast.average_precision[fast.valid].tolist() == pytest.approx(expected)
    assert fast.mean_inp == pytest.approx(sum(each.inverse_negative_penalty for each in plain) / len(plain))
    assert float(fast.cmc[0]) == pytest.approx(sum(each.first_match == 1 for each in plain) / len(plain))


# --- properties


@every_protocol
def test_perfect_ranking_is_one_in_every_figure(protocol: Precision) -> None:
    arguments = case([[0.1, 0.2, 0.3], [0.9, 0.8, 0.1]], [(1, 1), (2, 1)], [(1, 2), (1, 3), (2, 2)])
    ranking = evaluate_ranking(*arguments, protocol=protocol)
    assert (ranking.mean_ap, ranking.mean_inp, ranking.cmc.tolist()) == (1, 1, [1, 1, 1])
    assert ranking.standard_error == 0


def test_identity_seen_by_one_camera_is_dropped_and_counted() -> None:
    arguments = case([[0.1, 0.2, 0.3]] * 2, [(1, 1), (2, 1)], [(1, 1), (1, 2), (2, 1)])
    ranking = evaluate_ranking(*arguments)
    assert ranking.dropped == 1
    assert ranking.valid.tolist() == [True, False]
    assert ranking.average_precision.isnan().tolist() == [False, True]
    assert ranking.mean_ap == 1


def test_penalty_is_the_rank_of_the_last_match() -> None:
    arguments = case([[0.1, 0.2, 0.3, 0.4]], [(1, 1)], [(1, 2), (2, 2), (2, 1), (1, 3)])
    assert evaluate_ranking(*arguments).mean_inp == 2 / 4


def test_cmc_stays_where_little_of_the_gallery_remains() -> None:
    arguments = case([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]], [(1, 1), (2, 1)], [(1, 1), (1, 2), (2, 2)])
    assert evaluate_ranking(*arguments).cmc.tolist() == [1, 1, 1]


def test_cmc_has_fifty_ranks_of_a_large_gallery() -> None:
    arguments = case([[float(n) for n in range(60)]], [(1, 1)], [(2, 2)] * 49 + [(1, 2)] + [(3, 2)] * 10)
    assert evaluate_ranking(*arguments).cmc.tolist() == [0] * 49 + [1]


def test_infinite_distances_rank_last_among_what_remains() -> None:
    arguments = case([[0.1, math.inf, math.inf]], [(1, 1)], [(1, 1), (2, 2), (1, 2)])
    assert evaluate_ranking(*arguments).mean_ap == 0.5


def test_standard_error_is_the_deviation_over_the_root_of_valid_queries() -> None:
    arguments = case(
        [[0.1, 0.2, 0.3], [0.1, 0.2, 0.3], [0.1, 0.2, 0.3]],
        [(1, 1), (2, 1), (3, 1)],
        [(1, 2), (2, 2), (4, 2)],
    )
    ranking = evaluate_ranking(*arguments)
    assert ranking.standard_error == pytest.approx(np.std([1, 0.5], ddof=1) / math.sqrt(2))


def test_standard_error_of_one_query_is_the_largest_possible() -> None:
    assert evaluate_ranking(*case([[0.1]], [(1, 1)], [(1, 2)])).standard_error == 0.5


# --- embeddings


@every_protocol
@quick
@given(arguments=embeddings_cases(ties=True))
def test_embeddings_rank_as_their_euclidean_distances_do_ties_too(
    protocol: Precision, arguments: EmbeddingsCase
) -> None:
    distances = pairwise_distance(arguments.query.double(), arguments.gallery.double(), "euclidean")
    expected = evaluate_ranking(distances, *arguments[2:], protocol=protocol)
    assert_same(rank_embeddings(*arguments, metric="euclidean", protocol=protocol), expected)


@every_metric
@every_protocol
@quick
@given(arguments=embeddings_cases(ties=False))
def test_embeddings_rank_as_their_distances_do(
    protocol: Precision, metric: Distance, arguments: EmbeddingsCase
) -> None:
    distances = pairwise_distance(arguments.query, arguments.gallery, metric)
    expected = evaluate_ranking(distances, *arguments[2:], protocol=protocol)
    assert_same(rank_embeddings(*arguments, metric=metric, protocol=protocol), expected)


def people(queries: int, gallery: int) -> EmbeddingsCase:
    """One in twenty of the gallery shows the identity of a query, two of three of them by another camera."""
    generator = torch.Generator().manual_seed(0)
    embeddings = [torch.randn(count, 8, generator=generator) for count in (queries, gallery)]
    identities = [torch.randint(1, 20, (count,), generator=generator) for count in (queries, gallery)]
    return EmbeddingsCase(*embeddings, *identities, *(torch.arange(count) % 3 for count in (queries, gallery)))


@every_metric
@pytest.mark.parametrize("size", [1, 700, 5000])
def test_blocks_of_embeddings_do_not_show(metric: Distance, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = people(31, 700)
    whole = rank_embeddings(*arguments, metric=metric)
    monkeypatch.setattr(metrics, "BLOCK", size)
    assert_same(rank_embeddings(*arguments, metric=metric), whole)


@every_metric
def test_equal_embeddings_rank_in_the_order_of_the_gallery_and_so_every_time(metric: Distance) -> None:
    arguments = people(9, 600)
    equal = arguments._replace(query=torch.ones(9, 8), gallery=torch.ones(600, 8))
    found = rank_embeddings(*equal, metric=metric)
    assert_same(found, evaluate_ranking(torch.zeros(9, 600), *equal[2:]))


def test_zero_embeddings_are_ranked() -> None:
    arguments = people(9, 600)
    arguments.gallery[3] = 0
    arguments.query[0] = 0
    expected = evaluate_ranking(pairwise_distance(*arguments[:2], "cosine"), *arguments[2:])
    assert_same(rank_embeddings(*arguments, metric="cosine"), expected)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@every_metric
def test_embeddings_that_are_not_finite_are_refused(metric: Distance, value: float) -> None:
    arguments = people(3, 40)
    arguments.gallery[7, 2] = value
    with pytest.raises(ValueError, match="embeddings are NaN, infinite or too large"):
        rank_embeddings(*arguments, metric=metric)


def test_embeddings_of_half_precision_are_ranked_in_single() -> None:
    arguments = people(5, 60)
    halved = arguments._replace(query=arguments.query.half(), gallery=arguments.gallery.half())
    single = arguments._replace(query=halved.query.float(), gallery=halved.gallery.float())
    assert_same(rank_embeddings(*halved, metric="cosine"), rank_embeddings(*single, metric="cosine"))


def test_embeddings_are_left_as_they_were() -> None:
    arguments = people(5, 60)
    before = [embeddings.clone() for embeddings in arguments[:2]]
    rank_embeddings(*arguments, metric="cosine")
    assert all(torch.equal(one, other) for one, other in zip(before, arguments, strict=False))


@pytest.mark.parametrize(("queries", "gallery"), [(0, 3), (2, 0)])
def test_empty_side_of_embeddings_is_refused(queries: int, gallery: int) -> None:
    with pytest.raises(ValueError, match=f"all {queries} queries were dropped"):
        rank_embeddings(*people(queries, gallery), metric="cosine")


def test_labels_that_do_not_fit_the_embeddings_are_refused() -> None:
    arguments = people(2, 3)
    with pytest.raises(
        ValueError, match=r"embeddings make distances of \(2, 3\), but query ids and cameras are \[1, 2\]"
    ):
        rank_embeddings(*arguments._replace(query_ids=torch.tensor([1])), metric="cosine")


# --- what it is given


@quick
@given(arguments=ranking_cases(ties=False))
def test_numpy_arrays_give_the_figures_of_tensors(arguments: RankingCase) -> None:
    arrays = [argument.numpy() for argument in arguments]
    arrays[0].setflags(write=False)
    arrays[3] = arrays[3].astype(np.uint16)  # as scipy reads MARS
    assert_same(evaluate_ranking(*arrays), evaluate_ranking(*arguments))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64])
def test_distances_of_any_kind_are_ranked(dtype: torch.dtype) -> None:
    arguments = case([[3, 1, 2]], [(1, 1)], [(1, 2), (2, 2), (1, 3)])
    ranking = evaluate_ranking(*arguments._replace(distances=arguments.distances.to(dtype)))
    assert ranking.mean_ap == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_distances_that_require_a_gradient_are_ranked() -> None:
    arguments = case([[0.1]], [(1, 1)], [(1, 2)])
    assert evaluate_ranking(*arguments._replace(distances=arguments.distances.requires_grad_())).mean_ap == 1


def test_distances_are_left_as_they_were() -> None:
    arguments = case([[0.1, 0.2]], [(1, 1)], [(1, 1), (1, 2)])
    before = arguments.distances.clone()
    evaluate_ranking(*arguments)
    assert torch.equal(arguments.distances, before)


def test_ranking_without_any_valid_query_is_refused() -> None:
    with pytest.raises(ValueError, match="all 1 queries were dropped"):
        evaluate_ranking(*case([[0.1]], [(1, 1)], [(1, 1)]))


@pytest.mark.parametrize(("queries", "gallery"), [(0, 3), (2, 0)])
def test_empty_side_is_refused(queries: int, gallery: int) -> None:
    ones = [torch.ones(size, dtype=torch.long) for size in (queries, gallery)]
    with pytest.raises(ValueError, match=f"all {queries} queries were dropped"):
        evaluate_ranking(torch.zeros(queries, gallery), *ones, *ones)


def test_nan_distances_are_refused() -> None:
    with pytest.raises(ValueError, match="1 of 2 distances are NaN"):
        evaluate_ranking(*case([[0.1, math.nan]], [(1, 1)], [(1, 2), (2, 2)]))


@pytest.mark.parametrize("short", ["query_ids", "gallery_ids", "query_cameras", "gallery_cameras"])
def test_sizes_that_disagree_are_refused(short: str) -> None:
    arguments = case([[0.1, 0.2]] * 2, [(1, 1), (2, 1)], [(1, 2), (2, 2)])
    with pytest.raises(ValueError, match=r"distances are \(2, 2\)"):
        evaluate_ranking(*arguments._replace(**{short: torch.tensor([1])}))


# --- distances


def test_euclidean_distance_is_the_slow_reference() -> None:
    query, gallery = torch.randn(3, 5, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    slow = [[reference.distance(left, right) for right in gallery] for left in query]
    torch.testing.assert_close(pairwise_distance(query, gallery, "euclidean"), torch.tensor(slow).double())


def test_cosine_distance_is_the_slow_reference_and_never_negative() -> None:
    query, gallery = torch.randn(3, 5, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    gallery[0] = query[0] * 3
    distances = pairwise_distance(query, gallery, "cosine")
    slow = [[1 - reference.cosine(left.numpy(), right.numpy()) for right in gallery] for left in query]
    torch.testing.assert_close(distances, torch.tensor(slow, dtype=torch.float64))
    assert (distances >= 0).all()


def test_zero_vector_is_at_cosine_distance_one() -> None:
    assert pairwise_distance(torch.zeros(1, 3), torch.ones(1, 3), "cosine").item() == 1
