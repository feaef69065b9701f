"""What a query found: its nearest tracklets and missed matches, precision by camera, distances of pairs.

Q queries, G gallery tracklets, D embedding, W queries that are looked at, C gallery cameras, K cameras of either side.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from trainer.data.dataset import DISTRACTOR, JUNK, Tracklet
from trainer.evaluation.metrics import Protocol, evaluate_ranking, pairwise_distance

Metric = Literal["cosine", "euclidean"]
Verdict = Literal["match", "wrong", "distractor"]


class RankedItem(NamedTuple):
    """A gallery tracklet in the ranking of a query."""

    tracklet: Tracklet
    rank: int
    """From 1, in what remains of the gallery for the query."""
    distance: float
    verdict: Verdict
    """`match` shows the query's identity by another camera, `distractor` is nobody's, `wrong` is somebody else."""


class RankedQuery(NamedTuple):
    """A query, what stands first in its ranking, and the matches that do not."""

    query: Tracklet
    average_precision: float
    """NaN for a query without a match."""
    ranked: tuple[RankedItem, ...]
    """The nearest of what remains of the gallery, nearest first."""
    missed: tuple[RankedItem, ...]
    """All matches that are not among `ranked`, nearest first."""


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


def nearest(
    query_embeddings: Float[Tensor, "Q D"],
    gallery_embeddings: Float[Tensor, "G D"],
    query: Sequence[Tracklet],
    gallery: Sequence[Tracklet],
    *,
    which: Sequence[int],
    count: int = 10,
    metric: Metric,
    protocol: Protocol = "standard",
) -> list[RankedQuery]:
    """The `count` nearest gallery tracklets of the queries at the places `which`, and their other matches.

    Ranked as `trainer.evaluation.metrics.evaluate_ranking` does: without junk and without the query's identity by its
    own camera, ties in the order of the gallery.

    Raises:
        ValueError: a distance is NaN.
    """
    distances = pairwise_distance(query_embeddings[list(which)], gallery_embeddings, metric).cpu()
    return ranked_queries(distances, [query[place] for place in which], gallery, count=count, protocol=protocol)


def ranked_queries(
    distances: Float[Tensor, "W G"],
    query: Sequence[Tracklet],
    gallery: Sequence[Tracklet],
    *,
    count: int = 10,
    protocol: Protocol = "standard",
) -> list[RankedQuery]:
    """As `nearest`, of distances that are there already, such as those of re-ranking."""
    precisions = _average_precisions(distances, query, gallery, protocol)
    return [
        _ranked_query(asked, row, gallery, precision, count)
        for asked, row, precision in zip(query, distances, precisions, strict=True)
    ]


def precision_by_camera(
    query_embeddings: Float[Tensor, "Q D"],
    gallery_embeddings: Float[Tensor, "G D"],
    query: Sequence[Tracklet],
    gallery: Sequence[Tracklet],
    *,
    metric: Metric,
    protocol: Protocol = "standard",
) -> CameraPrecision:
    """Average precision of each query in the gallery of each camera; what other cameras saw is left out of it.

    Raises:
        ValueError: a distance is NaN.
    """
    cameras = sorted({tracklet.camera for tracklet in gallery})
    columns = []
    for camera in cameras:
        places = [place for place, tracklet in enumerate(gallery) if tracklet.camera == camera]
        distances = pairwise_distance(query_embeddings, gallery_embeddings[places], metric).cpu()
        columns.append(_average_precisions(distances, query, [gallery[place] for place in places], protocol))
    return CameraPrecision(tuple(cameras), np.array(columns, dtype=np.float64).reshape(len(cameras), len(query)).T)


def camera_matrix(precision: CameraPrecision, query_cameras: Iterable[int]) -> CameraMatrix:
    """Means of the queries' average precision by pair of cameras; `query_cameras` has the camera of each query.

    The diagonal is empty: a query's identity by its own camera is left out of its ranking.
    """
    asked = np.fromiter(query_cameras, dtype=np.int64)
    cameras = tuple(sorted({*asked.tolist(), *precision.cameras}))
    mean_ap = np.full((len(cameras), len(cameras)), math.nan)
    queries = np.zeros_like(mean_ap, dtype=np.int64)
    for column, gallery_camera in enumerate(precision.cameras):
        for row, camera in enumerate(cameras):
            values = precision.average_precision[asked == camera, column]
            values = values[~np.isnan(values)]
            place = row, cameras.index(gallery_camera)
            queries[place] = len(values)
            mean_ap[place] = values.mean() if len(values) else math.nan
    return CameraMatrix(cameras, mean_ap, queries)


def distance_sample(
    query_embeddings: Float[Tensor, "Q D"],
    gallery_embeddings: Float[Tensor, "G D"],
    query: Sequence[Tracklet],
    gallery: Sequence[Tracklet],
    *,
    metric: Metric,
    count: int = 50_000,
    seed: int = 0,
) -> DistanceSample:
    """Distances of at most `count` matching and `count` other pairs, all of a kind equally likely.

    Pairs of the same identity by the same camera, and junk, are of neither kind. Memory is of order Q G.
    """
    distances = pairwise_distance(query_embeddings, gallery_embeddings, metric).cpu()
    matching = _matching(query, gallery)
    asked, searched = (torch.tensor([tracklet.identity for tracklet in side]) for side in (query, gallery))
    others = (asked[:, None] != searched) & (searched != JUNK)
    generator = np.random.default_rng(seed)
    return DistanceSample(*(_drawn(distances, pairs, count, generator) for pairs in (matching, others)))


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
    distances: Float[Tensor, "W G"], query: Sequence[Tracklet], gallery: Sequence[Tracklet], protocol: Protocol
) -> list[float]:
    """Average precision of each query, NaN without a match; `evaluate_ranking` only takes queries of which one has."""
    found = [math.nan] * len(query)
    places = _matching(query, gallery).any(1).nonzero().flatten().tolist()
    if places:
        asked = [query[place] for place in places]
        labels = ([tracklet[field] for tracklet in side] for field in (1, 2) for side in (asked, gallery))
        ranking = evaluate_ranking(distances[places], *map(torch.tensor, labels), protocol=protocol)
        for place, precision in zip(places, ranking.average_precision.tolist(), strict=True):
            found[place] = precision
    return found


def _matching(query: Sequence[Tracklet], gallery: Sequence[Tracklet]) -> Bool[Tensor, "W G"]:
    """Whether query and gallery tracklet shows the same identity by different cameras."""
    identities, cameras = (
        [torch.tensor([tracklet[field] for tracklet in side], dtype=torch.long) for side in (query, gallery)]
        for field in (1, 2)
    )
    return (identities[0][:, None] == identities[1]) & (cameras[0][:, None] != cameras[1]) & (identities[1] != JUNK)


def _ranked_query(
    query: Tracklet, distances: Float[Tensor, " G"], gallery: Sequence[Tracklet], precision: float, count: int
) -> RankedQuery:
    remaining = (place for place in distances.argsort(stable=True).tolist() if not _left_out(query, gallery[place]))
    items = [
        RankedItem(gallery[place], rank, float(distances[place]), _verdict(query, gallery[place]))
        for rank, place in enumerate(remaining, 1)
    ]
    missed = [item for item in items[count:] if item.verdict == "match"]
    return RankedQuery(query, precision, tuple(items[:count]), tuple(missed))


def _left_out(query: Tracklet, found: Tracklet) -> bool:
    return found.identity == JUNK or (found.identity == query.identity and found.camera == query.camera)


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
