"""Distances between embeddings, and the metrics of a ranking: mAP, CMC, mINP.

`evaluate_query` is the plain formula for one query. `evaluate_ranking` and `rank_embeddings` compute the same for all
queries at once, without sorting the gallery for each.

Q queries, G gallery tracklets, D embedding, N tracklets of either, M (query, match) pairs, K ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int, Integer, Real
from torch import Tensor
from torch.nn import functional

from trainer.compute import exact_products
from trainer.config import Distance
from trainer.data.dataset import Precision
from trainer.evaluation.rank_counts import Change, rank_counts

Array = Tensor | np.ndarray

JUNK = -1  # the identity MARS gives to detector errors: neither right nor wrong
RANKS = 50  # of the CMC curve, as in the literature's codes
BLOCK = 12 * 2**20  # distances made at a time: with fewer queries a matrix product is slower
SHORTEST = 1e-12  # length below which a vector counts as zero, as torch's normalize has it
LARGEST_DEVIATION = 0.5  # standard deviation that no metric in [0, 1] exceeds


class Ranking(NamedTuple):
    """The metrics of a ranking, each a mean over the valid queries and in [0, 1]; tensors are on the CPU."""

    mean_ap: float
    """Mean of the average precisions (mAP)."""
    cmc: Float64[Tensor, " K"]
    """Share of queries with a match among the first 1 .. K; K = min(50, G), never decreasing."""
    mean_inp: float
    """Mean inverse negative penalty (Ye et al. 2021, arXiv:2001.04193): matches / rank of the last one."""
    average_precision: Float64[Tensor, " Q"]
    """Average precision of each query; NaN where `valid` is false."""
    valid: Bool[Tensor, " Q"]
    """Whether the query has a match at all; the others are in no metric."""
    dropped: int
    """How many queries have none."""

    @property
    def standard_error(self) -> float:
        """Standard error of `mean_ap` over the valid queries.

        From one query it cannot be estimated: then it is 0.5, the largest that metrics in [0, 1] can have.
        """
        values = self.average_precision[self.valid]
        if len(values) == 1:
            return LARGEST_DEVIATION
        return float(values.std() / len(values) ** 0.5)


class QueryScore(NamedTuple):
    """The metrics of one query, each in [0, 1] except for the rank."""

    average_precision: float
    inverse_negative_penalty: float
    first_match: int
    """Rank of the nearest match, from 1: the CMC curve of the query is 1 from there on."""


def evaluate_query(
    distances: Float[Tensor, " G"],
    matches: Bool[Tensor, " G"],
    left_out: Bool[Tensor, " G"],
    *,
    protocol: Precision = "standard",
) -> QueryScore | None:
    """The metrics of one query by their definition; None where the gallery holds no match.

    `matches` show the query's identity; `left_out` are those by its own camera, and junk. Ties stand in the order of
    the gallery. The protocols are those of `evaluate_ranking`.
    """
    order = distances.argsort(stable=True)
    order = order[~left_out[order]]
    ranks = matches[order].nonzero().flatten() + 1
    if not len(ranks):
        return None
    hits = torch.arange(1, len(ranks) + 1)
    precision = _precision(hits, ranks, protocol)
    return QueryScore(float(precision.mean()), len(ranks) / int(ranks[-1]), int(ranks[0]))


@exact_products()
def pairwise_distance(
    query: Float[Tensor, "Q D"], gallery: Float[Tensor, "G D"], metric: Distance
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
    protocol: Precision = "standard",
) -> Ranking:
    """Metrics of the ranking of the gallery by distance, nearest first, ties in the order of the gallery.

    For each query, what shows the same identity by the same camera is taken out of the gallery, and so is junk
    (identity -1). What remains of the query's identity matches; everything else is wrong, distractors (identity 0)
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
    searched = _labels(gallery_ids, gallery_cameras, table.device)
    _check_sizes("distances are", table.shape, queries, searched)
    _check_numbers(table)
    found = [_block_matches(table[rows].clone(), rows, queries, searched) for rows in _blocks(*table.shape)]
    return _ranking(_joined(found), len(table), table.shape[1], protocol)


@exact_products()
def rank_embeddings(
    query: Float[Tensor, "Q D"],
    gallery: Float[Tensor, "G D"],
    query_ids: Integer[Array, " Q"],
    gallery_ids: Integer[Array, " G"],
    query_cameras: Integer[Array, " Q"],
    gallery_cameras: Integer[Array, " G"],
    *,
    metric: Distance,
    protocol: Precision = "standard",
) -> Ranking:
    """The metrics of `evaluate_ranking` for the `pairwise_distance` of the embeddings, which is never held as a whole.

    Blocks of the matrix product are ranked one after another, on the device of `query`. What grows with the distance
    in the same order is ranked in its place: minus the cosine times the query's length, or half of the squared
    distance less the query's squared length. So distances that differ by rounding alone may change places between the
    two ways; ties are in the order of the gallery in both, and the same every time.

    Raises ValueError as `evaluate_ranking` does, and for embeddings that are not finite.
    """
    asked = query.detach() if query.dtype == torch.float64 else query.detach().float()
    searched = gallery.detach().to(asked)
    labels = _labels(query_ids, query_cameras, asked.device), _labels(gallery_ids, gallery_cameras, asked.device)
    _check_sizes("embeddings make distances of", (len(asked), len(searched)), *labels)
    lengths = torch.linalg.vector_norm(searched, dim=1)
    # Lengths bound every step of an inner product, so none can be NaN where theirs is finite.
    if not (lengths.sum() * torch.linalg.vector_norm(asked, dim=1).sum()).isfinite():
        raise ValueError("embeddings are NaN, infinite or too large for a product, so there is no ranking")
    blocks = list(_blocks(len(asked), len(searched)))
    buffer = asked.new_empty(blocks[0].stop if blocks else 0, len(searched))
    to_scores, found = _to_scores(lengths, metric), []
    for rows in blocks:
        products = torch.mm(asked[rows], searched.T, out=buffer[: rows.stop - rows.start])
        found.append(_block_matches(products, rows, *labels, to_scores))
    return _ranking(_joined(found), len(asked), len(searched), protocol)


