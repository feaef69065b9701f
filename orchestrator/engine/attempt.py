"""One attempt of one trial, in a process of its own, and the messages it sends."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from orchestrator.engine.hang import HANG_AFTER_S, HangWatch
from orchestrator.history.events import FailureKind
from orchestrator.history.folder import SearchFolder
from orchestrator.history.journal import NO_SPACE
from orchestrator.locking import exclusive
from trainer.frozen import FrozenConfig
from trainer.interruption import stop_on_signals
from trainer.result import EpochResult, Evaluation
from trainer.wording import first_line

if TYPE_CHECKING:
    from trainer import TrialConfig
    from trainer.progress import Progress

log = logging.getLogger(__name__)

# Files in the folder of a trial.
ERROR_FILE = "error.txt"
HANG_FILE = "hang.txt"
LOG_FILE = "log.txt"
BEST_CHECKPOINT = "checkpoint/best.pt"
TEST_FOLDER = "test"
TEST_RESULT = "result.json"
# Its presence asks the running attempt to save its state after the next step and to end; the search puts it there, on
# whichever machine it runs.
STOP_FILE = "stop"
LOCK_PATIENCE_S = 120.0


class Assignment(FrozenConfig):
    """What the searcher hands to a worker."""

    search: Path
    """Folder of the search."""
    trial: str
    attempt: int
    threads: int
    """CPU threads that the attempt may use."""
    gpus: float | None = None
    """GPUs that it may use; 0 hides those of the machine, None takes what it sees."""
    hang_after: float = HANG_AFTER_S
    """Seconds without a step after which the attempt ends itself."""
    fold: int | None = None
    """The validation fold, where it is not that of the search."""
    tests: bool = False
    """Whether all persons are trained on, and the network is judged on the test set in the end."""


class Outcome(FrozenConfig):
    """How an attempt ended, as told by the attempt itself; one that cannot tell was lost.

    `stopped` is one that was asked to, by a signal or by the search, and has saved its state after its last step.
    """

    state: Literal["completed", "failed", "stopped"]
    failure: FailureKind | None = None
    reason: str = ""


class Message(FrozenConfig):
    """What an attempt says: an epoch, what the test set says of the trained network, or its outcome at the end."""

    epoch_result: EpochResult | None = None
    test: Evaluation | None = None
    outcome: Outcome | None = None


def run_attempt(
    assignment: Assignment, send: Callable[[Message], None], alive: Callable[[], None] = lambda: None
) -> None:
    """Trains the assigned trial from its last checkpoint; sends each epoch, then the outcome; says that it is `alive`.

    SIGTERM, SIGINT and the stop file let it end after the next step, which is why it is to be called from the main
    thread. A failure of training is an outcome, not an exception: what to do about it depends on its kind and is
    decided from the journal.

    Raises:
        TimeoutError: another attempt of the same trial lives on.
    """
    out = SearchFolder(assignment.search).trial(assignment.trial)
    try:
        # An attempt of a session that was killed may live on for seconds; two must never write the same checkpoint.
        with exclusive(out / "lock", LOCK_PATIENCE_S), _logging_to(out / LOG_FILE):
            log.info("attempt %d", assignment.attempt)
            outcome = _train(assignment, out, send, alive)
            log.info("attempt %d %s %s", assignment.attempt, outcome.state, outcome.reason)
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        outcome = _out_of_space(error, out)  # before or after the training: not even a lock or a log fits any more
    send(Message(outcome=outcome))


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Adds what we and the trainer log to a file."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    loggers = [logging.getLogger(name) for name in ("trainer", "orchestrator")]
    for logger in loggers:
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()


def _train(assignment: Assignment, out: Path, send: Callable[[Message], None], alive: Callable[[], None]) -> Outcome:
    import torch

    from trainer import ConfigError, DataError, DivergedError, StoppedError

    torch.set_num_threads(assignment.threads)
    try:
        with HangWatch(out / HANG_FILE, assignment.hang_after, alive) as watch, stop_on_signals() as stop:
            _fit(assignment, out, send, watch.progress, lambda: stop() or (out / STOP_FILE).exists())
            if assignment.tests:
                _test(out, send, watch.progress)
        return Outcome(state="completed")
    except StoppedError as error:
        return Outcome(state="stopped", reason=first_line(error))
    except DivergedError as error:
        return _failed("diverged", error, out)
    except DataError as error:
        return _failed("bad_data", error, out)
    except ConfigError as error:
        return _failed("bad_config", error, out)
    except (torch.OutOfMemoryError, MemoryError) as error:
        return _failed("out_of_memory", error, out)
    except OSError as error:
        return _out_of_space(error, out) if error.errno in NO_SPACE else _failed("error", error, out)
    except Exception as error:  # noqa: BLE001  # an unforeseen error ends this trial, and says so, but not the search
        return _failed("error", error, out)


def _fit(
    assignment: Assignment,
    out: Path,
    send: Callable[[Message], None],
    progress: Progress,
    stop: Callable[[], bool],
) -> None:
    from trainer import CheckpointError, fit, last_checkpoint

    def report(result: EpochResult) -> None:
        send(Message(epoch_result=result))

    config = _config(out)
    # Without a validation split there is nothing that the trials of a search would have to share.
    split = None if assignment.tests else SearchFolder(assignment.search).split_of(assignment.fold)
    checkpoint = last_checkpoint(out)
    try:
        fit(config, report, checkpoint, out=out, split=split, progress=progress, stop=stop)
    except CheckpointError as error:
        if checkpoint is None:
            raise
        # Damaged on its way to disk: train again from the start rather than lose the trial, and keep the evidence.
        checkpoint.rename(checkpoint.with_suffix(".damaged"))
        (out / ERROR_FILE).write_text(f"{error}\n", encoding="utf-8")
        fit(config, report, None, out=out, split=split, progress=progress, stop=stop)


def _test(out: Path, send: Callable[[Message], None], progress: Progress) -> None:
    """Judges the trained network on the test set, unless an earlier attempt has."""
    from trainer import figures_on_test_set

    send(Message(test=figures_on_test_set(_config(out), out / BEST_CHECKPOINT, out / TEST_FOLDER, progress=progress)))


def _config(out: Path) -> TrialConfig:
    from trainer import TrialConfig

    return TrialConfig.model_validate_json((out / "config.json").read_text(encoding="utf-8"))


def _failed(failure: FailureKind, error: BaseException, out: Path) -> Outcome:
    try:
        (out / ERROR_FILE).write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    except OSError as refused:
        # What failed is told all the same; only the evidence is lost.
        log.warning("%s: cannot be written (%s)", out / ERROR_FILE, refused.strerror)
    return Outcome(state="failed", failure=failure, reason=f"{type(error).__name__}: {first_line(error)}")


def _out_of_space(error: OSError, out: Path) -> Outcome:
    where = error.filename or out
    return _failed("disk_full", error, out).model_copy(update={"reason": f"{where}: {error.strerror}"})


def attempt_environment(threads: int, gpus: float | None) -> dict[str, str]:
    """Environment in which numeric libraries use no more threads, and no GPU where none, was given to an attempt.

    Of GPUs that were given, Ray has set which are seen; None leaves it at that.
    """
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if gpus == 0 else {}
    return {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), **hidden}
