"""Distances between embeddings, and the figures of a ranking: mAP, CMC, mINP.

Q queries, G gallery tracklets, D embedding, N tracklets of either, M (query, match) pairs, K ranks.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int, Integer, Real
from torch import Tensor
from torch.nn import functional

Protocol = Literal["standard", "mars_official"]
Array = Tensor | np.ndarray

JUNK = -1  # the person MARS gives to detector errors: neither right nor wrong
RANKS = 50  # of the CMC curve, as in the literature's codes
CHUNK = 2**18  # distances looked at together: their keys, 2 MiB, stay in a processor's cache
LAST = 2**31 - 1  # greater than the bits of any float but NaN, as 32-bit integers
LARGEST_DEVIATION = 0.5  # standard deviation that no figure in [0, 1] exceeds


class Ranking(NamedTuple):
    """The figures of a ranking, each a mean over the valid queries and in [0, 1]; tensors are on the CPU."""

    mean_ap: float
    """Mean of the average precisions (mAP)."""
    cmc: Float64[Tensor, " K"]
    """Share of queries with a match among the first 1 .. K; K = min(50, G), never decreasing."""
    mean_inp: float
    """Mean inverse negative penalty (Ye et al. 2021, arXiv:2001.04193): matches / rank of the last one."""
    average_precision: Float64[Tensor, " Q"]
    """Average precision of each query; NaN where `valid` is false."""
    valid: Bool[Tensor, " Q"]
    """Whether the query has a match at all; the others are in no figure."""
    dropped: int
    """How many queries have none."""

    @property
    def standard_error(self) -> float:
        """Standard error of `mean_ap` over the valid queries.

        From one query it cannot be estimated: then it is 0.5, the largest that figures in [0, 1] can have.
        """
        values = self.average_precision[self.valid]
        if len(values) == 1:
            return LARGEST_DEVIATION
        return float(values.std() / len(values) ** 0.5)


def pairwise_distance(
    query: Float[Tensor, "Q D"], gallery: Float[Tensor, "G D"], metric: Literal["cosine", "euclidean"]
) -> Float[Tensor, "Q G"]:
    """Euclidean distances, or cosine distances 1 - cosine in [0, 2]; a zero vector has cosine 0.

    The paper's code ranks by squared Euclidean distances of the same embeddings, which is the same ranking.
    """
    if metric == "euclidean":
        return torch.cdist(query, gallery)
    cosines = functional.normalize(query, dim=1) @ functional.normalize(gallery, dim=1).T
    return (1 - cosines).clamp_(min=0)


def evaluate_ranking(
    distances: Real[Array, "Q G"],
    query_ids: Integer[Array, " Q"],
    gallery_ids: Integer[Array, " G"],
    query_cameras: Integer[Array, " Q"],
    gallery_cameras: Integer[Array, " G"],
    *,
    protocol: Protocol = "standard",
) -> Ranking:
    """Figures of the ranking of the gallery by distance, nearest first, ties in the order of the gallery.

    For each query, what shows the same person by the same camera is taken out of the gallery, and so is junk
    (person -1). What remains of the query's person matches; everything else is wrong, distractors (person 0)
    too. Queries without a match are dropped, and counted. The CMC curve has K = min(50, G) ranks also for
    queries with less than K of the gallery left: their part of it stays at 1.

    `standard`: precisions at the matches are averaged (Zheng et al. 2015; deep-person-reid, the paper). The
    caller decides whether the queries stand in the gallery: with them MARS drops none, without them 140.
    `mars_official`: the gallery holds the queries (none matches itself, as it has its own camera), and the
    precision-recall curve is integrated by trapezoids, starting from precision 1 (the MARS authors' code).

    Raises ValueError for sizes that do not agree, for NaN among the distances, and if every query is dropped.
    """
    table = _floating(_tensor(distances))
    queries = _labels(query_ids, query_cameras, table.device)
    gallery = _labels(gallery_ids, gallery_cameras, table.device)
    _check(table, queries, gallery)
    matches = _ranked_matches(table, queries, gallery)
    return _figures(matches, len(queries.persons), min(RANKS, len(gallery.persons)), protocol)


class _Labels(NamedTuple):
    persons: Int[Tensor, " N"]
    cameras: Int[Tensor, " N"]


class _Matches(NamedTuple):
    query: Int[Tensor, " M"]
    rank: Int[Tensor, " M"]
    """From 1, in what remains of the gallery for the query."""


def _labels(persons: Array, cameras: Array, device: torch.device) -> _Labels:
    return _Labels(*(_tensor(labels).to(device).long() for labels in (persons, cameras)))


def _tensor(values: Array) -> Tensor:
    """The values as a tensor; numpy's are copied, since torch warns of arrays it must not write to."""
    return values.detach() if isinstance(values, Tensor) else torch.from_numpy(np.array(values, order="C"))


def _floating(table: Tensor) -> Float[Tensor, "Q G"]:
    return table if table.dtype in (torch.float32, torch.float64) else table.double()


def _check(distances: Float[Tensor, "Q G"], queries: _Labels, gallery: _Labels) -> None:
    sizes = [[len(labels) for labels in side] for side in (queries, gallery)]
    if any(sizes[side] != [distances.shape[side]] * 2 for side in (0, 1)):
        raise ValueError(
            f"distances are {tuple(distances.shape)}, but query ids and cameras are {sizes[0]}, "
            f"gallery ids and cameras {sizes[1]}"
        )
    if distances.isnan().any():
        missing = int(distances.isnan().sum())
        raise ValueError(f"{missing} of {distances.numel()} distances are NaN, so there is no ranking")


def _ranked_matches(distances: Float[Tensor, "Q G"], queries: _Labels, gallery: _Labels) -> _Matches:
    """All matches of all queries, on the CPU, by query and then by rank."""
    rows = max(1, CHUNK // max(1, distances.shape[1]))
    chunks = [
        _chunk_matches(part, _Labels(persons, cameras), gallery)
        for part, persons, cameras in zip(*(torch.split(table, rows) for table in (distances, *queries)), strict=True)
    ]
    query = torch.cat([chunk.query + number * rows for number, chunk in enumerate(chunks)])
    return _Matches(query.cpu(), torch.cat([chunk.rank for chunk in chunks]).cpu())


def _chunk_matches(distances: Float[Tensor, "Q G"], queries: _Labels, gallery: _Labels) -> _Matches:
    same_person = queries.persons[:, None] == gallery.persons
    same_camera = queries.cameras[:, None] == gallery.cameras
    removed = (same_person & same_camera) | (gallery.persons == JUNK)
    ordered = _order(distances, removed)
    query, position = (same_person & ~removed).gather(1, ordered).nonzero().unbind(1)
    return _Matches(query, position + 1)


def _order(distances: Float[Tensor, "Q G"], removed: Bool[Tensor, "Q G"]) -> Int[Tensor, "Q G"]:
    """Gallery of each query by distance, ties in their order, and after it what is removed."""
    if distances.dtype == torch.float32:
        columns = torch.arange(distances.shape[1], device=distances.device)
        return _sorted(_keys(distances).masked_fill_(removed, LAST << 32).add_(columns)).bitwise_and_(2**32 - 1)
    order = distances.argsort(dim=1, stable=True)
    return order.gather(1, removed.gather(1, order).byte().argsort(dim=1, stable=True))


def _keys(distances: Float[Tensor, "Q G"]) -> Int[Tensor, "Q G"]:
    """Integers that order as the distances do, with 32 bits free for what breaks ties.

    A non-negative float's bits order as the float; a negative one's order backwards, so all but the sign are
    turned. Adding 0 makes -0 equal to 0.
    """
    bits = (distances + 0.0).view(torch.int32)
    return bits.bitwise_xor_(bits >> 31 & LAST).long().mul_(2**32)


def _sorted(rows: Int[Tensor, "Q G"]) -> Int[Tensor, "Q G"]:
    """Each row ascending; on the CPU by numpy, whose sort of values is vectorised."""
    return torch.from_numpy(np.sort(rows.numpy(), axis=1)) if rows.is_cpu else rows.sort(1).values


def _figures(matches: _Matches, queries: int, ranks: int, protocol: Protocol) -> Ranking:
    query, rank = matches
    counts = query.bincount(minlength=queries)
    valid = counts > 0
    if not valid.any():
        raise ValueError(f"all {queries} queries were dropped: none has a match by another camera in the gallery")
    ends = counts.cumsum(0)
    hits = torch.arange(1, len(query) + 1) - (ends - counts)[query]
    precision = _precision(hits, rank, protocol)
    average_precision = torch.zeros(queries, dtype=torch.float64).index_add(0, query, precision) / counts
    first, last = rank[(ends - counts)[valid]], rank[ends[valid] - 1]
    return Ranking(
        mean_ap=float(average_precision[valid].mean()),
        cmc=(first[:, None] <= torch.arange(1, ranks + 1)).double().mean(0),
        mean_inp=float((counts[valid] / last.double()).mean()),
        average_precision=average_precision,
        valid=valid,
        dropped=int(queries - valid.sum()),
    )


def _precision(hits: Int[Tensor, " M"], rank: Int[Tensor, " M"], protocol: Protocol) -> Float64[Tensor, " M"]:
    """What each match adds to the average precision: the precision there, or its mean with the one before."""
    precision = hits / rank.double()
    if protocol == "standard":
        return precision
    before = (hits - 1) / (rank - 1).double()
    return (precision + before.masked_fill(rank == 1, 1)) / 2
