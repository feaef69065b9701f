"""Protocols by name: which gallery is searched, what is refused, and the figures that come of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from trainer.config import EvaluationConfig, RerankConfig
from trainer.data import Tracklet
from trainer.data.dataset import NO_CAMERA, ProtocolName
from trainer.errors import ConfigError, DataError
from trainer.evaluation.analysis import nearest as nearest_of
from trainer.evaluation.analysis import precision_by_camera
from trainer.evaluation.metrics import Ranking, evaluate_ranking, pairwise_distance
from trainer.evaluation.rerank import k_reciprocal_distance
from trainer.evaluation.retrieval import RetrievalData, rank, rerank, retrieval_data


def tracklets(*seen: tuple[int, int]) -> list[Tracklet]:
    """Tracklets of the given (identity, camera)."""
    return [Tracklet((f"{identity:04d}C{camera}.jpg",), identity, camera) for identity, camera in seen]


def vectors(count: int) -> Tensor:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(0))


QUERY = tracklets((1, 1), (2, 1), (3, 1), (4, 2))
GALLERY = tracklets((1, 2), (1, 1), (2, 3), (0, 1), (3, 1), (4, 1), (2, 2))  # identity 3 has no match by another camera


def data_of(protocol: ProtocolName, distance: str = "cosine") -> RetrievalData:
    config = EvaluationConfig.model_validate({"protocol": protocol, "distance": distance})
    return retrieval_data(vectors(len(QUERY) + len(GALLERY)), QUERY, GALLERY, config)


def ranked_by_distances(data: RetrievalData, distances: Tensor) -> Ranking:
    return evaluate_ranking(
        distances,
        data.query_ids,
        data.gallery_ids,
        data.query_cameras,
        data.gallery_cameras,
        protocol=data.precision,
    )


@pytest.mark.parametrize(
    ("protocol", "gallery", "dropped"), [("mars", 7, 1), ("mars_official", 11, 1), ("mars_query_in_gallery", 11, 1)]
)
def test_a_protocol_decides_whether_queries_stand_in_the_gallery(
    protocol: ProtocolName, gallery: int, dropped: int
) -> None:
    data = data_of(protocol)
    assert len(data.gallery) == len(data.gallery_embeddings) == gallery
    assert rank(data).dropped == dropped


def test_a_query_of_another_camera_is_a_match_only_where_queries_stand_in_the_gallery() -> None:
    query, gallery = tracklets((1, 1), (1, 2), (2, 1)), tracklets((2, 2), (3, 1))
    dropped = {
        name: rank(retrieval_data(vectors(5), query, gallery, config)).dropped
        for name in ("mars", "mars_official", "mars_query_in_gallery")
        for config in [EvaluationConfig(protocol=name)]  # type: ignore[arg-type]
    }
    assert dropped == {"mars": 2, "mars_official": 0, "mars_query_in_gallery": 0}


def test_only_the_official_protocol_integrates_by_trapezoids() -> None:
    mean_ap = {name: rank(data_of(name)).mean_ap for name in ("mars_official", "mars_query_in_gallery")}
    assert mean_ap["mars_official"] != mean_ap["mars_query_in_gallery"]


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("protocol", ["mars", "mars_official", "mars_query_in_gallery"])
def test_metrics_are_those_of_the_distance_matrix(protocol: ProtocolName, distance: str) -> None:
    data = data_of(protocol, distance)
    whole = ranked_by_distances(data, pairwise_distance(data.query_embeddings, data.gallery_embeddings, data.distance))
    found = rank(data)
    torch.testing.assert_close(found.average_precision, whole.average_precision, equal_nan=True)
    torch.testing.assert_close(found.cmc, whole.cmc)


def without_cameras(tracklets: list[Tracklet]) -> list[Tracklet]:
    return [tracklet._replace(camera=NO_CAMERA) for tracklet in tracklets]


@pytest.mark.parametrize("protocol", ["mars", "no_camera"])
def test_without_cameras_nothing_is_left_out_of_the_gallery(protocol: ProtocolName) -> None:
    query, gallery, embeddings = without_cameras(QUERY), without_cameras(GALLERY), vectors(len(QUERY) + len(GALLERY))
    data = retrieval_data(embeddings, query, gallery, EvaluationConfig(protocol=protocol))
    assert data.protocol == "no_camera"
    nearest = pairwise_distance(embeddings[: len(query)], embeddings[len(query) :], "cosine").argsort()
    expected = []
    for each, row in zip(query, nearest.tolist(), strict=True):
        hits = [place for place, other in enumerate(row) if gallery[other].identity == each.identity]
        expected.append(sum((found + 1) / (place + 1) for found, place in enumerate(hits)) / len(hits))
    assert rank(data).average_precision.tolist() == pytest.approx(expected)
    assert precision_by_camera(data).average_precision[:, 0] == pytest.approx(expected)
    assert [len(each.ranked) for each in nearest_of(data, range(4), count=9)] == [len(gallery)] * 4


def test_protocols_that_need_cameras_are_refused_without_and_no_camera_with_them() -> None:
    for query, protocol, said in (
        (without_cameras(QUERY), "mars_official", "leave it out, then no_camera is taken"),
        (without_cameras(QUERY), "prid", "leave it out, then no_camera is taken"),
        (QUERY, "no_camera", "this data set tells them; choose mars"),
    ):
        config = EvaluationConfig.model_validate({"protocol": protocol})
        with pytest.raises(ConfigError, match=said):
            retrieval_data(vectors(8), query, query, config)


def test_without_cameras_a_query_needs_another_tracklet_of_its_identity() -> None:
    query, gallery = without_cameras(tracklets((1, 1))), without_cameras(tracklets((2, 1)))
    with pytest.raises(DataError, match="none of the 1 queries has another tracklet of its identity in the gallery"):
        retrieval_data(vectors(2), query, gallery, EvaluationConfig())


def test_re_ranking_under_cosine_distance_is_that_of_normalised_embeddings() -> None:
    data = data_of("mars")
    sides = [functional.normalize(side, dim=1) for side in (data.query_embeddings, data.gallery_embeddings)]
    whole = ranked_by_distances(data, k_reciprocal_distance(*sides))
    assert rerank(data, RerankConfig()).mean_ap == whole.mean_ap


def test_prid_wants_one_match_per_query() -> None:
    with pytest.raises(
        ConfigError, match=r"evaluation.protocol: prid has one match per query, but .* 2 in this gallery"
    ):
        data_of("prid")


def test_under_prid_mean_average_precision_is_the_mean_reciprocal_rank() -> None:
    query, gallery = tracklets((1, 1), (2, 1), (3, 1)), tracklets((3, 2), (1, 2), (2, 2), (9, 2))
    config = EvaluationConfig(protocol="prid")
    embeddings = vectors(7)
    ranking = rank(retrieval_data(embeddings, query, gallery, config))
    distances = pairwise_distance(embeddings[:3], embeddings[3:], "cosine")
    ranks = [1 + int((row < row[place]).sum()) for row, place in zip(distances, (1, 2, 0), strict=True)]
    assert ranking.mean_ap == pytest.approx(sum(1 / rank for rank in ranks) / 3)


def test_queries_without_any_match_are_one_clear_error() -> None:
    query, gallery = tracklets((1, 1), (1, 2)), tracklets((1, 3), (3, 2))[1:] + tracklets((4, 1))
    with pytest.raises(
        DataError, match=r"none of the 2 queries has a match by another camera .* protocol mars"
    ) as failure:
        retrieval_data(vectors(4), query, gallery, EvaluationConfig())
    assert "\n" not in str(failure.value)


def test_queries_of_people_seen_by_one_camera_are_told_so_and_not_sent_to_another_protocol() -> None:
    query, gallery = tracklets((1, 1), (2, 1)), tracklets((1, 1), (3, 1), (0, 2))
    with pytest.raises(DataError, match="every identity is seen by camera 1 only") as failure:
        retrieval_data(vectors(5), query, gallery, EvaluationConfig())
    assert "protocol" not in str(failure.value)
