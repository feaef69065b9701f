"""One attempt of one trial: trains it, reports each epoch and, at the end, the result."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.base.formatting import with_utc
from orchestrator.base.process import exclusive
from orchestrator.runner.failure_kind import failure_kind
from orchestrator.runner.system_metrics import SystemMeter, gpus_of_this_process
from orchestrator.runner.trial_spec import (
    BEST_CHECKPOINT,
    CONFIG_FILE,
    ERROR_FILE,
    HANG_FILE,
    LOG_FILE,
    STOP_FILE,
    TEST_FOLDER,
    AttemptResult,
    TrialSpec,
    WorkerMessage,
    folder_here,
    shares_gpu,
)
from orchestrator.runner.watchdog import Watchdog
from orchestrator.stores import trial_files
from orchestrator.stores.base import StorageProblem
from orchestrator.stores.staging import data_here
from orchestrator.study.events import FailureKind
from orchestrator.study.journal import NO_SPACE
from trainer.files import write_atomically
from trainer.formatting import first_line
from trainer.result import EpochResult
from trainer.training.interruption import stop_on_signals

if TYPE_CHECKING:
    from trainer import TrialConfig
    from trainer.result import Progress

log = logging.getLogger(__name__)

LOCK_PATIENCE_S = 120.0  # for an earlier attempt of the same trial to end
# For the upload of the trial's files: after the whole training, and of an attempt that is about to be killed.
UPLOAD_PATIENCE_S = 900.0
LAST_UPLOAD_PATIENCE_S = 8.0
# Results of attempts that did what they were to do; what they leave must be there for the next one.
IN_ORDER = ("completed", "paused")


def run_attempt(
    spec: TrialSpec, send: Callable[[WorkerMessage], None], alive: Callable[[], None] = lambda: None
) -> None:
    """Trains the trial from its last checkpoint; sends each epoch and then the result; calls `alive` with progress.

    SIGTERM, SIGINT and the stop file end it after the next step, so it must be called from the main thread. A failure
    of training is a result, not an exception: what follows depends on its kind and is decided from the journal.

    Raises:
        TimeoutError: another attempt of the same trial is still running.
    """
    attempt = _Attempt(spec, send, alive)
    out = attempt.out
    try:
        out.mkdir(parents=True, exist_ok=True)
        # An attempt of a session that was killed may live on for seconds; two must never write the same checkpoint.
        with exclusive(out / trial_files.LOCK_FILE, LOCK_PATIENCE_S), logging_to(out / LOG_FILE):
            log.info("attempt %d%s", spec.attempt, _where(spec))
            result = attempt.train() if spec.storage is None else attempt.train_and_upload()
            ended = result.reason if result.reason.startswith(result.state) else f"{result.state} {result.reason}"
            log.info("attempt %d %s", spec.attempt, ended)
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        result = attempt.disk_full(error)  # before or after the training: not even a lock or a log fits any more
    send(WorkerMessage(attempt_result=result))


def _where(spec: TrialSpec) -> str:
    """The GPU of the attempt, by the number or the name that CUDA knows it by."""
    return f" on GPU {os.environ.get('CUDA_VISIBLE_DEVICES', '0')}, {spec.gpus:g} of it" if spec.gpus else ""


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Appends what the trainer and the orchestrator log to a file."""
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


