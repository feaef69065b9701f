"""A trained network put to use on a part of its data set: figures, and embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from trainer.checkpoint import load_checkpoint
from trainer.compute import float32_products
from trainer.config import TrialConfig
from trainer.data import Tracklet, read_splits
from trainer.data.validation import cut_validation, read_validation
from trainer.errors import CheckpointError
from trainer.evaluation import Embeddings, embed, rank_tracklets
from trainer.model import TemporalAttentionResNet
from trainer.progress import Progress, no_progress
from trainer.result import Evaluation
from trainer.seeds import derived_seed
from trainer.training_data import TrainingData, applied_split

Part = Literal["test", "validation"]


class _Assessed(NamedTuple):
    """A network and the tracklets it is to be judged by."""

    model: TemporalAttentionResNet
    query: list[Tracklet]
    gallery: list[Tracklet]

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.model.parameters()).device


def evaluate(
    config: TrialConfig,
    checkpoint: Path | None,
    *,
    part: Part,
    split: Path | None = None,
    device: torch.device | str | None = None,
    progress: Progress = no_progress,
) -> Evaluation:
    """Figures of the network in `checkpoint`, or of the untrained one if None, on the `test` or `validation` part.

    Raises:
        ConfigError: a setting that the data or the machine cannot follow.
        DataError: data that is missing, damaged or too small.
        CheckpointError: the checkpoint is damaged or of another architecture.
    """
    assessed = _assessed(config, checkpoint, part, split, device)
    with float32_products(config.compute, assessed.device):
        return rank_tracklets(
            assessed.model, assessed.query, assessed.gallery, config.evaluation, config.viewing, progress=progress
        )


def write_embeddings(
    config: TrialConfig,
    checkpoint: Path | None,
    out: Path,
    *,
    part: Part,
    split: Path | None = None,
    device: torch.device | str | None = None,
    progress: Progress = no_progress,
) -> int:
    """Writes the embeddings of query and gallery to the file `out` and returns the number of tracklets.

    The file is numpy's .npz without pickles: `embedding` [N D] float32, and for each tracklet `part` ("query" or
    "gallery"), `person`, `camera`, `frames` (their number) and `first_frame` (base name of the first).

    Raises:
        ConfigError, DataError, CheckpointError: as `evaluate`.
    """
    assessed = _assessed(config, checkpoint, part, split, device)
    tracklets = [*assessed.query, *assessed.gallery]
    with float32_products(config.compute, assessed.device):
        embeddings = embed(assessed.model, tracklets, config.evaluation, config.viewing, progress=progress)
    parts = ["query"] * len(assessed.query) + ["gallery"] * len(assessed.gallery)
    _save(out, embeddings, tracklets, parts)
    return len(tracklets)


def _save(out: Path, embeddings: Embeddings, tracklets: list[Tracklet], parts: list[str]) -> None:
    arrays = {
        "embedding": embeddings.vectors.cpu().numpy(),
        "part": np.array(parts),
        "person": np.array([tracklet.person for tracklet in tracklets]),
        "camera": np.array([tracklet.camera for tracklet in tracklets]),
        "frames": np.array([len(tracklet.frames) for tracklet in tracklets]),
        "first_frame": np.array([Path(tracklet.frames[0]).name for tracklet in tracklets]),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.tmp")
    with temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    temporary.replace(out)


def _assessed(
    config: TrialConfig, checkpoint: Path | None, part: Part, split: Path | None, device: torch.device | str | None
) -> _Assessed:
    splits = read_splits(config.data)
    cut = (
        cut_validation(splits.train, config.data.validation) if split is None else read_validation(split, splits.train)
    )
    data = applied_split(splits.train, cut)
    model = _network(config, checkpoint, data).to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if part == "test":
        return _Assessed(model, list(splits.query), list(splits.gallery))
    return _Assessed(model, data.query, data.gallery)


def _network(config: TrialConfig, checkpoint: Path | None, data: TrainingData) -> TemporalAttentionResNet:
    torch.manual_seed(derived_seed(config.seed, "weights"))
    architecture = config.model if checkpoint is None else config.model.model_copy(update={"weights": "none"})
    model = TemporalAttentionResNet(architecture, data.num_classes)
    if checkpoint is not None:
        try:
            model.load_state_dict(load_checkpoint(checkpoint)["model"])
        except RuntimeError as error:
            raise CheckpointError(f"{checkpoint}: holds another architecture than the configuration") from error
    return model
