"""One attempt of one trial, in a process of its own, and the messages it sends."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from orchestrator.base.formatting import with_utc
from orchestrator.base.locking import exclusive
from orchestrator.runner.failure_kind import failure_kind
from orchestrator.runner.system_metrics import SystemMeter, gpus_of_this_process
from orchestrator.runner.watchdog import Watchdog
from orchestrator.stores import open_store, trial_files
from orchestrator.stores.base import SearchFolder, StorageProblem
from orchestrator.stores.staging import DataSource, data_here
from orchestrator.study.description import HANG_AFTER_S
from orchestrator.study.events import FailureKind, NodeLoad
from orchestrator.study.journal import NO_SPACE
from trainer.files import write_atomically
from trainer.formatting import first_line
from trainer.result import EpochResult, Evaluation
from trainer.settings import FrozenConfig
from trainer.training.interruption import stop_on_signals

if TYPE_CHECKING:
    from trainer import TrialConfig
    from trainer.result import Progress

log = logging.getLogger(__name__)

# Files in the folder of a trial.
CONFIG_FILE = "config.json"
RESULTS_FILE = "results.jsonl"
ERROR_FILE = "error.txt"
HANG_FILE = "hang.txt"
LOG_FILE = "log.txt"
BEST_CHECKPOINT = "checkpoint/best.pt"
TEST_FOLDER = "test"
TEST_RESULT = "result.json"
# Its presence asks the running attempt to save its state after the next step and to end; the search puts it there, on
# whichever machine it runs.
STOP_FILE = trial_files.STOP_FILE
LOCK_PATIENCE_S = 120.0
# What an attempt that has trained to its end waits for its storage, and one that has to go: its server kills it soon.
SEND_PATIENCE_S = 900.0
LAST_PATIENCE_S = 8.0


class TrialSpec(FrozenConfig):
    """All that a worker is given for one attempt of a trial; made once per attempt, by `TrialRunner`."""

    search: Path
    """Folder of the search."""
    trial: str
    attempt: int
    """1 for the first."""
    config: str
    """The trainer's configuration in JSON, as the trial's config.json holds it."""
    threads: int
    """CPU threads that the attempt may use."""
    gpus: float | None = None
    """GPUs that it may use; 0 hides those of the machine, None takes what it sees."""
    hang_after: float = HANG_AFTER_S
    """Seconds without a step after which the attempt ends itself."""
    fold: int | None = None
    """The validation fold, where it is not that of the search."""
    tests: bool = False
    """Whether all identities are trained on, and the network is judged on the test set in the end."""
    storage: str | None = None
    """URI of the storage that holds the search; the attempt then works in its node's mirror. None is a folder that
    all nodes see."""
    start: int = 0
    """Number of the journal's event that began the attempt."""
    data: DataSource = DataSource()
    """Where the node gets the data set from, unless it lies where the configuration says."""
    title: str = ""
    """What logs and process lists call it, see `orchestrator.cluster.names.trial_title`."""

    @property
    def name(self) -> str:
        """Search and trial, as commands take them."""
        return f"{self.search.name}/{self.trial}"


class AttemptResult(FrozenConfig):
    """How an attempt ended, as told by the attempt itself; one that cannot tell was lost.

    `stopped` is one that was asked to, by a signal or by the search, and has saved its state after its last step.
    """

    state: Literal["completed", "failed", "stopped"]
    failure: FailureKind | None = None
    reason: str = ""


class WorkerMessage(FrozenConfig):
    """One message of an attempt: an epoch, the metrics on the test set, or, as the last one, the attempt's result."""

    epoch_result: EpochResult | None = None
    load: NodeLoad | None = None
    """Of the machine during that epoch."""
    test: Evaluation | None = None
    attempt_result: AttemptResult | None = None


def run_attempt(
    spec: TrialSpec, send: Callable[[WorkerMessage], None], alive: Callable[[], None] = lambda: None
) -> None:
    """Trains the trial from its last checkpoint; sends each epoch and then the result; calls `alive` with progress.

    SIGTERM, SIGINT and the stop file let it end after the next step, which is why it is to be called from the main
    thread. A failure of training is a result, not an exception: what to do about it depends on its kind and is
    decided from the journal.

    Raises:
        TimeoutError: another attempt of the same trial lives on.
    """
    out = folder_here(spec).trial(spec.trial)
    try:
        out.mkdir(parents=True, exist_ok=True)
        # An attempt of a session that was killed may live on for seconds; two must never write the same checkpoint.
        with exclusive(out / trial_files.LOCK_FILE, LOCK_PATIENCE_S), _logging_to(out / LOG_FILE):
            log.info("attempt %d", spec.attempt)
            run = _train if spec.storage is None else _train_and_send
            result = run(spec, out, send, alive)
            ended = result.reason if result.reason.startswith(result.state) else f"{result.state} {result.reason}"
            log.info("attempt %d %s", spec.attempt, ended)
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        result = _out_of_space(error, out)  # before or after the training: not even a lock or a log fits any more
    send(WorkerMessage(attempt_result=result))


def folder_here(spec: TrialSpec) -> SearchFolder:
    """The search's folder on this machine: the one that all see or, for a storage with a URI, the machine's own.

    Raises:
        SearchError, EnvironmentProblem: the machine cannot have one.
    """
    store = open_store(spec.search.parent if spec.storage is None else spec.storage)
    return SearchFolder(store.path / spec.search.name, store)


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Adds what we and the trainer log to a file."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(with_utc("%(asctime)s %(message)s"))
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


