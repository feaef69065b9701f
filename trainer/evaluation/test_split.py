"""What the test set says of a trained network, kept so that it is asked once."""

from __future__ import annotations

from pathlib import Path

from trainer.config import TrialConfig
from trainer.data import read_splits
from trainer.data.dataset import dataset_fingerprint
from trainer.evaluation.evaluate import assess
from trainer.evaluation.folder import write_evaluation
from trainer.evaluation.ranking import searched_gallery
from trainer.evaluation.test_set_record import RecordUse, record_use
from trainer.files import write_atomically
from trainer.result import Evaluation, Progress, no_progress, read_evaluation

RESULT_FILE = "result.json"


def check_test_set(config: TrialConfig) -> str:
    """Sees that there is something to judge on, before hours of training; the fingerprint of the data set.

    Raises:
        ConfigError: the protocol does not fit the test set.
        DataError: the data set is missing or damaged, or no query has a match.
    """
    splits = read_splits(config.data)
    searched_gallery(splits.query, splits.gallery, config.evaluation.protocol)
    return dataset_fingerprint(splits)


def figures_on_test_set(
    config: TrialConfig,
    checkpoint: Path,
    out: Path,
    *,
    images: bool = False,
    progress: Progress = no_progress,
    record: RecordUse = record_use,
) -> Evaluation:
    """Figures of the network in `checkpoint` on the test set, without and with re-ranking; those in `out` if there.

    What an evaluation leaves (`trainer.evaluation.folder`) is written there first and the figures last, so that an
    interrupted evaluation is done again and a finished one never.

    Args:
        config: the trial.
        checkpoint: weights.
        out: folder of the evaluation, made if missing.
        images: whether pictures may show real people.
        progress: told after every batch.
        record: records that the weights are used on the test set, before they are.

    Raises:
        ConfigError, DataError, CheckpointError: as `trainer.evaluate`; DataError for damaged figures, too.
    """
    known = read_evaluation(out / RESULT_FILE)
    if known is not None:
        return known
    reranking = config.evaluation.model_copy(update={"reranking": True})
    config = config.model_copy(update={"evaluation": reranking})
    assessment = assess(config, checkpoint, part="test", progress=progress, record=record)
    write_evaluation(out, assessment, config, "test", images=images)
    write_atomically(out / RESULT_FILE, assessment.evaluation.model_dump_json(indent=2) + "\n")
    return assessment.evaluation
