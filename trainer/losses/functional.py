"""The losses of the paper as pure functions of tensors: the plain formulas, and below them the fast path of training.

B clips, D embedding, C identities (classes), T frames, N and M vectors.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

Metric = Literal["cosine", "euclidean"]
Reduction = Literal["sum", "mean"]

SMALLEST = 1e-12  # the paper's code: no squared distance and no OSM score is smaller; a shorter vector has no direction


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
    distances = euclidean_distances(embeddings) if metric == "euclidean" else 1 - cosines(embeddings, embeddings)
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


def cosines(rows: Float[Tensor, "N D"], columns: Float[Tensor, "M D"]) -> Float[Tensor, "N M"]:
    """Cosines in [-1, 1] up to rounding; 0 with a vector too short to have a direction."""
    return _unit(rows) @ _unit(columns).T


def _unit(vectors: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
    return vectors / _lengths(vectors)[:, None]


def _lengths(vectors: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
    """Lengths of rows, 1 for rows too short to have a direction."""
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=1)
    return lengths.masked_fill(lengths < SMALLEST, 1)


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
    and never beyond the mean for a rate up to 1. The center of an identity without clips stays.
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
    identities without clips, more of them than training identities even, take part in the softmax.

    `detach` takes the weights for constants: then neither they nor the class vectors get a gradient (Wang's
    code). In the paper's code nothing is detached, and the temperature is 1, which leaves a nearly constant.

    Wang et al. 2019 (AAAI, arXiv:1811.01459), as the paper's code computes it; Wang's own code differs (sigma
    there is sqrt(1/2) of this one, attention is a Gaussian of the classifier's probability). The means are
    taken in log space: same value, but a small sigma or temperature does not underflow to NaN. A batch without
    positive, or without negative, pairs has L_P, or L_N, 0, where the paper's code has NaN. L_N is 0 also if
    all negatives are beyond alpha; the paper's code has 5e-25, and denormal, slow gradients.
    """
    return osm_caa_of(
        cosines(embeddings, embeddings),
        cosines(embeddings, class_vectors),
        labels,
        alpha=alpha,
        sigma=sigma,
        balance=balance,
        temperature=temperature,
        detach=detach,
    )


def osm_caa_of(
    between_clips: Float[Tensor, "B B"],
    to_classes: Float[Tensor, "B C"],
    labels: Int[Tensor, " B"],
    *,
    alpha: float,
    sigma: float,
    balance: float,
    temperature: float,
    detach: bool,
) -> Float[Tensor, ""]:
    """`osm_caa` of clips whose cosines are known."""
    attention = _log_attention(to_classes, labels, temperature)
    pair_attention = torch.minimum(attention[:, None], attention)
    squared = _squared_distances_of_units(between_clips)
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


def _log_attention(
    to_classes: Float[Tensor, "B C"], labels: Int[Tensor, " B"], temperature: float
) -> Float[Tensor, " B"]:
    """Log of the softmax over identities of cosines / temperature, at the clip's own identity."""
    logits = (
        to_classes if temperature == 1 else to_classes / temperature
    )  # two passes over B x C saved in the usual case
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


# The fast path. Autograd's gradient of `cosines` makes more passes over memory and more products
# (benchmarks/bench_losses.py). The class vectors (C x D) are by far the largest thing that a loss touches: here they
# are never copied in the forward pass, and the backward pass writes one tensor of their size, whatever is needed.


class Geometry(NamedTuple):
    """The products that triplet, center and OSM loss share."""

    clips: Float[Tensor, "B B"]
    """Cosines of the embeddings among themselves."""
    classes: Float[Tensor, "B C"]
    """Cosines of the embeddings with the class vectors."""
    to_own: Float[Tensor, ""]
    """Sum over embeddings of the squared distance to the class vector of their label."""


def geometry(
    embeddings: Float[Tensor, "B D"], class_vectors: Float[Tensor, "C D"], labels: Int[Tensor, " B"]
) -> Geometry:
    """`cosines` of both kinds, and distances; differentiable once with respect to embeddings and class vectors.

    A vector shorter than 1e-12 counts as one of length 1: its cosines are 0 up to that, and its gradient is finite.
    """
    return Geometry(*_Geometry.apply(embeddings, class_vectors, labels))


def fast_cosines(embeddings: Float[Tensor, "B D"]) -> Float[Tensor, "B B"]:
    """`cosines(embeddings, embeddings)`, as in `geometry`."""
    none = embeddings.new_empty(0, embeddings.shape[1])
    clips: Tensor = _Geometry.apply(embeddings, none, None)[0]
    return clips


class _Geometry(Function):
    """S = u u', K = u (v / |v|)', E = sum |x - v_y|^2 with u = x / |x|; their gradient needs only u, v, S and K.

    Let G_S, G_K, G_E come in, and H = G_S + G_S'. The part of x's gradient that goes through u is (g - (g . u) u) / |x|
    with g = H u + G_K (v / |v|), where g . u is a row sum of H * S + G_K * K: no pass over B x D. It is the same with v
    and G_K' u. E adds 2 G_E (x - v_y) to x and takes it from v_y. As x is |x| u, that only changes one weight per clip
    in the products of G_K with v and of G_K' with u, and the multiples of u and v that are subtracted.

    The term through the length of a vector without direction is wrong, and below 1e-24.
    """

    @staticmethod
    def forward(
        ctx: Any, embeddings: Tensor, vectors: Tensor, labels: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        ctx.set_materialize_grads(False)
        # First, so that the unit vectors take over the memory of the gaps.
        to_own = None if labels is None else vectors.index_select(0, labels).sub_(embeddings).square_().sum()
        lengths, vector_lengths = _lengths(embeddings), _lengths(vectors)
        unit = embeddings / lengths[:, None]
        clips = unit @ unit.T
        classes = (vectors @ unit.T).T.contiguous().div_(vector_lengths)  # this way round the product is faster
        ctx.save_for_backward(unit, lengths, vectors, vector_lengths, labels, clips, classes)
        return clips, classes, to_own

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, for_clips: Tensor | None, for_classes: Tensor | None, for_own: Tensor | None
    ) -> tuple[Tensor, Tensor | None, None]:
        unit, lengths, vectors, vector_lengths, labels, clips, classes = ctx.saved_tensors
        if for_classes is None:
            weights, along_unit, along_vectors = (torch.zeros_like(x) for x in (classes, lengths, vector_lengths))
        else:
            weights = for_classes / vector_lengths
            share = for_classes * classes
            along_unit, along_vectors = share.sum(1), share.sum(0).div_(vector_lengths.square())
        if for_own is not None:
            pull = (2 * for_own).expand_as(lengths)
            weights.scatter_add_(1, labels[:, None], -(pull * lengths)[:, None])
            along_unit -= pull * lengths.square()
            along_vectors.scatter_add_(0, labels, -pull)
        to_unit = weights @ vectors
        if for_clips is not None:
            both_ways = for_clips + for_clips.T
            to_unit.addmm_(both_ways, unit)
            along_unit += (both_ways * clips).sum(1)
        to_embeddings = to_unit.addcmul_(unit, along_unit[:, None], value=-1).div_(lengths[:, None])
        if not ctx.needs_input_grad[1]:
            return to_embeddings, None, None
        # The product comes first: it takes the misses on new memory while it computes, a mere pass would wait for them.
        return to_embeddings, (weights.T @ unit).addcmul_(vectors, along_vectors[:, None], value=-1), None
