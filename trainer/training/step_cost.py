"""What one step of a trial costs on this machine, measured: seconds, memory, and what it saves.

Processes that decode frames have batches ready before the first step, and go on to have some ready for as long as they
are faster than the network. What is ready is thrown away, so that costs are those of the long run.

On a CPU a batch may take minutes. Where the steps would take too long they get fewer images, and time and memory of a
whole batch lie on the line through two smaller ones.
"""

from __future__ import annotations

import math
import multiprocessing
import tempfile
import time
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import torch

from trainer.automatic import resolved, this_machine
from trainer.checkpoint import seconds_to_copy, seconds_to_save
from trainer.compute import float32_products, memory_here, require_precision, synchronize, tried_convolutions
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
# What a CPU may take for the steps and for these batches; beyond it batches are cut.
STEPS_S, EVALUATION_S = 20.0, 6.0
# Images of the batch that a CPU tries first, to know how many it can take, and the fewest that it takes then.
FIRST_IMAGES, FEWEST_IMAGES = 8, 16
# An evaluation takes this share of the time of a step on the same images: forward without backward.
FORWARD = 1 / 3


class StepCost(FrozenConfig):
    """What was measured of one configuration on one machine."""

    device: str
    """`cpu`, or the name of the GPU."""
    threads: int
    """Threads of the CPU that were used."""
    precision: str
    """Of the network's products."""
    seconds_per_batch: float
    """Mean time of a training batch, from waiting for its frames to the update of the weights."""
    steps: int
    """Steps of the optimizer that were timed."""
    untimed_steps: int
    """Steps before them, which warm up."""
    images_per_batch: int
    measured_images: int
    """Images of the batches that were timed; with fewer than in a whole batch, its time and memory are extrapolated."""
    batches_per_epoch: int
    """Of the first epoch."""
    seconds_per_frame: float
    """Time of a frame in an evaluation."""
    evaluated_frames: int
    """Frames that were timed."""
    evaluation_frames: int
    """Frames that one evaluation of the validation split embeds."""
    memory_bytes: int
    """Peak of resident memory: of the process, what processes that decode frames have for themselves, and the copy of
    the state that is being saved."""
    gpu_memory_bytes: int | None
    """Peak of the memory that torch took from the GPU; what CUDA itself takes is not in it. None without a GPU."""
    parameters: int
    """Numbers in the network that are learned."""
    best_bytes: int
    """Of the tensors in `best.pt`."""
    last_bytes: int
    """Of the tensors in `last.pt`."""
    save_best_seconds: float
    """Time to write `best.pt`, while the training goes on."""
    save_last_seconds: float
    """Time to write `last.pt`, while the training goes on."""
    copy_seconds: float
    """Time for which the training stands still before, while the state is copied."""


