"""What one step of a trial costs on this machine, measured: seconds, memory, and the size of what it saves."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import torch

from trainer.batches import Batch, IdentityBatches, TrainingClips, training_loader
from trainer.compute import float32_products, require_precision
from trainer.config import TrialConfig
from trainer.data import Tracklet, read_splits
from trainer.data.validation import cut_validation
from trainer.evaluation import embed, evaluation_windows
from trainer.frozen import FrozenConfig
from trainer.learner import Learner, in_groups
from trainer.progress import Progress, no_progress
from trainer.training_data import TrainingData, applied_split

# Steps after the first one are timed until there are so many, or they have taken so long together.
MAX_STEPS = 10
ENOUGH_S = 3.0
# Batches of an evaluation that are looked at; the first of several counts as little as the first step.
EVALUATED_BATCHES = 3


class StepCost(FrozenConfig):
    """What was measured of one configuration on one machine."""

    device: str
    """`cpu`, or the name of the GPU."""
    threads: int
    """Threads of the CPU that were used."""
    seconds_per_batch: float
    """Median time of a training batch, from waiting for its frames to the update of the weights."""
    steps: int
    """Steps of the optimizer that were timed; one before them was not, it warms up."""
    images_per_batch: int
    batches_per_epoch: int
    """Of the first epoch."""
    seconds_per_frame: float
    """Time of a frame in an evaluation."""
    evaluated_frames: int
    """Frames that were timed."""
    evaluation_frames: int
    """Frames that one evaluation of the validation split embeds."""
    memory_bytes: int
    """Peak of resident memory: of the process, and what processes that decode frames have for themselves."""
    gpu_memory_bytes: int | None
    """Peak of the memory that torch took from the GPU; what CUDA itself takes is not in it. None without a GPU."""
    parameters: int
    """Numbers in the network that are learned."""
    best_bytes: int
    """Of the tensors in `best.pt`."""
    last_bytes: int
    """Of the tensors in `last.pt`."""


def measure_step(
    config: TrialConfig, *, device: torch.device | str | None = None, progress: Progress = no_progress
) -> StepCost:
    """Trains a few steps and embeds a few batches of the validation split; writes nothing.

    Args:
        config: the trial.
        device: where to train; None takes the GPU if there is one.
        progress: told after every step.

    Raises:
        ConfigError: a setting that the data or the machine cannot follow.
        DataError: data that is missing, damaged or too small.
        DivergedError: a loss or an embedding is not finite.
        torch.OutOfMemoryError, MemoryError: it does not fit.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    require_precision(config.compute, device)
    train = read_splits(config.data).train
    data = applied_split(train, cut_validation(train, config.data.validation))
    batches = IdentityBatches(data.labels, config.clips, config.seed)
    batches_per_epoch = len(batches)
    learner = Learner(config, data.num_classes, device, own_weights=True)
    evaluated = [*data.query, *data.gallery]
    with float32_products(config.compute, device):
        learner.compile()
        groups = _groups(config, data, batches, learner, device)
        seconds = _seconds_per_step(learner, groups, device, progress)
        workers = multiprocessing.active_children()
        memory_of_workers = sum(_private_bytes(worker.pid or 0) for worker in workers)
        groups.close()
        seconds_per_frame, frames = _seconds_per_frame(learner, evaluated, config, device, progress)
    weights, state = learner.weights(), learner.state()
    return StepCost(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        threads=torch.get_num_threads(),
        seconds_per_batch=median(seconds) / config.optim.accumulate,
        steps=len(seconds),
        images_per_batch=config.clips.persons * config.clips.tracklets * config.clips.frames,
        batches_per_epoch=batches_per_epoch,
        seconds_per_frame=seconds_per_frame,
        evaluated_frames=frames,
        evaluation_frames=config.clips.frames
        * len(evaluation_windows(evaluated, config.evaluation, config.clips.frames)),
        memory_bytes=_peak_bytes() + memory_of_workers,
        gpu_memory_bytes=torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None,
        parameters=sum(parameter.numel() for parameter in learner.model.parameters() if parameter.requires_grad),
        best_bytes=saved_bytes(weights),
        last_bytes=saved_bytes({"model": weights, "learner": state}),
    )


