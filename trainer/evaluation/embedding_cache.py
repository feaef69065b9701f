"""Embeddings kept between evaluations, found again by what they depend on."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trainer.config import TrialConfig
from trainer.data import Tracklet
from trainer.data.frames import frame_file
from trainer.errors import DataError
from trainer.evaluation.embed import Embeddings
from trainer.evaluation.query_metrics import DAMAGE
from trainer.files import replacing
from trainer.model.network import TemporalAttentionResNet

VERSION = 1  # of what embeddings are; raise it when the same network and frames give others
# What of `evaluation` changes embeddings; its other settings say when they are made and how they are ranked.
SETTINGS = ("sampling", "clips", "max_clips", "pooling", "feature")

log = logging.getLogger(__name__)


def cached_embeddings(
    folder: Path | None,
    model: TemporalAttentionResNet,
    tracklets: Sequence[Tracklet],
    config: TrialConfig,
    embed: Callable[[], Embeddings],
) -> Embeddings:
    """The embeddings in `folder` of this network, these tracklets and these settings; `embed` makes and keeps others.

    A frame counts as the same if its name is, and if size and time of change of the tracklet's first and last file are:
    to read all files would take as long as a good part of the embedding.

    Raises:
        DataError: a frame is missing; and whatever `embed` raises.
    """
    if folder is None:
        return embed()
    device = next(model.parameters()).device
    path = folder / f"{_digest(model, tracklets, config, device)}.npz"
    found = _read(path, device)
    if found is not None:
        log.info("embeddings of %d tracklets read from %s", len(tracklets), path)
        return found
    made = embed()
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        np.savez(file, vectors=made.vectors.cpu().numpy(), attention_entropy=made.attention_entropy)
    return made


def _read(path: Path, device: torch.device) -> Embeddings | None:
    """The embeddings in the file; None if there is none, or a damaged one, which every entry's CRC would tell."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return Embeddings(torch.from_numpy(arrays["vectors"]).to(device), float(arrays["attention_entropy"]))
    except DAMAGE as error:
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
    for part in (*_weights(model.state_dict().items()), *map(_identity, tracklets)):
        digest.update(part)
    return digest.hexdigest()


def _weights(state: Iterable[tuple[str, Tensor]]) -> Iterable[bytes]:
    for name, tensor in state:
        yield f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode()
        yield tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()


def _identity(tracklet: Tracklet) -> bytes:
    ends = []
    for frame in (tracklet.frames[0], tracklet.frames[-1]):
        try:
            status = Path(frame_file(frame)).stat()
        except OSError as error:
            raise DataError(f"{frame}: cannot be read ({error.strerror})") from error
        ends.append((os.path.basename(frame), status.st_size, status.st_mtime_ns))  # noqa: PTH119 - 5x Path
    names = hashlib.sha256("\n".join(map(os.path.basename, tracklet.frames)).encode()).hexdigest()
    return json.dumps([names, ends]).encode()
