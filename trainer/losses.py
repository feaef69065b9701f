"""The losses of the paper as pure functions of tensors, and `ReidLoss`, which weighs and adds them.

B clips, D embedding, C persons (classes), T frames.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trainer.frozen import FrozenConfig


class LossConfig(FrozenConfig):
    """Weights and constants of L = L_id + (1 - s) L_tri + w_c L_cen + s L_osm + w_a L_att, with s = `osm_share`."""

    label_smoothing: float = Field(0.1, ge=0, lt=1)
    """Mass that the identity loss spreads over all persons (Szegedy et al. 2016)."""
    triplet_metric: Literal["cosine", "euclidean"] = "cosine"
    """Distance of the batch-hard triplet loss; the paper's code uses the cosine."""
    triplet_margin: float = Field(0.3, ge=0)
    """Margin of the triplet loss: a cosine in [0, 2], or a distance."""
    osm_share: float = Field(0.0, ge=0, le=1)
    """Share s that the OSM loss takes from the triplet loss; 0 is triplet alone, 1 is OSM alone."""
    osm_alpha: float = Field(1.2, gt=0)
    """Margin of OSM's negative pairs, a distance between unit vectors in [0, 2]."""
    osm_sigma: float = Field(0.8, gt=0)
    """Width of the Gaussian that softly mines OSM's positive pairs."""
    osm_balance: float = Field(0.5, ge=0, le=1)
    """Weight of OSM's negative pairs; the positive pairs have one minus it."""
    osm_class_vectors: Literal["classifier", "centers"] = "centers"
    """Vectors that class-aware attention compares a clip with: classifier rows, or centers (the paper's CL)."""
    center_weight: float = Field(0.0, ge=0)
    """Weight of the center loss; 5e-4 in the paper's code."""
    center_learning_rate: float = Field(0.5, gt=0)
    """Step of the centers' own plain SGD, whose gradient is divided by `center_weight` first."""
    attention_weight: float = Field(0.0, ge=0)
    """Weight of the loss on attention given to erased frames; 1 in the paper's code."""
