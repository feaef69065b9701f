"""The commands of `python -m trainer`, and of `reidsearch train` and `evaluate`, and the lines that they print."""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from trainer.config import TrialConfig
from trainer.config_file import read_trial_config
from trainer.errors import ConfigError, DataError, StoppedError
from trainer.evaluation.compare import EvaluationComparison, QueryChange, compare_evaluations, comparison_document
from trainer.evaluation.evaluate import Part, evaluate, write_embeddings
from trainer.evaluation.folder import write_evaluation
from trainer.evaluation.test_set import FOLD, Spread, evaluate_partitions
from trainer.evaluation.test_set_record import RecordUse, record_use
from trainer.evaluation.trained_on import config_on
from trainer.formatting import counted
from trainer.plots.charts import average_precision_deltas
from trainer.result import (
    EpochResult,
    Evaluation,
    PairMetrics,
    Progress,
    RetrievalMetrics,
    VerificationMetrics,
    read_results,
)
from trainer.training.fit import RESULTS_FILE, fit
from trainer.training.interruption import stop_on_signals
from trainer.training.state import last_checkpoint

Print = Callable[[str], None]

SHOWN_CHANGES = 5  # queries, and pairs of cameras, on either side of a comparison
EXIT_DONE, EXIT_PREEMPTED, EXIT_INTERRUPTED = 0, 75, 130


def train_command(
    config_file: Path,
    *,
    out: Path,
    overrides: Sequence[str],
    resume: bool,
    as_json: bool,
    echo: Print,
    progress: Progress,
) -> int:
    """Trains the network that a configuration file describes, prints one line per epoch and returns the exit code.

    SIGTERM and SIGINT end it after the next step with its state saved: exit codes 75 and 130.

    Raises:
        ConfigError: the configuration cannot be run, `out` is a file, or it holds a run and `resume` is not set.
        DataError, CheckpointError, DivergedError: as `trainer.fit`.
    """
    config = read_trial_config(config_file, overrides)
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: is a file, and --out names a folder; choose another one")
    checkpoint = last_checkpoint(out)
    if checkpoint is not None and not resume:
        raise ConfigError(f"{out}: holds a run already; continue it with --resume, or choose another --out")
    if checkpoint is None and resume:
        raise ConfigError(f"{out}: nothing to resume, it holds no checkpoint; leave --resume out")
    try:
        printed = read_results(out / RESULTS_FILE)
    except DataError:
        printed = []  # the file is written anew

    def print_epoch(result: EpochResult) -> None:
        if result not in printed:
            echo(result.model_dump_json() if as_json else _epoch_line(result, config.optim.epochs))

    with stop_on_signals() as stop, _log_on_stderr():
        try:
            fit(
                config,
                print_epoch,
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
    """What an evaluation leaves behind besides the metrics that it prints."""

    folder: Path | None = None
    """Metrics, every query's average precision and pictures."""
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
    echo: Print,
    progress: Progress,
    data: Path | None = None,
    record: RecordUse = record_use,
) -> None:
    """Evaluates a checkpoint, or the untrained network without one, and prints the metrics.

    With `data` the data set in that folder is judged instead of the configuration's, see
    `trainer.evaluation.trained_on.config_on`.

    Raises:
        ConfigError, DataError, CheckpointError: as `trainer.evaluate` and `evaluate_partitions`.
    """
    if data is None:
        config = read_trial_config(config_file, overrides)
    else:
        of_training = None if checkpoint is None else Path(checkpoint.replace(FOLD, "0"))
        config = config_on(config_file, overrides, data, of_training)
        print(f"{data}: {config.data.name}, its {part} part is judged", file=sys.stderr)
    if all_folds:
        _evaluate_all_folds(
            config, checkpoint, part, outputs, as_json=as_json, echo=echo, progress=progress, record=record
        )
        return
    weights = None if checkpoint is None else Path(checkpoint)
    result = evaluate(config, weights, part=part, split=split, cache=outputs.cache, progress=progress, record=record)
    if as_json:
        echo(json.dumps({**result.evaluation.model_dump(), "seconds": result.seconds}))
    else:
        echo(evaluation_line(result.evaluation, part))
        echo("  ".join(["  seconds", *(f"{stage} {taken:.2f}" for stage, taken in result.seconds.items())]))
    if outputs.folder is not None:
        write_evaluation(outputs.folder, result, part, images=outputs.images)
        if not as_json:
            echo(f"{outputs.folder}: metrics, every query's average precision, pictures")


