"""What queries found: its nearest tracklets and missed matches, precision by camera, distances of pairs.

Q queries, G gallery tracklets, D embedding, W queries that are looked at, C gallery cameras, K cameras of either side.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from trainer.data.dataset import DISTRACTOR, JUNK, Precision, Tracklet, same_view
from trainer.evaluation.metrics import evaluate_ranking, pairwise_distance
from trainer.evaluation.retrieval import RetrievalData, cameras_of_gallery, cameras_of_queries
from trainer.plots.sheets import RankedItem, RankedQuery, Verdict


class CameraPrecision(NamedTuple):
    """Average precision of each query in the gallery of one camera alone."""

    cameras: tuple[int, ...]
    """C cameras of the gallery, ascending."""
    average_precision: Float64[np.ndarray, "Q C"]
    """NaN where the camera's gallery holds no match for the query."""


class CameraMatrix(NamedTuple):
    """mAP of the queries of each camera in the gallery of each camera."""

    cameras: tuple[int, ...]
    """K cameras of either side, ascending."""
    mean_ap: Float64[np.ndarray, "K K"]
    """Rows are cameras of queries, columns of the gallery; NaN where no query has a match."""
    queries: Int[np.ndarray, "K K"]
    """How many queries have one."""


class DistanceSample(NamedTuple):
    """Distances of pairs of a query and a gallery tracklet."""

    matching: Float64[np.ndarray, " matching"]
    """Of pairs that shows the same identity by different cameras."""
    others: Float64[np.ndarray, " others"]
    """Of pairs that show different identities, or an identity and a distractor."""


def nearest(data: RetrievalData, which: Sequence[int], *, count: int = 10) -> list[RankedQuery]:
    """The `count` nearest gallery tracklets of the queries at the places `which`, and their other matches.

    Ranked as `trainer.evaluation.metrics.evaluate_ranking` does: without junk and without the query's identity by its
    own camera, ties in the order of the gallery.

    Raises:
        ValueError: a distance is NaN.
    """
    query = [data.query[place] for place in which]
    distances = pairwise_distance(data.query_embeddings[list(which)], data.gallery_embeddings, data.distance).cpu()
    return ranked_queries(distances, query, data.gallery, count=count, protocol=data.precision)


def ranked_queries(
    distances: Float[Tensor, "W G"],
    query: Sequence[Tracklet],
    gallery: Sequence[Tracklet],
    *,
    count: int = 10,
    protocol: Precision = "standard",
) -> list[RankedQuery]:
    """As `nearest`, of distances that are there already, such as those of re-ranking."""
    precisions = _average_precisions(distances, query, gallery, protocol)
    return [
        _ranked_query(each, row, gallery, precision, count)
        for each, row, precision in zip(query, distances, precisions, strict=True)
    ]


def precision_by_camera(data: RetrievalData) -> CameraPrecision:
    """Average precision of each query in the gallery of each camera; what other cameras saw is left out of it.

    Raises:
        ValueError: a distance is NaN.
    """
    cameras = sorted({tracklet.camera for tracklet in data.gallery})
    columns = []
    for camera in cameras:
        places = [place for place, tracklet in enumerate(data.gallery) if tracklet.camera == camera]
        distances = pairwise_distance(data.query_embeddings, data.gallery_embeddings[places], data.distance).cpu()
        gallery = [data.gallery[place] for place in places]
        columns.append(_average_precisions(distances, data.query, gallery, data.precision))
    return CameraPrecision(tuple(cameras), np.array(columns, dtype=np.float64).reshape(len(cameras), len(data.query)).T)


def camera_matrix(precision: CameraPrecision, query_cameras: Iterable[int]) -> CameraMatrix:
    """Means of the queries' average precision by pair of cameras; `query_cameras` has the camera of each query.

    The diagonal is empty: a query's identity by its own camera is left out of its ranking.
    """
    asked = [*query_cameras]
    of_query = np.array(asked, dtype=np.int64)
    cameras = tuple(sorted({*asked, *precision.cameras}))
    mean_ap = np.full((len(cameras), len(cameras)), math.nan)
    queries = np.zeros_like(mean_ap, dtype=np.int64)
    for column, gallery_camera in enumerate(precision.cameras):
        for row, camera in enumerate(cameras):
            values = precision.average_precision[of_query == camera, column]
            values = values[~np.isnan(values)]
            place = row, cameras.index(gallery_camera)
            queries[place] = len(values)
            mean_ap[place] = values.mean() if len(values) else math.nan
    return CameraMatrix(cameras, mean_ap, queries)


def distance_sample(data: RetrievalData, *, count: int = 50_000, seed: int = 0) -> DistanceSample:
    """Distances of at most `count` matching and `count` other pairs, all of a kind equally likely.

    Pairs of the same identity by the same camera, and junk, are of neither kind. Memory is of order Q G.
    """
    distances = pairwise_distance(data.query_embeddings, data.gallery_embeddings, data.distance).cpu()
    generator = np.random.default_rng(seed)
    return DistanceSample(*(_drawn(distances, each, count, generator) for each in _kinds(data)))


