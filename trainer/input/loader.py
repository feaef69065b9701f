"""Batches of P identities with K tracklets each, decoded by workers, and the time that a device waits for them.

P identities, K tracklets per identity, B = P x K clips, T frames, H height, W width.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from trainer.data import Tracklet
from trainer.data.frames import read_window
from trainer.input.augment import FramePlan, augmented, draw_plan
from trainer.input.clips import ClipConfig, Window, frame_windows
from trainer.input.sampler import ClipRequest, IdentityBatches
from trainer.input.warp import augmented_batch, plan_tensor
from trainer.seeds import generator

# A worker that sends nothing for this long hangs; without a limit the loader would wait without end.
WORKER_TIMEOUT_S = 120
# Forked workers have everything loaded; the default of Python 3.14 starts them afresh, each of which imports torch and
# the trainer again, for the training and for every evaluation. They decode frames and never touch a GPU.
WORKER_START = "fork"


# Batches that each worker has ready; DataLoader's own default.
PREFETCHED = 2


class Batch(NamedTuple):
    """P x K clips, clips of one identity side by side."""

    frames: UInt8[Tensor, "B T 3 H W"]
    """8-bit pixels, as decoders leave them in memory: channels last. A network that wants another order converts."""
    labels: Int[Tensor, " B"]
    erased: Bool[Tensor, "B T"]
    """Frames that count as erased in the attention loss."""
    pending: Int[Tensor, "B T 12"] | None
    """What is still to be done to the frames on the device (see `to_device`); None where a worker has done it."""
    damaged: tuple[str, ...] = ()
    """Frames that could not be decoded, in whose place others stand (`read_window`); for a `DamagedFrames`."""


def to_device(batch: Batch, device: torch.device, config: ClipConfig) -> Batch:
    """The batch on `device`, with its frames augmented there if no worker has done it; nothing waits for a GPU."""
    frames, labels, erased = (tensor.to(device, non_blocking=True) for tensor in batch[:3])
    if batch.pending is not None:
        frames = augmented_batch(frames, batch.pending.to(device, non_blocking=True), config)
    return Batch(frames, labels, erased, None, batch.damaged)


class TrainingClip(NamedTuple):
    """One clip of a batch."""

    frames: UInt8[np.ndarray, "T H W 3"]
    """Augmented, unless a device is to do it."""
    label: int
    plan: list[FramePlan]
    damaged: tuple[str, ...]


class TrainingClips(Dataset[TrainingClip]):
    """Decodes the clip that a request names, and augments it unless the device is to."""

    def __init__(
        self,
        tracklets: Sequence[Tracklet],
        labels: Sequence[int],
        config: ClipConfig,
        *,
        size: tuple[int, int],
        seed: int,
    ) -> None:
        """Keeps what is needed to answer requests; `size` is (height, width) in pixels."""
        self._tracklets = tracklets
        self._labels = labels
        self.config = config
        self._size = size
        self._seed = seed

    def __getitem__(self, request: ClipRequest) -> TrainingClip:
        """Frames, label and plan of a clip, drawn from (seed, epoch, position) alone.

        Raises:
            DataError: a frame is missing, or all frames of the tracklet are damaged.
        """
        return self._decoded(request, *self._drawn(request))

    def __getitems__(self, requests: Sequence[ClipRequest]) -> list[TrainingClip]:
        """The clips of a batch; `DataLoader` asks here.

        All is drawn before anything is decoded: between two clips' pixels torch's code leaves the processor's caches,
        and drawing clip by clip costs more.
        """
        drawn = [self._drawn(request) for request in requests]
        return [self._decoded(request, *draws) for request, draws in zip(requests, drawn, strict=True)]

    def _drawn(self, request: ClipRequest) -> tuple[list[int], list[FramePlan]]:
        draws = generator(self._seed, "clip", request.epoch, request.position)
        frames = len(self._tracklets[request.tracklet].frames)
        (window,) = frame_windows(self.config.sampling, frames, self.config.frames, draws).tolist()
        return window, draw_plan(self.config, self._size, draws)

    def _decoded(self, request: ClipRequest, window: list[int], plan: list[FramePlan]) -> TrainingClip:
        frames, damaged = read_window(self._tracklets[request.tracklet].frames, window, *self._size)
        if self.config.augment_on == "worker":
            frames = augmented(frames, plan, self.config)
        return TrainingClip(frames, self._labels[request.tracklet], plan, damaged)


class EvaluationClip(NamedTuple):
    """One clip of an evaluated tracklet."""

    frames: UInt8[np.ndarray, "T H W 3"]
    damaged: tuple[str, ...]


class EvaluationBatch(NamedTuple):
    """B clips of evaluated tracklets."""

    frames: UInt8[Tensor, "B T 3 H W"]
    """8-bit pixels, in memory channels last."""
    damaged: tuple[str, ...]
    """As in `Batch`."""


class EvaluationClips(Dataset[EvaluationClip]):
    """Decodes the clips that an evaluation looks at, without augmentation."""

    def __init__(self, tracklets: Sequence[Tracklet], windows: Sequence[Window], *, size: tuple[int, int]) -> None:
        """Keeps what is needed to decode `windows`; `size` is (height, width) in pixels."""
        self._tracklets = tracklets
        self._windows = windows
        self._size = size

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> EvaluationClip:
        """The clip of the window with this index; errors as in `TrainingClips`."""
        window = self._windows[index]
        pixels, damaged = read_window(self._tracklets[window.tracklet].frames, window.frames, *self._size)
        return EvaluationClip(pixels, damaged)


def training_loader(
    clips: TrainingClips, batches: IdentityBatches, *, workers: int, device: torch.device
) -> Iterable[Batch]:
    """Batches of the epoch that `batches` says, decoded `workers` at a time; the workers live on.

    They need not know of the epoch: requests name it.
    """
    augmenting = clips.config.augment_on == "worker"
    loader: DataLoader[TrainingClip] = DataLoader(
        clips,
        batch_sampler=batches,
        collate_fn=_collate_augmented if augmenting else _collate_pending,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
        multiprocessing_context=WORKER_START if workers else None,
        prefetch_factor=PREFETCHED if workers else None,
        timeout=WORKER_TIMEOUT_S if workers else 0,
    )
    return loader


def _collate_augmented(clips: Sequence[TrainingClip]) -> Batch:
    frames = _stacked([clip.frames for clip in clips])
    erased = torch.tensor([[frame.erasure.erased for frame in clip.plan] for clip in clips])
    return Batch(frames, torch.tensor([clip.label for clip in clips]), erased, None, _damaged(clips))


def _collate_pending(clips: Sequence[TrainingClip]) -> Batch:
    return _collate_augmented(clips)._replace(pending=plan_tensor([clip.plan for clip in clips]))


def blank_batch(config: ClipConfig, size: tuple[int, int]) -> Batch:
    """A batch of black clips, in type, shape and memory as those of `training_loader`; `size` is (height, width)."""
    plan = draw_plan(config, size, generator(0, "blank batch"))
    clip = TrainingClip(np.zeros((config.frames, *size, 3), dtype=np.uint8), 0, plan, ())
    collate = _collate_augmented if config.augment_on == "worker" else _collate_pending
    return collate([clip] * (config.identities * config.tracklets))


def evaluation_loader(
    clips: EvaluationClips, *, batch: int, workers: int, device: torch.device
) -> Iterable[EvaluationBatch]:
    """Batches of the clips, in order."""
    loader: DataLoader[EvaluationClip] = DataLoader(
        clips,
        batch_size=batch,
        collate_fn=_collate_evaluated,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        multiprocessing_context=WORKER_START if workers else None,
        prefetch_factor=PREFETCHED if workers else None,
        timeout=WORKER_TIMEOUT_S if workers else 0,
    )
    return loader


def _collate_evaluated(clips: Sequence[EvaluationClip]) -> EvaluationBatch:
    return EvaluationBatch(_stacked([clip.frames for clip in clips]), _damaged(clips))


def _damaged(clips: Sequence[TrainingClip] | Sequence[EvaluationClip]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(path for clip in clips for path in clip.damaged))


def _stacked(clips: Sequence[UInt8[np.ndarray, "T H W 3"]]) -> UInt8[Tensor, "B T 3 H W"]:
    # default_collate stacks straight into the memory that a worker shares with the training process. To permute instead
    # of to copy saves a pass over the pixels, and channels last is what convolutions are fastest on.
    stacked: Tensor = default_collate(list(clips))
    return stacked.permute(0, 1, 4, 2, 3)


class Event(Protocol):
    """A point in a device's queue of work, such as `torch.cuda.Event`."""

    def record(self) -> None:
        """Puts the point behind all work that was given to the device."""

    def query(self) -> bool:
        """Whether the device got there; waits for nothing."""

    def elapsed_time(self, end_event: Any) -> float:
        """Milliseconds from here to another point."""


