"""Embeddings of tracklets, and a cache of them.

B clips, T frames, D embedding, H height, W width, N tracklets.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from trainer.compute import laid_out
from trainer.config import TrialConfig
from trainer.data import Tracklet
from trainer.data.frames import DamagedFrames, frame_file
from trainer.errors import DataError, DivergedError
from trainer.files import DAMAGED_NPZ, replacing
from trainer.input.augment import normalised
from trainer.input.clips import Windows, windows_of_tracklets
from trainer.input.loader import EvaluationClips, FrameWait, evaluation_loader
from trainer.model.attention import attention_entropy
from trainer.model.inference import inference_copy
from trainer.model.network import TemporalAttentionResNet
from trainer.result import Progress, no_progress

log = logging.getLogger(__name__)

VERSION = 1  # of what embeddings are; raise it when the same network and frames give others
# What of `evaluation` changes embeddings; its other settings decide when they are made and how they are ranked.
SETTINGS = ("sampling", "clips", "max_clips", "pooling", "feature")


class Embeddings(NamedTuple):
    """Tracklets as the network sees them."""

    vectors: Float[Tensor, "N D"]
    attention_entropy: float
    waited_s: float = 0.0
    """Seconds for which the device waited for frames."""


class ClipEmbeddings(NamedTuple):
    """What a network makes of a batch of clips."""

    vectors: Float[Tensor, "B D"]
    weights: Float[Tensor, "B T"]
    """Of the frames; they sum to 1 over T."""


def embed(
    model: TemporalAttentionResNet,
    tracklets: Sequence[Tracklet],
    config: TrialConfig,
    *,
    damage: DamagedFrames | None = None,
    progress: Progress = no_progress,
) -> Embeddings:
    """One embedding per tracklet, the mean or maximum of its clips', on the device of the model.

    Clips of several tracklets share a batch and only running sums or maxima are kept, so that memory depends neither on
    the length of a tracklet nor on the size of the data set beyond [N D]. Of each batch the frames alone are copied to
    a GPU, and the host waits for it once, at the end.

    Args:
        model: the network; left as it is, a copy made for inference embeds.
        tracklets: N tracklets.
        config: the trial: `evaluation` says how tracklets are sampled and pooled; clips are as in training, without
            augmentation.
        damage: counts frames that cannot be decoded; None allows 0.1 % of the frames of these tracklets.
        progress: called after every batch.

    Raises:
        DataError: a frame is missing, or too many are damaged.
        DivergedError: an embedding is not finite, or too large to be ranked.
    """
    network = inference_copy(model, config.compute)

    def embedded(frames: Float[Tensor, "B T 3 H W"]) -> ClipEmbeddings:
        output = network(laid_out(frames, config.compute))
        return ClipEmbeddings(output.feature(config.evaluation.feature), output.weights)

    device = next(model.parameters()).device
    return embed_clips(embedded, model.embedding_dim, device, tracklets, config, damage=damage, progress=progress)


def embed_clips(
    network: Callable[[Float[Tensor, "B T 3 H W"]], ClipEmbeddings],
    dimension: int,
    device: torch.device,
    tracklets: Sequence[Tracklet],
    config: TrialConfig,
    *,
    damage: DamagedFrames | None = None,
    progress: Progress = no_progress,
) -> Embeddings:
    """As `embed`, by any function from normalised clips on the device to embeddings of this dimension, D.

    Raises:
        DataError, DivergedError: as `embed`.
    """
    windows = evaluation_windows(tracklets, config)
    clips = EvaluationClips(tracklets, windows, size=config.input_size)
    loader = evaluation_loader(clips, batch=config.evaluation.batch, workers=config.clips.worker_count, device=device)
    damage = damage or DamagedFrames(sum(len(tracklet.frames) for tracklet in tracklets))
    pooled = _Pooled(len(tracklets), dimension, config.evaluation.pooling, device)
    entropy = torch.zeros((), device=device)
    waited, wait, done = 0.0, FrameWait(device), 0
    with torch.inference_mode():
        tracklet_of = windows.tracklets.to(device)
        wait.ask()
        for pixels, damaged in loader:
            waited += wait.came()
            damage.add(damaged)
            output = network(normalised(pixels.to(device, non_blocking=True)))
            shown = slice(done, done := done + len(pixels))
            pooled.add(tracklet_of[shown], output.vectors)
            entropy += attention_entropy(output.weights).sum()
            progress("embedding", done, len(windows))
            wait.ask()
    vectors = pooled.vectors()
    lengths = torch.linalg.vector_norm(vectors.float(), dim=1).sum()
    if not bool((lengths * lengths).isfinite()):  # as a ranking asks for
        raise DivergedError("an embedding holds NaN, infinity or numbers too large to be ranked")
    return Embeddings(vectors, float(entropy) / len(windows), waited + wait.known())


class Attention(NamedTuple):
    """The weights of one clip's frames."""

    frames: tuple[int, ...]
    """Indices of the T frames in their tracklet."""
    weights: Float[Tensor, " T"]
    """Adding up to 1, on the CPU."""