class _Attempt:
    """An attempt under way: its spec, its folder on this machine, and where it reports."""

    def __init__(self, spec: TrialSpec, send: Callable[[WorkerMessage], None], alive: Callable[[], None]) -> None:
        self._spec = spec
        self._send = send
        self._alive = alive
        self.out = folder_here(spec).trial(spec.trial)

    def train_and_upload(self) -> AttemptResult:
        """Trains from what the storage has of the trial, and uploads the trial's files to it.

        An epoch is sent before it is uploaded; a node that is lost in between costs training it again. The result is
        `completed` or `paused` only after everything is uploaded.
        """
        spec, folder = self._spec, folder_here(self._spec)
        upload = folder.store.upload(folder, spec.trial, spec.start)
        assert upload is not None
        try:
            for earlier in (HANG_FILE, STOP_FILE):
                (self.out / earlier).unlink(missing_ok=True)
            folder.store.pull(folder, journal=False)
            damaged = upload.pull()
            if damaged:
                text = f"{spec.storage}: {', '.join(damaged)} of {spec.trial}: damaged; not used"
                log.warning(text)
                (self.out / ERROR_FILE).write_text(text + "\n", encoding="utf-8")
            write_atomically(self.out / CONFIG_FILE, spec.config)
        except StorageProblem as error:
            return self._failed("error", error)
        upload.begin()
        result = self.train(upload.changed)
        try:
            with stop_on_signals():  # the sender of a signal kills this process soon enough
                patience = UPLOAD_PATIENCE_S if result.state in IN_ORDER else LAST_UPLOAD_PATIENCE_S
                upload.finish(patience, self._alive)
        except StorageProblem as error:
            if result.state in IN_ORDER:
                return self._failed("error", error)
            log.warning("%s", error)
        return result

    def train(self, sent: Callable[[], None] = lambda: None) -> AttemptResult:
        """Trains the trial and, for a finalization, evaluates it on the test set.

        Args:
            sent: called after each message.
        """
        import torch

        from trainer import StoppedError, limit_gpu_memory

        torch.set_num_threads(self._spec.threads)

        def send(message: WorkerMessage) -> None:
            self._send(message)
            sent()

        try:
            if shares_gpu(self._spec.gpus):
                limit_gpu_memory(self._spec.gpus)
            config = self._config()
            with (
                Watchdog(self.out / HANG_FILE, self._spec.hang_after, self._alive) as watchdog,
                stop_on_signals() as stop,
            ):
                is_done = self._fit(config, send, watchdog.progress, lambda: stop() or (self.out / STOP_FILE).exists())
                if not is_done:
                    return AttemptResult(state="paused")
                if self._spec.tests:
                    self._test(config, send, watchdog.progress)
            return AttemptResult(state="completed")
        except StoppedError as error:
            return AttemptResult(state="stopped", reason=first_line(error))
        except Exception as error:  # noqa: BLE001  # an unforeseen error ends this trial, with its reason, not the search
            kind = failure_kind(error)
            return self.disk_full(error) if kind == "disk_full" else self._failed(kind, error)

    def disk_full(self, error: Exception) -> AttemptResult:
        """The result of an attempt that found no space on its disk; names the file."""
        assert isinstance(error, OSError)
        reason = f"{error.filename or self.out}: {error.strerror}"
        return self._failed("disk_full", error).model_copy(update={"reason": reason})

    def _fit(
        self, config: TrialConfig, send: Callable[[WorkerMessage], None], progress: Progress, stop: Callable[[], bool]
    ) -> bool:
        """Trains to the end, or until the trial pauses; whether it was to the end."""
        from trainer import CheckpointError, fit, last_checkpoint

        meter = SystemMeter(self.out, gpus_of_this_process())

        def report(result: EpochResult) -> None:
            send(WorkerMessage(epoch_result=result, load=meter.epoch(result.time)))

        def measured(what: str, done: int, total: int, note: str = "") -> None:
            meter.step()
            progress(what, done, total, note)

        # Without a validation split there is nothing that the trials of a search would have to share.
        split = None if self._spec.tests else folder_here(self._spec).split_of(self._spec.fold)
        checkpoint, until = last_checkpoint(self.out), self._spec.until
        try:
            done = fit(config, report, checkpoint, out=self.out, split=split, until=until, progress=measured, stop=stop)
        except CheckpointError as error:
            if checkpoint is None:
                raise
            # Damaged on its way to disk: train again from the start rather than lose the trial, and keep the evidence.
            checkpoint.rename(checkpoint.with_suffix(".damaged"))
            (self.out / ERROR_FILE).write_text(f"{error}\n", encoding="utf-8")
            done = fit(config, report, None, out=self.out, split=split, until=until, progress=measured, stop=stop)
        finally:
            self._leave_config()
        return len(done.history) == config.optim.epochs

    def _leave_config(self) -> None:
        """Leaves in config.json what the trainer wrote, with what `auto` became; where this node has the data set is no
        part of the trial."""
        from trainer import TrialConfig

        file = self.out / CONFIG_FILE
        given = TrialConfig.model_validate_json(self._spec.config)
        try:
            written = TrialConfig.model_validate_json(file.read_bytes())
        except (OSError, ValueError):
            written = given
        config = written.model_copy(update={"data": given.data})
        write_atomically(file, self._spec.config if config == given else config.model_dump_json(indent=2) + "\n")

    def _test(self, config: TrialConfig, send: Callable[[WorkerMessage], None], progress: Progress) -> None:
        """Evaluates the trained network on the test set, unless an earlier attempt has.

        That the test set is used is recorded already: the journal holds the finalization that asks for this.
        """
        from trainer import evaluate_on_test_set
        from trainer.data import find_data_set

        if not find_data_set(config.data.name).tested:  # `finalize --data` judges it on another data set
            return
        weights, folder = self.out / BEST_CHECKPOINT, self.out / TEST_FOLDER
        found = evaluate_on_test_set(config, weights, folder, progress=progress, record=lambda *use: None)
        send(WorkerMessage(test=found))

    def _config(self) -> TrialConfig:
        """The trial's configuration, with the data set where this node has it."""
        from trainer import TrialConfig

        config = TrialConfig.model_validate_json(self._spec.config)
        root = data_here(self._spec.data, config.data.root, self.out.parents[2], self._alive)
        if root == config.data.root:
            return config
        log.info("the data set is read from %s", root)
        return config.model_copy(update={"data": config.data.model_copy(update={"root": root})})

    def _failed(self, failure: FailureKind, error: BaseException) -> AttemptResult:
        try:
            (self.out / ERROR_FILE).write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        except OSError as refused:
            # The failure is reported all the same; only its traceback is lost.
            log.warning("%s: cannot be written (%s)", self.out / ERROR_FILE, refused.strerror)
        return AttemptResult(state="failed", failure=failure, reason=f"{type(error).__name__}: {first_line(error)}")