def _evaluate_all_folds(
    config: TrialConfig,
    checkpoint: str | None,
    part: Part,
    outputs: Outputs,
    *,
    as_json: bool,
    echo: Print,
    progress: Progress,
    record: RecordUse,
) -> None:
    if part != "test" or outputs.folder is not None:
        raise ConfigError("--all-folds gives metrics of the test part only; add --part test and leave --out away")
    found = evaluate_partitions(config, checkpoint, cache=outputs.cache, progress=progress, record=record)
    if as_json:
        spreads = {name: spread._asdict() for name, spread in found.spreads.items()}
        echo(json.dumps({"folds": [each.model_dump() for each in found.evaluations], "over_folds": spreads}))
        return
    for fold, evaluation in enumerate(found.evaluations):
        echo(evaluation_line(evaluation, f"fold {fold}"))
    for name in ("", "reranked/"):
        if f"{name}mAP" in found.spreads:
            echo(_spread_line(found.spreads, name))
    if "pairs/accuracy" in found.spreads:
        shown = (f"{name} {_mean_and_error(found.spreads[f'pairs/{name}'])}" for name in ("accuracy", "EER", "AUC"))
        echo(f"listed pairs  {'  '.join(shown)}  (mean ± standard error over partitions)")


def embed_command(
    config_file: Path,
    *,
    checkpoint: Path | None,
    out: Path,
    part: Part,
    split: Path | None,
    overrides: Sequence[str],
    echo: Print,
    progress: Progress,
) -> None:
    """Writes the embeddings of a part of the data set to a file and prints how many.

    Raises:
        ConfigError, DataError, CheckpointError: as `trainer.evaluate`.
    """
    config = read_trial_config(config_file, overrides)
    count = write_embeddings(config, checkpoint, out, part=part, split=split, progress=progress)
    echo(f"{out}: embeddings of {counted(count, 'tracklet', 'tracklets')} of the {part} part")


def compare_command(before: Path, after: Path, *, out: Path | None, as_json: bool, echo: Print) -> None:
    """Prints by how much the second of two evaluations is better, and draws the differences into the file `out`.

    Raises:
        DataError: a folder was not written by `evaluate`, or the two have other queries, protocols or data.
    """
    found = compare_evaluations(before, after)
    echo(json.dumps(comparison_document(found)) if as_json else comparison_text(found))
    if out is not None:
        interval = (found.comparison.low, found.comparison.high)
        average_precision_deltas(found.deltas, interval, out, synthetic=found.synthetic)


def _epoch_line(result: EpochResult, epochs: int) -> str:
    """An epoch for people."""
    terms = "  ".join(f"{name} {value:.3f}" for name, value in result.losses.items())
    line = (
        f"epoch {result.epoch}/{epochs}  {terms}  lr {result.learning_rate:.2e}  "
        f"{result.images_per_second:.0f} images/s, {100 * result.data_wait_share:.0f} % waiting for frames"
    )
    if result.attention:
        attention = "  ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in result.attention.items())
        line += f"\n  attention  {attention}"
    if result.validation is not None:
        line += "\n  " + evaluation_line(result.validation, "validation")
    return line


def evaluation_line(evaluation: Evaluation, part: str) -> str:
    """An evaluation for people, with its protocol and the queries that were left out."""
    sampling = f", {evaluation.sampling}" if evaluation.sampling else ""
    across = ", cross-tracklet" if evaluation.protocol == "no_camera" else ""
    line = (
        f"{part}  {_metrics(evaluation)}  attention entropy {evaluation.attention_entropy:.2f}  "
        f"({evaluation.protocol} protocol{across}, {counted(evaluation.queries, 'query', 'queries')}, "
        f"{evaluation.dropped_queries} dropped{sampling})"
    )
    if evaluation.other_data is not None:
        line += f"\n  {evaluation.other_data}"
    if evaluation.reranked is not None:
        line += f"\n  re-ranked  {_metrics(evaluation.reranked)}"
    if evaluation.verification is not None:
        line += f"\n  same or not  {verification_text(evaluation.verification)}"
    if evaluation.pairs is not None:
        line += f"\n  listed pairs  {pairs_text(evaluation.pairs)}"
    return line


