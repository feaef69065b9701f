"""Re-ranking by k-reciprocal neighbours (Zhong et al. 2017, arXiv:1701.08398).

`k_reciprocal_plain` is the formula with all distances in memory; `k_reciprocal_distance` computes the same with sparse
neighbour sets and a block of distances at a time.

Q queries, G gallery, N = Q + G tracklets, D embedding, K neighbours.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn import functional

from trainer.compute import exact_products

BLOCK_BYTES = 64 * 2**20  # of distances that are held at a time: with fewer rows a matrix product is slower
CACHE_BYTES = 2**20  # of the table that neighbour sets are compared in, so that it stays in a processor's cache
WAITING = 256  # candidates kept for each tracklet beside its nearest, before the nearest are chosen again
GROUPS = 4  # of candidates, times the nearest that are asked for: with fewer their limit is less tight
SPARE = 4  # candidates beside the nearest, which rounding may have put behind them
ROUNDING = 2.0**-18  # difference of squared distances, relative to the largest, that rounding may make or hide
OVERLAP = 2 / 3  # share of a candidate's own neighbours that has to be ours as well (Eq. 5)
EQUAL = 64 * 2.0**-24  # difference, relative to the mean, below which numbers are taken to be equal
NO_TRACKLET = (0x7F800000 << 32) + 2**32 - 1  # a key after all others, at an infinite distance


def k_reciprocal_plain(
    query: Float[Tensor, "Q D"], gallery: Float[Tensor, "G D"], *, k1: int, k2: int, lambda_value: float
) -> Float[Tensor, "Q G"]:
    """`k_reciprocal_distance` by its definition, in float64; for tens of tracklets: loops over N, memory of N N."""
    everyone = torch.cat([query, gallery]).double()
    squared = torch.cdist(everyone, everyone).square()
    distances = squared / squared.amax(1, keepdim=True)
    nearest = squared.argsort(dim=1, stable=True).tolist()

    def reciprocal(row: int, k: int) -> set[int]:
        return {other for other in nearest[row][: k + 1] if row in nearest[other][: k + 1]}

    weights = torch.zeros_like(distances)  # V of Eq. 7
    for row in range(len(everyone)):
        neighbours = reciprocal(row, k1)
        for candidate in list(neighbours):  # Eq. 5
            own = reciprocal(candidate, round(k1 / 2))
            if len(own & reciprocal(row, k1)) > OVERLAP * len(own):
                neighbours |= own
        columns = sorted(neighbours)
        weights[row, columns] = torch.exp(-distances[row, columns])
    weights /= weights.sum(1, keepdim=True)
    weights = torch.stack([weights[row[:k2]].mean(0) for row in nearest])
    left, right = weights[: len(query), None], weights[None, len(query) :]
    jaccard = 1 - torch.minimum(left, right).sum(2) / torch.maximum(left, right).sum(2)
    return (1 - lambda_value) * jaccard + lambda_value * distances[: len(query), len(query) :]


@exact_products()
def k_reciprocal_distance(
    query: Float[Tensor, "Q D"],
    gallery: Float[Tensor, "G D"],
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
) -> Float[Tensor, "Q G"]:
    """Distances in [0, 1] between queries and gallery: (1 - lambda) Jaccard + lambda squared Euclidean.

    Two tracklets are alike if their k-reciprocal neighbours are: those of the `k1` nearest that count us among theirs,
    widened by the neighbours of those who share most of their own with us. A tracklet's neighbours weigh exp(-d), are
    averaged over its `k2` nearest, and compared by the Jaccard distance of two such vectors (Eq. 3 to 10). d is the
    squared distance divided by the largest one of the tracklet, as in the authors' code, which takes k + 1 neighbours,
    for a tracklet is its own nearest. `lambda_value` 1 leaves d alone. The queries are part of the neighbourhoods:
    metrics depend on which are asked together.

    Computed on the device of `query` up to the neighbours, on the CPU from there; float32, on the CPU.

    Raises:
        ValueError: k1 or k2 below 1, lambda_value outside of [0, 1], or embeddings that are not finite.
    """
    if k1 < 1 or k2 < 1 or not 0 <= lambda_value <= 1:
        raise ValueError(f"k1 {k1} and k2 {k2} have to be at least 1, lambda_value {lambda_value} between 0 and 1")
    everyone = _centered(query, gallery)
    found = _neighbours(everyone, len(query), max(k1 + 1, k2))
    weights = _weights(everyone, _expanded(found.nearest, k1), found.largest)
    if k2 > 1:
        weights = _indicator(found.nearest[:, :k2]) @ weights / min(k2, found.nearest.shape[1])
    jaccard = _jaccard(csr_array(weights[: len(query)]), csr_array(weights[len(query) :]))
    return found.between.mul_(lambda_value).add_(torch.from_numpy(jaccard), alpha=1 - lambda_value)


class _Neighbours(NamedTuple):
    """What is kept of all distances: memory of N K and Q G, never of N N."""

    nearest: Int[np.ndarray, "N K"]
    """Nearest tracklets of each, itself among them, nearest first."""
    largest: Float[Tensor, " N"]
    """Largest squared distance of each to any."""
    between: Float[Tensor, "Q G"]
    """Squared distances of queries to gallery, divided by the query's largest."""