def pair_distances(data: RetrievalData) -> tuple[Float[np.ndarray, " P"], Float[np.ndarray, " N"]]:
    """Distances of all matching and of all other pairs, the kinds of `distance_sample`. Memory is of order Q G."""
    distances = pairwise_distance(data.query_embeddings, data.gallery_embeddings, data.distance).cpu().numpy()
    # torch would list the places of all pairs taken, 16 bytes a pair.
    matching, others = (distances[each.numpy()] for each in _kinds(data))
    return matching, others


def _kinds(data: RetrievalData) -> tuple[Bool[Tensor, "Q G"], Bool[Tensor, "Q G"]]:
    """Which pairs match and which show different identities; what the protocol leaves out is of neither kind."""
    others = (data.query_ids[:, None] != data.gallery_ids) & (data.gallery_ids != JUNK)
    return _matching(data.query, data.gallery), others


def choose_queries(
    average_precision: Float64[np.ndarray, " Q"], valid: Bool[np.ndarray, " Q"], count: int, seed: int = 0
) -> list[int]:
    """Places of `count` valid queries, or of all, worst first: a third worst, a third around the median, a third best.

    Among queries of the same average precision, as the many that are 1, the seed chooses.
    """
    places = np.random.default_rng(seed).permutation(np.flatnonzero(valid))
    ascending = places[np.argsort(average_precision[places], kind="stable")]
    count = min(count, len(ascending))
    worst, best = math.ceil(count / 3), count // 3
    median = worst + (len(ascending) - count) // 2
    middle = ascending[median : median + count - worst - best]
    return [int(place) for place in (*ascending[:worst], *middle, *ascending[len(ascending) - best :])]


def probe_queries(query: Sequence[Tracklet], valid: Bool[np.ndarray, " Q"], count: int) -> list[int]:
    """Places of `count` valid queries, or of all, chosen and ordered by what they are, not by how they are answered.

    Evaluations of different networks on the same data thus show the same queries in the same order. A hash of the
    query's identity, camera and first frame's name chooses, which spreads them over the identities.
    """

    def digest(place: int) -> bytes:
        identity, camera, name = query[place].identity, query[place].camera, PurePath(query[place].frames[0]).name
        return hashlib.sha256(f"{identity} {camera} {name}".encode()).digest()

    return sorted(np.flatnonzero(valid).tolist(), key=digest)[:count]


def _average_precisions(
    distances: Float[Tensor, "W G"], query: Sequence[Tracklet], gallery: Sequence[Tracklet], protocol: Precision
) -> list[float]:
    """Average precision of each query, NaN without a match; `evaluate_ranking` refuses queries without any."""
    found = [math.nan] * len(query)
    places = _matching(query, gallery).any(1).nonzero().flatten().tolist()
    if places:
        answered = [query[place] for place in places]
        ranking = evaluate_ranking(
            distances[places],
            _identities(answered),
            _identities(gallery),
            cameras_of_queries(answered),
            cameras_of_gallery(gallery),
            protocol=protocol,
        )
        for place, precision in zip(places, ranking.average_precision.tolist(), strict=True):
            found[place] = precision
    return found


def _matching(query: Sequence[Tracklet], gallery: Sequence[Tracklet]) -> Bool[Tensor, "W G"]:
    """Whether query and gallery tracklet show the same identity by different cameras."""
    searched = _identities(gallery)
    same = _identities(query)[:, None] == searched
    return same & (cameras_of_queries(query)[:, None] != cameras_of_gallery(gallery)) & (searched != JUNK)


def _identities(tracklets: Sequence[Tracklet]) -> Int[Tensor, " N"]:
    return torch.tensor([tracklet.identity for tracklet in tracklets], dtype=torch.long)


def _ranked_query(
    query: Tracklet, distances: Float[Tensor, " G"], gallery: Sequence[Tracklet], precision: float, count: int
) -> RankedQuery:
    in_order = distances.argsort(stable=True).tolist()
    remaining = (p for p in in_order if gallery[p].identity != JUNK and not same_view(query, gallery[p]))
    items = [
        RankedItem(gallery[place], rank, float(distances[place]), _verdict(query, gallery[place]))
        for rank, place in enumerate(remaining, 1)
    ]
    missed = [item for item in items[count:] if item.verdict == "match"]
    return RankedQuery(query, precision, tuple(items[:count]), tuple(missed))


def _verdict(query: Tracklet, found: Tracklet) -> Verdict:
    if found.identity == query.identity:
        return "match"
    return "distractor" if found.identity == DISTRACTOR else "wrong"


def _drawn(
    distances: Float[Tensor, "Q G"], pairs: Bool[Tensor, "Q G"], count: int, generator: np.random.Generator
) -> Float64[np.ndarray, " drawn"]:
    places = pairs.flatten().nonzero().flatten()
    if len(places) > count:
        places = places[torch.from_numpy(generator.choice(len(places), count, replace=False, shuffle=False))]
    return distances.flatten()[places].double().numpy()
