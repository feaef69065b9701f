"""What a search will take, reckoned from one measured step: pure arithmetic, and its wording.

Every trial is taken to be as large as the largest and as long as the longest, and to be trained to its end. What is
not reckoned: starting Ray and trials, ranking after an evaluation, and that trials side by side slow each other down.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.algorithms.budget import HOUR_S
from orchestrator.base.formatting import duration, number, size
from orchestrator.cluster.resources import GPU_ROUNDING
from orchestrator.space.parameters import Value

if TYPE_CHECKING:
    from orchestrator.cluster.resources import Allocation
    from orchestrator.space.search_space import SearchSpace
    from orchestrator.space.worst_case import WorstCase
    from trainer import StepCost


class Forecast(NamedTuple):
    """What a search takes if nothing stops a trial early."""

    trials: int
    repeats: int
    epochs: int
    """Of each trial."""
    slots: int
    """Trials at once."""
    training_s: float
    """Training of one epoch."""
    evaluation_s: float
    """One evaluation."""
    evaluations: int
    """Of each trial."""
    saves: int
    """Of `last.pt`, of each trial, at most."""
    saving_s: float
    """Saving of each trial, at most."""
    trial_s: float
    wall_s: float
    gpu_hours: float
    memory_bytes: int
    """Of all trials that run at once."""
    gpu_memory_bytes: int | None
    """Of all trials that share a GPU; None without one."""
    trials_per_gpu: int
    trial_disk_bytes: int
    disk_bytes: int
    """Of all trials, at the end, and of what those that run at once hold twice while they save."""


def forecast(space: SearchSpace, cost: StepCost, largest: WorstCase, share: Allocation) -> Forecast:
    """Reckons with every trial as large as the largest configuration and as long as the longest.

    An epoch takes the time of a batch x its batches; every `evaluation.every` epochs, and after the last one, the time
    of a frame x the frames of the validation split comes on top. Every evaluation is taken to find a better network,
    which is saved with the state beside it; states are saved every `checkpoint.every` epochs besides. Trials, and after
    them the repeats, run in rounds of `share.concurrent`. Each keeps `last.pt` and `best.pt`, and holds one of them
    twice while it saves.
    """
    trials, repeats = space.budget.trials, space.replicates.seeds * min(space.replicates.leaders, space.budget.trials)
    training = cost.seconds_per_batch * cost.batches_per_epoch
    evaluation = cost.seconds_per_frame * cost.evaluation_frames
    evaluations = math.ceil(largest.epochs / largest.config.evaluation.every)
    saves = _saves(largest.epochs, largest.config.evaluation.every, largest.config.checkpoint.every)
    saving = saves * cost.save_last_seconds + evaluations * cost.save_best_seconds
    trial = largest.epochs * training + evaluations * evaluation + saving
    slots = max(1, share.concurrent)
    rounds = math.ceil(trials / slots) + math.ceil(repeats / slots)
    disk = cost.last_bytes + cost.best_bytes
    per_gpu = _trials_per_gpu(share)
    return Forecast(
        trials=trials,
        repeats=repeats,
        epochs=largest.epochs,
        slots=slots,
        training_s=training,
        evaluation_s=evaluation,
        evaluations=evaluations,
        saves=saves,
        saving_s=saving,
        trial_s=trial,
        wall_s=rounds * trial,
        gpu_hours=(trials + repeats) * trial * share.gpus / HOUR_S,
        memory_bytes=slots * cost.memory_bytes,
        gpu_memory_bytes=None if cost.gpu_memory_bytes is None else per_gpu * cost.gpu_memory_bytes,
        trials_per_gpu=per_gpu,
        trial_disk_bytes=disk,
        disk_bytes=(trials + repeats) * disk + slots * cost.last_bytes,
    )


def _saves(epochs: int, evaluated_every: int, saved_every: int) -> int:
    """Epochs, counted from 1, after which `last.pt` is saved if every evaluation finds a better network."""
    due = (epoch for epoch in range(1, epochs + 1) if epoch % evaluated_every == 0 or epoch % saved_every == 0)
    return len({*due, epochs})


def _trials_per_gpu(share: Allocation) -> int:
    """Trials that are on one GPU at once, at most."""
    return max(1, min(share.concurrent, math.floor(1 / share.gpus + GPU_ROUNDING))) if share.gpus else 1


def forecast_text(found: Forecast, cost: StepCost, largest: WorstCase, space: SearchSpace, share: Allocation) -> str:
    """The forecast with how each figure was reckoned; lines as in the plan of a launch."""
    lines = [
        *_measured(cost, largest),
        *_time(found, cost, space, share),
        *_memory(found, cost),
        *_disk(found, cost),
    ]
    return "\n".join(f"{name:<9} {text}" for name, text in lines)


def _measured(cost: StepCost, largest: WorstCase) -> list[tuple[str, str]]:
    point = " ".join(f"{path}={number(value)}" for path, value in _of_size(largest.point).items())
    on = f"{cost.threads} of its CPU threads" if cost.device == "cpu" else cost.device
    return [
        ("largest", f"of {largest.looked_at} corners and random points: {point or 'all are equally large'}"),
        (
            "measured",
            f"on this machine, {on}: {cost.steps} steps after {cost.untimed_steps} that are not counted, "
            f"{duration(cost.seconds_per_batch)} per batch of {cost.images_per_batch} images;",
        ),
        (
            "",
            f"{cost.evaluated_frames} frames of an evaluation, {duration(cost.seconds_per_frame)} each; "
            f"{cost.parameters / 1e6:.3g} million parameters",
        ),
    ]


def _of_size(point: Mapping[str, Value]) -> dict[str, Value]:
    from orchestrator.space.worst_case import OF_SIZE

    return {path: value for path, value in point.items() if path.startswith(OF_SIZE)}


def _time(found: Forecast, cost: StepCost, space: SearchSpace, share: Allocation) -> list[tuple[str, str]]:
    what = f"{found.trials} trials" + (f" and {found.repeats} repeats" if found.repeats else "")
    lines = [
        ("time", f"about {duration(found.wall_s)}: {what} of {duration(found.trial_s)}, {found.slots} at once"),
        (
            "",
            f"a trial: {found.epochs} epochs of {cost.batches_per_epoch} batches ({duration(found.training_s)}), "
            f"{found.evaluations} evaluations of {cost.evaluation_frames} frames ({duration(found.evaluation_s)}),",
        ),
        (
            "",
            f"and at most {found.saves} saves of last.pt ({duration(cost.save_last_seconds)}) and "
            f"{found.evaluations} of best.pt ({duration(cost.save_best_seconds)})",
        ),
    ]
    if space.stopping.rule != "none":
        lines.append(("", f"an upper bound in this: the stopping rule {space.stopping.rule} ends trials earlier"))
    lines.append(("", "not reckoned: starting Ray and trials, ranking, and that trials side by side are slower"))
    lines += [("", f"the budget ends it before: {limit}") for limit in _limits(found, space)]
    hours = f"about {found.gpu_hours:.2g}" if share.gpus else "none"
    return [*lines, ("GPU hours", f"{hours}; {share.reason}")]


def _limits(found: Forecast, space: SearchSpace) -> list[str]:
    """What of the budget is used up before all trials are over."""
    budget, limits = space.budget, []
    if budget.epochs is not None and budget.epochs < (found.trials + found.repeats) * found.epochs:
        limits.append(f"{budget.epochs} epochs")
    if budget.hours is not None and budget.hours * HOUR_S < found.wall_s:
        limits.append(f"{budget.hours:g} hours")
    if budget.gpu_hours is not None and budget.gpu_hours < found.gpu_hours:
        limits.append(f"{budget.gpu_hours:g} GPU hours")
    return limits


def _memory(found: Forecast, cost: StepCost) -> list[tuple[str, str]]:
    each = f"{size(cost.memory_bytes)} per trial at its peak, {size(found.memory_bytes)} for {found.slots} at once"
    lines = [("memory", f"{each}; Ray, Ax and MLflow besides")]
    if cost.gpu_memory_bytes is not None and found.gpu_memory_bytes is not None:
        together = "" if found.trials_per_gpu == 1 else f", {size(found.gpu_memory_bytes)} for {found.trials_per_gpu}"
        lines.append(
            ("", f"{size(cost.gpu_memory_bytes)} of a GPU per trial{together}; what CUDA takes for each besides")
        )
        if cost.gpu_total_bytes is not None and found.gpu_memory_bytes > cost.gpu_total_bytes:
            lines.append(("", f"more than the {size(cost.gpu_total_bytes)} that it has: give a trial more of a GPU"))
    return lines


def _disk(found: Forecast, cost: StepCost) -> list[tuple[str, str]]:
    return [
        (
            "disk",
            f"{size(found.disk_bytes)}: {found.trials + found.repeats} trials with last.pt ({size(cost.last_bytes)}) "
            f"and best.pt ({size(cost.best_bytes)}), and {found.slots} last.pt twice while saving;",
        ),
        ("", "journal and MLflow take some kB per epoch besides"),
    ]
