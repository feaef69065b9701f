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
from pydantic import ValidationError
from strategies import Batch, batches, quick, seeds
from torch import Tensor
from torch.nn.functional import cross_entropy

from trainer.losses import (
    LossConfig,
    ReidLoss,
    batch_hard_triplet,
    center_loss,
    erased_frame_attention,
    osm_caa,
)
from trainer.model import ModelOutput

Metric = Literal["cosine", "euclidean"]
METRICS: tuple[Metric, ...] = ("cosine", "euclidean")
OSM = {"alpha": 1.2, "sigma": 0.8, "balance": 0.4}
SET_NAMES = ("a", "single")
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


LOSSES: tuple[Callable[[Batch], Tensor], ...] = (cosine_triplet, euclidean_triplet, soft_triplet, center, osm)
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
every_metric = pytest.mark.parametrize("metric", METRICS)


def example(labels: list[int], *, seed: int = 0, dimensions: int = 5) -> Batch:
    """Normal embeddings for the labels, in float64."""
    generator = torch.Generator().manual_seed(seed)
    persons = max(labels, default=0) + 1
    normal = torch.randn(len(labels) + persons, dimensions, generator=generator, dtype=torch.float64)
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
@given(batches(), st.floats(0.1, 3), st.floats(0.3, 2), st.floats(0, 1))
def test_osm_is_the_slow_reference_in_linear_space(batch: Batch, alpha: float, sigma: float, balance: float) -> None:
    constants = {"alpha": alpha, "sigma": sigma, "balance": balance}
    loss = osm_caa(batch.embeddings, batch.labels, batch.class_vectors, **constants)
    arrays = batch.embeddings.numpy(), batch.labels.tolist(), batch.class_vectors.numpy()
    assert loss.item() == pytest.approx(reference.osm(*arrays, **constants), rel=1e-6, abs=1e-12)


def test_erased_frame_attention_sums_over_frames_and_averages_over_clips() -> None:
    scores = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
    erased = torch.tensor([[True, False, True], [False, True, False]])
    assert erased_frame_attention(scores, erased).item() == (1 + 4 + 16) / 2


# --- properties


@every_loss
@quick
@given(batch=batches(), seed=seeds)
def test_loss_ignores_the_order_of_clips(loss: Callable[[Batch], Tensor], batch: Batch, seed: int) -> None:
    order = torch.randperm(len(batch.labels), generator=torch.Generator().manual_seed(seed))
    shuffled = batch._replace(embeddings=batch.embeddings[order], labels=batch.labels[order])
    torch.testing.assert_close(loss(shuffled), loss(batch))


@pytest.mark.parametrize("loss", [cosine_triplet, osm])
@quick
@given(batch=batches(), scale=st.floats(1e-3, 1e3))
def test_loss_ignores_the_scale_of_embeddings(loss: Callable[[Batch], Tensor], batch: Batch, scale: float) -> None:
    torch.testing.assert_close(loss(batch._replace(embeddings=batch.embeddings * scale)), loss(batch))


@quick
@given(batch=batches(), scale=st.floats(1e-3, 1e3))
def test_osm_ignores_the_scale_of_class_vectors(batch: Batch, scale: float) -> None:
    torch.testing.assert_close(osm(batch._replace(class_vectors=batch.class_vectors * scale)), osm(batch))


@every_loss
@quick
@given(batch=batches())
def test_loss_and_gradients_are_finite_for_any_composition(loss: Callable[[Batch], Tensor], batch: Batch) -> None:
    assert all(tensor.isfinite().all() for tensor in gradients(loss, batch))


@every_loss
@pytest.mark.parametrize("labels", [[0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 2], [0, 1, 2], [0, 0, 0]])
def test_loss_passes_gradcheck(loss: Callable[[Batch], Tensor], labels: list[int]) -> None:
    batch = example(labels, dimensions=3)
    leaves = batch.embeddings.requires_grad_(), batch.class_vectors.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, v: loss(Batch(x, batch.labels, v)), leaves)


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


@pytest.mark.parametrize("loss", [cosine_triplet, euclidean_triplet, soft_triplet])
def test_triplet_without_negatives_costs_nothing(loss: Callable[[Batch], Tensor]) -> None:
    assert [tensor.abs().sum().item() for tensor in gradients(loss, example([0, 0, 0]))] == [0, 0, 0]


def test_osm_without_positive_pairs_is_its_negative_half() -> None:
    batch = example([0, 1, 2])
    arrays = batch.embeddings, batch.labels, batch.class_vectors
    whole, half = (osm_caa(*arrays, alpha=1.2, sigma=0.8, balance=share) for share in (1.0, 0.5))
    torch.testing.assert_close(half, whole / 2)


def test_osm_without_negative_pairs_is_its_positive_half() -> None:
    batch = example([0, 0, 0])
    arrays = batch.embeddings, batch.labels, batch.class_vectors
    whole, half = (osm_caa(*arrays, alpha=1.2, sigma=0.8, balance=share) for share in (0.0, 0.5))
    torch.testing.assert_close(half, whole / 2)


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


