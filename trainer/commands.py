"""What the command lines do: `python -m trainer` and, with the same words, `reidsearch train` and `evaluate`."""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from trainer.config import TrialConfig
from trainer.config_file import read_trial_config
from trainer.errors import ConfigError, StoppedError
from trainer.evaluation.compare import compare_evaluations
from trainer.evaluation.evaluate import Part, assess, write_embeddings
from trainer.evaluation.folder import write_evaluation
from trainer.evaluation.partitions import evaluate_partitions
from trainer.evaluation.test_set_record import RecordUse, record_use
from trainer.plots.charts import average_precision_deltas
from trainer.reporting import (
    comparison_document,
    comparison_text,
    epoch_line,
    evaluation_line,
    spread_line,
    stages_line,
)
from trainer.result import Progress
from trainer.training.fit import fit, last_checkpoint
from trainer.training.interruption import stop_on_signals

Print = Callable[[str], None]

EXIT_DONE, EXIT_PREEMPTED, EXIT_INTERRUPTED = 0, 75, 130


def train_command(
    config_file: Path,
    *,
    out: Path,
    overrides: Sequence[str],
    resume: bool,
    as_json: bool,
    say: Print,
    progress: Progress,
) -> int:
    """Trains the network that a configuration file describes, says one line per epoch and returns the exit code.

    SIGTERM and SIGINT end it after the next step with its state saved: exit codes 75 and 130.

    Raises:
        ConfigError: the configuration cannot be run, or `out` holds a run and `resume` is not set.
        DataError, CheckpointError, DivergedError: as `trainer.fit`.
    """
    config = read_trial_config(config_file, overrides)
    checkpoint = last_checkpoint(out)
    if checkpoint is not None and not resume:
        raise ConfigError(f"{out}: holds a run already; continue it with --resume, or choose another --out")
    if checkpoint is None and resume:
        raise ConfigError(f"{out}: nothing to resume, it holds no checkpoint; leave --resume out")
    with stop_on_signals() as stop, _log_on_stderr():
        try:
            fit(
                config,
                lambda result: say(result.model_dump_json() if as_json else epoch_line(result, config.optim.epochs)),
                checkpoint,
                out=out,
                progress=progress,
                stop=stop,
            )
        except StoppedError as error:
            print(error, file=sys.stderr)
            return EXIT_PREEMPTED if stop.received == signal.SIGTERM else EXIT_INTERRUPTED
    return EXIT_DONE


class Outputs(NamedTuple):
    """What an evaluation leaves behind besides the figures it says."""

    folder: Path | None = None
    """Gets figures, every query's average precision and pictures."""
    images: bool = False
    """Whether pictures may show real people."""
    cache: Path | None = None
    """Keeps embeddings between evaluations."""


def evaluate_command(
    config_file: Path,
    *,
    checkpoint: str | None,
    part: Part,
    split: Path | None,
    all_folds: bool,
    outputs: Outputs,
    overrides: Sequence[str],
    as_json: bool,
    say: Print,
    progress: Progress,
    record: RecordUse = record_use,
) -> None:
    """Evaluates a checkpoint, or the untrained network without one, and says the figures.

    Raises:
        ConfigError, DataError, CheckpointError: as `trainer.evaluate` and `evaluate_partitions`.
    """
    config = read_trial_config(config_file, overrides)
    if all_folds:
        _evaluate_all_folds(
            config, checkpoint, part, outputs, as_json=as_json, say=say, progress=progress, record=record
        )
        return
    weights = None if checkpoint is None else Path(checkpoint)
    assessment = assess(config, weights, part=part, split=split, cache=outputs.cache, progress=progress, record=record)
    if as_json:
        say(json.dumps({**assessment.evaluation.model_dump(), "seconds": assessment.seconds}))
    else:
        say(evaluation_line(assessment.evaluation, part))
        say(stages_line(assessment.seconds))
    if outputs.folder is not None:
        write_evaluation(outputs.folder, assessment, config, part, images=outputs.images)
        if not as_json:
            say(f"{outputs.folder}: figures, every query's average precision, pictures")


def _evaluate_all_folds(
    config: TrialConfig,
    checkpoint: str | None,
    part: Part,
    outputs: Outputs,
    *,
    as_json: bool,
    say: Print,
    progress: Progress,
    record: RecordUse,
) -> None:
    if part != "test" or outputs.folder is not None:
        raise ConfigError("--all-folds gives figures of the test part only; add --part test and leave --out away")
    found = evaluate_partitions(config, checkpoint, cache=outputs.cache, progress=progress, record=record)
    if as_json:
        spreads = {name: spread._asdict() for name, spread in found.spreads.items()}
        say(json.dumps({"folds": [each.model_dump() for each in found.evaluations], "over_folds": spreads}))
        return
    for fold, evaluation in enumerate(found.evaluations):
        say(evaluation_line(evaluation, f"fold {fold}"))
    for name in ("", "reranked/"):
        if f"{name}mAP" in found.spreads:
            say(spread_line(found.spreads, name))


def embed_command(
    config_file: Path,
    *,
    checkpoint: Path | None,
    out: Path,
    part: Part,
    split: Path | None,
    overrides: Sequence[str],
    say: Print,
    progress: Progress,
) -> None:
    """Writes the embeddings of a part of the data set to a file and says how many.

    Raises:
        ConfigError, DataError, CheckpointError: as `trainer.evaluate`.
    """
    config = read_trial_config(config_file, overrides)
    count = write_embeddings(config, checkpoint, out, part=part, split=split, progress=progress)
    say(f"{out}: embeddings of {count} tracklets of the {part} part")


def compare_command(before: Path, after: Path, *, out: Path | None, as_json: bool, say: Print) -> None:
    """Says by how much the second of two evaluations is better, and draws the differences into the file `out`.

    Raises:
        DataError: a folder was not written by `evaluate`, or the two have other queries, protocols or data.
    """
    found = compare_evaluations(before, after)
    say(json.dumps(comparison_document(found)) if as_json else comparison_text(found))
    if out is not None:
        interval = (found.comparison.low, found.comparison.high)
        average_precision_deltas(found.deltas, interval, out, synthetic=found.synthetic)


@contextmanager
def _log_on_stderr() -> Iterator[None]:
    """What the trainer logs (weights that were loaded, attention that died) goes to people, on standard error."""
    logger, handler = logging.getLogger("trainer"), logging.StreamHandler(sys.stderr)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
