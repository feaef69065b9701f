"""A trained network put to use on a part of its data set: figures, and embeddings."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import ValidationError

from trainer.checkpoint import load_checkpoint
from trainer.compute import float32_products
from trainer.config import TrialConfig
from trainer.data import DataConfig, Tracklet, read_splits
from trainer.data.dataset import Splits
from trainer.data.splits import applied_split, cut_validation, read_validation
from trainer.errors import CheckpointError, ConfigError, DataError
from trainer.evaluation.embed import Embeddings, embed
from trainer.evaluation.embedding_cache import cached_embeddings
from trainer.evaluation.metrics import Ranking
from trainer.evaluation.ranking import Lineup, line_up, plain_ranking, reranked_ranking, summary
from trainer.evaluation.test_set_record import RecordUse, Use, judged_weights, record_use
from trainer.files import replacing
from trainer.model.network import TemporalAttentionResNet
from trainer.result import Evaluation, Progress, no_progress
from trainer.seeds import derived_seed

Part = Literal["test", "validation"]


@dataclass
class Stopwatch:
    """How long each stage of an evaluation took, in seconds."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Times what runs inside as `stage`."""
        began = time.monotonic()
        yield
        self.seconds[stage] = time.monotonic() - began


class Assessment(NamedTuple):
    """An evaluation, and all that pictures of it are drawn from."""

    evaluation: Evaluation
    ranking: Ranking
    reranked: Ranking | None
    lineup: Lineup
    model: TemporalAttentionResNet
    seconds: dict[str, float]
    """Of each stage: reading, network, embedding (of which waiting for frames), ranking, reranking."""


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

    The figures after re-ranking are with them unless `evaluation.reranking` is off. A use of the test part is recorded
    beside the weights (`trainer.evaluation.test_set_record`).

    Raises:
        ConfigError: a setting that the data or the machine cannot follow, or a use of the test part that cannot be
            recorded.
        DataError: data that is missing, damaged or too small.
        CheckpointError: the checkpoint is damaged or of another architecture.
    """
    return assess(config, checkpoint, part=part, split=split, device=device, progress=progress).evaluation


def assess(
    config: TrialConfig,
    checkpoint: Path | None,
    *,
    part: Part,
    split: Path | None = None,
    cache: Path | None = None,
    device: torch.device | str | None = None,
    progress: Progress = no_progress,
    record: RecordUse = record_use,
) -> Assessment:
    """As `evaluate`, with the ranking and the time of each stage.

    Args:
        config: the trial.
        checkpoint: weights; None is the untrained network.
        part: query and gallery of the data set, or of its validation split.
        split: validation split of a run or search; None cuts the one that the configuration describes.
        cache: folder that keeps embeddings; those of the same network, frames and settings are read from there.
        device: where to embed; None takes the GPU if there is one.
        progress: told after every batch.
        record: records that trained weights are used on the test part, before they are.

    Raises:
        ConfigError, DataError, CheckpointError: as `evaluate`.
    """
    watch = Stopwatch()
    with watch("reading"):
        splits = read_splits(config.data)
        query, gallery = _part(config, splits, part, split)
    with watch("network"):
        model = _network(config, checkpoint, splits, part, split).to(device or _device())
    _record(config, checkpoint, part, "evaluate", record)
    tracklets = [*query, *gallery]
    with watch("embedding"), float32_products(config.compute, _device_of(model)):
        embeddings = cached_embeddings(
            cache,
            model,
            tracklets,
            config,
            lambda: embed(model, tracklets, config, progress=progress),
        )
    watch.seconds["waiting for frames"] = embeddings.waited_s
    lineup = line_up(embeddings.vectors, query, gallery, config.evaluation)
    reranked = None
    with watch("ranking"):
        ranking = plain_ranking(lineup, config.evaluation)
    if config.evaluation.reranking:
        with watch("reranking"):
            reranked = reranked_ranking(lineup, config.evaluation)
    figures = summary(ranking, reranked, embeddings.attention_entropy, config.evaluation)
    return Assessment(figures, ranking, reranked, lineup, model, watch.seconds)


def write_embeddings(
    config: TrialConfig,
    checkpoint: Path | None,
    out: Path,
    *,
    part: Part,
    split: Path | None = None,
    device: torch.device | str | None = None,
    progress: Progress = no_progress,
    record: RecordUse = record_use,
) -> int:
    """Writes the embeddings of query and gallery to the file `out` and returns the number of tracklets.

    Arguments are those of `assess`.
    The file is numpy's .npz without pickles: `embedding` [N D] float32, and for each tracklet `part` ("query" or
    "gallery"), `identity`, `camera`, `frames` (their number) and `first_frame` (base name of the first).

    Raises:
        ConfigError, DataError, CheckpointError: as `evaluate`.
    """
    splits = read_splits(config.data)
    query, gallery = _part(config, splits, part, split)
    model = _network(config, checkpoint, splits, part, split).to(device or _device())
    _record(config, checkpoint, part, "embed", record)
    with float32_products(config.compute, _device_of(model)):
        embeddings = embed(model, [*query, *gallery], config, progress=progress)
    parts = ["query"] * len(query) + ["gallery"] * len(gallery)
    _save(out, embeddings, [*query, *gallery], parts)
    return len(parts)


def _save(out: Path, embeddings: Embeddings, tracklets: list[Tracklet], parts: list[str]) -> None:
    arrays = {
        "embedding": embeddings.vectors.cpu().numpy(),
        "part": np.array(parts),
        "identity": np.array([tracklet.identity for tracklet in tracklets]),
        "camera": np.array([tracklet.camera for tracklet in tracklets]),
        "frames": np.array([len(tracklet.frames) for tracklet in tracklets]),
        "first_frame": np.array([Path(tracklet.frames[0]).name for tracklet in tracklets]),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _device_of(model: TemporalAttentionResNet) -> torch.device:
    return next(model.parameters()).device


def _part(config: TrialConfig, splits: Splits, part: Part, split: Path | None) -> tuple[list[Tracklet], list[Tracklet]]:
    """Query and gallery."""
    if part == "test":
        if split is not None:
            raise ConfigError(f"{split}: a split says what the validation part is; leave it out for the test part")
        return list(splits.query), list(splits.gallery)
    cut = (
        cut_validation(splits.train, config.data.validation) if split is None else read_validation(split, splits.train)
    )
    data = applied_split(splits.train, cut)
    if not data.query:
        raise DataError(
            "no identity is held out for validation (data.validation.share: 0, as in trainings for the test set); name "
            "a split with --split, or the test part with --part test"
        )
    return data.query, data.gallery


def _record(config: TrialConfig, checkpoint: Path | None, part: Part, use: Use, record: RecordUse) -> None:
    """Records the use of the test part; untrained weights have learned nothing that it could be used to choose."""
    weights = judged_weights(config, checkpoint)
    if part == "test" and weights is not None:
        record(weights, use)


def _network(
    config: TrialConfig, checkpoint: Path | None, splits: Splits, part: Part, split: Path | None
) -> TemporalAttentionResNet:
    """The network with as many classes as the checkpoint's: it may have learned from another data set."""
    torch.manual_seed(derived_seed(config.seed, "weights"))
    if checkpoint is None:
        return TemporalAttentionResNet(config.model, len({tracklet.identity for tracklet in splits.train}))
    state = load_checkpoint(checkpoint)
    try:
        trained = DataConfig.model_validate(state["config"]["data"])
    except (LookupError, TypeError, ValidationError) as error:
        raise CheckpointError(f"{checkpoint}: does not say what it was trained on; it is of another version") from error
    _check_not_trained_on(checkpoint, trained, config.data, part, split)
    return _restored(config, checkpoint, state)