def measure_step(
    config: TrialConfig,
    *,
    device: torch.device | str | None = None,
    disk: Path | None = None,
    progress: Progress = no_progress,
) -> StepCost:
    """Trains a few steps, embeds a few batches of the validation split and saves once; leaves nothing.

    Steps and embedding take about 30 s on a CPU, however large the batch; on a GPU the whole batch is always tried.

    Args:
        config: the trial.
        device: where to train; None takes the GPU if there is one.
        disk: folder on the disk that checkpoints go to; None is that of temporary files.
        progress: called after every step.

    Raises:
        ConfigError: a setting that the data or the machine cannot follow.
        DataError: data that is missing, damaged or too small.
        DivergedError: a loss or an embedding is not finite.
        torch.OutOfMemoryError, MemoryError: it does not fit, or would not by what smaller batches took.
        OSError: the disk is full, or fails.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    config = resolved(config, this_machine(device))
    require_precision(config.compute, device)
    train = read_splits(config.data).train
    data = applied_split(train, cut_validation(train, config.data.validation))
    batches_per_epoch = len(IdentityBatches(data.labels, config.clips, config.seed))
    learner = Learner(config, data.num_classes, device, own_weights=True)
    evaluated = [*data.query, *data.gallery]
    with float32_products(config.compute, device), tried_convolutions(device):
        taken, seconds_per_batch = _whole_batches(learner, config, data, device, progress)
        embedded = learner.config
        if device.type == "cpu":
            embedded = _affordable_evaluation(embedded, taken.seconds / taken.images / embedded.optim.accumulate)
        seconds_per_frame, frames = _seconds_per_frame(learner, evaluated, embedded, device, progress)
    best = {"config": config.model_dump(mode="json"), "model": learner.weights()}
    last = {**best, "learner": learner.state()}
    folder, last_bytes = disk or Path(tempfile.gettempdir()), saved_bytes(last)
    return StepCost(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        threads=torch.get_num_threads(),
        precision=str(config.compute.precision),
        seconds_per_batch=seconds_per_batch,
        steps=taken.steps,
        untimed_steps=taken.untimed_steps,
        images_per_batch=_images(config),
        measured_images=taken.images,
        batches_per_epoch=batches_per_epoch,
        seconds_per_frame=seconds_per_frame,
        evaluated_frames=frames,
        evaluation_frames=config.clips.frames * len(evaluation_windows(evaluated, config)),
        memory_bytes=max(taken.memory_bytes, _peak_bytes()) + last_bytes,
        gpu_memory_bytes=torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None,
        parameters=sum(parameter.numel() for parameter in learner.model.parameters() if parameter.requires_grad),
        best_bytes=saved_bytes(best),
        last_bytes=last_bytes,
        save_best_seconds=seconds_to_save(best, folder),
        save_last_seconds=seconds_to_save(last, folder),
        copy_seconds=seconds_to_copy(last, device),
    )


def _images(config: TrialConfig) -> int:
    """Images of a batch."""
    return config.clips.identities * config.clips.tracklets * config.clips.frames


def with_batch(config: TrialConfig, most: float) -> TrialConfig:
    """The configuration with at most so many images per batch, eight or more, and one batch per step.

    Identities are cut first, down to two, then tracklets, then frames, so that all losses have pairs where they had.
    """
    clips, most = config.clips, int(most)
    frames = min(clips.frames, max(2, most // 4))
    tracklets = min(clips.tracklets, max(2, most // (2 * frames)))
    identities = min(clips.identities, max(2, most // (tracklets * frames)))
    cut = clips.model_copy(update={"identities": identities, "tracklets": tracklets, "frames": frames})
    return config.model_copy(update={"clips": cut, "optim": config.optim.model_copy(update={"accumulate": 1})})


def _affordable(config: TrialConfig, seconds_per_image: float) -> TrialConfig:
    """The configuration, with a smaller batch where its steps would take longer than `STEPS_S`."""
    if _images(config) * config.optim.accumulate * sum(_fewest_steps(config)) * seconds_per_image <= STEPS_S:
        return config
    small = with_batch(config, FEWEST_IMAGES)
    return with_batch(config, max(FEWEST_IMAGES, STEPS_S / (seconds_per_image * sum(_fewest_steps(small)))))


def _affordable_evaluation(config: TrialConfig, seconds_per_image: float) -> TrialConfig:
    """The configuration, with fewer clips at once where those that are timed would take longer than `EVALUATION_S`."""
    clips = EVALUATION_S / (EVALUATED_BATCHES * config.clips.frames * FORWARD * seconds_per_image)
    evaluation = config.evaluation.model_copy(update={"batch": min(config.evaluation.batch, max(1, int(clips)))})
    return config.model_copy(update={"evaluation": evaluation})


def _whole_batches(
    learner: Learner, config: TrialConfig, data: TrainingData, device: torch.device, progress: Progress
) -> tuple[_Taken, float]:
    """What steps took, with smaller batches where whole ones would take too long; memory and seconds of a whole batch.

    Raises:
        MemoryError: this machine has less.
    """
    images = _images(config)
    tried, first = config, None
    if device.type == "cpu" and images > FEWEST_IMAGES:
        small = with_batch(config, FIRST_IMAGES)
        small = small.model_copy(update={"clips": small.clips.model_copy(update={"workers": 0})})
        first = _steps_taken(learner, small, data, device, progress)
        tried = _affordable(config, first.seconds / first.images)
    learner.config = tried
    learner.compile()
    taken = _steps_taken(learner, tried, data, device, progress)
    if first is None or taken.images == images:
        return taken, taken.seconds / tried.optim.accumulate
    once, each = line_through(first.images, first.seconds, taken.images, taken.seconds)
    constant, slope = line_through(first.images, first.memory_bytes, taken.images, taken.memory_bytes)
    memory, here = round(constant + slope * images), memory_here()
    if memory > here:
        raise MemoryError(f"{images} images take about {memory / 2**30:.0f} GiB, and there are {here / 2**30:.0f}")
    return taken._replace(memory_bytes=max(taken.memory_bytes, memory)), once / config.optim.accumulate + each * images


def line_through(x: float, y: float, further_x: float, further_y: float) -> tuple[float, float]:
    """Constant and slope of what grows with x and is never negative.

    Where noise or equal places make one of them negative or unknown, all is in proportion to the further point.
    """
    slope = (further_y - y) / (further_x - x) if further_x > x else -1.0
    constant = further_y - slope * further_x
    return (constant, slope) if slope >= 0 and constant >= 0 else (0.0, further_y / further_x)


class _Taken(NamedTuple):
    """What steps with batches of so many images took."""

    images: int
    seconds: float
    """Of one step."""
    steps: int
    untimed_steps: int
    memory_bytes: int


def _steps_taken(
    learner: Learner, config: TrialConfig, data: TrainingData, device: torch.device, progress: Progress
) -> _Taken:
    """Takes steps as the configuration says."""
    groups = _groups(config, data, learner, device)
    seconds, steps, untimed = _seconds_per_step(learner, groups, config, device, progress)
    workers = sum(_private_bytes(worker.pid or 0) for worker in multiprocessing.active_children())
    groups.close()
    return _Taken(_images(config), seconds, steps, untimed, _peak_bytes() + workers)


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


def _groups(config: TrialConfig, data: TrainingData, learner: Learner, device: torch.device) -> Any:
    """The batches of each step, epoch after epoch, as a training would see them; a generator."""
    batches = IdentityBatches(data.labels, config.clips, config.seed)
    size = (config.model.height, config.model.width)
    clips = TrainingClips(data.train, data.labels, config.clips, size=size, seed=config.seed)
    loader = training_loader(clips, batches, workers=config.clips.worker_count, device=device)
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
    workers, batches = config.clips.worker_count, config.optim.accumulate
    untimed, fewest = _fewest_steps(config)
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


def _fewest_steps(config: TrialConfig) -> tuple[int, int]:
    """Steps that warm up, and steps that have to be timed."""
    workers, batches = config.clips.worker_count, config.optim.accumulate
    return 1 + math.ceil(workers / batches), max(1, math.ceil(TIMED * workers / batches))


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
    workers = config.clips.worker_count
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
