"""The losses: against numbers of public code, against slow references, and by their properties."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import Batch, batches, quick, seeds
from torch import Tensor
from torch.nn.functional import cross_entropy

from trainer.losses.functional import (
    batch_hard_triplet,
    center_loss,
    erased_frame_attention,
    osm_caa,
    wen_step,
)

Metric = Literal["cosine", "euclidean"]
Reduction = Literal["sum", "mean"]
METRICS: tuple[Metric, ...] = ("cosine", "euclidean")
OSM = {"alpha": 1.2, "sigma": 0.8, "balance": 0.4}
SET_NAMES = ("a", "single")
REDUCTIONS: tuple[Reduction, ...] = ("sum", "mean")
MARGINS = ("0.3", "4.41324e-05")


def cosine_triplet(batch: Batch) -> Tensor:
    return batch_hard_triplet(batch.embeddings, batch.labels, margin=0.3, metric="cosine")


def euclidean_triplet(batch: Batch) -> Tensor:
    return batch_hard_triplet(batch.embeddings, batch.labels, margin=0.3, metric="euclidean")


def soft_triplet(batch: Batch) -> Tensor:
    return batch_hard_triplet(batch.embeddings, batch.labels, margin=None, metric="euclidean")


def center(batch: Batch) -> Tensor:
    return center_loss(batch.embeddings, batch.labels, batch.class_vectors)


def osm(batch: Batch) -> Tensor:
    return osm_caa(batch.embeddings, batch.labels, batch.class_vectors, **OSM)


def soft_cosine_triplet(batch: Batch) -> Tensor:
    return batch_hard_triplet(batch.embeddings, batch.labels, margin=None, metric="cosine")


def tempered_osm(batch: Batch) -> Tensor:
    return osm_caa(batch.embeddings, batch.labels, batch.class_vectors, **OSM, temperature=0.1)


def detached_osm(batch: Batch) -> Tensor:
    return osm_caa(batch.embeddings, batch.labels, batch.class_vectors, **OSM, detach=True)


TRIPLETS: tuple[Callable[[Batch], Tensor], ...] = (cosine_triplet, euclidean_triplet, soft_triplet, soft_cosine_triplet)
DERIVED: tuple[Callable[[Batch], Tensor], ...] = (*TRIPLETS, center, osm, tempered_osm)
LOSSES: tuple[Callable[[Batch], Tensor], ...] = (*DERIVED, detached_osm)
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
every_metric = pytest.mark.parametrize("metric", METRICS)


def example(labels: list[int], *, seed: int = 0, dimensions: int = 5) -> Batch:
    """Normal embeddings for the labels, in float64."""
    generator = torch.Generator().manual_seed(seed)
    identities = max(labels, default=0) + 1
    normal = torch.randn(len(labels) + identities, dimensions, generator=generator, dtype=torch.float64)
    return Batch(normal[: len(labels)], torch.tensor(labels, dtype=torch.long), normal[len(labels) :])


def gradients(loss: Callable[[Batch], Tensor], batch: Batch) -> tuple[Tensor, ...]:
    """Value, and gradients to embeddings and class vectors, zero where there is no path."""
    embeddings = batch.embeddings.clone().requires_grad_()
    vectors = batch.class_vectors.clone().requires_grad_()
    value = loss(Batch(embeddings, batch.labels, vectors))
    value.backward()
    found = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in (embeddings, vectors)]
    return value.detach(), *found


# --- numbers of public code


@every_metric
@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize("name", SET_NAMES)
def test_triplet_has_value_and_gradient_of_the_papers_code(name: str, margin: str, metric: Metric) -> None:
    case = reference.cases("triplet.npz")
    embeddings = torch.tensor(case[f"x_{name}"], requires_grad=True)
    labels = torch.tensor(case[f"labels_{name}"])
    loss = batch_hard_triplet(embeddings, labels, margin=float(margin), metric=metric)
    loss.backward()
    key = f"{name}_paper_{metric}_m{margin}"
    assert loss.item() == pytest.approx(float(case[key]), rel=1e-5)
    np.testing.assert_allclose(embeddings.grad, case[f"{key}_grad"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize("key", ["a_luo_euclid", "a_gao_euclid", "single_gao_euclid", "single_papernormal_euclid"])
def test_euclidean_triplet_has_the_value_of_other_public_codes(key: str, margin: str) -> None:
    case = reference.cases("triplet.npz")
    name = key.split("_")[0]
    embeddings, labels = torch.tensor(case[f"x_{name}"]), torch.tensor(case[f"labels_{name}"])
    loss = batch_hard_triplet(embeddings, labels, margin=float(margin), metric="euclidean")
    assert loss.item() == pytest.approx(float(case[f"{key}_m{margin}"]), rel=1e-5)


def test_soft_margin_triplet_has_the_value_of_luos_code() -> None:
    case = reference.cases("triplet.npz")
    embeddings, labels = torch.tensor(case["x_a"]), torch.tensor(case["labels_a"])
    loss = batch_hard_triplet(embeddings, labels, margin=None, metric="euclidean")
    assert loss.item() == pytest.approx(float(case["a_luo_softmargin"]), rel=1e-5)


@pytest.mark.parametrize("code", ["paper", "luo", "kaiyang", "gao"])
def test_center_loss_has_value_and_gradients_of_public_codes(code: str) -> None:
    case = reference.cases("center_loss.npz")
    embeddings = torch.tensor(case["x"], requires_grad=True)
    centers = torch.tensor(case["centers"], requires_grad=True)
    loss = center_loss(embeddings, torch.tensor(case["labels"]), centers)
    loss.backward()
    assert loss.item() == pytest.approx(float(case[f"loss_{code}"]), rel=1e-5)
    np.testing.assert_allclose(embeddings.grad, case[f"grad_x_{code}"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(centers.grad, case[f"grad_centers_{code}"], rtol=0, atol=1e-5)


def test_torchs_label_smoothing_has_value_and_gradient_of_the_papers_code() -> None:
    case = reference.cases("label_smooth_ce.npz")
    logits = torch.tensor(case["logits"], requires_grad=True)
    loss = cross_entropy(logits, torch.tensor(case["labels"]), label_smoothing=float(case["eps"]))
    loss.backward()
    assert loss.item() == pytest.approx(float(case["loss_paper"]), rel=1e-5)
    np.testing.assert_allclose(logits.grad, case["grad_logits"], rtol=0, atol=1e-5)


# --- slow references


@quick
@given(batches(), st.sampled_from(METRICS), st.one_of(st.none(), st.floats(0, 2)))
def test_triplet_is_the_slow_reference(batch: Batch, metric: Metric, margin: float | None) -> None:
    loss = batch_hard_triplet(batch.embeddings, batch.labels, margin=margin, metric=metric)
    slow = reference.triplet(batch.embeddings.numpy(), batch.labels.tolist(), margin, metric)
    assert loss.item() == pytest.approx(slow, rel=1e-9, abs=1e-12)


@quick
@given(batches())
def test_center_loss_is_the_slow_reference(batch: Batch) -> None:
    slow = reference.center(batch.embeddings.numpy(), batch.labels.tolist(), batch.class_vectors.numpy())
    assert center(batch).item() == pytest.approx(slow, rel=1e-9)


@quick
@given(batches(), st.floats(0.1, 3), st.floats(0.3, 2), st.floats(0, 1), st.floats(0.05, 5))
def test_osm_is_the_slow_reference_in_linear_space(
    batch: Batch, alpha: float, sigma: float, balance: float, temperature: float
) -> None:
    constants = {"alpha": alpha, "sigma": sigma, "balance": balance, "temperature": temperature}
    loss = osm_caa(batch.embeddings, batch.labels, batch.class_vectors, **constants)
    arrays = batch.embeddings.numpy(), batch.labels.tolist(), batch.class_vectors.numpy()
    assert loss.item() == pytest.approx(reference.osm(*arrays, **constants), rel=1e-6, abs=1e-12)


@quick
@given(seeds, st.integers(1, 5), st.integers(1, 4), st.sampled_from(REDUCTIONS))
def test_erased_frame_attention_is_the_slow_reference(seed: int, clips: int, frames: int, reduction: Reduction) -> None:
    generator = torch.Generator().manual_seed(seed)
    attention = torch.rand(clips, frames, generator=generator, dtype=torch.float64)
    erased = torch.rand(clips, frames, generator=generator) < 0.5
    slow = reference.erased_attention(attention.numpy(), erased.numpy(), reduction)
    assert erased_frame_attention(attention, erased, reduction=reduction).item() == pytest.approx(slow, rel=1e-12)


def test_erased_frame_attention_sums_over_frames_unless_told_to_average() -> None:
    scores = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
    erased = torch.tensor([[True, False, True], [False, True, False]])
    assert erased_frame_attention(scores, erased).item() == (1 + 4 + 16) / 2
    assert erased_frame_attention(scores, erased, reduction="mean").item() == (1 + 4 + 16) / 6


@quick
@given(batches(), st.floats(0.01, 1))
def test_wens_step_is_the_slow_reference(batch: Batch, rate: float) -> None:
    slow = reference.wen(batch.embeddings.numpy(), batch.labels.tolist(), batch.class_vectors.numpy(), rate)
    np.testing.assert_allclose(wen_step(*batch, rate=rate), slow, rtol=1e-12, atol=1e-12)


@quick
@given(batches())
def test_detached_osm_has_the_gradient_of_osm_with_frozen_weights(batch: Batch) -> None:
    _, slope, vectors_slope = gradients(detached_osm, batch)
    rows, labels, vectors = batch.embeddings.numpy(), batch.labels.tolist(), batch.class_vectors.numpy()
    identity, coordinate = len(rows) // 2, 0
    step = np.zeros_like(rows)
    step[identity, coordinate] = 1e-6
    above, below = (reference.osm(rows + side, labels, vectors, **OSM, weighed_at=rows) for side in (step, -step))
    assert slope[identity, coordinate].item() == pytest.approx((above - below) / 2e-6, rel=1e-4, abs=1e-7)
    assert not vectors_slope.any()


# --- properties


@every_loss
@quick
@given(batch=batches())
def test_loss_and_gradients_are_finite_for_any_composition(loss: Callable[[Batch], Tensor], batch: Batch) -> None:
    assert all(tensor.isfinite().all() for tensor in gradients(loss, batch))


@pytest.mark.parametrize("loss", DERIVED, ids=lambda loss: loss.__name__)
@pytest.mark.parametrize("labels", [[0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 2], [0, 1, 2], [0, 0, 0]])
def test_loss_passes_gradcheck(loss: Callable[[Batch], Tensor], labels: list[int]) -> None:
    batch = example(labels, dimensions=3)
    leaves = batch.embeddings.requires_grad_(), batch.class_vectors.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, v: loss(Batch(x, batch.labels, v)), leaves)


@quick
@given(batch=batches())
def test_detaching_osms_weights_leaves_its_value(batch: Batch) -> None:
    assert detached_osm(batch) == osm(batch)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_erased_frame_attention_passes_gradcheck(reduction: Reduction) -> None:
    attention = torch.rand(3, 2, dtype=torch.float64, requires_grad=True)
    erased = torch.tensor([[True, False], [True, True], [False, False]])
    assert torch.autograd.gradcheck(lambda given: erased_frame_attention(given, erased, reduction=reduction), attention)


# --- empty and degenerate batches


@every_loss
def test_empty_batch_costs_nothing(loss: Callable[[Batch], Tensor]) -> None:
    assert [tensor.sum().item() for tensor in gradients(loss, example([]))] == [0, 0, 0]


@every_loss
@pytest.mark.parametrize("value", [0.0, 1.0, 1e-30])
def test_equal_or_vanishing_embeddings_have_finite_losses_and_gradients(
    loss: Callable[[Batch], Tensor], value: float
) -> None:
    batch = example([0, 0, 1, 1])
    batch = Batch(torch.full_like(batch.embeddings, value).float(), batch.labels, batch.class_vectors.float())
    assert all(tensor.isfinite().all() for tensor in gradients(loss, batch))


def test_one_zero_vector_does_not_blow_up_the_cosine_triplet() -> None:
    batch = example([0, 0, 1, 1])
    batch.embeddings[0] = 0
    value, gradient, _ = gradients(cosine_triplet, batch)
    slow = reference.triplet(batch.embeddings.numpy(), batch.labels.tolist(), 0.3, "cosine")
    # A zero vector is not even near itself: cosine 0.
    assert value.item() == pytest.approx(slow)
    assert gradient.abs().max() < 10


@pytest.mark.parametrize("loss", TRIPLETS)
def test_triplet_without_negatives_costs_nothing(loss: Callable[[Batch], Tensor]) -> None:
    assert [tensor.abs().sum().item() for tensor in gradients(loss, example([0, 0, 0]))] == [0, 0, 0]


def test_osm_has_the_reference_value_where_the_papers_code_underflows_to_nan() -> None:
    batch = example([0, 0, 1, 1])
    arrays = batch.embeddings.numpy(), batch.labels.tolist(), batch.class_vectors.numpy()
    single = batch.embeddings.float(), batch.labels, batch.class_vectors.float()
    loss = osm_caa(*single, alpha=1.2, sigma=0.1, balance=0.5)
    assert loss.item() == pytest.approx(reference.osm(*arrays, alpha=1.2, sigma=0.1, balance=0.5), rel=1e-4)


@pytest.mark.parametrize("sigma", [0.02, 1e-4])
def test_osm_with_a_tiny_sigma_is_half_the_nearest_positive_pairs_squared_distance(sigma: float) -> None:
    batch = example([0, 0, 0, 1])
    single = Batch(batch.embeddings.float(), batch.labels, batch.class_vectors.float())

    def positive_half(batch: Batch) -> Tensor:
        return osm_caa(batch.embeddings, batch.labels, batch.class_vectors, alpha=1.2, sigma=sigma, balance=0.0)

    value, *slopes = gradients(positive_half, single)
    pairs = ((0, 1), (0, 2), (1, 2))
    rows = batch.embeddings.numpy()
    nearest = min(2 - 2 * reference.cosine(rows[i], rows[j]) for i, j in pairs)
    assert value.item() == pytest.approx(nearest / 2, rel=1e-4)
    assert all(slope.isfinite().all() for slope in slopes)


def test_osm_with_all_negatives_beyond_alpha_has_neither_value_nor_gradient() -> None:
    batch = Batch(torch.eye(2), torch.tensor([0, 1]), torch.eye(2))

    def negative_half(batch: Batch) -> Tensor:
        return osm_caa(*batch, alpha=0.5, sigma=0.8, balance=1.0)

    assert [tensor.abs().sum().item() for tensor in gradients(negative_half, batch)] == [0, 0, 0]


def test_a_tiny_temperature_leaves_osm_and_its_gradients_finite() -> None:
    batch = example([0, 0, 1, 1, 2])
    single = Batch(batch.embeddings.float(), batch.labels, batch.class_vectors.float())

    def frozen_attention(batch: Batch) -> Tensor:
        return osm_caa(*batch, **OSM, temperature=1e-6)

    assert all(tensor.isfinite().all() for tensor in gradients(frozen_attention, single))


def test_wens_step_of_an_empty_batch_is_no_step() -> None:
    batch = example([])
    assert torch.equal(wen_step(*batch, rate=0.5), batch.class_vectors)


def test_attention_loss_without_clips_is_nothing() -> None:
    for reduction in REDUCTIONS:
        assert erased_frame_attention(torch.zeros(0, 4), torch.zeros(0, 4, dtype=torch.bool), reduction=reduction) == 0
