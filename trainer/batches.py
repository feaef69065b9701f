"""Batches of P persons with K tracklets each, planned before an epoch starts and decoded by workers.

P persons, K tracklets per person, B = P x K clips, T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from trainer.augment import augment
from trainer.clips import ClipConfig, frame_windows
from trainer.data import Tracklet
from trainer.data.frames import read_clip
from trainer.errors import ConfigError
from trainer.seeds import generator

# A worker that says nothing for this long hangs; without a limit the loader would wait for ever.
WORKER_TIMEOUT_S = 120


class ClipRequest(NamedTuple):
    """One clip of a batch before any frame is read."""

    tracklet: int
    """Index of the tracklet."""
    epoch: int
    """Epoch, counted from 0."""
    position: int
    """Place of the clip in its epoch; the seed of its draws together with the epoch."""


class Batch(NamedTuple):
    """P x K clips, clips of one person side by side."""

    frames: UInt8[Tensor, "B T 3 H W"]
    labels: Int[Tensor, " B"]
    erased: Bool[Tensor, "B T"]


class IdentityBatches:
    """The order in which one epoch shows the training tracklets; a batch sampler for `DataLoader`.

    As in the paper's code an epoch shows each person once, in random order, with K tracklets drawn without
    replacement, or with replacement where the person has fewer; persons left over after the last full batch wait for
    another epoch. Unlike there the draws depend on (seed, epoch) alone.
    """

    def __init__(self, labels: Sequence[int], config: ClipConfig, seed: int) -> None:
        """Plans batches over tracklets with the given labels.

        Raises:
            ConfigError: fewer training persons than `clips.persons`.
        """
        tracklets_of: dict[int, list[int]] = {}
        for index, label in enumerate(labels):
            tracklets_of.setdefault(label, []).append(index)
        if len(tracklets_of) < config.persons:
            raise ConfigError(
                f"clips.persons: {config.persons} persons per batch, but only {len(tracklets_of)} persons to train on; "
                "lower clips.persons or data.validation.share"
            )
        self._tracklets_of = [np.array(tracklets) for _, tracklets in sorted(tracklets_of.items())]
        self._config = config
        self._seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self._tracklets_of) // self._config.persons

    def __iter__(self) -> Iterator[list[ClipRequest]]:
        persons, tracklets = self._config.persons, self._config.tracklets
        draws = generator(self._seed, "batches", self.epoch)
        order = torch.randperm(len(self._tracklets_of), generator=draws).tolist()
        position = 0
        for start in range(0, len(self) * persons, persons):
            batch = []
            for person in order[start : start + persons]:
                for tracklet in _draw(self._tracklets_of[person], tracklets, draws):
                    batch.append(ClipRequest(tracklet, self.epoch, position))
                    position += 1
            yield batch


def _draw(tracklets: Int[np.ndarray, " N"], count: int, draws: torch.Generator) -> list[int]:
    if len(tracklets) >= count:
        picked = torch.randperm(len(tracklets), generator=draws)[:count]
    else:
        picked = torch.randint(len(tracklets), (count,), generator=draws)
    return [int(index) for index in tracklets[picked.numpy()]]


class TrainingClips(Dataset[tuple[Tensor, int, Tensor]]):
    """Decodes and augments the clip that a request names."""

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
        self._config = config
        self._size = size
        self._seed = seed

    def __getitem__(self, request: ClipRequest) -> tuple[Tensor, int, Tensor]:
        """Frames [T 3 H W] as 8-bit pixels, the label, and which frames were erased [T].

        Raises:
            DataError: a frame is missing or damaged.
        """
        draws = generator(self._seed, "clip", request.epoch, request.position)
        paths = self._tracklets[request.tracklet].frames
        (window,) = frame_windows(self._config.sampling, len(paths), self._config.frames, draws).tolist()
        frames = read_clip([paths[index] for index in window], *self._size)
        frames, erased = augment(frames, self._config, draws)
        return channels_first(frames), self._labels[request.tracklet], torch.from_numpy(erased)


class Window(NamedTuple):
    """One clip of an evaluated tracklet."""

    tracklet: int
    frames: tuple[int, ...]


class EvaluationClips(Dataset[tuple[Tensor, int]]):
    """Decodes the clips that an evaluation looks at, without augmentation."""

    def __init__(self, tracklets: Sequence[Tracklet], windows: Sequence[Window], *, size: tuple[int, int]) -> None:
        """Keeps what is needed to decode `windows`; `size` is (height, width) in pixels."""
        self._tracklets = tracklets
        self._windows = windows
        self._size = size

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Frames [T 3 H W] as 8-bit pixels, and the index of their tracklet."""
        window = self._windows[index]
        paths = self._tracklets[window.tracklet].frames
        frames = read_clip([paths[frame] for frame in window.frames], *self._size)
        return channels_first(frames), window.tracklet


def channels_first(frames: UInt8[np.ndarray, "T H W 3"]) -> UInt8[Tensor, "T 3 H W"]:
    """The same pixels in torch's order."""
    return torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2)))


def training_loader(
    clips: TrainingClips, batches: IdentityBatches, *, workers: int, device: torch.device
) -> Iterable[Batch]:
    """Batches of the epoch that `batches.epoch` says, decoded `workers` at a time; the workers live on."""
    loader: DataLoader[tuple[Tensor, int, Tensor]] = DataLoader(
        clips,
        batch_sampler=batches,
        collate_fn=_collate,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
        timeout=WORKER_TIMEOUT_S if workers else 0,
    )
    return loader


def _collate(samples: list[tuple[Tensor, int, Tensor]]) -> Batch:
    frames, labels, erased = zip(*samples, strict=True)
    return Batch(torch.stack(frames), torch.tensor(labels), torch.stack(erased))


def evaluation_loader(
    clips: EvaluationClips, *, batch: int, workers: int, device: torch.device
) -> DataLoader[tuple[Tensor, int]]:
    """Pairs (frames [B T 3 H W], tracklet index [B]) in order."""
    return DataLoader(
        clips,
        batch_size=batch,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        timeout=WORKER_TIMEOUT_S if workers else 0,
    )
