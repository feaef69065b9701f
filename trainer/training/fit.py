"""Training, read top to bottom: set up, then for every epoch train, evaluate, save, report."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from trainer.automatic import resolved, this_machine
from trainer.checkpoint import CheckpointWriter
from trainer.compute import float32_products, require_precision, synchronize, tried_convolutions
from trainer.config import TrialConfig
from trainer.data.frames import DamagedFrames
from trainer.data.kept import training_data
from trainer.data.splits import TrainingData
from trainer.errors import StoppedError
from trainer.evaluation.evaluate import (
    EvaluationResult,
    evaluate,
    evaluate_network,
    trained_network,
    with_reranking,
    with_verification,
)
from trainer.evaluation.folder import FOLDER, write_evaluation
from trainer.files import write_atomically
from trainer.formatting import counted
from trainer.input.loader import FrameWait, TrainingClips, training_loader
from trainer.input.sampler import IdentityBatches
from trainer.result import (
    DataRecord,
    EpochResult,
    Evaluation,
    Progress,
    Report,
    append_result,
    ignore_report,
    kept_epoch,
    no_progress,
    write_results,
)
from trainer.training.diagnostics import log_diagnostics
from trainer.training.interruption import Stop, never
from trainer.training.learner import Learner, in_groups
from trainer.training.meters import EpochMeters
from trainer.training.saver import Saver
from trainer.training.schedule import learning_rate
from trainer.training.state import BEST_CHECKPOINT, TrainingState, read_state

log = logging.getLogger(__name__)

RESULTS_FILE = "results.jsonl"
SPLIT_FILE = "split.json"


class FitResult(NamedTuple):
    """What a training leaves behind that came to its end, or to the epoch that it was to train to."""

    history: tuple[EpochResult, ...]
    best: EpochResult
    """See `trainer.result.kept_epoch`; the last epoch if none was evaluated."""


def fit(
    config: TrialConfig,
    report: Report = ignore_report,
    resume_from: Path | None = None,
    *,
    out: Path,
    split: Path | None = None,
    until: int | None = None,
    device: torch.device | str | None = None,
    progress: Progress = no_progress,
    stop: Stop = never,
) -> FitResult:
    """Trains one network and leaves `results.jsonl`, `config.json` and `checkpoint/{last,best}.pt` in `out`.

    `evaluation/` in `out` is what `trainer.evaluation.folder` writes for the network in `best.pt` on the validation
    split; it is complete before the last epoch is reported.

    Settings that say `auto` are resolved for this machine first (`trainer.automatic`), and `config.json` and the
    checkpoints hold what they became; a resume goes on with what its checkpoint holds.

    A run resumed from `last.pt` continues with bit-identical losses and metrics on the same CPU and number of threads.
    Checkpoints are written while training goes on, and an epoch is reported when its own is on disk, as a rule after
    some steps of the next one; the last epoch of a run is on disk before the run goes on. So nothing that was reported
    is trained twice. Where `checkpoint.every` is N epochs up to N - 1 of them are reported before they are saved; those
    that a crash took from the checkpoint are trained and reported again.

    With `until` it ends early, in order: resumed from its `last.pt`, here or on another machine, it continues as if it
    had never ended.

    Args:
        config: the trial.
        report: called with every epoch's result; after a resume with the finished ones again, some of which may not
            have been reported.
        resume_from: a `last.pt`; None starts from the beginning.
        out: folder of the run, made if missing.
        split: validation split that a search shares among its trials; None cuts one and saves it in `out`.
        until: epochs after which to end, at least 1, with the state in `last.pt`; None, or the epochs of the
            configuration and more, trains to the end. A run that has as many trains nothing.
        device: where to train; None takes the GPU if there is one.
        progress: called after every step.
        stop: called after every step; see `Stop`.

    Raises:
        ConfigError: a setting that the data or the machine cannot follow.
        DataError: data that is missing, damaged or too small.
        CheckpointError: `resume_from` is damaged or belongs to another configuration.
        DivergedError: a loss became NaN or infinite.
        StoppedError: `stop` said so; `last.pt` holds the state after the last step, in the middle of an epoch too,
            unless a signal cut that step short.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    saved = None if resume_from is None else read_state(resume_from)
    config = resolved(config, this_machine(device), recorded=None if saved is None else saved["config"])
    require_precision(config.compute, device)
    out.mkdir(parents=True, exist_ok=True)
    validation = split or out / SPLIT_FILE
    data, source = training_data(config.data, validation, make=split is None)

    def record(result: EpochResult) -> None:
        append_result(out / RESULTS_FILE, result)
        report(result)

    with (
        float32_products(config.compute, device),
        tried_convolutions(device),
        _cut_short(stop),
        CheckpointWriter(device) as writer,
    ):
        run = _Run(config, data, source, device, out, writer, record, resume_from, saved)
        del saved  # as large as the training
        history = run.state.history
        if resume_from is not None:
            log.info("continued after epoch %d", len(history))
        if run.is_done:
            run.leave_evaluation(validation, progress, stop)
        write_results(out / RESULTS_FILE, history)
        for result in history:
            report(result)
        run.train(min(until or config.optim.epochs, config.optim.epochs), validation, progress, stop)
    return FitResult(tuple(history), kept_epoch(history) or history[-1])


