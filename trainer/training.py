"""Training, read top to bottom: set up, then for every epoch train, evaluate, save, report.

B clips, T frames, H height, W width, C persons.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from trainer.atomic import write_atomically
from trainer.augment import normalised
from trainer.batches import Batch, IdentityBatches, TrainingClips, training_loader
from trainer.checkpoint import load_checkpoint, save_checkpoint
from trainer.config import TrialConfig
from trainer.errors import CheckpointError, DivergedError
from trainer.evaluation import Progress, no_progress, rank_tracklets
from trainer.losses import ReidLoss
from trainer.model import TemporalAttentionResNet
from trainer.result import EpochResult, Report, append_result, ignore_report, write_results
from trainer.schedule import learning_rate, make_optimizer
from trainer.seeds import derived_seed
from trainer.training_data import TrainingData, training_data

LAST_CHECKPOINT = Path("checkpoint/last.pt")
BEST_CHECKPOINT = Path("checkpoint/best.pt")
RESULTS_FILE = "results.jsonl"
SPLIT_FILE = "split.json"


def last_checkpoint(out: Path) -> Path | None:
    """The checkpoint from which a run in `out` resumes, if it got that far."""
    path = out / LAST_CHECKPOINT
    return path if path.is_file() else None


class FitResult(NamedTuple):
    """What a finished training leaves behind."""

    history: tuple[EpochResult, ...]
    best: EpochResult
    """The evaluated epoch with the highest validation mAP, the earliest of equals."""


def fit(
    config: TrialConfig,
    report: Report = ignore_report,
    resume_from: Path | None = None,
    *,
    out: Path,
    split: Path | None = None,
    device: torch.device | str | None = None,
    progress: Progress = no_progress,
) -> FitResult:
    """Trains one network and leaves `results.jsonl`, `config.json` and `checkpoint/{last,best}.pt` in `out`.

    The checkpoint of an epoch is on disk before the epoch is reported, so nothing that was reported is ever lost. A run
    resumed from it continues with bit-identical losses and figures on the same CPU and number of threads.

    Args:
        config: the trial.
        report: hears every epoch; after a resume it hears the finished ones again, some of which it may have missed.
        resume_from: a `last.pt`; None starts from the beginning.
        out: folder of the run, made if missing.
        split: validation split that a search shares among its trials; None cuts one and saves it in `out`.
        device: where to train; None takes the GPU if there is one.
        progress: told after every step.

    Raises:
        ConfigError: a setting that the data or the machine cannot follow.
        DataError: data that is missing, damaged or too small.
        CheckpointError: `resume_from` is damaged or belongs to another configuration.
        DivergedError: a loss became NaN or infinite.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    out.mkdir(parents=True, exist_ok=True)
    data = training_data(config.data, split or out / SPLIT_FILE, make=split is None)
    run = _Run(config, data, device, own_weights=resume_from is not None)
    if resume_from is None:
        write_atomically(out / "config.json", config.model_dump_json(indent=2) + "\n")
    else:
        run.restore(resume_from)
    write_results(out / RESULTS_FILE, run.history)
    for result in run.history:
        report(result)

    size = (config.model.height, config.model.width)
    clips = TrainingClips(data.train, data.labels, config.clips, size=size, seed=config.seed)
    batches = IdentityBatches(data.labels, config.clips, config.seed)
    loader = training_loader(clips, batches, workers=config.clips.workers, device=device)
    for epoch in range(len(run.history), config.optim.epochs):
        started = time.monotonic()
        batches.epoch = epoch
        trained = run.train_epoch(epoch, loader, len(batches), progress)
        evaluation = None
        if (epoch + 1) % config.evaluation.every == 0 or epoch + 1 == config.optim.epochs:
            evaluation = rank_tracklets(
                run.model,
                data.query,
                data.gallery,
                config.evaluation,
                frames=config.clips.frames,
                size=size,
                workers=config.clips.workers,
                progress=progress,
            )
        result = EpochResult(
            epoch=epoch + 1,
            losses=trained.losses,
            learning_rate=learning_rate(config.optim, epoch),
            validation=evaluation,
            images_per_second=trained.images / trained.seconds,
            data_wait_share=trained.waited / trained.seconds,
            seconds=time.monotonic() - started,
            time=time.time(),
        )
        run.history.append(result)
        run.save(out, improved=best_result(run.history) is result)
        append_result(out / RESULTS_FILE, result)
        report(result)
    return FitResult(tuple(run.history), best_result(run.history))


def best_result(history: Sequence[EpochResult]) -> EpochResult:
    """The evaluated epoch with the highest validation mAP, the earliest of equals; the last epoch if none was."""

    def mean_average_precision(result: EpochResult) -> float:
        return -1.0 if result.validation is None else result.validation.mAP

    return max(history, key=mean_average_precision)