def verification_text(metrics: VerificationMetrics) -> str:
    """Error rates of "same identity or not", for people."""
    rates = "  ".join(
        f"{name} {'not measurable' if value is None else f'{100 * value:.1f}'}" for name, value in metrics.TPR.items()
    )
    return (
        f"EER {100 * metrics.EER:.1f}  {rates}  ({metrics.matching_pairs:,} same, {metrics.other_pairs:,} other pairs)"
    )


def pairs_text(metrics: PairMetrics) -> str:
    """How a fold of a data set's own list of pairs was judged, for people."""
    return (
        f"accuracy {100 * metrics.accuracy:.1f}  EER {100 * metrics.EER:.1f}  AUC {100 * metrics.AUC:.1f}  "
        f"({metrics.matching_pairs:,} same, {metrics.other_pairs:,} other pairs; threshold {metrics.threshold:.4g} "
        "from the other folds)"
    )


def _metrics(metrics: RetrievalMetrics) -> str:
    return (
        f"mAP {100 * metrics.mAP:.1f} ± {100 * metrics.mAP_standard_error:.1f}  mINP {100 * metrics.mINP:.1f}  "
        f"rank-1 {100 * metrics.rank1:.1f}  rank-5 {100 * metrics.rank5:.1f}  rank-10 {100 * metrics.rank10:.1f}  "
        f"rank-20 {100 * metrics.rank20:.1f}"
    )


def _spread_line(spreads: Mapping[str, Spread], prefix: str) -> str:
    """Mean and standard deviation over partitions, for people; `prefix` is "" or "reranked/"."""
    names = ("mAP", "mINP", "rank1", "rank5", "rank10", "rank20")
    found = [(name, spreads[prefix + name]) for name in names]
    shown = "  ".join(f"{name} {100 * spread.mean:.1f} ± {100 * spread.deviation:.1f}" for name, spread in found)
    return f"{'re-ranked' if prefix else 'all folds'}  {shown}  (mean ± standard deviation over partitions)"


def _mean_and_error(spread: Spread) -> str:
    return f"{100 * spread.mean:.1f} ± {100 * spread.standard_error:.1f}"


def comparison_text(found: EvaluationComparison) -> str:
    """Two evaluations side by side, for people."""
    result = found.comparison
    marks = [f"{when}: {mark}" for when, mark in zip(("before", "after"), found.other_data, strict=True) if mark]
    lines = [
        *marks,
        f"mAP {100 * found.before:.1f} -> {100 * found.after:.1f}  difference {100 * result.delta:+.1f} "
        f"[{100 * result.low:+.1f}, {100 * result.high:+.1f}] (95 %, identities resampled), p {result.p_value:.2g}  "
        f"({found.protocol} protocol, {counted(found.queries, 'query', 'queries')})",
        f"queries better {result.better}, worse {result.worse}, equal {result.equal}",
    ]
    moved = [change for change in found.cameras if change.delta]
    lines += [
        f"  camera {change.query_camera} -> {change.gallery_camera}  mAP {100 * change.before:.1f} -> "
        f"{100 * change.after:.1f}  ({counted(change.queries, 'query', 'queries')})"
        for change in (*moved[:SHOWN_CHANGES], *moved[SHOWN_CHANGES:][-SHOWN_CHANGES:])
    ]
    return "\n".join([*lines, *_changes("gains", found.gains), *_changes("losses", found.losses)])


def _changes(title: str, changes: Sequence[QueryChange]) -> list[str]:
    return [f"largest {title}" if changes else f"no {title}"] + [
        f"  {change.first_frame}  identity {change.identity}, camera {change.camera}  AP {100 * change.before:.1f} -> "
        f"{100 * change.after:.1f}"
        for change in changes[:SHOWN_CHANGES]
    ]


@contextmanager
def _log_on_stderr() -> Iterator[None]:
    """Prints what the trainer logs on standard error: weights that were loaded, uniform attention."""
    logger, handler = logging.getLogger("trainer"), logging.StreamHandler(sys.stderr)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