@contextmanager
def _cut_short(stop: Stop) -> Iterator[None]:
    """A loader's worker that dies of a signal to all of us raises wherever the training happens to be.

    In the middle of a step there is no state to save: what was saved before is resumed, and is exact.
    """
    try:
        yield
    except RuntimeError as error:
        if not stop():
            raise
        raise StoppedError("stopped in the middle of a step; --resume continues from the last checkpoint") from error


class _Run:
    """One training in a folder: its data, its state, and the evaluation of its best network."""

    def __init__(
        self,
        config: TrialConfig,
        data: TrainingData,
        source: DataRecord,
        device: torch.device,
        out: Path,
        writer: CheckpointWriter,
        report: Report,
        resume_from: Path | None,
        saved: Mapping[str, Any] | None,
    ) -> None:
        self.config, self.data, self.out, self.device = config, data, out, device
        self.batches = IdentityBatches(data.labels, config.clips, config.seed)
        clips = TrainingClips(data.train, data.labels, config.clips, size=config.input_size, seed=config.seed)
        self.loader = training_loader(clips, self.batches, workers=config.clips.worker_count, device=device)
        learner = Learner(config, data.num_classes, device, own_weights=resume_from is None)
        held_out = {tracklet.identity for tracklet in (*data.query, *data.gallery)}
        self.state = TrainingState(config, source, held_out, learner, DamagedFrames(data.frames))
        self._latest: EvaluationResult | None = None
        """The latest evaluation."""
        self._best: EvaluationResult | None = None
        """That of the network in `best.pt`; None where an earlier process made it."""
        if resume_from is not None and saved is not None:
            self.state.restore(resume_from, saved)
        self.saver = Saver(config.checkpoint, writer, self.state, out, report)
        write_atomically(out / "config.json", config.model_dump_json(indent=2) + "\n")
        self._is_compiled = learner.compile()

    @property
    def is_done(self) -> bool:
        """Whether the last epoch is trained and saved."""
        return len(self.state.history) == self.config.optim.epochs

    def conditions(self) -> str:
        """What decides the speed of the training, for people."""
        compute, workers = self.config.compute, self.config.clips.worker_count
        return ", ".join(
            (
                torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU",
                f"{compute.precision}{' and TF32' * (self.device.type == 'cuda' and compute.tf32 is True)}",
                "channels last" if compute.channels_last else "channels first",
                f"{counted(workers, 'process decodes', 'processes decode')} frames",
                "compiled" if self._is_compiled else "not compiled",
            )
        )

    def train(self, end: int, split: Path, progress: Progress, stop: Stop) -> None:
        """Trains to the end of so many epochs; each is evaluated, saved and reported."""
        history = self.state.history
        started = len(history)
        try:
            for epoch in range(started, end):
                result = self.epoch_result(epoch, progress, stop)
                self.save_epoch(result, ends=epoch + 1 == end)
                if self.is_done:
                    self.leave_evaluation(split, progress, stop)
                if epoch == started:
                    log.info("%s: %.0f images/s", self.conditions(), result.images_per_second)
                log_diagnostics(history, self.config)
                self.saver.report(result)
        except Exception:
            self.saver.end()
            raise

    def epoch_result(self, epoch: int, progress: Progress, stop: Stop) -> EpochResult:
        """Trains for an epoch, counted from 0, evaluates where one is due, and returns the result."""
        meters = self.train_epoch(epoch, progress, stop)
        losses = meters.losses(epoch)
        trained = time.monotonic()
        last = epoch + 1 == self.config.optim.epochs
        due = bool(self.data.query) and (last or (epoch + 1) % self.config.evaluation.every == 0)
        validation = self.evaluate(progress, stop, last=last) if due else None
        evaluated = time.monotonic() - trained
        return EpochResult(
            epoch=epoch + 1,
            losses=losses,
            learning_rate=learning_rate(self.config.optim, epoch),
            validation=validation,
            images_per_second=meters.images / meters.seconds,
            data_wait_share=meters.waited / meters.seconds,
            attention=meters.attention(),
            seconds=meters.seconds + evaluated,
            evaluation_seconds=evaluated if due else 0.0,
            damaged_frames=self.state.damage.count,
            precision=str(self.config.compute.precision),
            time=time.time(),
        )

    def train_epoch(self, epoch: int, progress: Progress, stop: Stop) -> EpochMeters:
        """Learns from the rest of the epoch and returns the meters of all of it."""
        meters, learner = self.state.meters, self.state.learner
        attention = self.config.model.pooling == "attention" and self.config.clips.frames > 1
        self.batches.epoch, self.batches.first_step = epoch, meters.batches
        learner.begin_epoch(epoch)
        groups = iter(in_groups(self.loader, self.config.optim.accumulate))
        before, started = meters.seconds, time.monotonic()
        frames = FrameWait(self.device)
        while meters.batches < len(self.batches):
            frames.ask()
            with self._stopped_workers(stop):
                group = next(groups)
            meters.waited += frames.came()
            self.state.damage.add(name for batch in group for name in batch.damaged)
            learner.begin_step(epoch, meters.batches / len(self.batches))
            learner.step(group, lambda batch, output, terms: meters.add(batch, output, terms, attention=attention))
            meters.seconds = before + time.monotonic() - started
            progress(f"epoch {epoch + 1}", meters.batches, len(self.batches), _speed(meters))
            self._after_step(stop)
        # A GPU is steps behind the host; reading the losses would wait for it with the clock stopped.
        synchronize(self.device)
        meters.waited += frames.known()
        meters.seconds = before + time.monotonic() - started
        return meters

    def evaluate(self, progress: Progress, stop: Stop, *, last: bool) -> Evaluation:
        """Metrics on the validation split, after the last epoch with those after re-ranking."""
        with self._stopped_workers(stop):
            self._latest = evaluate_network(
                self.state.learner.evaluated,
                self.data.query,
                self.data.gallery,
                self.config,
                reranking=last and self.config.evaluation.reranking,
                damage=self.state.damage,
                progress=self._stoppable(progress, stop),
            )
        return self._latest.evaluation

    def save_epoch(self, result: EpochResult, *, ends: bool) -> None:
        """Adds the epoch to the history and saves what is due; where the run `ends`, both checkpoints are on disk."""
        history = self.state.history
        history.append(result)
        self.state.meters = EpochMeters()
        kept = kept_epoch(history)
        # As long as none was evaluated the first network is kept, and in the end the last one.
        is_best = kept is result if kept is not None else len(history) == 1 or self.is_done
        if is_best:
            self._best = self._latest
        self.saver.after_epoch(best=is_best, last=ends)

    def leave_evaluation(self, split: Path, progress: Progress, stop: Stop) -> None:
        """Writes `evaluation/`, where there is a validation split; what goes wrong there costs no trained network."""
        if not self.config.evaluation.folder or not self.data.query:
            return
        try:
            with self._stopped_workers(stop):
                result = self._best_result(split, self._stoppable(progress, stop))
                # Without the seconds, which would differ, the files are the same after a resume.
                timeless = result._replace(seconds={})
                images = self.config.evaluation.images
                write_evaluation(self.out / FOLDER, timeless, "validation", images=images, probes=True)
        except StoppedError:
            raise
        except Exception:
            log.exception("%s: not written; `evaluate` makes it from best.pt", self.out / FOLDER)

    def _best_result(self, split: Path, progress: Progress) -> EvaluationResult:
        """The evaluation of the network in `best.pt`, made again where an earlier process made it."""
        best = self.out / BEST_CHECKPOINT
        if self._best is None:
            return evaluate(self.config, best, part="validation", split=split, device=self.device, progress=progress)
        result = with_reranking(self._best) if self.config.evaluation.reranking else self._best
        return with_verification(result._replace(model=trained_network(self.config.model, best).to(self.device)))

    def _stoppable(self, progress: Progress, stop: Stop) -> Progress:
        def each_batch(what: str, done: int, total: int, note: str = "") -> None:
            progress(what, done, total, note)
            self._after_step(stop)

        return each_batch

    @contextmanager
    def _stopped_workers(self, stop: Stop) -> Iterator[None]:
        """A signal that asks us to stop may go to the loader's workers too, and they die of it at once."""
        try:
            yield
        except RuntimeError:
            self._stop_if(stop)
            raise

    def _after_step(self, stop: Stop) -> None:
        self.saver.after_step()
        self._stop_if(stop)

    def _stop_if(self, stop: Stop) -> None:
        if stop():
            self.saver.save()
            done = f"{len(self.state.history)} epochs and {self.state.meters.batches} of {len(self.batches)} batches"
            raise StoppedError(f"stopped after {done}; --resume continues from there")


def _speed(meters: EpochMeters) -> str:
    rate, waiting = meters.images / meters.seconds, meters.waited / meters.seconds
    return f"{rate:.0f} images/s, {100 * waiting:.0f} % waiting for frames"
