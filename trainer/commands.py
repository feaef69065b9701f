"""What the command lines do: `python -m trainer` and, with the same words, `reidsearch train` and `evaluate`."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from trainer.assess import Part, evaluate, write_embeddings
from trainer.configfile import read_trial_config
from trainer.errors import ConfigError, StoppedError
from trainer.interruption import stop_on_signals
from trainer.progress import Progress
from trainer.result import EpochResult, Evaluation
from trainer.training import fit, last_checkpoint

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


def evaluate_command(
    config_file: Path,
    *,
    checkpoint: Path | None,
    part: Part,
    split: Path | None,
    overrides: Sequence[str],
    as_json: bool,
    say: Print,
    progress: Progress,
) -> Evaluation:
    """Evaluates a checkpoint, or the untrained network without one, and says the figures.

    Raises:
        ConfigError, DataError, CheckpointError: as `trainer.evaluate`.
    """
    config = read_trial_config(config_file, overrides)
    figures = evaluate(config, checkpoint, part=part, split=split, progress=progress)
    say(figures.model_dump_json() if as_json else evaluation_line(figures, part))
    return figures


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


def epoch_line(result: EpochResult, epochs: int) -> str:
    """An epoch for people."""
    terms = "  ".join(f"{name} {value:.3f}" for name, value in result.losses.items())
    line = (
        f"epoch {result.epoch}/{epochs}  {terms}  lr {result.learning_rate:.2e}  "
        f"{result.images_per_second:.0f} images/s, {100 * result.data_wait_share:.0f} % waiting for frames"
    )
    if result.attention:
        figures = "  ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in result.attention.items())
        line += f"\n  attention  {figures}"
    if result.validation is not None:
        line += "\n  " + evaluation_line(result.validation, "validation")
    return line


def evaluation_line(figures: Evaluation, part: str) -> str:
    """An evaluation for people, with its protocol and the queries that were left out."""
    return (
        f"{part}  mAP {100 * figures.mAP:.1f} ± {100 * figures.mAP_standard_error:.1f}  mINP {100 * figures.mINP:.1f}  "
        f"rank-1 {100 * figures.rank1:.1f}  rank-5 {100 * figures.rank5:.1f}  rank-10 {100 * figures.rank10:.1f}  "
        f"rank-20 {100 * figures.rank20:.1f}  attention entropy {figures.attention_entropy:.2f}  "
        f"({figures.protocol} protocol, {figures.queries} queries, {figures.dropped_queries} dropped)"
    )
