"""Re-ranking: the published algorithm, its limits, and no dependence on how it is cut into blocks."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import quick, seeds
from torch import Tensor

from trainer.config import RerankConfig
from trainer.evaluation import rerank as reranking
from trainer.evaluation.metrics import pairwise_distance
from trainer.evaluation.rerank import k_reciprocal_distance, k_reciprocal_plain


def identities(
    seed: int, queries: int, gallery: int, *, spread: float = 0.6, dimensions: int = 6
) -> tuple[Tensor, Tensor]:
    """Embeddings of a few identities, around a center each."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(max(2, gallery // 4), dimensions, generator=generator)
    people = torch.randint(len(centers), (queries + gallery,), generator=generator)
    rows = centers[people] + spread * torch.randn(queries + gallery, dimensions, generator=generator)
    return rows[:queries], rows[queries:]


@quick
@given(
    seed=seeds,
    queries=st.integers(1, 5),
    gallery=st.integers(2, 25),
    k1=st.integers(1, 9),
    k2=st.integers(1, 4),
    share=st.floats(0, 1),
)
def test_distances_are_those_of_the_published_algorithm(
    seed: int, queries: int, gallery: int, k1: int, k2: int, share: float
) -> None:
    asked, searched = identities(seed, queries, gallery)
    ours = k_reciprocal_distance(asked, searched, k1=k1, k2=k2, lambda_value=share)
    slow = reference.k_reciprocal(asked.double().numpy(), searched.double().numpy(), k1, k2, share)
    np.testing.assert_allclose(ours.numpy(), slow, rtol=0, atol=2e-4)


@quick
@given(seed=seeds, queries=st.integers(1, 5), gallery=st.integers(2, 25), k1=st.integers(1, 9), k2=st.integers(1, 4))
def test_the_fast_path_agrees_with_the_plain_formula(seed: int, queries: int, gallery: int, k1: int, k2: int) -> None:
    asked, searched = identities(seed, queries, gallery)
    fast = k_reciprocal_distance(asked, searched, k1=k1, k2=k2, lambda_value=0.3)
    plain = k_reciprocal_plain(asked, searched, k1=k1, k2=k2, lambda_value=0.3)
    torch.testing.assert_close(fast.double(), plain, rtol=0, atol=2e-4)


@pytest.mark.parametrize(("k1", "k2", "share"), [(20, 6, 0.3), (5, 1, 0.0), (10, 3, 0.5), (50, 20, 0.1)])
def test_rankings_are_those_of_the_published_algorithm_wherever_distances_differ(
    k1: int, k2: int, share: float
) -> None:
    asked, searched = identities(3, 4, 70, dimensions=16)
    ours = k_reciprocal_distance(asked, searched, k1=k1, k2=k2, lambda_value=share).double().numpy()
    slow = reference.k_reciprocal(asked.double().numpy(), searched.double().numpy(), k1, k2, share)
    gaps = slow[:, :, None] - slow[:, None, :]
    assert ((ours[:, :, None] < ours[:, None, :]) | (gaps >= -2e-4)).all()


def test_embeddings_given_twice_are_ranked_as_published() -> None:
    asked, searched = identities(5, 3, 20)
    twice = torch.cat([searched, searched.flip(0)])
    ours = k_reciprocal_distance(asked, twice, k1=6, k2=2)
    slow = reference.k_reciprocal(asked.double().numpy(), twice.double().numpy(), 6, 2, 0.3)
    np.testing.assert_allclose(ours.numpy(), slow, rtol=0, atol=2e-4)


def test_neighbours_that_only_double_precision_tells_apart_are_told_apart() -> None:
    asked, searched = identities(6, 2, 40, dimensions=64)
    step = torch.zeros(64)
    step[0] = 1e-3
    close = torch.cat([searched, searched + step])  # squared distances that differ by about 1e-5 of the largest
    ours = k_reciprocal_distance(asked, close, k1=7, k2=3)
    slow = reference.k_reciprocal(asked.double().numpy(), close.double().numpy(), 7, 3, 0.3)
    np.testing.assert_allclose(ours.numpy(), slow, rtol=0, atol=2e-4)


