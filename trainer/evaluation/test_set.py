"""Evaluations on the test set: checked before a training, done once, and over all published partitions."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

from trainer.checkpoint import load_checkpoint
from trainer.config import TrialConfig
from trainer.data import find_data_set, read_splits
from trainer.data.dataset import dataset_fingerprint
from trainer.data.folder import data_record, require_test_part
from trainer.errors import ConfigError
from trainer.evaluation.evaluate import evaluate
from trainer.evaluation.folder import write_evaluation
from trainer.evaluation.retrieval import searched_gallery
from trainer.evaluation.test_set_record import RecordUse, record_use
from trainer.evaluation.trained_on import check_not_joined, check_not_trained_on, trained_on
from trainer.files import write_atomically
from trainer.result import Evaluation, Progress, no_progress, read_evaluation

RESULT_FILE = "result.json"
FOLD = "{fold}"


def check_test_set(config: TrialConfig) -> str:
    """Checks, before hours of training, that the test set can be evaluated; returns the data set's fingerprint.

    Raises:
        ConfigError: the protocol does not fit the test set.
        DataError: the data set is missing or damaged, or no query has a match.
    """
    require_test_part(config.data)
    splits = read_splits(config.data)
    searched_gallery(splits.query, splits.gallery, config.evaluation.protocol)
    return dataset_fingerprint(splits)


def evaluate_on_test_set(
    config: TrialConfig,
    checkpoint: Path,
    out: Path,
    *,
    images: bool = False,
    progress: Progress = no_progress,
    record: RecordUse = record_use,
) -> Evaluation:
    """Metrics of the network in `checkpoint` on the test set, without and with re-ranking; read from `out` if there.

    What an evaluation leaves (`trainer.evaluation.folder`) is written there first and `result.json` last, so that an
    interrupted evaluation is repeated and a finished one is not.

    Args:
        config: the trial.
        checkpoint: weights.
        out: folder of the evaluation, made if missing.
        images: whether pictures may show real people.
        progress: called after every batch.
        record: records that the weights are used on the test set, before they are.

    Raises:
        ConfigError, DataError, CheckpointError: as `trainer.evaluate`; DataError for a damaged `result.json`, too.
    """
    known = read_evaluation(out / RESULT_FILE)
    if known is not None:
        return known
    reranking = config.evaluation.model_copy(update={"reranking": True})
    config = config.model_copy(update={"evaluation": reranking})
    result = evaluate(config, checkpoint, part="test", progress=progress, record=record)
    write_evaluation(out, result, "test", images=images)
    write_atomically(out / RESULT_FILE, result.evaluation.model_dump_json(indent=2) + "\n")
    return result.evaluation


class Spread(NamedTuple):
    """A metric over partitions."""

    mean: float
    deviation: float
    """Standard deviation over partitions (of a sample: divided by their number less 1)."""
    standard_error: float
    """Standard error of the mean: the deviation divided by the root of their number."""


class PartitionsEvaluation(NamedTuple):
    """Metrics of every partition's network on that partition's test identities."""

    evaluations: list[Evaluation]
    """One per partition, in order."""
    spreads: dict[str, Spread]
    """Mean and standard deviation of each metric, by the names of `Evaluation.metrics`."""


def evaluate_partitions(
    config: TrialConfig,
    checkpoint: str | None,
    *,
    cache: Path | None = None,
    progress: Progress = no_progress,
    record: RecordUse = record_use,
) -> PartitionsEvaluation:
    """Evaluates each published partition of the data set on its test part, as PRID 2011 and iLIDS-VID are reported.

    Args:
        config: the trial; its `data.fold` is set to each partition in turn.
        checkpoint: path of each partition's weights, with `{fold}` where the number stands. One without serves
            all partitions, and then must not have been trained on this data set, as a partition's training identities
            are tested in others. None is the untrained network.
        cache: folder that keeps embeddings.
        progress: called after every batch.
        record: records each use of the test set, before it happens.

    Raises:
        ConfigError: the data set has one partition, or a checkpoint was trained on another partition.
        DataError, CheckpointError: as `trainer.evaluate`.
    """
    folds = find_data_set(config.data.name).folds
    if folds == 1:
        raise ConfigError(f"data.name: {config.data.name} has one partition only; leave --all-folds out")
    paths = [None if checkpoint is None else Path(checkpoint.replace(FOLD, str(fold))) for fold in range(folds)]
    for fold, path in enumerate(paths):
        if path is not None:
            advice = f"name each partition's checkpoint, with {FOLD} for its number"
            check_network(of_partition(config, fold), path, advice=advice)
    evaluations = []
    for fold, path in enumerate(paths):
        result = evaluate(of_partition(config, fold), path, part="test", cache=cache, progress=progress, record=record)
        evaluations.append(result.evaluation)
    metrics = [evaluation.metrics() for evaluation in evaluations]
    shared = [name for name in metrics[0] if all(name in each for each in metrics)]
    columns = {name: [each[name] for each in metrics] for name in shared}
    spreads = {
        name: Spread(fmean(column), stdev(column), stdev(column) / math.sqrt(folds)) for name, column in columns.items()
    }
    return PartitionsEvaluation(evaluations, spreads)


def of_partition(config: TrialConfig, fold: int) -> TrialConfig:
    """The trial on another partition of its data set."""
    return config.model_copy(update={"data": config.data.model_copy(update={"fold": fold})})


def check_network(config: TrialConfig, checkpoint: Path, *, advice: str = "") -> None:
    """Checks that the network has not seen the identities of the test part; `advice` helps with another partition.

    Raises:
        ConfigError: it has.
        DataError, CheckpointError: as `trainer.evaluate`.
    """
    trained, splits = trained_on(checkpoint, load_checkpoint(checkpoint)), read_splits(config.data)
    check_not_trained_on(trained, config.data, data_record(config.data, splits), None, advice=advice)
    check_not_joined(trained, config.data, splits, validation=False)