class _Labels(NamedTuple):
    identities: Int[Tensor, " N"]
    cameras: Int[Tensor, " N"]


class _Matches(NamedTuple):
    query: Int[Tensor, " M"]
    rank: Int[Tensor, " M"]
    """From 1, in what remains of the gallery for the query."""


class _Pairs(NamedTuple):
    """Queries of a block and items of the gallery, by query."""

    query: Int[Tensor, " M"]
    item: Int[Tensor, " M"]


def _labels(identities: Array, cameras: Array, device: torch.device) -> _Labels:
    return _Labels(*(_tensor(labels).to(device).long() for labels in (identities, cameras)))


def _tensor(values: Array) -> Tensor:
    """The values as a tensor; numpy's are copied, since torch warns of arrays it must not write to."""
    return values.detach() if isinstance(values, Tensor) else torch.from_numpy(np.array(values, order="C"))


def _floating(table: Real[Tensor, "Q G"]) -> Float[Tensor, "Q G"]:
    return table if table.dtype in (torch.float32, torch.float64) else table.double()


def _check_sizes(what: str, shape: Sequence[int], queries: _Labels, gallery: _Labels) -> None:
    sizes = [[len(labels) for labels in side] for side in (queries, gallery)]
    if any(sizes[side] != [shape[side]] * 2 for side in (0, 1)):
        raise ValueError(
            f"{what} {tuple(shape)}, but query ids and cameras are {sizes[0]}, gallery ids and cameras {sizes[1]}"
        )


def _blocks(queries: int, gallery: int) -> Iterator[slice]:
    """Slices of queries, about equally long, of at most `BLOCK` distances or one query."""
    count = max(1, min(queries, -(-queries * gallery // BLOCK)))
    rows = max(1, -(-queries // count))
    return (slice(start, min(start + rows, queries)) for start in range(0, queries, rows))


def _to_scores(lengths: Float[Tensor, " G"], metric: Distance) -> Change:
    """Makes of inner products, in place, what orders the gallery of each query as its distances do."""
    if metric == "euclidean":
        half = lengths.square() / 2
        return lambda products: torch.sub(half, products, out=products)
    scale = -1 / lengths.clamp(min=SHORTEST)
    return lambda products: products.mul_(scale)


def _block_matches(
    table: Float[Tensor, "Q G"],
    rows: slice,
    queries: _Labels,
    gallery: _Labels,
    to_scores: Change | None = None,
) -> _Matches:
    """The matches of a block of queries, on the CPU, by query and then by rank; overwrites the distances."""
    pairs = _same_identity(queries.identities[rows], gallery.identities)
    junk = gallery.identities == JUNK
    removed = (queries.cameras[rows][pairs.query] == gallery.cameras[pairs.item]) | junk[pairs.item]
    table[pairs.query[removed], pairs.item[removed]] = torch.nan  # sorted after infinity, less than nothing
    if junk.any():
        table[:, junk] = torch.nan
    query, item = pairs.query[~removed], pairs.item[~removed]
    rank = rank_counts(table, query, item, to_scores)
    order = (query * (len(gallery.identities) + 1) + rank).argsort()
    return _Matches(query[order].cpu() + rows.start, rank[order].cpu())


def _check_numbers(table: Float[Tensor, "Q G"]) -> None:
    # A sum reads faster than a test of each; infinities of both signs make one of NaN, too.
    if table.sum().isnan() and (missing := int(table.isnan().sum())):
        raise ValueError(f"{missing} of {table.numel()} distances are NaN, so there is no ranking")


def _same_identity(queries: Int[Tensor, " Q"], gallery: Int[Tensor, " G"]) -> _Pairs:
    """All pairs of an identity, found by grouping the gallery: no table of comparisons."""
    grouped, order = gallery.sort(stable=True)
    first, end = (torch.searchsorted(grouped, queries, right=right) for right in (False, True))
    counts = end - first
    query = torch.arange(len(queries), device=queries.device).repeat_interleave(counts)
    within = torch.arange(len(query), device=queries.device) - (counts.cumsum(0) - counts)[query]
    return _Pairs(query, order[first[query] + within])


def _joined(blocks: Sequence[_Matches]) -> _Matches:
    none = torch.empty(0, dtype=torch.long)
    return _Matches(*(torch.cat([none, *parts]) for parts in zip(_Matches(none, none), *blocks, strict=True)))


def _ranking(matches: _Matches, queries: int, gallery: int, protocol: Precision) -> Ranking:
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
        cmc=(first[:, None] <= torch.arange(1, min(RANKS, gallery) + 1)).double().mean(0),
        mean_inp=float((counts[valid] / last.double()).mean()),
        average_precision=average_precision,
        valid=valid,
        dropped=int(queries - valid.sum()),
    )


def _precision(hits: Int[Tensor, " M"], rank: Int[Tensor, " M"], protocol: Precision) -> Float64[Tensor, " M"]:
    """What each match adds to the average precision: the precision there, or its mean with the one before."""
    precision = hits / rank.double()
    if protocol == "standard":
        return precision
    before = (hits - 1) / (rank - 1).double()
    return (precision + before.masked_fill(rank == 1, 1)) / 2
