"""Which frames of a tracklet form a clip: pure functions of the tracklet's length.

n frames of the tracklet, T frames per clip.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple, overload

import torch
from jaxtyping import Int
from pydantic import Field
from torch import Tensor

from trainer.settings import Auto, FrozenConfig, auto_or, whole_from

RandomSampling = Literal["consecutive", "chunks", "intelligent", "consecutive_paper"]
Sampling = Literal[RandomSampling, "dense", "even"]


class ClipConfig(FrozenConfig):
    """How tracklets become batches of `identities` x `tracklets` clips of `frames` frames."""

    frames: int = Field(4, ge=1, le=1024)
    """Frames per clip, T."""
    identities: int = Field(8, ge=2)
    """Identities per batch, P."""
    tracklets: int = Field(4, ge=1, le=1024)
    """Tracklets per identity in a batch, K; drawn with replacement where an identity has fewer."""
    sampling: RandomSampling = "chunks"
    """Which frames form a clip. `chunks`: one random frame from each of T equal parts. `consecutive`: frames in a row
    from a random start. `intelligent` and `consecutive_paper`: the same two as the paper's code has them."""
    epoch: Literal["identities", "tracklets"] = "identities"
    """`identities` shows each identity once per epoch, as the paper's code does: 30 % of the tracklets of MARS.
    `tracklets` shows each tracklet at most once, and nearly all of them where an identity has many more than K."""
    flip: float = Field(0.5, ge=0, le=1)
    """Probability of a horizontal flip."""
    crop: Literal["pad", "translate"] = "pad"
    """`pad`: black padding, then a random crop of the input size. `translate`: the paper's code; the padded frame is
    resized, either to the input size or to 1.125 times that and then cropped at random."""
    pad: int = Field(10, ge=0, le=1024)
    """Black padding around a frame, in pixels."""
    geometry_per: Literal["frame", "clip"] = "frame"
    """Whether flip and crop are drawn for each frame, as in the paper's code, or once for a clip."""
    erase: float = Field(0.5, ge=0, le=1)
    """Probability that a random rectangle of a frame is erased (Zhong et al. 2017)."""
    second_erase: float = Field(0.0, ge=0, le=1)
    """Probability that a second rectangle is erased; the paper's code does so where it trains the attention loss."""
    erase_per: Literal["frame", "clip"] = "frame"
    """Whether erasing is drawn for each frame, or once for a clip: the same rectangle in every frame."""
    erased_labels: Literal["every", "second"] = "every"
    """Which frames the attention loss takes for erased: those with any rectangle, or, as in the paper's code, only
    those with a second one."""
    erase_fill: Literal["mean", "light_grey"] = "mean"
    """Colour of what is erased: ImageNet's mean, or the light grey of the paper's code, which writes that
    mean's numbers into normalised frames."""
    augment_on: Literal["worker", "device"] = "worker"
    """Where frames are augmented: in the processes that decode them, or on the device that trains. The pixels are the
    same."""
    workers: Annotated[Auto | Annotated[int, Field(ge=0)], auto_or("a whole number of at least 0", whole_from(0))] = (
        "auto"
    )
    """Processes that decode frames; 0 decodes in the training process. `auto`: for a GPU the trial's cores less one, at
    least 1 and at most 8; none on a CPU, whose cores the network needs."""

    @property
    def worker_count(self) -> int:
        """Processes that decode frames, once `trainer.automatic` has resolved the trial.

        Raises:
            ValueError: it has not.
        """
        if self.workers == "auto":
            raise ValueError("clips.workers: auto was not resolved; see trainer.automatic")
        return self.workers


def frame_windows(
    sampling: Sampling,
    n: int,
    length: int,
    generator: torch.Generator | None = None,
    *,
    clips: int = 1,
    max_clips: int | None = None,
) -> Int[Tensor, "clips T"]:
    """Frame indices in [0, n) of the clips taken from a tracklet of n frames.

    Args:
        sampling: `dense` covers every frame once in consecutive clips, the last of which repeats its own frames in
            turn. `even` spreads `clips` x T frames evenly and deals them out, so that each clip spans the tracklet.
            `consecutive` takes T frames in a row from a random start; a shorter tracklet repeats its last frame.
            `chunks` takes one random frame from each of T equal parts ("restricted random sampling").
            `intelligent` and `consecutive_paper` are the paper's versions of `chunks` and `consecutive`: parts of
            floor(n / T) frames, the last of which takes the remainder, so that late frames are drawn less often; and a
            start from {0..n-T-1}, off by one, so that a tracklet longer than T never shows its last frame.
        n: frames in the tracklet, at least 1.
        length: frames per clip, T.
        generator: source of the draws; required by the random samplings, unused by `dense` and `even`.
        clips: number of clips for `even`; the random samplings always give one.
        max_clips: `dense` stops after so many clips; 41 in the paper's code. None covers the whole tracklet.

    Raises:
        ValueError: n, length or max_clips below 1, or a random sampling without a generator.
    """
    if n < 1 or length < 1:
        raise ValueError(f"a tracklet of {n} frames cannot give a clip of {length}")
    if sampling == "dense" or sampling == "even":
        return windows_of_tracklets(sampling, torch.tensor([n]), length, clips=clips, max_clips=max_clips).frames
    if generator is None:
        raise ValueError(f"sampling {sampling!r} draws at random and needs a generator")
    return torch.tensor([_RANDOM[sampling](n, length, generator)])