class _TrainedEpoch(NamedTuple):
    losses: dict[str, float]
    images: int
    seconds: float
    waited: float


class _Run:
    """Everything that changes while a network learns."""

    def __init__(self, config: TrialConfig, data: TrainingData, device: torch.device, *, own_weights: bool) -> None:
        """`own_weights` says that a checkpoint will fill the network, so that none are loaded for it."""
        torch.manual_seed(derived_seed(config.seed, "weights"))
        self.config = config
        self.device = device
        model = config.model.model_copy(update={"weights": "none"}) if own_weights else config.model
        self.model = TemporalAttentionResNet(model, data.num_classes).to(device)
        self.loss = ReidLoss(config.loss, data.num_classes, self.model.embedding_dim).to(device)
        self.optimizer = make_optimizer(self.model.parameters(), config.optim)
        self.history: list[EpochResult] = []

    def train_epoch(self, epoch: int, loader: Iterable[Batch], steps: int, progress: Progress) -> _TrainedEpoch:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config.optim, epoch)
        self.model.train()
        sums: dict[str, torch.Tensor] = {}
        images = 0
        waited = 0.0
        started = asked = time.monotonic()
        for step, batch in enumerate(loader, 1):
            waited += time.monotonic() - asked
            terms = self._train_step(batch)
            images += batch.frames.shape[0] * batch.frames.shape[1]
            for name, term in terms.items():
                sums[name] = sums.get(name, torch.zeros_like(term)) + term.detach()
            progress(f"epoch {epoch + 1}", step, steps)
            asked = time.monotonic()
        losses = {name: float(total) / steps for name, total in sums.items()}
        _refuse_diverged(losses, epoch)
        return _TrainedEpoch(losses, images, time.monotonic() - started, waited)

    def _train_step(self, batch: Batch) -> dict[str, torch.Tensor]:
        frames = normalised(batch.frames.to(self.device, non_blocking=True))
        labels = batch.labels.to(self.device, non_blocking=True)
        erased = batch.erased.to(self.device, non_blocking=True)
        terms = self.loss(self.model(frames), labels, erased, self.model.classifier.weight)
        self.optimizer.zero_grad(set_to_none=True)
        self.loss.zero_grad(set_to_none=True)
        terms["total"].backward()
        self.optimizer.step()
        self.loss.step_centers()
        return terms  # type: ignore[no-any-return]

    def save(self, out: Path, *, improved: bool) -> None:
        """Writes `last.pt`, all that a resume needs, and `best.pt`, all that an evaluation needs."""
        contents = {
            "config": self.config.model_dump(mode="json"),
            "epoch": len(self.history),
            "model": self.model.state_dict(),
        }
        if improved:
            save_checkpoint(out / BEST_CHECKPOINT, contents)
        contents |= {
            "loss": self.loss.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": [result.model_dump(mode="json") for result in self.history],
        }
        save_checkpoint(out / LAST_CHECKPOINT, contents)

    def restore(self, path: Path) -> None:
        """Takes over the state saved at `path`; randomness needs none, it derives from (seed, epoch, purpose)."""
        state = load_checkpoint(path)
        if "optimizer" not in state:
            raise CheckpointError(f"{path}: holds weights only; training resumes from a last.pt")
        differing = differing_settings(self.config.model_dump(mode="json"), state["config"])
        if differing:
            raise CheckpointError(
                f"{path}: was trained with other settings ({', '.join(differing)}); start a new run in another folder"
            )
        self.model.load_state_dict(state["model"])
        self.loss.load_state_dict(state["loss"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history = [EpochResult.model_validate(result) for result in state["history"]]


# Settings that change where and how fast a trial runs, but none of its figures.
_NEUTRAL_SETTINGS = {"data.root", "clips.workers"}


def differing_settings(now: dict[str, Any], then: dict[str, Any], prefix: str = "") -> list[str]:
    """Paths of the settings that differ and can change figures."""
    differing = []
    for key in sorted(now.keys() | then.keys()):
        path = prefix + key
        mine, other = now.get(key), then.get(key)
        if isinstance(mine, dict) and isinstance(other, dict):
            differing += differing_settings(mine, other, path + ".")
        elif mine != other and path not in _NEUTRAL_SETTINGS:
            differing.append(path)
    return differing


def _refuse_diverged(losses: dict[str, float], epoch: int) -> None:
    for name in sorted(losses, key=lambda name: name == "total"):
        if not torch.isfinite(torch.tensor(losses[name])):
            raise DivergedError(f"loss/{name} is {losses[name]} in epoch {epoch + 1}")
