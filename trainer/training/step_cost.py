"""What one step of a trial costs on this machine, measured: seconds, memory, and what it saves.

Processes that decode frames have batches ready before the first step, and go on to have some ready for as long as they
are faster than the network. What is ready is thrown away, so that costs are those of the long run.
"""

from __future__ import annotations

import math
import multiprocessing
import tempfile
import time
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import torch

from trainer.checkpoint import seconds_to_save
from trainer.compute import float32_products, require_precision, synchronize
from trainer.config import TrialConfig
from trainer.data import Tracklet, read_splits
from trainer.data.splits import TrainingData, applied_split, cut_validation
from trainer.evaluation.embed import embed, evaluation_windows
from trainer.input.loader import PREFETCHED, Batch, EvaluationClips, TrainingClips, evaluation_loader, training_loader
from trainer.input.sampler import IdentityBatches
from trainer.result import Progress, no_progress
from trainer.settings import FrozenConfig
from trainer.training.learner import Learner, in_groups

# Steps are timed until there are so many, or they have taken so long together.
MAX_STEPS = 10
ENOUGH_S = 3.0
# Batches of each process that decodes frames that are timed at least; they hand batches over in bursts.
TIMED = 2
# Batches of an evaluation that are embedded; the first of several counts as little as the first step.
EVALUATED_BATCHES = 3


class StepCost(FrozenConfig):
    """What was measured of one configuration on one machine."""

    device: str
    """`cpu`, or the name of the GPU."""
    threads: int
    """Threads of the CPU that were used."""
    seconds_per_batch: float
    """Mean time of a training batch, from waiting for its frames to the update of the weights."""
    steps: int
    """Steps of the optimizer that were timed."""
    untimed_steps: int
    """Steps before them, which warm up."""
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
    gpu_total_bytes: int | None
    """All memory of this GPU. None without one."""
    parameters: int
    """Numbers in the network that are learned."""
    best_bytes: int
    """Of the tensors in `best.pt`."""
    last_bytes: int
    """Of the tensors in `last.pt`."""
    save_best_seconds: float
    """Time to save `best.pt`."""
    save_last_seconds: float
    """Time to save `last.pt`."""