# --- ReidLoss

PERSONS, DIMENSIONS = 3, 4
ALL_TERMS = LossConfig(osm_share=0.25, center_weight=0.01, attention_weight=0.5)


def output(*, seed: int = 0, dtype: torch.dtype = torch.float32) -> ModelOutput:
    generator = torch.Generator().manual_seed(seed)
    sizes = (6, PERSONS), (6, DIMENSIONS), (6, 2), (6, 2)
    return ModelOutput(*(torch.rand(size, generator=generator).to(dtype).requires_grad_() for size in sizes))


LABELS = torch.tensor([0, 0, 1, 1, 2, 2])
ERASED = torch.tensor([[True, False]] * 6)
CLASSIFIER = torch.eye(PERSONS, DIMENSIONS)


def reid_loss(config: LossConfig) -> ReidLoss:
    torch.manual_seed(0)
    return ReidLoss(config, PERSONS, DIMENSIONS)


def test_total_is_the_weighted_sum_of_the_reported_terms() -> None:
    terms = reid_loss(ALL_TERMS)(output(), LABELS, ERASED, CLASSIFIER)
    parts = terms["identity"] + 0.75 * terms["triplet"] + 0.01 * terms["center"] + 0.25 * terms["osm"]
    torch.testing.assert_close(terms["total"], parts + 0.5 * terms["attention"])


@pytest.mark.parametrize(
    ("config", "terms"),
    [
        (LossConfig(), {"identity", "triplet"}),
        (LossConfig(center_weight=5e-4), {"identity", "triplet", "center"}),
        (LossConfig(osm_share=1, osm_class_vectors="classifier"), {"identity", "osm"}),
        (LossConfig(attention_weight=1), {"identity", "triplet", "attention"}),
        (ALL_TERMS, {"identity", "triplet", "center", "osm", "attention"}),
    ],
)
def test_terms_without_weight_are_absent(config: LossConfig, terms: set[str]) -> None:
    assert set(reid_loss(config)(output(), LABELS, ERASED, CLASSIFIER)) == {"total", *terms}


def test_reid_loss_uses_the_pure_functions() -> None:
    loss, given_output = reid_loss(ALL_TERMS), output()
    terms = loss(given_output, LABELS, ERASED, CLASSIFIER)
    batch = Batch(given_output.embedding, LABELS, loss.centers)
    assert terms["identity"] == cross_entropy(given_output.logits, LABELS, label_smoothing=0.1)
    assert terms["triplet"] == cosine_triplet(batch)
    assert terms["center"] == center(batch)
    assert terms["osm"] == osm_caa(*batch, alpha=1.2, sigma=0.8, balance=0.5)
    assert terms["attention"] == erased_frame_attention(given_output.scores, ERASED)


def test_osm_compares_with_the_classifier_where_told() -> None:
    loss, given_output = reid_loss(LossConfig(osm_share=1, osm_class_vectors="classifier")), output()
    terms = loss(given_output, LABELS, ERASED, CLASSIFIER)
    expected = osm_caa(given_output.embedding, LABELS, CLASSIFIER, alpha=1.2, sigma=0.8, balance=0.5)
    assert terms["osm"] == expected


def test_half_precision_is_widened_before_any_loss() -> None:
    loss, half = reid_loss(ALL_TERMS), output(dtype=torch.bfloat16)
    wide = ModelOutput(*(tensor.float() for tensor in half))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = loss(half, LABELS, ERASED, CLASSIFIER.bfloat16())
    expected = loss(wide, LABELS, ERASED, CLASSIFIER)
    assert all(terms[name] == expected[name] for name in expected)


def test_centers_exist_only_for_the_center_loss() -> None:
    assert reid_loss(LossConfig()).centers is None
    assert not reid_loss(LossConfig()).state_dict()
    centers = reid_loss(ALL_TERMS).centers
    assert centers is not None
    assert centers.shape == (PERSONS, DIMENSIONS)


def test_step_moves_each_center_towards_the_mean_of_its_clips_whatever_the_weight() -> None:
    for weight in (5e-4, 0.2):
        loss, given_output = reid_loss(LossConfig(center_weight=weight, center_learning_rate=0.5)), output()
        assert loss.centers is not None
        before = loss.centers.detach().clone()
        loss(given_output, LABELS, ERASED, CLASSIFIER)["total"].backward()
        loss.step_centers()
        means = torch.stack([given_output.embedding[person == LABELS].mean(0) for person in range(PERSONS)])
        share = 2 * 0.5 * 2 / 6  # 2 lr n / B
        torch.testing.assert_close(loss.centers, before + share * (means - before))
        assert loss.centers.grad is None


def test_step_without_centers_is_no_step() -> None:
    reid_loss(LossConfig()).step_centers()


def test_centers_that_no_loss_trains_are_refused() -> None:
    with pytest.raises(ValidationError, match="center_weight is 0, so the centers would never be trained"):
        LossConfig(osm_share=0.5, osm_class_vectors="centers", center_weight=0)