class _Pause(NamedTuple):
    """From the end of a step on the device to the start of the next."""

    host_s: float
    """What the host waited meanwhile."""
    end: Event
    start: Event


class FrameWait:
    """Adds up the time that a device waits for frames, step by step.

    A host that is ahead of a GPU may wait for frames while the GPU computes, which costs nothing. What counts is the
    shorter of two: the host's wait, and the pause between the work of two steps, which events on the GPU tell once both
    have passed. On a CPU it is the host's wait.
    """

    def __init__(self, device: torch.device, event: Callable[[], Event] | None = None) -> None:
        """Waits on `device`; `event` makes its events."""
        self._event = _cuda_event if device.type == "cuda" and event is None else event
        self._asked = 0.0
        self._end: Event | None = None
        self._pauses: deque[_Pause] = deque()

    def ask(self) -> None:
        """Call it when the work of a step was given to the device, and the next frames are asked for."""
        self._end = self._recorded()
        self._asked = time.monotonic()

    def came(self) -> float:
        """Call it when frames have come; returns the seconds of waiting that have become known since the last call."""
        host_s = time.monotonic() - self._asked
        start = self._recorded()
        if self._end is None or start is None:
            return host_s
        self._pauses.append(_Pause(host_s, self._end, start))
        return self.known()

    def known(self) -> float:
        """The same seconds as `came` returns, of the steps that a GPU has started meanwhile."""
        seconds = 0.0
        while self._pauses and self._pauses[0].start.query():
            host_s, end, start = self._pauses.popleft()
            seconds += min(host_s, end.elapsed_time(start) / 1000)
        return seconds

    def _recorded(self) -> Event | None:
        if self._event is None:
            return None
        event = self._event()
        event.record()
        return event


def _cuda_event() -> Event:
    event: Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    return event
