"""The weighed sum of the losses, its options, and the steps of the centers."""

from __future__ import annotations

from typing import Any

import pytest
import reference
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn.functional import cross_entropy

from trainer.errors import ConfigError
from trainer.losses.functional import batch_hard_triplet, center_loss, erased_frame_attention, osm_caa, wen_step
from trainer.losses.reid_loss import LossConfig, ReidLoss
from trainer.model.network import ModelOutput

IDENTITIES, DIMENSIONS = 3, 4
LABELS = torch.tensor([0, 0, 1, 1, 2, 2])
ERASED = torch.tensor([[True, False]] * 6)
CLASSIFIER = torch.eye(IDENTITIES, DIMENSIONS)
OSM = {"alpha": 1.2, "sigma": 0.8, "balance": 0.5}
ALL_TERMS = LossConfig(osm_share=0.25, center_weight=0.01, attention_weight=0.5)
WEN = LossConfig(osm_share=0.25, center_weight=0.01, center_update="wen")


def output(*, seed: int = 0, dtype: torch.dtype = torch.float32) -> ModelOutput:
    """Six clips, every tensor a leaf."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (6, IDENTITIES), (6, DIMENSIONS), (6, 2), (6, 2), (6, DIMENSIONS)
    return ModelOutput(*(torch.rand(size, generator=generator).to(dtype).requires_grad_() for size in sizes))


def part(whole: ModelOutput, clips: slice) -> ModelOutput:
    return ModelOutput(*(tensor[clips] for tensor in whole))


def reid_loss(config: LossConfig) -> ReidLoss:
    torch.manual_seed(0)
    return ReidLoss(config, IDENTITIES, DIMENSIONS)


def centers_of(loss: ReidLoss) -> Tensor:
    assert loss.centers is not None
    return loss.centers.detach().clone()


def terms_of(given: ModelOutput, **settings: Any) -> dict[str, Tensor]:
    terms: dict[str, Tensor] = reid_loss(LossConfig(**settings))(given, LABELS, ERASED, CLASSIFIER)
    return terms


# --- the sum and its terms


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


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("class_vectors", ["centers", "classifier"])
def test_terms_and_gradients_are_those_of_the_pure_functions(metric: Any, class_vectors: Any) -> None:
    config = ALL_TERMS.model_copy(update={"triplet_metric": metric, "osm_class_vectors": class_vectors})
    loss, given, alone = reid_loss(config), output(), output()
    terms = loss(given, LABELS, ERASED, CLASSIFIER)
    centers = centers_of(loss).requires_grad_()
    vectors = centers if class_vectors == "centers" else CLASSIFIER
    expected = {
        "identity": cross_entropy(alone.logits, LABELS, label_smoothing=0.1),
        "triplet": batch_hard_triplet(alone.embedding, LABELS, margin=0.3, metric=metric),
        "center": center_loss(alone.embedding, LABELS, centers),
        "osm": osm_caa(alone.embedding, LABELS, vectors, **OSM),
        "attention": erased_frame_attention(alone.weights, ERASED),
    }
    torch.testing.assert_close({name: terms[name] for name in expected}, expected)
    terms["total"].backward()
    weights = {"identity": 1, "triplet": 0.75, "center": 0.01, "osm": 0.25, "attention": 0.5}
    torch.stack([weights[name] * term for name, term in expected.items()]).sum().backward()
    assert loss.centers is not None
    torch.testing.assert_close(given.embedding.grad, alone.embedding.grad)
    torch.testing.assert_close(loss.centers.grad, centers.grad)


def test_half_precision_is_widened_before_any_loss() -> None:
    loss, half = reid_loss(ALL_TERMS), output(dtype=torch.bfloat16)
    wide = ModelOutput(*(tensor.float() for tensor in half))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = loss(half, LABELS, ERASED, CLASSIFIER.bfloat16())
    expected = loss(wide, LABELS, ERASED, CLASSIFIER)
    assert all(terms[name] == expected[name] for name in expected)


# --- options


@pytest.mark.parametrize(("feature", "seen"), [("after_neck", "embedding"), ("before_neck", "pooled")])
def test_metric_losses_see_the_feature_they_are_told_to(feature: str, seen: str) -> None:
    given = output()
    settings = {"osm_share": 0.5, "center_weight": 0.1, "feature": feature}
    terms = terms_of(given, **settings)
    (terms["triplet"] + terms["center"] + terms["osm"]).backward()
    assert {name for name in given._fields if getattr(given, name).grad is not None} == {seen}


def test_a_margin_of_null_is_the_soft_margin() -> None:
    given = output()
    expected = batch_hard_triplet(given.embedding, LABELS, margin=None, metric="cosine")
    torch.testing.assert_close(terms_of(given, triplet_margin=None)["triplet"], expected)


def test_osm_passes_temperature_and_detachment_on() -> None:
    given = output()
    loss = reid_loss(LossConfig(osm_share=1, center_weight=1e-3, osm_temperature=0.1, osm_detach=True))
    terms = loss(given, LABELS, ERASED, CLASSIFIER)
    expected = osm_caa(given.embedding, LABELS, centers_of(loss), **OSM, temperature=0.1)
    torch.testing.assert_close(terms["osm"], expected)
    (slope,) = torch.autograd.grad(terms["osm"], loss.centers, allow_unused=True)
    assert slope is None or not slope.any()


def test_surplus_centers_take_part_in_class_aware_attention() -> None:
    loss = reid_loss(LossConfig(osm_share=1, center_weight=1e-3, center_count=7, osm_temperature=0.1))
    centers, given = centers_of(loss), output(dtype=torch.float64)
    assert len(centers) == 7
    term = loss.double()(given, LABELS, ERASED, CLASSIFIER.double())["osm"]
    arrays = given.embedding.detach().numpy(), LABELS.tolist()
    slow, without = (
        reference.osm(*arrays, rows.double().numpy(), **OSM, temperature=0.1) for rows in (centers, centers[:3])
    )
    assert term.item() == pytest.approx(slow)
    assert term.item() != pytest.approx(without)


@pytest.mark.parametrize("seen", ["scores", "weights"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_attention_loss_sees_scores_or_weights_and_sums_or_averages(seen: str, reduction: Any) -> None:
    given = output()
    terms = terms_of(given, attention_weight=1, attention_on=seen, attention_reduction=reduction)
    assert terms["attention"] == erased_frame_attention(getattr(given, seen), ERASED, reduction=reduction)


# --- centers


def test_centers_exist_only_for_the_center_loss() -> None:
    assert reid_loss(LossConfig()).centers is None
    assert not reid_loss(LossConfig()).state_dict()
    assert centers_of(reid_loss(ALL_TERMS)).shape == (IDENTITIES, DIMENSIONS)


def test_fewer_centers_than_identities_are_refused_with_the_way_out() -> None:
    config = LossConfig(center_weight=5e-4, center_count=751)
    message = r"loss.center_count: 751 centers, but there are 800 training identities; give at least 800"
    with pytest.raises(ConfigError, match=message):
        ReidLoss(config, 800, DIMENSIONS)


def test_step_moves_each_center_towards_the_mean_of_its_clips_whatever_the_weight() -> None:
    for weight in (5e-4, 0.2):
        loss, given = reid_loss(LossConfig(center_weight=weight, center_learning_rate=0.5)), output()
        before = centers_of(loss)
        loss(given, LABELS, ERASED, CLASSIFIER)["total"].backward()
        loss.step_centers()
        means = torch.stack([given.embedding[identity == LABELS].mean(0) for identity in range(IDENTITIES)])
        share = 2 * 0.5 * 2 / 6  # 2 lr n / B
        torch.testing.assert_close(centers_of(loss), before + share * (means - before))
        assert loss.centers is not None
        assert loss.centers.grad is None


def test_step_undoes_the_scaling_of_the_loss() -> None:
    plain, scaled = reid_loss(ALL_TERMS), reid_loss(ALL_TERMS)
    plain(output(), LABELS, ERASED, CLASSIFIER)["total"].backward()
    plain.step_centers()
    (scaled(output(), LABELS, ERASED, CLASSIFIER)["total"] * 1024).backward()
    scaled.step_centers(gradient_scale=1024)
    torch.testing.assert_close(centers_of(scaled), centers_of(plain))


def test_step_after_micro_batches_is_the_step_of_the_batch() -> None:
    config = LossConfig(center_weight=0.1)
    whole, parts, given = reid_loss(config), reid_loss(config), output()
    whole(given, LABELS, ERASED, CLASSIFIER)["total"].backward()
    for clips in (slice(0, 3), slice(3, 6)):
        (parts(part(given, clips), LABELS[clips], ERASED[clips], CLASSIFIER)["total"] / 2).backward()
    for loss in (whole, parts):
        loss.step_centers()
    torch.testing.assert_close(centers_of(parts), centers_of(whole))


@pytest.mark.parametrize("config", [LossConfig(), ALL_TERMS, WEN])
def test_without_a_gradient_or_a_batch_there_is_no_step(config: LossConfig) -> None:
    loss = reid_loss(config)
    before = [parameter.clone() for parameter in loss.parameters()]
    loss.step_centers()
    assert all(torch.equal(*pair) for pair in zip(before, loss.parameters(), strict=True))


def test_wens_step_counts_the_clips_of_all_micro_batches() -> None:
    loss, given = reid_loss(WEN), output()
    before = centers_of(loss)
    for clips in (slice(0, 1), slice(1, 4)):
        loss(part(given, clips), LABELS[clips], ERASED[clips], CLASSIFIER)["total"].backward()
    loss.step_centers(gradient_scale=1024)
    expected = wen_step(given.embedding.detach()[:4], LABELS[:4], before, rate=0.5)
    assert torch.equal(centers_of(loss), expected)
    assert torch.equal(expected[2], before[2]), "the third identity is absent"


def test_wens_step_forgets_the_batches_it_was_made_from() -> None:
    loss = reid_loss(WEN)
    for _ in range(2):
        before = centers_of(loss)
        loss(output(), LABELS, ERASED, CLASSIFIER)
        loss.step_centers()
        expected = wen_step(output().embedding.detach(), LABELS, before, rate=0.5)
        assert torch.equal(centers_of(loss), expected)


def test_wens_step_leaves_out_what_was_forgotten_or_not_trained_on() -> None:
    loss = reid_loss(WEN)
    before = centers_of(loss)
    loss(output(), LABELS, ERASED, CLASSIFIER)
    loss.zero_grad()
    with torch.no_grad():
        loss(output(), LABELS, ERASED, CLASSIFIER)
    loss.eval()(output(), LABELS, ERASED, CLASSIFIER)
    loss.step_centers()
    assert torch.equal(centers_of(loss), before)


def test_wens_centers_get_no_gradient_and_the_terms_are_the_same() -> None:
    config = WEN.model_copy(update={"center_update": "gradient"})
    loss, by_gradient = reid_loss(WEN), reid_loss(config)
    terms = loss(output(), LABELS, ERASED, CLASSIFIER)
    terms["total"].backward()
    assert loss.centers is not None
    assert loss.centers.grad is None
    assert terms == by_gradient(output(), LABELS, ERASED, CLASSIFIER)


@pytest.mark.parametrize("config", [ALL_TERMS, WEN])
def test_an_empty_batch_moves_no_center(config: LossConfig) -> None:
    loss, none = reid_loss(config), slice(0, 0)
    before = centers_of(loss)
    terms = loss(part(output(), none), LABELS[none], ERASED[none], CLASSIFIER)
    finite = [term for name, term in terms.items() if name not in ("total", "identity")]
    torch.stack(finite).sum().backward()
    loss.step_centers()
    assert not any(finite)
    assert torch.equal(centers_of(loss), before)


# --- settings that cannot be


def test_centers_that_no_loss_trains_are_refused() -> None:
    with pytest.raises(ValidationError, match="center_weight is 0, so the centers would never be trained"):
        LossConfig(osm_share=0.5, osm_class_vectors="centers", center_weight=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"center_update": "wen"}, "center_update: wen has no effect while center_weight is 0"),
        ({"center_count": 751}, "center_count has no effect while center_weight is 0"),
        ({"osm_detach": True}, "osm_detach: true has no effect while osm_share is 0"),
        ({"attention_reduction": "mean"}, "attention_reduction: mean has no effect while attention_weight is 0"),
    ],
)
def test_switches_without_effect_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        LossConfig(**settings)


def test_numbers_may_be_sampled_beside_a_weight_of_0() -> None:
    LossConfig(osm_share=0, osm_alpha=2.5, osm_sigma=0.4, osm_temperature=0.1, center_learning_rate=0.1)
