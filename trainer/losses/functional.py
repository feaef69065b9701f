"""The losses of the paper as pure functions of tensors.

B clips, D embedding, C identities (classes), T frames.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from trainer.losses.gradients import Geometry, cosines, geometry

Metric = Literal["cosine", "euclidean"]
Reduction = Literal["sum", "mean"]

SMALLEST = 1e-12  # the paper's code: no squared distance and no OSM score is smaller


def batch_hard_triplet(
    embeddings: Float[Tensor, "B D"], labels: Int[Tensor, " B"], *, margin: float | None, metric: Metric
) -> Float[Tensor, ""]:
    """Mean over clips of how much farther the farthest clip of the identity is than the nearest of another.

    max(0, d_ap - d_an + margin), or the soft margin log(1 + exp(d_ap - d_an)) where `margin` is None (Hermans
    et al. 2017, arXiv:1703.07737, Eq. 5 and section 3.3). `euclidean` is the distance, `cosine` one minus the
    cosine, in [0, 2], which the paper's code uses. A clip counts among its own positives. Where the batch
    holds no other identity a clip contributes 0 and no gradient; so does an empty batch. A zero vector has
    cosine 0 with everything (the paper's code: NaN).
    """
    distances = euclidean_distances(embeddings) if metric == "euclidean" else 1 - cosines(embeddings)
    return batch_hard(distances, labels, margin=margin)


def batch_hard(
    distances: Float[Tensor, "B B"], labels: Int[Tensor, " B"], *, margin: float | None
) -> Float[Tensor, ""]:
    """`batch_hard_triplet` of clips whose distances are known."""
    if len(labels) == 0:
        return distances.sum()
    same = labels[:, None] == labels
    # Of equals, one alone gets the gradient.
    farthest_positive = torch.where(same, distances, -torch.inf).max(1).values
    nearest_negative = torch.where(same, torch.inf, distances).min(1).values
    gap = farthest_positive - nearest_negative
    costs = functional.softplus(gap) if margin is None else functional.relu(gap + margin)
    return costs.mean()


def euclidean_distances(points: Float[Tensor, "B D"]) -> Float[Tensor, "B B"]:
    """Euclidean distances; 0, with gradient 0, between points closer than 1e-6."""
    products = points @ points.T
    lengths = products.diagonal()
    squared = lengths[:, None] + lengths - 2 * products
    equal = squared < SMALLEST
    return squared.masked_fill(equal, 1).sqrt().masked_fill(equal, 0)


def center_loss(
    embeddings: Float[Tensor, "B D"], labels: Int[Tensor, " B"], centers: Float[Tensor, "C D"]
) -> Float[Tensor, ""]:
    """Mean over clips of the squared distance to the center of their identity; 0 for an empty batch.

    Wen et al. 2016 (ECCV), Eq. 2, without the factor 1/2 and averaged over the batch, as in the paper's code;
    that code measures distances to all centers and masks all but one.
    """
    return (functional.embedding(labels, centers) - embeddings).square().sum() / max(len(labels), 1)


def wen_step(
    embeddings: Float[Tensor, "B D"], labels: Int[Tensor, " B"], centers: Float[Tensor, "C D"], *, rate: float
) -> Float[Tensor, "C D"]:
    """The centers after one step towards their identities' clips, by the rule of Wen et al. 2016 (ECCV), Eq. 4.

    A center moves `rate` n / (1 + n) of the way to the mean of its n clips: whatever the size of the batch,
    and never beyond the mean for a rate up to 1. The center of an identity who is absent stays.
    """
    clips = torch.zeros_like(centers[:, 0]).index_add_(0, labels, torch.ones_like(embeddings[:, 0]))
    gaps = embeddings - centers[labels]
    return centers.index_add(0, labels, gaps / (1 + clips[labels])[:, None], alpha=rate)


def osm_caa(
    embeddings: Float[Tensor, "B D"],
    labels: Int[Tensor, " B"],
    class_vectors: Float[Tensor, "C D"],
    *,
    alpha: float,
    sigma: float,
    balance: float,
    temperature: float = 1.0,
    detach: bool = False,
) -> Float[Tensor, ""]:
    """Online soft mining with class-aware attention: (1 - balance) L_P + balance L_N.

    With d the distance of unit embeddings, in [0, 2], over ordered pairs of different clips:
    L_P = 1/2 of the mean of d^2 over pairs of one identity, weighted by exp(-d^2 / sigma^2) a;
    L_N = 1/2 of the mean of s^2 over pairs of two identities, weighted by s a, with s = max(alpha - d, 0).
    a is the smaller attention of the two clips: the softmax over identities of the cosines with `class_vectors`
    (rows of the classifier, or the centers) divided by `temperature`, at the clip's own identity. Vectors of
    identities who have no clips, more of them than training identities even, take part in the softmax.

    `detach` takes the weights for constants: then neither they nor the class vectors get a gradient (Wang's
    code). In the paper's code nothing is detached, and the temperature is 1, which leaves a nearly constant.

    Wang et al. 2019 (AAAI, arXiv:1811.01459), as the paper's code computes it; Wang's own code differs (sigma
    there is sqrt(1/2) of this one, attention is a Gaussian of the classifier's probability). The means are
    taken in log space: same value, but a small sigma or temperature does not underflow to NaN. A batch without
    positive, or without negative, pairs has L_P, or L_N, 0, where the paper's code has NaN. L_N is 0 also if
    all negatives are beyond alpha; the paper's code has 5e-25, and denormal, slow gradients.
    """
    found = geometry(embeddings, class_vectors, labels)
    return osm_caa_of(found, labels, alpha=alpha, sigma=sigma, balance=balance, temperature=temperature, detach=detach)


def osm_caa_of(
    found: Geometry,
    labels: Int[Tensor, " B"],
    *,
    alpha: float,
    sigma: float,
    balance: float,
    temperature: float,
    detach: bool,
) -> Float[Tensor, ""]:
    """`osm_caa` of clips whose cosines are known."""
    attention = _log_attention(found.classes, labels, temperature)
    pair_attention = torch.minimum(attention[:, None], attention)
    squared = _squared_distances_of_units(found.clips)
    overlap = (alpha - squared.sqrt()).clamp_min(0)
    nearness = pair_attention - squared / sigma**2
    hardness = pair_attention + overlap.clamp_min(SMALLEST).log()
    same = labels[:, None] == labels
    positive = _weighted_mean(squared, nearness, same.clone().fill_diagonal_(False), detach=detach)
    negative = _weighted_mean(overlap.square(), hardness, ~same, detach=detach)
    return (1 - balance) / 2 * positive + balance / 2 * negative


def erased_frame_attention(
    attention: Float[Tensor, "B T"], erased: Bool[Tensor, "B T"], *, reduction: Reduction = "sum"
) -> Float[Tensor, ""]:
    """Mean over clips of the attention that their erased frames get, summed over frames; 0 without clips.

    `mean` divides by the number of frames as well, as the paper's Eq. 1 does; its code sums. Of weights the sum
    is a share in [0, 1]. Of scores before the gate, which the paper's code and Fig. 2 take, it is unbounded.
    """
    terms = len(attention) if reduction == "sum" else attention.numel()
    return (attention * erased).sum() / max(terms, 1)


def _log_attention(cosines: Float[Tensor, "B C"], labels: Int[Tensor, " B"], temperature: float) -> Float[Tensor, " B"]:
    """Log of the softmax over identities of cosines / temperature, at the clip's own identity."""
    logits = cosines if temperature == 1 else cosines / temperature  # two passes over B x C saved in the usual case
    return -functional.cross_entropy(logits, labels, reduction="none")


def _squared_distances_of_units(products: Float[Tensor, "B B"]) -> Float[Tensor, "B B"]:
    """|x_i|^2 + |x_j|^2 - 2 x_i . x_j, at least 1e-12; lengths are 1, or 0 without a direction, and constant."""
    lengths = products.detach().diagonal()
    return torch.add(lengths[:, None] + lengths, products, alpha=-2).clamp_min(SMALLEST)


def _weighted_mean(
    values: Float[Tensor, "B B"], log_weights: Float[Tensor, "B B"], chosen: Bool[Tensor, "B B"], *, detach: bool
) -> Float[Tensor, ""]:
    """Mean of the chosen values by weights given as logarithms; 0, without gradient, where none is chosen."""
    lowest = torch.finfo(log_weights.dtype).min  # finite: the softmax of -inf alone is NaN
    weights = torch.where(chosen, log_weights, lowest).flatten().softmax(0)
    if detach:
        weights = weights.detach()
    return weights.dot(values.flatten()) * chosen.any()
