"""Pooling over time against slow references and its properties, and the figures of attention."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import quick
from torch import Tensor, nn

from trainer.model.attention import (
    Gate,
    TemporalAttention,
    attention_entropy,
    dead_score_share,
    erased_weight,
    max_over_time,
    mean_over_time,
)

GATES: tuple[Gate, ...] = ("softmax", "sigmoid")
every_gate = pytest.mark.parametrize("gate", GATES)
every_kind = pytest.mark.parametrize(("factorised", "score_relu"), [(False, True), (True, True), (False, False)])


def random_attention(gate: Gate = "softmax", *, factorised: bool = False, score_relu: bool = True) -> TemporalAttention:
    """Attention over maps of 3 x 2 x 2 in float64, biases included."""
    attention = TemporalAttention(3, (2, 2), hidden=4, gate=gate, factorised=factorised, score_relu=score_relu).double()
    for parameter in attention.parameters():
        nn.init.normal_(parameter)
    return attention


def random_maps(frames: int = 4) -> Tensor:
    return torch.randn(2, frames, 3, 2, 2, dtype=torch.float64)


# --- attention


@every_gate
@every_kind
@pytest.mark.parametrize("seed", range(3))
def test_attention_is_the_slow_reference(gate: Gate, factorised: bool, score_relu: bool, seed: int) -> None:
    torch.manual_seed(seed)
    attention = random_attention(gate, factorised=factorised, score_relu=score_relu)
    maps = random_maps()
    seen = maps.mean((-2, -1), keepdim=True) if factorised else maps
    convolutions = [
        (layer.weight.detach().numpy(), layer.bias.detach().numpy())
        for layer in (attention.spatial, attention.temporal)
    ]
    slow = reference.temporal_attention(seen.numpy(), *convolutions, gate, score_relu=score_relu)
    for ours, theirs in zip(attention(maps), slow, strict=True):
        np.testing.assert_allclose(ours.detach(), theirs, atol=1e-12)


@every_gate
def test_dead_scores_weigh_frames_uniformly(gate: Gate) -> None:
    attention = TemporalAttention(3, (2, 2), gate=gate)
    nn.init.constant_(attention.temporal.bias, -1e3)
    output = attention(torch.randn(2, 4, 3, 2, 2))
    assert (output.scores == 0).all()
    torch.testing.assert_close(output.weights, torch.full((2, 4), 0.25))


@every_gate
def test_without_the_second_relu_scores_are_negative_and_weights_still_sum_to_one(gate: Gate) -> None:
    attention = TemporalAttention(3, (2, 2), gate=gate, score_relu=False)
    nn.init.constant_(attention.temporal.bias, -1e3)  # a sigmoid of it is 0 in float32
    output = attention(torch.randn(2, 4, 3, 2, 2))
    assert (output.scores < 0).all()
    torch.testing.assert_close(output.weights.sum(1), torch.ones(2))


@every_gate
@every_kind
def test_attention_passes_gradcheck(gate: Gate, factorised: bool, score_relu: bool) -> None:
    torch.manual_seed(0)
    attention = random_attention(gate, factorised=factorised, score_relu=score_relu)
    assert torch.autograd.gradcheck(attention, (random_maps(frames=3)[:1].requires_grad_(),))


def test_attention_starts_from_kaiming_kernels_and_zero_biases() -> None:
    torch.manual_seed(0)
    attention = TemporalAttention(64, (4, 4))
    fan_in = 64 * 4 * 4
    assert attention.spatial.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.02)
    assert attention.temporal.weight.std().item() == pytest.approx((2 / (256 * 3)) ** 0.5, rel=0.1)
    assert all((layer.bias == 0).all() for layer in (attention.spatial, attention.temporal))


def test_attention_refuses_maps_of_another_size() -> None:
    with pytest.raises(ValueError, match=r"built for maps of \(2, 2\), got \(3, 2\)"):
        TemporalAttention(3, (2, 2))(torch.randn(1, 1, 3, 3, 2))


def test_factorised_attention_takes_maps_of_any_size_and_sees_their_mean_only() -> None:
    attention = random_attention(factorised=True)
    small, large = random_maps(), torch.zeros(2, 4, 3, 4, 6, dtype=torch.float64)
    large += small.mean((-2, -1), keepdim=True)
    for ours, theirs in zip(attention(large), attention(small), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("maps_layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_the_matrix_product_is_the_convolution(layout: torch.memory_format, maps_layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    attention = TemporalAttention(8, (3, 2), hidden=5, score_relu=False).double().to(memory_format=layout)
    frames = torch.randn(6, 8, 3, 2, dtype=torch.float64).to(memory_format=maps_layout)
    convolved = attention.spatial(frames).relu().view(2, 3, 5).transpose(1, 2)
    scores = attention.temporal(convolved).squeeze(1)
    output = attention(frames.unflatten(0, (2, 3)))
    torch.testing.assert_close(output.scores, scores)
    (slow,) = torch.autograd.grad(scores.square().sum(), attention.spatial.weight)
    (fast,) = torch.autograd.grad(output.scores.square().sum(), attention.spatial.weight)
    torch.testing.assert_close(fast, slow)
    assert fast.stride() == attention.spatial.weight.stride()  # else the optimizer would copy it


def test_under_autocast_outputs_stay_in_float32() -> None:
    attention = TemporalAttention(3, (2, 2))
    maps = torch.randn(2, 3, 3, 2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        output = attention(maps.bfloat16())
    assert {part.dtype for part in output} == {torch.float32}
    torch.testing.assert_close(output.pooled, attention(maps).pooled, atol=0.02, rtol=0.02)


# --- mean and maximum


def test_mean_over_time_is_the_mean_of_all_pixels_of_all_frames() -> None:
    maps = random_maps()
    pooled, scores, weights = mean_over_time(maps)
    torch.testing.assert_close(pooled, maps.transpose(1, 2).flatten(2).mean(2))
    assert (scores == 0).all()
    assert (weights == 0.25).all()


def test_max_over_time_takes_each_channel_from_its_strongest_frame() -> None:
    features = torch.tensor([[[3.0, 1, 1, 0], [2, 2, 1, 5], [1, 0, 0, 9]]])
    pooled, scores, weights = max_over_time(features[..., None, None])
    assert pooled.tolist() == [[3, 2, 1, 9]]
    assert weights.tolist() == [[0.5, 0.25, 0.25]]  # of equals the first wins
    assert (scores == 0).all()


# --- figures

clip_weights = st.lists(
    st.lists(st.floats(0, 1), min_size=4, max_size=4).filter(lambda row: sum(row) > 0.1), min_size=1, max_size=3
).map(lambda rows: torch.tensor([[value / sum(row) for value in row] for row in rows]))


@quick
@given(clip_weights)
def test_entropy_is_between_certain_and_uniform(weights: Tensor) -> None:
    entropy = attention_entropy(weights)
    assert ((entropy >= 0) & (entropy <= 1)).all()
    for row, value in zip(weights.tolist(), entropy.tolist(), strict=True):
        slow = -sum(weight * math.log(weight) for weight in row if weight > 0) / math.log(4)
        assert value == pytest.approx(slow, abs=1e-5)


def test_entropy_is_one_for_uniform_weights_and_for_a_single_frame_and_zero_for_one_of_many() -> None:
    assert attention_entropy(torch.full((2, 7), 1 / 7)).tolist() == pytest.approx([1, 1])
    assert attention_entropy(torch.ones(2, 1)).tolist() == [1, 1]
    assert attention_entropy(torch.tensor([[0.0, 1, 0]])).tolist() == [0]


def test_dead_scores_are_the_exact_zeros() -> None:
    assert dead_score_share(torch.tensor([[0.0, -1], [1e-30, 0]])).item() == 0.5


@quick
@given(clip_weights, st.integers(0, 2**12 - 1))
def test_weights_of_erased_and_of_clean_frames_make_up_the_whole(weights: Tensor, mask: int) -> None:
    erased = torch.tensor([bool(mask >> bit & 1) for bit in range(weights.numel())]).view_as(weights)
    covered, clean = erased_weight(weights, erased), erased_weight(weights, ~erased)
    assert float(covered.frames) == erased.sum()
    assert float(covered.weight + clean.weight) == pytest.approx(float(covered.frames + clean.frames), rel=1e-5)


def test_erased_weights_add_up_over_batches() -> None:
    weights, erased = torch.rand(6, 4).softmax(1), torch.rand(6, 4) < 0.5
    parts = [erased_weight(weights[half], erased[half]) for half in (slice(2), slice(2, 6))]
    whole = erased_weight(weights, erased.float())
    assert float(sum(part.weight for part in parts)) == pytest.approx(float(whole.weight))
    assert sum(part.frames for part in parts) == whole.frames