def saved_bytes(state: object) -> int:
    """Bytes of all tensors in nested mappings and lists; tensors that share their memory are saved once."""
    return sum({storage.data_ptr(): storage.nbytes() for storage in _storages(state)}.values())


def _storages(state: object) -> Iterator[torch.UntypedStorage]:
    if isinstance(state, torch.Tensor):
        yield state.untyped_storage()
    elif isinstance(state, Mapping):
        for value in state.values():
            yield from _storages(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from _storages(value)


def _groups(
    config: TrialConfig, data: TrainingData, batches: IdentityBatches, learner: Learner, device: torch.device
) -> Any:
    """The batches of each step, epoch after epoch, as a training would see them; a generator."""
    size = (config.model.height, config.model.width)
    clips = TrainingClips(data.train, data.labels, config.clips, size=size, seed=config.seed)
    loader = training_loader(clips, batches, workers=config.clips.workers, device=device)
    for epoch in count():
        batches.epoch = epoch
        learner.begin_epoch(epoch % config.optim.epochs)
        yield from in_groups(loader, config.optim.accumulate)


def _seconds_per_step(
    learner: Learner, groups: Iterator[list[Batch]], device: torch.device, progress: Progress
) -> list[float]:
    """Duration of each step but the first."""
    seconds: list[float] = []
    for step in count():
        began = time.monotonic()
        learner.step(next(groups), lambda batch, output, terms: None)
        _wait_for(device)
        if step > 0:
            seconds.append(time.monotonic() - began)
        if len(seconds) == MAX_STEPS or sum(seconds) > ENOUGH_S:
            return seconds
        progress("training steps", step + 1, MAX_STEPS + 1)
    raise AssertionError("unreachable")


def _seconds_per_frame(
    learner: Learner, tracklets: list[Tracklet], config: TrialConfig, device: torch.device, progress: Progress
) -> tuple[float, int]:
    """Seconds per frame of embedding, and the frames that were timed: those after the first batch if there are any."""
    moments = [time.monotonic()]
    clips_done = [0]

    def hear(what: str, done: int, total: int, note: str = "") -> None:
        _wait_for(device)
        moments.append(time.monotonic())
        clips_done.append(done)
        progress("evaluation batches", len(clips_done) - 1, EVALUATED_BATCHES)

    embed(learner.evaluated, _enough(tracklets, config), config.evaluation, config.viewing, progress=hear)
    first = 1 if len(moments) > 2 else 0
    frames = config.clips.frames * (clips_done[-1] - clips_done[first])
    return (moments[-1] - moments[first]) / frames, frames


def _enough(tracklets: list[Tracklet], config: TrialConfig) -> list[Tracklet]:
    """The first tracklets that fill so many batches, or all."""
    wanted, clips = EVALUATED_BATCHES * config.evaluation.batch, 0
    for number, tracklet in enumerate(tracklets, 1):
        clips += len(evaluation_windows([tracklet], config.evaluation, config.clips.frames))
        if clips >= wanted:
            return tracklets[:number]
    return tracklets


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_bytes() -> int:
    """Greatest resident memory of this process so far; that of its parent, which getrusage would add, is not in it."""
    return _kibibytes(Path("/proc/self/status"), "VmHWM")


def _private_bytes(pid: int) -> int:
    """What a process shares with no other."""
    smaps = Path(f"/proc/{pid}/smaps_rollup")
    return sum(_kibibytes(smaps, field) for field in ("Private_Clean", "Private_Dirty")) if smaps.exists() else 0


def _kibibytes(file: Path, field: str) -> int:
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return 1024 * next((int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), 0)
