"""Evaluation over all published partitions of a data set, as PRID 2011 and iLIDS-VID are reported."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

from trainer.checkpoint import load_checkpoint
from trainer.config import TrialConfig
from trainer.data import READERS
from trainer.errors import ConfigError
from trainer.evaluation.evaluate import Assessment, assess
from trainer.evaluation.test_set_record import RecordUse, record_use
from trainer.result import Evaluation, Progress, no_progress

FOLD = "{fold}"


class Spread(NamedTuple):
    """A figure over partitions."""

    mean: float
    deviation: float
    """Standard deviation over partitions (of a sample: divided by their number less 1)."""


class PartitionsEvaluation(NamedTuple):
    """Figures of every partition's network on that partition's test identities."""

    evaluations: list[Evaluation]
    """One per partition, in order."""
    spreads: dict[str, Spread]
    """Mean and standard deviation of each figure, by the names of `Evaluation.metrics`."""


def evaluate_partitions(
    config: TrialConfig,
    checkpoint: str | None,
    *,
    cache: Path | None = None,
    progress: Progress = no_progress,
    record: RecordUse = record_use,
) -> PartitionsEvaluation:
    """Evaluates each partition of the configured data set on its test part.

    Args:
        config: the trial; its `data.fold` is set to each partition in turn.
        checkpoint: path of each partition's weights, with `{fold}` where the number stands. One without serves
            all partitions, and then must not have been trained on this data set, as a partition's training identities
            are tested in others. None is the untrained network.
        cache: as for `trainer.evaluation.evaluate.assess`.
        progress: told after every batch.
        record: as for `trainer.evaluation.evaluate.assess`.

    Raises:
        ConfigError: the data set has one partition, or a checkpoint was trained on another partition.
        DataError, CheckpointError: as `trainer.evaluate`.
    """
    folds = READERS[config.data.name].folds
    if folds == 1:
        raise ConfigError(f"data.name: {config.data.name} has one partition only; leave --all-folds out")
    paths = partition_checkpoints(checkpoint, folds)
    for fold, path in enumerate(paths):
        if path is not None:
            _check_training(path, config, fold)
    evaluations = []
    for fold, path in enumerate(paths):
        data = config.data.model_copy(update={"fold": fold})
        assessed: Assessment = assess(
            config.model_copy(update={"data": data}), path, part="test", cache=cache, progress=progress, record=record
        )
        evaluations.append(assessed.evaluation)
    return PartitionsEvaluation(evaluations, _spreads(evaluations))


def partition_checkpoints(checkpoint: str | None, folds: int) -> list[Path | None]:
    """The checkpoint of each partition: the text with `{fold}` replaced by its number."""
    return [None if checkpoint is None else Path(checkpoint.replace(FOLD, str(fold))) for fold in range(folds)]


def _check_training(path: Path, config: TrialConfig, fold: int) -> None:
    """The checkpoint has not seen the identities that this partition tests."""
    trained = load_checkpoint(path)["config"]["data"]
    if trained["name"] == config.data.name and trained["fold"] != fold:
        raise ConfigError(
            f"{path}: was trained on partition {trained['fold']} of {config.data.name}, which holds identities that "
            f"partition {fold} tests; name each partition's checkpoint, with {FOLD} for its number"
        )


def _spreads(evaluations: list[Evaluation]) -> dict[str, Spread]:
    metrics = [evaluation.metrics() for evaluation in evaluations]
    columns = {name: [figures[name] for figures in metrics] for name in metrics[0]}
    return {name: Spread(fmean(column), stdev(column)) for name, column in columns.items()}
