"""Which frames of a tracklet form a clip: pure functions of the tracklet's length.

n frames of the tracklet, T frames per clip.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Int
from pydantic import Field
from torch import Tensor

from trainer.frozen import FrozenConfig

Sampling = Literal["consecutive", "chunks", "dense", "even"]


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
    """Black padding around a frame, in pixels, before a random crop of the input size."""
    erase: float = Field(0.5, ge=0, le=1)
    """Probability that a random rectangle of a frame is erased (Zhong et al. 2017), drawn per frame."""
    workers: int = Field(0, ge=0)
    """Processes that decode frames; 0 decodes in the training process."""


def frame_windows(
    sampling: Sampling,
    n: int,
    length: int,
    generator: torch.Generator | None = None,
    *,
    clips: int = 1,
) -> Int[Tensor, "clips T"]:
    """Frame indices in [0, n) of the clips taken from a tracklet of n frames.

    Args:
        sampling: `dense` covers every frame once in consecutive clips, the last of which repeats its own frames in
            turn. `even` spreads `clips` x T frames evenly and deals them out, so that each clip spans the tracklet.
            `consecutive` takes T frames in a row from a random start; a shorter tracklet repeats its last frame.
            `chunks` takes one random frame from each of T equal parts ("restricted random sampling").
        n: frames in the tracklet, at least 1.
        length: frames per clip, T.
        generator: source of the draws; required by `consecutive` and `chunks`, unused by the others.
        clips: number of clips for `even`; the random samplings always give one.

    Raises:
        ValueError: n or length below 1, or a random sampling without a generator.

    Differs from the paper's code, whose `random` sampling draws the start from {0..n-T-1} and so never shows the last
    frame; here every start in {0..n-T} is equally likely.
    """
    if n < 1 or length < 1:
        raise ValueError(f"a tracklet of {n} frames cannot give a clip of {length}")
    if sampling == "dense":
        return _dense(n, length)
    if sampling == "even":
        return _even(n, length, clips)
    if generator is None:
        raise ValueError(f"sampling {sampling!r} draws at random and needs a generator")
    if sampling == "consecutive":
        start = int(torch.randint(max(1, n - length + 1), (), generator=generator))
        return torch.arange(start, start + length).clamp(max=n - 1)[None]
    return _chunks(n, length, generator)


def _dense(n: int, length: int) -> Int[Tensor, "clips T"]:
    starts = torch.arange(0, n, length)[:, None]
    remaining = (n - starts).clamp(max=length)
    return starts + torch.arange(length)[None] % remaining


def _even(n: int, length: int, clips: int) -> Int[Tensor, "clips T"]:
    # Centers of clips x T equal parts; part i goes to clip i mod clips, so that the frames of a clip are in order.
    positions = (2 * torch.arange(clips * length) + 1) * n // (2 * clips * length)
    return positions.view(length, clips).T.contiguous()


def _chunks(n: int, length: int, generator: torch.Generator) -> Int[Tensor, "1 T"]:
    edges = torch.arange(length + 1) * n // length
    sizes = (edges[1:] - edges[:-1]).clamp(min=1)
    offsets = (torch.rand(length, generator=generator) * sizes).long()
    return (edges[:-1] + offsets).clamp(max=n - 1)[None]
