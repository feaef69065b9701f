"""Figures of one network on a part of its data set."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from trainer.checkpoint import load_checkpoint
from trainer.config import TrialConfig
from trainer.data import read_splits
from trainer.data.tracklets import cut_validation, read_validation
from trainer.errors import CheckpointError
from trainer.evaluation import Progress, no_progress, rank_tracklets
from trainer.model import TemporalAttentionResNet
from trainer.result import Evaluation
from trainer.seeds import derived_seed
from trainer.training_data import applied_split


def evaluate(
    config: TrialConfig,
    checkpoint: Path | None,
    *,
    part: Literal["test", "validation"],
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
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    splits = read_splits(config.data)
    cut = (
        cut_validation(splits.train, config.data.validation) if split is None else read_validation(split, splits.train)
    )
    data = applied_split(splits.train, cut)
    query, gallery = (splits.query, splits.gallery) if part == "test" else (data.query, data.gallery)
    torch.manual_seed(derived_seed(config.seed, "weights"))
    architecture = config.model if checkpoint is None else config.model.model_copy(update={"weights": "none"})
    model = TemporalAttentionResNet(architecture, data.num_classes).to(device)
    if checkpoint is not None:
        try:
            model.load_state_dict(load_checkpoint(checkpoint)["model"])
        except RuntimeError as error:
            raise CheckpointError(f"{checkpoint}: holds another architecture than the configuration") from error
    return rank_tracklets(
        model,
        query,
        gallery,
        config.evaluation,
        frames=config.clips.frames,
        size=(config.model.height, config.model.width),
        workers=config.clips.workers,
        progress=progress,
    )
