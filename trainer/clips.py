"""Clips: which frames, how augmented, and which persons stand together in a batch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trainer.frozen import FrozenConfig


class ClipConfig(FrozenConfig):
    """How tracklets become batches of `persons` x `tracklets` clips of `frames` frames."""

    frames: int = Field(4, ge=1)
    """Frames per clip, T."""
    persons: int = Field(8, ge=2)
    """Persons per batch, P."""
    tracklets: int = Field(4, ge=1)
    """Tracklets per person in a batch, K; drawn with replacement where a person has fewer."""
    sampling: Literal["consecutive", "chunks"] = "chunks"
    """`consecutive`: frames in a row from a random start. `chunks`: one random frame from each of T equal parts."""
    flip: float = Field(0.5, ge=0, le=1)
    """Probability of a horizontal flip, drawn per frame as in the paper's code."""
    pad: int = Field(10, ge=0)
    """Zero padding around a frame, in pixels, before a random crop of the input size."""
    erase: float = Field(0.5, ge=0, le=1)
    """Probability that a random rectangle of a frame is erased (Zhong et al. 2017), drawn per frame."""
    workers: int = Field(0, ge=0)
    """Processes that decode frames; 0 decodes in the training process."""
