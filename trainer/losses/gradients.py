"""What embeddings and class vectors have to do with each other, with a gradient by hand.

Autograd's gradient of the same formulas makes more passes over memory and more products (benchmarks/bench_losses.py
measures the losses as they are now). The class vectors (C x D) are by far the largest thing that a loss touches: here
they are never copied in the forward pass, and the backward pass writes one tensor of their size, whatever was asked of
them.

B clips, D embedding, C identities (classes).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

SMALLEST = 1e-12  # the paper's code: a shorter vector has no direction


class Geometry(NamedTuple):
    """Cosines in [-1, 1] up to rounding, 0 with a vector too short to have a direction; and a distance."""

    clips: Float[Tensor, "B B"]
    """Cosines of the embeddings among themselves."""
    classes: Float[Tensor, "B C"]
    """Cosines of the embeddings with the class vectors."""
    to_own: Float[Tensor, ""]
    """Sum over embeddings of the squared distance to the class vector of their label."""


def geometry(
    embeddings: Float[Tensor, "B D"], class_vectors: Float[Tensor, "C D"], labels: Int[Tensor, " B"]
) -> Geometry:
    """Cosines and distances, differentiable once with respect to embeddings and class vectors.

    A vector shorter than 1e-12 counts as one of length 1: its cosines are 0 up to that, and its gradient is finite.
    """
    return Geometry(*_Geometry.apply(embeddings, class_vectors, labels))


def cosines(embeddings: Float[Tensor, "B D"]) -> Float[Tensor, "B B"]:
    """Cosines of embeddings among themselves, as in `geometry`."""
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


def _lengths(vectors: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
    """Lengths of rows, 1 for rows too short to have a direction."""
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=1)
    return lengths.masked_fill(lengths < SMALLEST, 1)
