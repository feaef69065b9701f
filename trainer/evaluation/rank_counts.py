"""Ranks of a few items in each row of a table, without an order of the rest.

Q queries, G gallery, M (query, item) pairs, R runs of length L in each row.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

Change = Callable[[Float[Tensor, "Q G"]], object]
"""Changes rows of a table in place."""

CHUNK = 2**20  # numbers sorted at a time: 4 MiB, whose allocation costs little
RUN = 511  # of a row that are sorted together where pairs are few: with the NaN after them, a power of 2
FEW = 24  # pairs a query on average


def rank_counts(
    table: Float[Tensor, "Q G"],
    query: Int[Tensor, " M"],
    item: Int[Tensor, " M"],
    to_scores: Change | None = None,
) -> Int[Tensor, " M"]:
    """Rank of each item in the row of its query, from 1, the smallest first, ties in the order of the gallery.

    Pairs of query and item are given by query. NaN rank after everything and are no pair's. `to_scores` is told to
    change rows just before they are sorted, when the sort finds them in the processor's cache. The ranks are counts of
    smaller numbers in sorted runs of each row; nothing as large as the table is made beside it.
    """
    queries, width = table.shape
    # Short runs sort faster, but each match is looked up in every run of its query.
    run = RUN if len(query) < FEW * queries and width > RUN else 2 ** max(1, width.bit_length()) - 1
    rows = max(1, CHUNK // max(1, width))
    ends = torch.searchsorted(query.contiguous(), torch.arange(0, queries + rows, rows, device=table.device)).tolist()
    runs = table.new_full((min(rows, queries), max(1, -(-width // run)), run + 1), torch.nan)
    found = [item[:0]]
    for number, chunk in enumerate(torch.split(table, rows)):
        if to_scores is not None:
            to_scores(chunk)
        mine = slice(ends[number], ends[number + 1])
        found.append(_chunk_ranks(chunk, query[mine] - number * rows, item[mine], runs[: len(chunk)]))
    return torch.cat(found)


def _chunk_ranks(
    table: Float[Tensor, "Q G"], query: Int[Tensor, " M"], item: Int[Tensor, " M"], runs: Float[Tensor, "Q R L"]
) -> Int[Tensor, " M"]:
    distance = table[query, item]
    nearer, equal = _counts(_sorted_runs(table, runs), query, distance)
    rank = nearer + 1
    tied = (equal > 1).nonzero().flatten()
    if len(tied):
        rank[tied] += _earlier_equals(table, query[tied], item[tied], nearer[tied])
    return rank


def _sorted_runs(table: Float[Tensor, "Q G"], runs: Float[Tensor, "Q R L"]) -> Float[Tensor, "Q R L"]:
    """Each row in runs that ascend and end with NaN; sorted on the CPU by numpy, whose sort of values is vectorised."""
    width, run = table.shape[1], runs.shape[2] - 1
    full = width // run
    runs[:, :full, :run] = table[:, : full * run].view(len(table), full, run)
    if width > full * run:
        runs[:, full, : width - full * run] = table[:, full * run :]  # after it there is NaN, and stays there
    if not runs.is_cpu:
        return runs.sort(2).values
    runs.numpy().sort(axis=2)
    return runs


def _counts(
    runs: Float[Tensor, "Q R L"], query: Int[Tensor, " M"], distance: Float[Tensor, " M"]
) -> tuple[Int[Tensor, " M"], Int[Tensor, " M"]]:
    """How many numbers of its query are less than each distance, and how many, up to two, of each run are equal to it.

    Binary search of all distances in all runs at once; L is a power of 2, and the last of each run never less.
    """
    _, number, length = runs.shape
    flat = runs.flatten()
    value = distance.repeat_interleave(number)
    start = ((query * (number * length))[:, None] + torch.arange(number, device=query.device) * length).flatten()
    place = start.clone()
    step = length // 2
    while step:
        place.add_(flat.index_select(0, place + (step - 1)) < value, alpha=step)
        step //= 2
    equal = (flat.index_select(0, place) == value).long()
    equal += flat.index_select(0, (place + 1).clamp_(max=len(flat) - 1)) == value
    return (place - start).view(-1, number).sum(1), equal.view(-1, number).sum(1)


def _earlier_equals(
    table: Float[Tensor, "Q G"], query: Int[Tensor, " M"], item: Int[Tensor, " M"], nearer: Int[Tensor, " M"]
) -> Int[Tensor, " M"]:
    """How many items before this one in the gallery are as far from the query.

    Each distance is looked at once for each query, however many matches share it, a few queries at a time.
    """
    width = table.shape[1]
    groups, group = torch.unique(query * width + nearer, return_inverse=True)
    first = torch.empty_like(groups).scatter_(0, group, torch.arange(len(group), device=group.device))
    found = torch.empty_like(item)
    for part in torch.split(torch.arange(len(groups), device=groups.device), max(1, CHUNK // width)):
        one = first[part]
        equals = table[query[one]] == table[query[one], item[one], None]
        before = equals.cumsum(1, dtype=torch.int32)
        members = ((group >= part[0]) & (group <= part[-1])).nonzero().flatten()
        found[members] = before[group[members] - part[0], item[members]].long() - 1
    return found