def attention_over_frames(
    model: TemporalAttentionResNet, tracklets: Sequence[Tracklet], config: TrialConfig
) -> list[Attention]:
    """What the network attends to in the first clip of each tracklet, as an evaluation sees it.

    Raises:
        DataError: a frame is missing.
    """
    device = next(model.parameters()).device
    every = evaluation_windows(tracklets, config)
    windows = [every[first] for first in torch.searchsorted(every.tracklets, torch.arange(len(tracklets))).tolist()]
    clips = EvaluationClips(tracklets, windows, size=config.input_size)
    network = inference_copy(model, config.compute)
    found: list[Tensor] = []
    with torch.inference_mode():
        for pixels, _ in evaluation_loader(clips, batch=config.evaluation.batch, workers=0, device=device):
            found += network(laid_out(normalised(pixels.to(device)), config.compute)).weights.float().cpu()
    return [Attention(window.frames, weights) for window, weights in zip(windows, found, strict=True)]


class _Pooled:
    """Running mean or maximum of the clips of each tracklet."""

    def __init__(self, tracklets: int, dimension: int, pooling: str, device: torch.device) -> None:
        self._maximum = pooling == "max"
        start = -torch.inf if self._maximum else 0.0
        self._values = torch.full((tracklets, dimension), start, device=device)
        self._counts = torch.zeros(tracklets, 1, device=device)

    def add(self, tracklets: Int[Tensor, " B"], embeddings: Float[Tensor, "B D"]) -> None:
        """Takes in the embeddings of clips of the given tracklets."""
        if self._maximum:
            self._values.scatter_reduce_(0, tracklets[:, None].expand_as(embeddings), embeddings, "amax")
        else:
            self._values.index_add_(0, tracklets, embeddings)
            self._counts.index_add_(0, tracklets, torch.ones_like(embeddings[:, :1]))

    def vectors(self) -> Float[Tensor, "N D"]:
        """One embedding per tracklet, of the clips taken in."""
        return self._values if self._maximum else self._values / self._counts


def evaluation_windows(tracklets: Sequence[Tracklet], config: TrialConfig) -> Windows:
    """The clips that an evaluation looks at."""
    n = torch.tensor([len(tracklet.frames) for tracklet in tracklets], dtype=torch.int64)
    settings = config.evaluation
    return windows_of_tracklets(
        settings.sampling, n, config.clips.frames, clips=settings.clips, max_clips=settings.max_clips
    )


def cached_embeddings(
    folder: Path | None,
    model: TemporalAttentionResNet,
    tracklets: Sequence[Tracklet],
    config: TrialConfig,
    make: Callable[[], Embeddings],
) -> Embeddings:
    """The embeddings in `folder` of this network, these tracklets and these settings; computed by `make` if missing.

    A frame counts as the same if its name is, and if size and time of change of the tracklet's first and last file are:
    to read all files would take as long as a good part of the embedding.

    Raises:
        DataError: a frame is missing; and whatever `make` raises.
    """
    if folder is None:
        return make()
    device = next(model.parameters()).device
    path = folder / f"{_digest(model, tracklets, config, device)}.npz"
    found = read_embeddings(path, device)
    if found is not None:
        log.info("embeddings of %d tracklets read from %s", len(tracklets), path)
        return found
    made = make()
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        np.savez(file, vectors=made.vectors.cpu().numpy(), attention_entropy=made.attention_entropy)
    return made


def read_embeddings(path: Path, device: torch.device) -> Embeddings | None:
    """The embeddings in the file; None if there is none, or a damaged one, which every entry's CRC would tell."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:  # noqa: TID251 - without pickles
            return Embeddings(torch.from_numpy(arrays["vectors"]).to(device), float(arrays["attention_entropy"]))
    except DAMAGED_NPZ as error:
        log.warning("%s: damaged (%s), made again", path, error)
        return None


def _digest(
    model: TemporalAttentionResNet, tracklets: Sequence[Tracklet], config: TrialConfig, device: torch.device
) -> str:
    """SHA-256 in hex over network, frames and settings."""
    digest = hashlib.sha256()
    settings = {
        "version": VERSION,
        "torch": torch.__version__,
        "device": device.type,
        "model": config.model.model_dump(mode="json", exclude={"weights"}),
        "frames": config.clips.frames,
        "compute": config.compute.model_dump(mode="json"),
        **{name: getattr(config.evaluation, name) for name in SETTINGS},
    }
    digest.update(json.dumps(settings, sort_keys=True).encode())
    for part in (*_weights(model.state_dict().items()), *map(_file_stamps, tracklets)):
        digest.update(part)
    return digest.hexdigest()


def _weights(state: Iterable[tuple[str, Tensor]]) -> Iterable[bytes]:
    for name, tensor in state:
        yield f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode()
        yield tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()


def _file_stamps(tracklet: Tracklet) -> bytes:
    ends = []
    for frame in (tracklet.frames[0], tracklet.frames[-1]):
        try:
            status = Path(frame_file(frame)).stat()
        except OSError as error:
            raise DataError(f"{frame}: cannot be read ({error.strerror})") from error
        ends.append((os.path.basename(frame), status.st_size, status.st_mtime_ns))  # noqa: PTH119 - 5x Path
    names = hashlib.sha256("\n".join(map(os.path.basename, tracklet.frames)).encode()).hexdigest()
    return json.dumps([names, ends]).encode()
