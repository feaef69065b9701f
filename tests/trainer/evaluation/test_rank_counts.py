"""Ranks of items in rows of a table: a stable sort's, however rows are cut into runs."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import quick, seeds
from torch import Tensor

from trainer.evaluation import rank_counts as ranking
from trainer.evaluation.rank_counts import rank_counts


def table(seed: int, queries: int, gallery: int, levels: int) -> Tensor:
    """Numbers of few levels, so that many are equal; some infinite."""
    drawn = torch.randint(levels, (queries, gallery), generator=torch.Generator().manual_seed(seed)).float()
    return drawn.masked_fill_(drawn == levels - 1, math.inf)


def all_ranks(numbers: Tensor) -> Tensor:
    query, item = (part.flatten() for part in torch.meshgrid(*map(torch.arange, numbers.shape), indexing="ij"))
    return rank_counts(numbers, query, item).view(numbers.shape)


def by_stable_sort(numbers: Tensor) -> Tensor:
    return numbers.argsort(dim=1, stable=True).argsort(dim=1) + 1


@pytest.mark.parametrize("run", [1, 3, 7, 511])
@pytest.mark.parametrize("chunk", [1, 40, 2**20])
@quick
@given(seed=seeds, queries=st.integers(1, 5), gallery=st.integers(1, 20), levels=st.sampled_from([1, 2, 8, 10**6]))
def test_ranks_are_those_of_a_stable_sort(
    run: int, chunk: int, seed: int, queries: int, gallery: int, levels: int
) -> None:
    numbers = table(seed, queries, gallery, levels)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ranking, "RUN", run)
        patched.setattr(ranking, "CHUNK", chunk)
        patched.setattr(ranking, "FEW", 100)
        assert torch.equal(all_ranks(numbers), by_stable_sort(numbers))


def test_a_row_of_exactly_one_run_is_ranked() -> None:
    numbers = torch.rand(2, 511, generator=torch.Generator().manual_seed(0))
    query, item = torch.tensor([0, 1, 1]), torch.tensor([510, 0, 7])
    assert torch.equal(rank_counts(numbers, query, item), by_stable_sort(numbers)[query, item])


def test_what_is_not_a_number_ranks_behind_infinity() -> None:
    numbers = torch.tensor([[math.nan, math.inf, math.nan, 1.0]])
    assert rank_counts(numbers, torch.tensor([0, 0]), torch.tensor([1, 3])).tolist() == [2, 1]


def test_negative_zero_is_zero() -> None:
    numbers = torch.tensor([[0.0, -0.0, -1.0, 0.0]])
    assert all_ranks(numbers).tolist() == [[2, 3, 1, 4]]


def test_double_precision_is_not_rounded() -> None:
    numbers = torch.tensor([[1 + 1e-12, 1.0]], dtype=torch.float64)
    assert all_ranks(numbers).tolist() == [[2, 1]]


def test_rows_are_changed_before_they_are_ranked() -> None:
    numbers = torch.tensor([[1.0, 2.0]])
    found = rank_counts(numbers, torch.tensor([0]), torch.tensor([0]), lambda rows: rows.neg_())
    assert found.tolist() == [2]


def test_nothing_asked_is_nothing_found() -> None:
    nothing = torch.empty(0, dtype=torch.long)
    assert len(rank_counts(torch.rand(2, 3), nothing, nothing)) == 0
