"""What a finished training leaves of the network it keeps: its evaluation on the validation split, as files."""

from __future__ import annotations

from pathlib import Path

import torch

from trainer.config import TrialConfig
from trainer.evaluation.evaluate import Assessment, assess, trained_network
from trainer.evaluation.folder import FOLDER, write_evaluation
from trainer.evaluation.ranking import RankedTracklets, reranked_ranking, summary
from trainer.result import Progress, no_progress


def leave_evaluation(
    out: Path,
    config: TrialConfig,
    checkpoint: Path,
    split: Path,
    ranked: RankedTracklets | None,
    *,
    device: torch.device,
    progress: Progress = no_progress,
) -> None:
    """Writes the evaluation of the network in `checkpoint` into `evaluation/` of the folder `out`.

    The files are the same whether the ranking is given or made again, for what would differ, the seconds of each stage,
    is left out. Real people are shown only where `evaluation.images` says so.

    Args:
        out: folder of the run.
        config: the trial.
        checkpoint: the network that the run keeps.
        split: validation split of the run.
        ranked: what the evaluation of that network found; None embeds and ranks again.
        device: where the network is put to use.
        progress: told after every batch that is embedded.

    Raises:
        DataError: a frame is missing, or a file cannot be written.
        CheckpointError: the checkpoint is damaged.
    """
    if ranked is None:
        found = assess(config, checkpoint, part="validation", split=split, device=device, progress=progress)
    else:
        found = _assessment(ranked, config, checkpoint, device)
    images = config.evaluation.images
    write_evaluation(out / FOLDER, found._replace(seconds={}), config, "validation", images=images, probes=True)


def _assessment(ranked: RankedTracklets, config: TrialConfig, checkpoint: Path, device: torch.device) -> Assessment:
    """What `assess` would find: with figures after re-ranking, which only the last epoch's evaluation has."""
    evaluation, reranked = ranked.evaluation, ranked.reranked
    if config.evaluation.reranking and reranked is None:
        reranked = reranked_ranking(ranked.lineup, config.evaluation)
        evaluation = summary(ranked.ranking, reranked, evaluation.attention_entropy, config.evaluation)
    model = trained_network(config, checkpoint).to(device)
    return Assessment(evaluation, ranked.ranking, reranked, ranked.lineup, model, {})