def measure_step(
    config: TrialConfig,
    *,
    device: torch.device | str | None = None,
    disk: Path | None = None,
    progress: Progress = no_progress,
) -> StepCost:
    """Trains a few steps, embeds a few batches of the validation split and saves once; leaves nothing.

    Args:
        config: the trial.
        device: where to train; None takes the GPU if there is one.
        disk: folder on the disk that checkpoints go to; None is that of temporary files.
        progress: called after every step.

    Raises:
        ConfigError: a setting that the data or the machine cannot follow.
        DataError: data that is missing, damaged or too small.
        DivergedError: a loss or an embedding is not finite.
        torch.OutOfMemoryError, MemoryError: it does not fit.
        OSError: the disk is full, or fails.
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
        seconds, steps, untimed = _seconds_per_step(learner, groups, config, device, progress)
        workers = multiprocessing.active_children()
        memory_of_workers = sum(_private_bytes(worker.pid or 0) for worker in workers)
        groups.close()
        seconds_per_frame, frames = _seconds_per_frame(learner, evaluated, config, device, progress)
    best = {"config": config.model_dump(mode="json"), "model": learner.weights()}
    last = {**best, "learner": learner.state()}
    folder = disk or Path(tempfile.gettempdir())
    return StepCost(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        threads=torch.get_num_threads(),
        seconds_per_batch=seconds / config.optim.accumulate,
        steps=steps,
        untimed_steps=untimed,
        images_per_batch=config.clips.identities * config.clips.tracklets * config.clips.frames,
        batches_per_epoch=batches_per_epoch,
        seconds_per_frame=seconds_per_frame,
        evaluated_frames=frames,
        evaluation_frames=config.clips.frames * len(evaluation_windows(evaluated, config)),
        memory_bytes=_peak_bytes() + memory_of_workers,
        gpu_memory_bytes=torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None,
        gpu_total_bytes=torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None,
        parameters=sum(parameter.numel() for parameter in learner.model.parameters() if parameter.requires_grad),
        best_bytes=saved_bytes(best),
        last_bytes=saved_bytes(last),
        save_best_seconds=seconds_to_save(best, folder),
        save_last_seconds=seconds_to_save(last, folder),
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
        # Steps after the backbone is unfrozen take more time and memory, and there are more of them.
        learner.begin_epoch(min(config.optim.freeze_epochs + epoch, config.optim.epochs - 1))
        yield from in_groups(loader, config.optim.accumulate)


def _seconds_per_step(
    learner: Learner, groups: Iterator[list[Batch]], config: TrialConfig, device: torch.device, progress: Progress
) -> tuple[float, int, int]:
    """Seconds of a step in the long run, the steps that were timed, and those before them.

    As in a training the host does not wait for a GPU in between.
    """
    workers, batches = config.clips.workers, config.optim.accumulate
    fewest = max(1, math.ceil(TIMED * workers / batches))
    untimed = 1 + math.ceil(workers / batches)
    most = untimed + max(fewest, MAX_STEPS)

    def step(number: int) -> None:
        learner.step(next(groups), lambda batch, output, terms: None)
        progress("training steps", min(number, most), most)

    step(1)
    for _ in range(math.ceil(PREFETCHED * workers / batches)):
        next(groups)
    for number in range(2, untimed + 1):
        step(number)
    synchronize(device)
    began = time.monotonic()
    for steps in count(1):
        step(untimed + steps)
        enough = steps >= MAX_STEPS or time.monotonic() - began > ENOUGH_S
        # Each process has handed over as many batches as every other.
        if enough and steps >= fewest and (workers == 0 or steps * batches % workers == 0):
            synchronize(device)
            return (time.monotonic() - began) / steps, steps, untimed
    raise AssertionError("unreachable")


def _seconds_per_frame(
    learner: Learner, tracklets: list[Tracklet], config: TrialConfig, device: torch.device, progress: Progress
) -> tuple[float, int]:
    """Seconds per frame of an evaluation in the long run, and the frames that were embedded for it.

    As long as embedding takes, of batches that were ready, or as decoding takes where that is slower.
    """
    began, done_before, batches = time.monotonic(), 0, 0
    chosen = _enough(tracklets, config, EVALUATED_BATCHES)
    clips = len(evaluation_windows(chosen, config))

    def on_batch(what: str, done: int, total: int, note: str = "") -> None:
        nonlocal began, done_before, batches
        batches += 1
        if batches == 1 and done < clips:
            synchronize(device)
            began, done_before = time.monotonic(), done
        progress("evaluation batches", batches, EVALUATED_BATCHES)

    embed(learner.evaluated, chosen, config, progress=on_batch)
    synchronize(device)
    frames = config.clips.frames * (clips - done_before)
    embedding = (time.monotonic() - began) / frames
    return max(embedding, _seconds_to_decode(tracklets, config, device)), frames


def _seconds_to_decode(tracklets: list[Tracklet], config: TrialConfig, device: torch.device) -> float:
    """Seconds per frame that the processes of an evaluation take in the long run; 0 without, then `embed` decodes.

    An evaluation that is too short for a long run is timed as a whole, with the start of its processes.
    """
    workers = config.clips.workers
    if workers == 0:
        return 0.0
    untimed = PREFETCHED * workers + 1
    chosen = _enough(tracklets, config, untimed + TIMED * workers)
    windows = evaluation_windows(chosen, config)
    clips = EvaluationClips(chosen, windows, size=config.input_size)
    began, frames = time.monotonic(), 0
    loader = evaluation_loader(clips, batch=config.evaluation.batch, workers=workers, device=device)
    for number, batch in enumerate(loader, 1):
        frames += batch.frames.shape[0] * batch.frames.shape[1]
        if number == untimed and len(chosen) < len(tracklets):
            began, frames = time.monotonic(), 0
        if number == untimed + TIMED * workers:
            break
    return (time.monotonic() - began) / frames


def _enough(tracklets: list[Tracklet], config: TrialConfig, batches: int) -> list[Tracklet]:
    """The first tracklets that fill so many batches, or all."""
    wanted, clips = batches * config.evaluation.batch, 0
    for number, tracklet in enumerate(tracklets, 1):
        clips += len(evaluation_windows([tracklet], config))
        if clips >= wanted:
            return tracklets[:number]
    return tracklets


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
