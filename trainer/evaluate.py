"""Embeddings of tracklets, and the figures of a ranking."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trainer.frozen import FrozenConfig


class EvaluationConfig(FrozenConfig):
    """How often and how thoroughly a network is evaluated."""

    every: int = Field(10, ge=1)
    """Epochs between two evaluations on the validation split; the last epoch is always evaluated."""
    sampling: Literal["even", "dense"] = "even"
    """`even`: `clips` clips of evenly spaced frames, cheap. `dense`: every frame, in consecutive clips."""
    clips: int = Field(2, ge=1)
    """Clips per tracklet under `even` sampling."""
    batch: int = Field(64, ge=1)
    """Clips that pass through the network at once."""
    distance: Literal["cosine", "euclidean"] = "cosine"
    """Distance between embeddings; the paper's code uses the Euclidean one."""
    protocol: Literal["standard", "mars_official"] = "standard"
    """Ranking protocol of the figures; see `trainer.metrics.evaluate_ranking`."""