def _centered(query: Float[Tensor, "Q D"], gallery: Float[Tensor, "G D"]) -> Float[Tensor, "N D"]:
    """All embeddings, their mean subtracted: it changes no distance, and no length exceeds the largest distance.

    So squared distances as differences of products are exact to rounding relative to the largest one. Embeddings that
    are equal except for the rounding of their mean become zeros: what is left of them would be taken for distances.
    """
    everyone = torch.cat([query, gallery]).float()
    mean = everyone.mean(0)
    least, most = everyone.sub_(mean).aminmax()
    if torch.maximum(-least, most) <= EQUAL * mean.abs().amax():
        everyone.zero_()
    return everyone


def _squared_lengths(everyone: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
    lengths: Tensor = torch.linalg.vector_norm(everyone, dim=1)
    return lengths.square_()


def _neighbours(everyone: Float[Tensor, "N D"], queries: int, count: int) -> _Neighbours:
    """Each block of the product, rows against themselves and all later ones, serves its rows and its columns."""
    lengths = _squared_lengths(everyone)
    if not lengths.isfinite().all():
        raise ValueError("embeddings are not all finite, so they have no neighbours")
    nearest = _TopkIndex(len(everyone), min(count + SPARE, len(everyone)), everyone.device)
    largest = torch.zeros_like(lengths)
    between = everyone.new_empty(queries, len(everyone) - queries)
    for rows in _blocks(len(everyone), 4 * len(everyone), BLOCK_BYTES):
        later = slice(rows.start, len(everyone))
        squared = lengths[rows, None] + lengths[later]
        squared.addmm_(everyone[rows], everyone[later].T, alpha=-2).clamp_min_(0)
        squared.diagonal().zero_()
        nearest.offer(squared, rows.start, rows.start)
        nearest.offer(squared[:, rows.stop - rows.start :].T, rows.stop, rows.start)
        largest[rows] = torch.maximum(largest[rows], squared.amax(1))
        largest[later] = torch.maximum(largest[later], squared.amax(0))
        if (left := queries - rows.start) > 0:
            between[rows] = squared[:left, left:]
    largest.clamp_min_(torch.finfo(largest.dtype).tiny)  # of equals all are 0 apart
    chosen = _refined(everyone, *nearest.chosen(), largest)[:, :count]
    return _Neighbours(chosen.cpu().numpy(), largest, between.div_(largest[:queries, None]).cpu())


class _TopkIndex:
    """The nearest tracklets of each among those offered, of equally distant ones the first.

    A candidate is one number: the bits of its squared distance, which order as the distance does, above its place.
    Candidates nearer than the last of the nearest are collected in a table of N (K + 256) until a row of it is full;
    before there are any, those within a distance that `_first_limit` finds.
    """

    def __init__(self, tracklets: int, count: int, device: torch.device) -> None:
        self._count = count
        self._keys = torch.full((tracklets, count + WAITING), NO_TRACKLET, device=device)
        self._filled = torch.zeros(tracklets, dtype=torch.long, device=device)
        self._limit = torch.full((tracklets,), torch.inf, device=device)

    def offer(self, squared: Float[Tensor, "rows columns"], first_row: int, first_column: int) -> None:
        """Squared distances of consecutive tracklets (rows) to consecutive candidates.

        Each pair is offered once, a tracklet's candidates in the order of their places.
        """
        rows = slice(first_row, first_row + squared.shape[0])
        if squared.shape[1] > WAITING and self._limit[rows].isinf().any():
            self._limit[rows] = torch.minimum(self._limit[rows], _first_limit(squared, self._count))
        row, column = _within(squared, self._limit[rows])
        added = row.bincount(minlength=squared.shape[0])
        if (self._filled[rows] + added > self._keys.shape[1]).any():
            self._choose(rows)
            self._offer_halves(squared, first_row, first_column)
            return
        slot = torch.arange(len(row), device=row.device) - (added.cumsum(0) - added - self._filled[rows])[row]
        bits = squared[row, column].view(torch.int32).long()
        self._keys[first_row + row, slot] = bits.mul_(2**32).add_(column + first_column)
        self._filled[rows] += added

    def chosen(self) -> tuple[Int[Tensor, "N K"], Float[Tensor, "N K"]]:
        """The nearest of each, nearest first, and their squared distances."""
        self._choose(slice(None))
        best = self._keys[:, : self._count]
        return best & (2**32 - 1), (best >> 32).int().view(torch.float32)

    def _offer_halves(self, squared: Float[Tensor, "rows columns"], first_row: int, first_column: int) -> None:
        half = max(1, squared.shape[1] // 2)
        self.offer(squared[:, :half], first_row, first_column)
        self.offer(squared[:, half:], first_row, first_column + half)

    def _choose(self, rows: slice) -> None:
        used = max(self._count, int(self._filled[rows].max()))
        best = self._keys[rows, :used].topk(self._count, largest=False).values
        self._keys[rows, : self._count] = best
        self._keys[rows, self._count : used] = NO_TRACKLET
        self._filled[rows].clamp_(max=self._count)
        last = (best[:, -1] >> 32).int()
        # What comes later has to be nearer than the last, so less by a bit; below 0 that is NaN, and nothing is nearer.
        limit = (last - (last < NO_TRACKLET >> 32).int()).view(torch.float32)
        self._limit[rows] = torch.minimum(self._limit[rows], limit)


def _refined(
    everyone: Float[Tensor, "N D"],
    nearest: Int[Tensor, "N K"],
    squared: Float[Tensor, "N K"],
    largest: Float[Tensor, " N"],
) -> Int[Tensor, "N K"]:
    """The nearest in the order of their distances in double precision, where single precision leaves it open."""
    close = squared.diff(dim=1) <= ROUNDING * largest[:, None]
    close = functional.pad(close, (1, 0)) | functional.pad(close, (0, 1))  # to the one before or to the one after
    distances = squared.double()
    for places in torch.split(close.nonzero(), max(1, BLOCK_BYTES // (24 * everyone.shape[1]))):
        row, place = places.unbind(1)
        distances[row, place] = (everyone[nearest[row, place]].double() - everyone[row].double()).square_().sum(1)
    candidates, order = nearest.sort(1)
    return candidates.gather(1, distances.gather(1, order).argsort(dim=1, stable=True))


def _first_limit(squared: Float[Tensor, "rows columns"], count: int) -> Float[Tensor, " rows"]:
    """A distance within which each row has `count` candidates or more; infinite where the columns are too few.

    The columns are dealt into groups, and so many of the groups have their nearest within that distance.
    """
    groups = GROUPS * count
    if squared.shape[1] < groups:
        return squared.new_full((len(squared),), torch.inf)
    size = squared.shape[1] // groups
    nearest = squared[:, : size * groups].reshape(len(squared), size, groups).amin(1)
    return nearest.kthvalue(count, dim=1).values


def _within(
    squared: Float[Tensor, "rows columns"], limit: Float[Tensor, " rows"]
) -> tuple[Int[Tensor, " M"], Int[Tensor, " M"]]:
    """Rows and columns of what is at most its row's limit, by row; on the CPU by numpy, which finds them faster."""
    if not squared.is_cpu:
        row, column = (squared <= limit[:, None]).nonzero().unbind(1)
        return row, column
    mask = squared.numpy() <= limit.numpy()[:, None]  # in the order in memory of `squared`
    if mask.flags.c_contiguous:
        rows, columns = np.divmod(np.flatnonzero(mask), mask.shape[1])
    else:
        columns, rows = np.divmod(np.flatnonzero(mask.T), mask.shape[0])
        order = rows.argsort(kind="stable")
        rows, columns = rows[order], columns[order]
    return torch.from_numpy(rows), torch.from_numpy(columns)


def _expanded(nearest: Int[np.ndarray, "N K"], k1: int) -> csr_array:
    """Which tracklets are neighbours of which after the expansion, as ones in "N N" (Eq. 3 and 5)."""
    reciprocal = _reciprocal(nearest[:, : k1 + 1])
    # round() goes to even, as in the authors' code.
    half = _reciprocal(nearest[:, : round(k1 / 2) + 1])
    shared = reciprocal.multiply(reciprocal @ half.T).tocoo()
    rows, candidates = shared.coords
    enough = shared.data > OVERLAP * half.sum(axis=1)[candidates]
    joined = csr_array((np.ones(enough.sum()), (rows[enough], candidates[enough])), shape=reciprocal.shape)
    expanded = csr_array(reciprocal + joined @ half)
    expanded.data[:] = 1
    return expanded


def _reciprocal(nearest: Int[np.ndarray, "N K"]) -> csr_array:
    forward = _indicator(nearest)
    return csr_array(forward.multiply(forward.T))


def _indicator(nearest: Int[np.ndarray, "N K"]) -> csr_array:
    """Ones in "N N" at each tracklet's neighbours."""
    count, neighbours = nearest.shape
    starts = np.arange(0, count * neighbours + 1, neighbours)
    return csr_array((np.ones(nearest.size, dtype=np.float32), nearest.ravel(), starts), shape=(count, count))


def _weights(everyone: Float[Tensor, "N D"], neighbours: csr_array, largest: Float[Tensor, " N"]) -> csr_array:
    """exp(-d) of each tracklet's neighbours, adding up to 1 (Eq. 7)."""
    device = everyone.device
    starts, columns = (torch.from_numpy(part).long().to(device) for part in (neighbours.indptr, neighbours.indices))
    rows = torch.arange(len(everyone), device=device).repeat_interleave(starts.diff())
    lengths = _squared_lengths(everyone)
    products = _products(everyone, starts, columns)
    squared = torch.where(rows == columns, 0, lengths[rows] + lengths[columns] - 2 * products).clamp_min_(0)
    near = torch.exp(-squared / largest[rows])
    near /= torch.zeros_like(largest).index_add_(0, rows, near)[rows]
    return csr_array((near.cpu().numpy(), neighbours.indices, neighbours.indptr), shape=neighbours.shape)


def _products(
    everyone: Float[Tensor, "N D"], starts: Int[Tensor, " N+1"], columns: Int[Tensor, " M"]
) -> Float[Tensor, " M"]:
    """Inner products of pairs given as rows of a sparse matrix, without copies of their embeddings."""
    size = (len(everyone), len(everyone))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
        pattern = torch.sparse_csr_tensor(
            starts, columns, everyone.new_zeros(len(columns)), size, check_invariants=False
        )
    products: Tensor = torch.sparse.sampled_addmm(pattern, everyone, everyone.T, beta=0).values()
    return products


def _jaccard(asked: csr_array, searched: csr_array) -> Float[np.ndarray, "Q G"]:
    """1 - sum min / sum max of rows that add up to 1 each, so that sum max is 2 - sum min (Eq. 10)."""
    by_column = searched.tocsc()
    per_entry = np.diff(by_column.indptr)[asked.indices]
    size = searched.shape[0]
    out = np.empty((asked.shape[0], size), dtype=np.float32)
    for rows in _blocks(asked.shape[0], 8 * size, CACHE_BYTES):
        entries = slice(asked.indptr[rows.start], asked.indptr[rows.stop])
        counts = per_entry[entries]
        # Every entry of a query meets all entries of its column: their places, one after another.
        starts = by_column.indptr[asked.indices[entries]]
        places = np.repeat(starts - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts) + np.arange(counts.sum())
        of_query = np.repeat(np.arange(len(out[rows])), np.diff(asked.indptr[rows.start : rows.stop + 1]))
        smaller = np.minimum(np.repeat(asked.data[entries], counts), by_column.data[places])
        cells = np.repeat(of_query, counts) * size + by_column.indices[places]
        shared = np.bincount(cells, weights=smaller, minlength=len(out[rows]) * size).reshape(-1, size)
        out[rows] = 1 - shared / (2 - shared)
    return out


def _blocks(count: int, row_bytes: int, most_bytes: int) -> Iterator[slice]:
    """Slices of as many rows as fit, or of one."""
    step = max(1, most_bytes // max(row_bytes, 1))
    return (slice(start, min(start + step, count)) for start in range(0, count, step))