class Window(NamedTuple):
    """One clip of an evaluated tracklet."""

    tracklet: int
    frames: tuple[int, ...]


class Windows(Sequence[Window]):
    """The clips of several tracklets, one tracklet after the other: 168,487 of MARS under `dense` sampling."""

    def __init__(self, tracklets: Int[Tensor, " clips"], frames: Int[Tensor, "clips T"]) -> None:
        self.tracklets = tracklets
        """Index of each clip's tracklet, ascending."""
        self.frames = frames
        """As `frame_windows` gives them."""

    def __len__(self) -> int:
        return len(self.tracklets)

    @overload
    def __getitem__(self, index: int) -> Window: ...
    @overload
    def __getitem__(self, index: slice) -> Windows: ...
    def __getitem__(self, index: int | slice) -> Window | Windows:
        tracklets, frames = self.tracklets[index], self.frames[index]
        return (
            Windows(tracklets, frames) if isinstance(index, slice) else Window(int(tracklets), tuple(frames.tolist()))
        )


def windows_of_tracklets(
    sampling: Literal["dense", "even"],
    n: Int[Tensor, " N"],
    length: int,
    *,
    clips: int = 1,
    max_clips: int | None = None,
) -> Windows:
    """The clips of N tracklets of n frames each; otherwise as `frame_windows`."""
    return _dense(n, length, max_clips) if sampling == "dense" else _even(n, length, clips)


def _dense(n: Int[Tensor, " N"], length: int, max_clips: int | None) -> Windows:
    if max_clips is not None and max_clips < 1:
        raise ValueError(f"at most {max_clips} clips leave none of the tracklet")
    counts = ((n + length - 1) // length).clamp(1, max_clips)
    tracklet = torch.arange(len(n)).repeat_interleave(counts)
    starts = (torch.arange(len(tracklet)) - (counts.cumsum(0) - counts)[tracklet]) * length
    remaining = (n[tracklet] - starts).clamp(max=length)
    return Windows(tracklet, starts[:, None] + torch.arange(length) % remaining[:, None])


def _even(n: Int[Tensor, " N"], length: int, clips: int) -> Windows:
    # Centers of clips x T equal parts; part i goes to clip i mod clips, so that the frames of a clip are in order.
    positions = (2 * torch.arange(clips * length) + 1) * n[:, None] // (2 * clips * length)
    frames = positions.view(-1, length, clips).transpose(1, 2).reshape(-1, length)
    return Windows(torch.arange(len(n)).repeat_interleave(clips), frames)


# The random samplings compute in Python: a clip has few frames, and a call of torch costs more than all of them.


def _run(n: int, length: int, starts: int, generator: torch.Generator) -> list[int]:
    """T frames in a row from one of the first `starts` frames."""
    start = int(torch.randint(max(1, starts), (), generator=generator))
    return [min(frame, n - 1) for frame in range(start, start + length)]


def _one_of_each(edges: Sequence[int], generator: torch.Generator) -> list[int]:
    """A random frame between each edge and the next; the frame at the edge where there is none, at most the last."""
    draws = torch.rand(len(edges) - 1, generator=generator).tolist()
    last = edges[-1] - 1
    return [
        min(start + int(draw * (end - start)), last) for draw, (start, end) in zip(draws, pairwise(edges), strict=True)
    ]


_RANDOM: dict[RandomSampling, Callable[[int, int, torch.Generator], list[int]]] = {
    "consecutive": lambda n, length, draws: _run(n, length, n - length + 1, draws),
    "consecutive_paper": lambda n, length, draws: _run(n, length, n - length, draws),
    "chunks": lambda n, length, draws: _one_of_each([part * n // length for part in range(length + 1)], draws),
    "intelligent": lambda n, length, draws: _one_of_each(
        [*(min(part * max(1, n // length), n) for part in range(length)), n], draws
    ),
}