def _check_not_trained_on(
    checkpoint: Path, trained: DataConfig, judged: DataConfig, part: Part, split: Path | None
) -> None:
    """That the network was not trained on identities that it is judged on, as far as the configurations tell.

    Raises:
        ConfigError: it was trained on another partition of the same data set, or with another validation split.
    """
    if trained.name != judged.name:
        return
    if trained.fold != judged.fold:
        raise ConfigError(
            f"{checkpoint}: was trained on partition {trained.fold} of {trained.name}, which holds identities that "
            f"partition {judged.fold} judges; set data.fold to {trained.fold}"
        )
    if part == "validation" and split is None and trained.validation != judged.validation:
        raise ConfigError(
            f"{checkpoint}: was trained with another data.validation ({_told(trained)}) than the one that is to be "
            f"judged ({_told(judged)}), and so on identities of it; take the configuration of its training, or name "
            "split with --split"
        )


def _told(data: DataConfig) -> str:
    return ", ".join(f"{name} {value}" for name, value in data.validation if value is not None)


def trained_network(config: TrialConfig, checkpoint: Path) -> TemporalAttentionResNet:
    """The network in a checkpoint, on the CPU.

    Raises:
        CheckpointError: the checkpoint is damaged or of another architecture.
    """
    return _restored(config, checkpoint, load_checkpoint(checkpoint))


def _restored(config: TrialConfig, checkpoint: Path, state: dict[str, Any]) -> TemporalAttentionResNet:
    weights = state["model"]
    architecture = config.model.model_copy(update={"weights": "none"})
    try:
        model = TemporalAttentionResNet(architecture, len(weights["classifier.weight"]))
        model.load_state_dict(weights)
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(f"{checkpoint}: holds another architecture than the configuration") from error
    return model
