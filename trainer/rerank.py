"""Re-ranking by k-reciprocal neighbours (Zhong et al. 2017, arXiv:1701.08398), with sparse neighbour sets.

Q queries, G gallery, N = Q + G tracklets, D embedding, K neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_array
from torch import Tensor

BLOCK_BYTES = 64 * 2**20  # of distances, or of gathered embeddings, that are held at a time
OVERLAP = 2 / 3  # share of a candidate's own neighbours that has to be ours as well (Eq. 5)


class _Neighbours(NamedTuple):
    """What is kept of all distances: memory of N K and Q G, never of N N."""

    nearest: Int[np.ndarray, "N K"]
    """Nearest tracklets of each, itself among them, nearest first."""
    largest: Float[Tensor, " N"]
    """Largest squared distance of each to any."""
    between: Float[Tensor, "Q G"]
    """Squared distances of queries to gallery, divided by the query's largest."""


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
    figures depend on which are asked together.

    Computed on the device of `query` up to the neighbours, on the CPU from there; float32, on the CPU.

    Raises:
        ValueError: k1 or k2 below 1, or lambda_value outside of [0, 1].
    """
    if k1 < 1 or k2 < 1 or not 0 <= lambda_value <= 1:
        raise ValueError(f"k1 {k1} and k2 {k2} have to be at least 1, lambda_value {lambda_value} between 0 and 1")
    everyone = torch.cat([query, gallery]).float()
    found = _neighbours(everyone, len(query), max(k1 + 1, k2))
    weights = _weights(everyone, _expanded(found.nearest, k1), found.largest)
    if k2 > 1:
        weights = _indicator(found.nearest[:, :k2]) @ weights / min(k2, found.nearest.shape[1])
    jaccard = _jaccard(csr_array(weights[: len(query)]), csr_array(weights[len(query) :]))
    return (1 - lambda_value) * torch.from_numpy(jaccard) + lambda_value * found.between


def _neighbours(everyone: Float[Tensor, "N D"], queries: int, count: int) -> _Neighbours:
    lengths = everyone.square().sum(1)
    nearest, largest, between = [], [], []
    for rows in _blocks(len(everyone), len(everyone)):
        squared = (lengths[rows, None] + lengths).addmm_(everyone[rows], everyone.T, alpha=-2).clamp_min_(0)
        squared[torch.arange(len(squared)), torch.arange(rows.start, rows.stop)] = 0  # a tracklet is its own nearest
        nearest.append(squared.topk(min(count, len(everyone)), largest=False).indices.cpu())
        largest.append(squared.amax(1).clamp_min_(torch.finfo(squared.dtype).tiny))  # of equals all are 0 apart
        asked = squared[: max(0, queries - rows.start), queries:]
        between.append((asked / largest[-1][: len(asked), None]).cpu())
    return _Neighbours(torch.cat(nearest).numpy(), torch.cat(largest), torch.cat(between))


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
    rows, columns = (torch.from_numpy(axis.astype(np.int64)).to(everyone.device) for axis in neighbours.nonzero())
    squared = torch.empty(len(rows), device=everyone.device)
    for pairs in _blocks(len(rows), everyone.shape[1]):
        squared[pairs] = (everyone[rows[pairs]] - everyone[columns[pairs]]).square().sum(1)
    near = torch.exp(-squared / largest[rows])
    near /= torch.zeros_like(largest).index_add_(0, rows, near)[rows]
    return csr_array((near.cpu().numpy(), (rows.cpu().numpy(), columns.cpu().numpy())), shape=neighbours.shape)


def _jaccard(asked: csr_array, searched: csr_array) -> Float[np.ndarray, "Q G"]:
    """1 - sum min / sum max of rows that add up to 1 each, so that sum max is 2 - sum min (Eq. 10)."""
    by_column = searched.tocsc()
    per_entry = np.diff(by_column.indptr)[asked.indices]
    size = searched.shape[0]
    out = np.empty((asked.shape[0], size), dtype=np.float32)
    for rows in _blocks(asked.shape[0], size):
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


def _blocks(count: int, width: int) -> Iterator[slice]:
    """Slices of rows of `width` float32 numbers that fit into `BLOCK_BYTES`, or of one row."""
    step = max(1, BLOCK_BYTES // (4 * max(width, 1)))
    return (slice(start, min(start + step, count)) for start in range(0, count, step))