def test_with_lambda_one_it_is_the_squared_distance_over_the_largest() -> None:
    asked, searched = identities(0, 4, 30)
    ours = k_reciprocal_distance(asked, searched, lambda_value=1.0)
    squared = pairwise_distance(asked, searched, "euclidean").square()
    assert torch.equal(ours.argsort(1), squared.argsort(1))
    assert float(ours.min()) >= 0 and float(ours.max()) <= 1


@quick
@given(seed=seeds, scale=st.floats(0.01, 100))
def test_scale_of_the_embeddings_does_not_matter(seed: int, scale: float) -> None:
    asked, searched = identities(seed, 3, 20)
    torch.testing.assert_close(
        k_reciprocal_distance(scale * asked, scale * searched),
        k_reciprocal_distance(asked, searched),
        atol=1e-4,
        rtol=0,
    )


def test_blocks_and_waiting_candidates_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, searched = identities(1, 7, 60)
    whole = k_reciprocal_distance(asked, searched)
    monkeypatch.setattr("trainer.evaluation.rerank.BLOCK_BYTES", 1024)
    monkeypatch.setattr("trainer.evaluation.rerank.CACHE_BYTES", 1024)
    monkeypatch.setattr("trainer.evaluation.rerank.WAITING", 2)
    torch.testing.assert_close(k_reciprocal_distance(asked, searched), whole)


@quick
@given(
    seed=seeds,
    tracklets=st.integers(1, 60),
    rows=st.integers(1, 60),
    count=st.integers(1, 6),
    waiting=st.integers(1, 20),
    levels=st.sampled_from([1, 3, 10**6]),
)
def test_the_nearest_are_those_of_a_stable_sort(
    seed: int, tracklets: int, rows: int, count: int, waiting: int, levels: int
) -> None:
    drawn = torch.randint(levels, (tracklets, tracklets), generator=torch.Generator().manual_seed(seed)).float()
    squared = drawn + drawn.T
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(reranking, "WAITING", waiting)
        index = reranking._TopkIndex(tracklets, min(count, tracklets), squared.device)
        for start in range(0, tracklets, rows):
            block = squared[start : start + rows, start:]
            index.offer(block, start, start)
            index.offer(block[:, rows:].T, start + rows, start)
        nearest, distances = index.chosen()
    assert torch.equal(nearest, squared.argsort(dim=1, stable=True)[:, :count])
    assert torch.equal(distances, squared.gather(1, nearest))


def test_what_all_embeddings_share_does_not_blur_their_distances() -> None:
    asked, searched = identities(4, 3, 30)
    torch.testing.assert_close(
        k_reciprocal_distance(asked + 64, searched + 64), k_reciprocal_distance(asked, searched), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("gallery", [1, 2])
def test_a_gallery_smaller_than_the_neighbourhood_works(gallery: int) -> None:
    asked, searched = identities(2, 1, gallery)
    assert k_reciprocal_distance(asked, searched).isfinite().all()


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0, 1e4])
def test_equal_embeddings_are_at_distance_zero_of_each_other(value: float) -> None:
    equal = torch.full((7, 4), value)
    torch.testing.assert_close(k_reciprocal_distance(equal[:1], equal[1:]), torch.zeros(1, 6))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_embeddings_that_are_not_finite_are_refused(value: float) -> None:
    asked, searched = identities(0, 1, 30)
    searched[3, 2] = value
    with pytest.raises(ValueError, match="not all finite"):
        k_reciprocal_distance(asked, searched)


def test_configured_defaults_are_those_of_the_function() -> None:
    asked, searched = identities(0, 2, 30)
    torch.testing.assert_close(
        k_reciprocal_distance(asked, searched, **RerankConfig().model_dump()), k_reciprocal_distance(asked, searched)
    )


@pytest.mark.parametrize("settings", [{"k1": 0}, {"k2": 0}, {"lambda_value": 1.5}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    asked, searched = identities(0, 1, 3)
    with pytest.raises(ValueError, match="at least 1"):
        k_reciprocal_distance(asked, searched, **settings)  # type: ignore[arg-type]