def _train_and_send(
    spec: TrialSpec, out: Path, send: Callable[[WorkerMessage], None], alive: Callable[[], None]
) -> AttemptResult:
    """Trains with what the storage has of the trial, and sends there what comes of it.

    An epoch is told before it is sent; a node that is lost in between costs training it again. `completed` is told
    after everything is sent.
    """
    folder = folder_here(spec)
    upload = folder.store.upload(folder, spec.trial, spec.start)
    assert upload is not None
    try:
        for left_behind in (HANG_FILE, STOP_FILE):
            (out / left_behind).unlink(missing_ok=True)
        folder.store.pull(folder, journal=False)
        damaged = upload.pull()
        if damaged:
            text = f"{spec.storage}: {', '.join(damaged)} of {spec.trial}: damaged; not used"
            log.warning(text)
            (out / ERROR_FILE).write_text(text + "\n", encoding="utf-8")
        write_atomically(out / CONFIG_FILE, spec.config)
    except StorageProblem as error:
        return _failed("error", error, out)
    upload.begin()

    def tell(message: WorkerMessage) -> None:
        send(message)
        upload.changed()

    result = _train(spec, out, tell, alive)
    try:
        with stop_on_signals():  # who sends one kills us soon enough
            upload.finish(SEND_PATIENCE_S if result.state == "completed" else LAST_PATIENCE_S, alive)
    except StorageProblem as error:
        if result.state == "completed":
            return _failed("error", error, out)
        log.warning("%s", error)
    return result


def _train(
    spec: TrialSpec, out: Path, send: Callable[[WorkerMessage], None], alive: Callable[[], None]
) -> AttemptResult:
    import torch

    from trainer import StoppedError

    torch.set_num_threads(spec.threads)
    try:
        config = _config(spec, out, alive)
        with Watchdog(out / HANG_FILE, spec.hang_after, alive) as watch, stop_on_signals() as stop:
            _fit(spec, config, out, send, watch.progress, lambda: stop() or (out / STOP_FILE).exists())
            if spec.tests:
                _test(config, out, send, watch.progress)
        return AttemptResult(state="completed")
    except StoppedError as error:
        return AttemptResult(state="stopped", reason=first_line(error))
    except Exception as error:  # noqa: BLE001  # an unforeseen error ends this trial, and says so, but not the search
        kind = failure_kind(error)
        return _out_of_space(error, out) if kind == "disk_full" else _failed(kind, error, out)


def _fit(
    spec: TrialSpec,
    config: TrialConfig,
    out: Path,
    send: Callable[[WorkerMessage], None],
    progress: Progress,
    stop: Callable[[], bool],
) -> None:
    from trainer import CheckpointError, fit, last_checkpoint

    meter = SystemMeter(out, gpus_of_this_process())

    def report(result: EpochResult) -> None:
        send(WorkerMessage(epoch_result=result, load=meter.epoch(result.time)))

    def measured(what: str, done: int, total: int, note: str = "") -> None:
        meter.step()
        progress(what, done, total, note)

    # Without a validation split there is nothing that the trials of a search would have to share.
    split = None if spec.tests else folder_here(spec).split_of(spec.fold)
    checkpoint = last_checkpoint(out)
    try:
        fit(config, report, checkpoint, out=out, split=split, progress=measured, stop=stop)
    except CheckpointError as error:
        if checkpoint is None:
            raise
        # Damaged on its way to disk: train again from the start rather than lose the trial, and keep the evidence.
        checkpoint.rename(checkpoint.with_suffix(".damaged"))
        (out / ERROR_FILE).write_text(f"{error}\n", encoding="utf-8")
        fit(config, report, None, out=out, split=split, progress=measured, stop=stop)
    finally:
        # The trainer notes where the data are on this node, which is no part of the trial.
        file = out / CONFIG_FILE
        if not file.is_file() or file.read_text(encoding="utf-8") != spec.config:
            write_atomically(file, spec.config)


def _test(config: TrialConfig, out: Path, send: Callable[[WorkerMessage], None], progress: Progress) -> None:
    """Judges the trained network on the test set, unless an earlier attempt has."""
    from trainer import evaluate_on_test_set

    found = evaluate_on_test_set(
        config, out / BEST_CHECKPOINT, out / TEST_FOLDER, progress=progress, record=_recorded_before
    )
    send(WorkerMessage(test=found))


def _recorded_before(weights: Path, use: str) -> None:
    """Does nothing: the journal holds the finalization that asks for this."""


def _config(spec: TrialSpec, out: Path, alive: Callable[[], None]) -> TrialConfig:
    """The trial's configuration, with the data set where this node has it."""
    from trainer import TrialConfig

    config = TrialConfig.model_validate_json(spec.config)
    root = data_here(spec.data, config.data.root, out.parents[2], alive)
    if root == config.data.root:
        return config
    log.info("the data set is read from %s", root)
    return config.model_copy(update={"data": config.data.model_copy(update={"root": root})})


def _failed(failure: FailureKind, error: BaseException, out: Path) -> AttemptResult:
    try:
        (out / ERROR_FILE).write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    except OSError as refused:
        # What failed is told all the same; only the evidence is lost.
        log.warning("%s: cannot be written (%s)", out / ERROR_FILE, refused.strerror)
    return AttemptResult(state="failed", failure=failure, reason=f"{type(error).__name__}: {first_line(error)}")


def _out_of_space(error: Exception, out: Path) -> AttemptResult:
    assert isinstance(error, OSError)
    where = error.filename or out
    return _failed("disk_full", error, out).model_copy(update={"reason": f"{where}: {error.strerror}"})


def attempt_environment(threads: int, gpus: float | None) -> dict[str, str]:
    """Environment in which numeric libraries use no more threads, and no GPU where none, was given to an attempt.

    Of GPUs that were given, Ray has set which are seen; None leaves it at that.
    """
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if gpus == 0 else {}
    return {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), **hidden}
