"""A loss: embeddings spread over the sphere."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from trainer.model.network import ModelOutput


def uniformity(output: ModelOutput, labels: Tensor) -> Tensor:
    """Mean of exp(-2 d²) over pairs of different identities, d between unit vectors (after Wang and Isola 2020,
    arXiv:2005.10242, without their logarithm); 0 for a batch without such pairs.

    Args:
        output: of the network, B clips; `embedding` is [B D].
        labels: identities [B].
    """
    vectors = functional.normalize(output.embedding, dim=1)
    closeness = torch.exp(-4 * (1 - vectors @ vectors.T))  # d² = 2 - 2 cos
    others = labels[:, None] != labels[None]
    return (closeness * others).sum() / others.sum().clamp(min=1)
