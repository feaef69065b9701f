"""How the frames of a clip become one feature: attention, mean or maximum over time; and statistics of attention.

B clips, T frames, C channels, h x w feature map.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

Gate = Literal["softmax", "sigmoid"]


class AttentionOutput(NamedTuple):
    """What pooling over space and time makes of the feature maps of a clip; at least float32."""

    pooled: Float[Tensor, "B C"]
    """The frames' average-pooled features, combined over time."""
    scores: Float[Tensor, "B T"]
    """Scores of the frames before the gate; 0 where no attention is computed."""
    weights: Float[Tensor, "B T"]
    """Weights of the frames; >= 0, they sum to 1 over T."""


class TemporalAttention(nn.Module):
    """Weighs the frames of a clip by a score of each frame and its two neighbours.

    ReLU(Conv2d over the whole map) gives a vector per frame, ReLU(Conv1d over time) a score per frame, the
    gate a weight per frame (Gao and Nevatia 2018, arXiv:1805.02104; the paper's Fig. 2). Scores are >= 0; a
    clip whose scores are all 0 is weighed uniformly.

    Two departures from the paper are options. `factorised`: maps are averaged over space before a 1 x 1 convolution,
    which has h w times fewer parameters (0.5 instead of 67 million for ResNet-50 at 256 x 128) and takes maps of any
    size. `score_relu=False`: no second ReLU, so that scores may be negative and none is dead.
    """

    def __init__(
        self,
        channels: int,
        map_size: tuple[int, int],
        hidden: int = 256,
        gate: Gate = "softmax",
        *,
        factorised: bool = False,
        score_relu: bool = True,
    ) -> None:
        super().__init__()
        self.gate = gate
        self.factorised = factorised
        self.score_relu = score_relu
        self.spatial = nn.Conv2d(channels, hidden, (1, 1) if factorised else map_size)
        self.temporal = nn.Conv1d(hidden, 1, 3, padding=1)
        for name, parameter in self.named_parameters():
            if name.endswith("weight"):
                nn.init.kaiming_normal_(parameter)
            else:
                nn.init.zeros_(parameter)

    def forward(self, maps: Float[Tensor, "B T C h w"]) -> AttentionOutput:
        """Pool feature maps over space and time; maps of another size than `map_size` raise ValueError."""
        features = mean_over_space(maps)
        seen = features[..., None, None] if self.factorised else maps
        if seen.shape[-2:] != self.spatial.kernel_size:
            sizes = f"{self.spatial.kernel_size}, got {tuple(maps.shape[-2:])}"
            raise ValueError(f"the attention was built for maps of {sizes}")
        hidden = functional.relu(_whole_map(self.spatial, seen.flatten(0, 1))).view(*maps.shape[:2], -1)
        with torch.autocast(maps.device.type, enabled=False):  # little work, and a softmax deserves float32
            scores = self.temporal(hidden.to(features.dtype).transpose(1, 2)).squeeze(1)
            if self.score_relu:
                scores = functional.relu(scores)
            weights = _gated(scores, self.gate)
            pooled = torch.einsum("btc,bt->bc", features, weights)
        return AttentionOutput(pooled, scores, weights)


def mean_over_time(maps: Float[Tensor, "B T C h w"]) -> AttentionOutput:
    """The mean over frames and space (the paper's resnet50tp); every frame weighs 1 / T."""
    pooled = mean_over_space(maps).mean(dim=1)
    scores = pooled.new_zeros(maps.shape[:2])
    return AttentionOutput(pooled, scores, torch.full_like(scores, 1 / maps.shape[1]))


def max_over_time(maps: Float[Tensor, "B T C h w"]) -> AttentionOutput:
    """The maximum over frames of each channel's mean over space.

    A frame weighs the share of the channels that it wins; of equals the first wins.
    """
    pooled, winners = mean_over_space(maps).max(dim=1)
    frames = torch.arange(maps.shape[1], device=maps.device)
    weights = (winners[:, None] == frames[:, None]).to(pooled).mean(dim=2)
    return AttentionOutput(pooled, torch.zeros_like(weights), weights)


POOLINGS: dict[str, Callable[[Tensor], AttentionOutput]] = {"mean": mean_over_time, "max": max_over_time}
"""Pooling over time without parameters, by name."""


def mean_over_space(maps: Float[Tensor, "B T C h w"]) -> Float[Tensor, "B T C"]:
    """Global average pooling, at least in float32 whatever the precision of the maps."""
    return maps.mean((-2, -1), dtype=torch.promote_types(maps.dtype, torch.float32))


def _whole_map(convolution: nn.Conv2d, maps: Float[Tensor, "N C h w"]) -> Float[Tensor, "N D"]:
    """What a convolution makes of maps of the size of its kernel, as one matrix product.

    As a convolution, forward and backward take more than twice as long on a CPU (benchmarks.bench_levers). The order of
    the products follows the layout of the weights: copying a few maps is cheap, copying 51 million weights and their
    gradients is not.
    """
    weight = convolution.weight
    if weight.is_contiguous(memory_format=torch.channels_last):
        weight, maps = weight.permute(0, 2, 3, 1), maps.permute(0, 2, 3, 1)
    return functional.linear(maps.flatten(1), weight.flatten(1), convolution.bias)


def _gated(scores: Float[Tensor, "B T"], gate: Gate) -> Float[Tensor, "B T"]:
    """Weights over frames from scores.

    The sigmoid's are normalised to sum to 1 in logarithms: the same numbers as sigmoids over their sum, which the
    paper's code bounds by 1e-12 from below, but scores without the second ReLU may all be very negative.
    """
    strengths = functional.logsigmoid(scores) if gate == "sigmoid" else scores
    return strengths.softmax(dim=1)


def attention_entropy(weights: Float[Tensor, "B T"]) -> Float[Tensor, " B"]:
    """Entropy of each clip's weights over frames divided by log T, in [0, 1]; 1 for clips of a single frame.

    1 is uniform: the temporal branch tells no frame from another.
    """
    frames = weights.shape[1]
    if frames == 1:
        return torch.ones_like(weights[:, 0])
    entropy: Tensor = torch.special.entr(weights).sum(dim=1)
    return (entropy / math.log(frames)).clamp(0, 1)  # rounding takes uniform weights above 1


def dead_score_share(scores: Float[Tensor, "B T"]) -> Float[Tensor, ""]:
    """Share of the scores that are exactly 0, in [0, 1]: behind the second ReLU they pass no gradient."""
    return (scores == 0).float().mean()


class ErasedWeight(NamedTuple):
    """How much weight erased frames got; sums of both parts over batches keep their meaning."""

    weight: Float[Tensor, ""]
    """Sum over erased frames of their weight times T; divided by `frames`, 1 is as much as uniform."""
    frames: Float[Tensor, ""]
    """Number of erased frames."""


def erased_weight(weights: Float[Tensor, "B T"], erased: Bool[Tensor, "B T"] | Float[Tensor, "B T"]) -> ErasedWeight:
    """Weight of the erased frames in units of the uniform weight 1 / T, as a sum and a count on the same device.

    Attention that has learned to avoid erased frames gives a mean well below 1.
    """
    marked = erased.to(weights)
    return ErasedWeight((weights * marked).sum() * weights.shape[1], marked.sum())
