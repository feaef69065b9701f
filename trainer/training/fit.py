"""Training, read top to bottom: set up, then for every epoch train, evaluate, save, report."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from trainer.checkpoint import load_checkpoint, save_checkpoint
from trainer.compute import float32_products, require_precision, synchronize
from trainer.config import TrialConfig
from trainer.data import training_data
from trainer.data.frames import DamagedFrames
from trainer.data.splits import TrainingData
from trainer.errors import CheckpointError, StoppedError
from trainer.evaluation.best_checkpoint_metrics import leave_evaluation
from trainer.evaluation.folder import FOLDER
from trainer.evaluation.ranking import RankedTracklets, rank_tracklets
from trainer.files import write_atomically
from trainer.input.loader import FrameWait, TrainingClips, training_loader
from trainer.input.sampler import IdentityBatches
from trainer.result import (
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
from trainer.settings import differing_settings
from trainer.training.diagnostics import remark
from trainer.training.learner import Learner, in_groups
from trainer.training.meters import EpochMeters
from trainer.training.schedule import learning_rate

log = logging.getLogger(__name__)

LAST_CHECKPOINT = Path("checkpoint/last.pt")
BEST_CHECKPOINT = Path("checkpoint/best.pt")
RESULTS_FILE = "results.jsonl"
SPLIT_FILE = "split.json"

Stop = Callable[[], bool]
"""Asked after every step and every batch that is evaluated; True ends the training with its state saved."""


def never() -> bool:
    """The answer of one who does not stop a training."""
    return False


def last_checkpoint(out: Path) -> Path | None:
    """The checkpoint from which a run in `out` resumes, if it got that far."""
    path = out / LAST_CHECKPOINT
    return path if path.is_file() else None


class FitResult(NamedTuple):
    """What a finished training leaves behind."""

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
    device: torch.device | str | None = None,
    progress: Progress = no_progress,
    stop: Stop = never,
) -> FitResult:
    """Trains one network and leaves `results.jsonl`, `config.json` and `checkpoint/{last,best}.pt` in `out`.

    Beside them stands `evaluation/`, what `trainer.evaluation.folder` writes for the network in `best.pt` on the
    validation split, before the last epoch is reported, so that whoever hears of that finds it.

    A run resumed from `last.pt` continues with bit-identical losses and figures on the same CPU and number of threads.
    With `checkpoint.every` 1 that of an epoch is on disk before the epoch is reported, so nothing that was reported is
    trained twice; otherwise epochs that a crash took from the checkpoint are trained and reported again.

    Args:
        config: the trial.
        report: hears every epoch; after a resume it hears the finished ones again, some of which it may have missed.
        resume_from: a `last.pt`; None starts from the beginning.
        out: folder of the run, made if missing.
        split: validation split that a search shares among its trials; None cuts one and saves it in `out`.
        device: where to train; None takes the GPU if there is one.
        progress: told after every step.
        stop: asked after every step; see `Stop`.

    Raises:
        ConfigError: a setting that the data or the machine cannot follow.
        DataError: data that is missing, damaged or too small.
        CheckpointError: `resume_from` is damaged or belongs to another configuration.
        DivergedError: a loss became NaN or infinite.
        StoppedError: `stop` said so; `last.pt` holds the state after the last step, in the middle of an epoch too,
            unless a signal cut that step short.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    require_precision(config.compute, device)
    out.mkdir(parents=True, exist_ok=True)
    data = training_data(config.data, split or out / SPLIT_FILE, make=split is None)
    with float32_products(config.compute, device), _cut_short(stop):
        run = _Run(config, data, device, out, resume_from)
        if run.is_done:
            run.leave_evaluation(split or out / SPLIT_FILE, progress, stop)
        write_results(out / RESULTS_FILE, run.history)
        for result in run.history:
            report(result)
        for epoch in range(len(run.history), config.optim.epochs):
            result = run.epoch_result(epoch, progress, stop)
            run.save_epoch(result)
            if run.is_done:
                run.leave_evaluation(split or out / SPLIT_FILE, progress, stop)
            append_result(out / RESULTS_FILE, result)
            remark(run.history, config)
            report(result)
    return FitResult(tuple(run.history), kept_epoch(run.history) or run.history[-1])


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
    """One training in a folder: what is learned from, what learns, and what is known so far."""

    def __init__(
        self, config: TrialConfig, data: TrainingData, device: torch.device, out: Path, resume_from: Path | None
    ) -> None:
        self.config, self.data, self.out = config, data, out
        self.size = (config.model.height, config.model.width)
        self.history: list[EpochResult] = []
        self.tally = EpochMeters()
        """Of the epoch that is under way."""
        self._ranked: RankedTracklets | None = None
        """What the latest evaluation found."""
        self._best: RankedTracklets | None = None
        """What that of the network in `best.pt` found; None where an earlier process made it."""
        self.damage = DamagedFrames(data.frames)
        self.batches = IdentityBatches(data.labels, config.clips, config.seed)
        clips = TrainingClips(data.train, data.labels, config.clips, size=self.size, seed=config.seed)
        self.loader = training_loader(clips, self.batches, workers=config.clips.workers, device=device)
        self.learner = Learner(config, data.num_classes, device, own_weights=resume_from is None)
        if resume_from is None:
            write_atomically(out / "config.json", config.model_dump_json(indent=2) + "\n")
        else:
            self._restore(resume_from)
        self.learner.compile()

    @property
    def is_done(self) -> bool:
        """Whether the last epoch is trained and saved."""
        return len(self.history) == self.config.optim.epochs

    def epoch_result(self, epoch: int, progress: Progress, stop: Stop) -> EpochResult:
        """Trains for an epoch, counted from 0, evaluates where one is due, and returns the figures."""
        tally = self.train_epoch(epoch, progress, stop)
        losses = tally.losses(epoch)
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
            images_per_second=tally.images / tally.seconds,
            data_wait_share=tally.waited / tally.seconds,
            attention=tally.attention(),
            seconds=tally.seconds + evaluated,
            evaluation_seconds=evaluated if due else 0.0,
            damaged_frames=self.damage.count,
            time=time.time(),
        )

    def train_epoch(self, epoch: int, progress: Progress, stop: Stop) -> EpochMeters:
        """Learns from the rest of the epoch and returns the tally of all of it."""
        tally, clips = self.tally, self.config.clips
        attention = self.config.model.pooling == "attention" and clips.frames > 1
        self.batches.epoch, self.batches.first_step = epoch, tally.batches
        self.learner.begin_epoch(epoch)
        groups = iter(in_groups(self.loader, self.config.optim.accumulate))
        before, started = tally.seconds, time.monotonic()
        frames = FrameWait(self.learner.device)
        while tally.batches < len(self.batches):
            frames.ask()
            with self._stopped_workers(stop):
                group = next(groups)
            tally.waited += frames.came()
            self.damage.add(name for batch in group for name in batch.damaged)
            self.learner.step(group, lambda batch, output, terms: tally.add(batch, output, terms, attention=attention))
            tally.seconds = before + time.monotonic() - started
            progress(f"epoch {epoch + 1}", tally.batches, len(self.batches), _speed(tally))
            self._stop_if(stop)
        # A GPU is steps behind the host; whoever reads the losses would wait for it, with the clock stopped.
        synchronize(self.learner.device)
        tally.waited += frames.known()
        tally.seconds = before + time.monotonic() - started
        return tally

    def evaluate(self, progress: Progress, stop: Stop, *, last: bool) -> Evaluation:
        """Figures on the validation split, after the last epoch with those of a re-ranking."""
        with self._stopped_workers(stop):
            self._ranked = rank_tracklets(
                self.learner.evaluated,
                self.data.query,
                self.data.gallery,
                self.config,
                rerank=last and self.config.evaluation.reranking,
                damage=self.damage,
                progress=self._stoppable(progress, stop),
            )
        return self._ranked.evaluation

    def leave_evaluation(self, split: Path, progress: Progress, stop: Stop) -> None:
        """Leaves `evaluation/`, where there is a validation split; what goes wrong there costs no trained network."""
        if not self.config.evaluation.folder or not self.data.query:
            return
        try:
            with self._stopped_workers(stop):
                leave_evaluation(
                    self.out,
                    self.config,
                    self.out / BEST_CHECKPOINT,
                    split,
                    self._best,
                    device=self.learner.device,
                    progress=self._stoppable(progress, stop),
                )
        except StoppedError:
            raise
        except Exception:
            log.exception("%s: not written; `evaluate` makes it from best.pt", self.out / FOLDER)

    def _stoppable(self, progress: Progress, stop: Stop) -> Progress:
        def each_batch(what: str, done: int, total: int, note: str = "") -> None:
            progress(what, done, total, note)
            self._stop_if(stop)

        return each_batch

    def save_epoch(self, result: EpochResult) -> None:
        """Adds the epoch to the history; writes `best.pt`, all that an evaluation needs, if it is the best, and
        `last.pt` where `checkpoint.every` says so.

        `last.pt` follows every `best.pt`: epochs that are trained again then never put a lesser network in its place.
        """
        self.history.append(result)
        self.tally = EpochMeters()
        done = len(self.history)
        kept = kept_epoch(self.history)
        # As long as none was evaluated the first network is kept, and in the end the last one.
        is_best = kept is result if kept is not None else done in (1, self.config.optim.epochs)
        if is_best:
            save_checkpoint(self.out / BEST_CHECKPOINT, self._weights())
            self._best = self._ranked
        if is_best or done % self.config.checkpoint.every == 0 or done == self.config.optim.epochs:
            self._save_last()

    @contextmanager
    def _stopped_workers(self, stop: Stop) -> Iterator[None]:
        """A signal that asks us to stop may go to the loader's workers too, and they die of it at once."""
        try:
            yield
        except RuntimeError:
            self._stop_if(stop)
            raise

    def _stop_if(self, stop: Stop) -> None:
        if stop():
            self._save_last()
            done = f"{len(self.history)} epochs and {self.tally.batches} of {len(self.batches)} batches"
            raise StoppedError(f"stopped after {done}; --resume continues from there")

    def _weights(self) -> dict[str, object]:
        return {
            "config": self.config.model_dump(mode="json"),
            "epoch": len(self.history),
            "model": self.learner.weights(),
        }

    def _save_last(self) -> None:
        """Writes `last.pt`, all that a resume needs; randomness needs nothing, it derives from (seed, purpose)."""
        state = {
            "learner": self.learner.state(),
            "tally": self.tally.state(),
            "damaged": self.damage.state(),
            "history": [result.model_dump(mode="json") for result in self.history],
        }
        save_checkpoint(self.out / LAST_CHECKPOINT, self._weights() | state)

    def _restore(self, path: Path) -> None:
        state = load_checkpoint(path)
        if "learner" not in state:
            raise CheckpointError(f"{path}: holds weights only; training resumes from a last.pt")
        differing = differing_settings(self.config.model_dump(mode="json"), state["config"])
        if differing:
            raise CheckpointError(
                f"{path}: was trained with other settings ({', '.join(differing)}); start a new run in another folder"
            )
        self.learner.restore(state["learner"])
        self.tally = EpochMeters.restored(state["tally"], self.learner.device)
        self.damage.add(state["damaged"])
        self.history = [EpochResult.model_validate(result) for result in state["history"]]


def _speed(tally: EpochMeters) -> str:
    rate, waiting = tally.images / tally.seconds, tally.waited / tally.seconds
    return f"{rate:.0f} images/s, {100 * waiting:.0f} % waiting for frames"
