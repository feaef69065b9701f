"""`launch --dry-run`: checks everything, tries one step of the largest configuration, and writes nothing."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.algorithms.budget import HOUR_S
from orchestrator.algorithms.suggest import initial_trials
from orchestrator.algorithms.warm_start import WarmStart
from orchestrator.base.formatting import duration, number, size
from orchestrator.base.hints import command_line
from orchestrator.base.progress import step_progress
from orchestrator.cluster.planning import share_of_this_machine
from orchestrator.cluster.resources import GPU_ROUNDING, Allocation
from orchestrator.runner.launch import check_search
from orchestrator.runner.prepare_space import any_config
from orchestrator.runner.smoke_test import run_smoke_test, smoke_test_space
from orchestrator.space.options import next_pause
from orchestrator.space.parameters import Value
from orchestrator.space.search_space import SearchSpace
from orchestrator.space.worst_case import OF_SIZE, WorstCase, worst_case
from orchestrator.stores.base import Store
from orchestrator.study.description import Options
from trainer.files import existing_folder
from trainer.formatting import counted

if TYPE_CHECKING:
    from trainer import StepCost


def dry_run_of(
    space: SearchSpace,
    *,
    storage: Store,
    name: str | None,
    seed: int,
    options: Options,
    warm_start: WarmStart | None,
) -> None:
    """Checks the search, prints its plan, tries a step, and prints the estimate; arguments as in `create_search`.

    Raises:
        SearchError, DataError: as `create_search`; more GPUs are asked for than there are.
        SpaceError: the trainer refuses a corner or a random point of the space.
        ConfigError: data or machine cannot follow the largest configuration.
        EnvironmentProblem: it does not fit into the memory, or the share of a GPU's that each trial gets.
    """
    began = time.monotonic()
    storage.check()
    share = share_of_this_machine(space, options)
    with smoke_test_space(space) as there:
        check_search(there, storage=storage, name=name, seed=seed, options=options, warm_start=warm_start)
        click.echo(_plan(space, storage))
        found = worst_case(there)
        click.echo("trying the largest configuration; this takes a few steps", err=True)
        with step_progress() as progress:
            disk = existing_folder(storage.path)
            cost = run_smoke_test(found.config, threads=share.cpus, gpus=share.gpus, disk=disk, progress=progress)
    click.echo(Estimate(space, cost, found, share).text())
    if options.address is not None:
        click.echo(f"          for this machine; the cluster at {options.address} was not looked at")
    click.echo(f"nothing was started or written; checked in {duration(time.monotonic() - began)}")


def _plan(space: SearchSpace, storage: Store) -> str:
    """A launch in lines of text."""
    config = any_config(space)
    first = initial_trials(space)
    whole = "whole " * space.stopping.pauses
    lines = [
        f"space     {space.name}: {counted(len(space.parameters), 'searched parameter', 'searched parameters')}, "
        + counted(len(space.start), "known point", "known points"),
        f"budget    {counted(space.budget.trials, f'{whole}trial', f'{whole}trials')} of "
        + counted(config.optim.epochs, "epoch", "epochs")
        + _other_budgets(space),
        f"algorithm {space.algorithm.name}"
        + (f", {counted(first, 'trial', 'trials')} before the model is asked" if space.algorithm.name == "ax" else "")
        + f"; stopping rule {space.stopping.rule}",
        f"repeats   {_repeats(space)}",
        f"objective {_objective(space)} of the {space.objective.epoch} evaluated epoch",
        f"data      {_data(space, config.data.root)}",
        f"network   {config.model.backbone} at {config.model.height}x{config.model.width}",
        f"storage   {storage.uri or storage.path.absolute()}",
        f"machine   {os.cpu_count()} CPU cores",
    ]
    return "\n".join(lines)


def _data(space: SearchSpace, root: Path) -> str:
    if space.synthetic is not None:
        return f"{root}" + " (SYNTHETIC, not written yet)" * (not root.is_dir())
    return f"{root}: its lists and one frame were read; `{command_line('data', 'check', root)}` looks at all frames"


def _objective(space: SearchSpace) -> str:
    return ", ".join(f"{term.goal} {term.metric}" for term in space.objective.terms)


def _repeats(space: SearchSpace) -> str:
    replicates = space.replicates
    if replicates.choose == "model":
        confirmed = f"{replicates.seeds} more of the winner"
        return f"{replicates.trainings} trainings of what the model chooses, then {confirmed}, all with fresh seeds"
    if replicates.seeds == 0:
        return "none: the best will be that of one seed, unconfirmed"
    of = "configuration" if replicates.leaders == 1 else f"{replicates.leaders} configurations"
    return f"the best {of} once more with each of {replicates.seeds} other seeds"


def _other_budgets(space: SearchSpace) -> str:
    budget = space.budget.model_dump(exclude={"trials", "concurrent"}, exclude_none=True)
    return "".join(f", {key.replace('_', ' ')} {value:g}" for key, value in budget.items())


@dataclass(frozen=True)
class Estimate:
    """What a search takes if no trial is stopped early, computed from one measured step; pauses cost no time in it.

    Every trial is assumed to be as large as the largest configuration, as long as the longest, and trained to its end.
    Not included: starting Ray and trials, ranking after an evaluation, and that trials side by side slow each other
    down.
    """

    space: SearchSpace
    cost: StepCost
    largest: WorstCase
    share: Allocation

    @property
    def trials(self) -> int:
        """Number of configurations; where trials pause, of whole trainings that their epochs add up to."""
        return self.space.budget.trials

    @property
    def configurations(self) -> int:
        """Number of configurations at most, which is more than that of whole trainings where trials pause."""
        first = next_pause(0, self.epochs, self.largest.config.evaluation.every, self.space.stopping)
        return self.trials * self.epochs // (first or self.epochs)

    @property
    def repeats(self) -> int:
        """Trainings of the leading configurations with other seeds."""
        return self.space.replicates.planned(self.trials)

    @property
    def slots(self) -> int:
        """Trials at once."""
        return max(1, self.share.concurrent)

    @property
    def epochs(self) -> int:
        """Epochs of each trial."""
        return self.largest.epochs

    @property
    def training_s(self) -> float:
        """Training time of one epoch."""
        return self.cost.seconds_per_batch * self.cost.batches_per_epoch

    @property
    def evaluation_s(self) -> float:
        """Time of one evaluation on the validation split."""
        return self.cost.seconds_per_frame * self.cost.evaluation_frames

    @property
    def evaluations(self) -> int:
        """Evaluations of each trial: every `evaluation.every` epochs, and after the last one."""
        return math.ceil(self.epochs / self.largest.config.evaluation.every)

    @cached_property
    def saves(self) -> int:
        """Saves of a trial's `last.pt`, at most: when due, and with every evaluation, which may find a better one."""
        often = self.largest.config.checkpoint.every
        periods = (self.largest.config.evaluation.every, 1 if often == "auto" else often)
        due = (epoch for epoch in range(1, self.epochs + 1) if any(epoch % period == 0 for period in periods))
        return len({*due, self.epochs})

    @property
    def saving_s(self) -> float:
        """For which a trial stands still, at most: while its state is copied, and while the one before is written.

        With `checkpoint.every: auto` only a save with a new best network waits for the one before, which has had the
        time of an epoch; otherwise each does. The last one is waited for.
        """
        often = self.largest.config.checkpoint.every
        waiting, epochs = (self.evaluations, 1) if often == "auto" else (self.saves, often)
        writing = self.cost.save_best_seconds + self.cost.save_last_seconds
        late = max(0.0, writing - epochs * self.training_s)
        return self.saves * self.cost.copy_seconds + (waiting - 1) * late + writing

    @property
    def trial_s(self) -> float:
        """Time of one trial: training, evaluation and what saving adds."""
        return self.epochs * self.training_s + self.evaluations * self.evaluation_s + self.saving_s

    @property
    def wall_s(self) -> float:
        """Time of all trials and, after them, the repeats, in rounds of `slots`."""
        rounds = math.ceil(self.trials / self.slots) + math.ceil(self.repeats / self.slots)
        return rounds * self.trial_s

    @property
    def gpu_hours(self) -> float:
        """GPU hours of all trials and repeats."""
        return (self.trials + self.repeats) * self.trial_s * self.share.gpus / HOUR_S

    @property
    def memory_bytes(self) -> int:
        """Memory of all trials that run at once."""
        return self.slots * self.cost.memory_bytes

    @property
    def trials_per_gpu(self) -> int:
        """Trials that are on one GPU at once, at most."""
        if not self.share.gpus:
            return 1
        return max(1, min(self.share.concurrent, math.floor(1 / self.share.gpus + GPU_ROUNDING)))

    @property
    def gpu_memory_bytes(self) -> int | None:
        """GPU memory of all trials that share a GPU; None without one."""
        return None if self.cost.gpu_memory_bytes is None else self.trials_per_gpu * self.cost.gpu_memory_bytes

    @property
    def disk_bytes(self) -> int:
        """Disk for all trials' `last.pt` and `best.pt`, and for a second `last.pt` of trials that save."""
        trial = self.cost.last_bytes + self.cost.best_bytes
        return (self.configurations + self.repeats) * trial + self.slots * self.cost.last_bytes

    def text(self) -> str:
        """The estimate and what it was computed from; lines as in the plan of a launch."""
        lines = [*_measured(self.cost, self.largest), *_time(self), *_memory(self), *_disk(self)]
        return "\n".join(f"{name:<9} {text}" for name, text in lines)


def _measured(cost: StepCost, largest: WorstCase) -> list[tuple[str, str]]:
    point = " ".join(f"{path}={number(value)}" for path, value in _of_size(largest.point).items())
    on = f"{cost.threads} of its CPU threads" if cost.device == "cpu" else cost.device
    return [
        ("largest", f"of {largest.looked_at} corners and random points: {point or 'all are equally large'}"),
        (
            "measured",
            f"on this machine, {on} in {cost.precision}: {cost.steps} steps after {cost.untimed_steps} that are "
            f"not counted, {duration(cost.seconds_per_batch)} per batch of {cost.images_per_batch} images"
            + (f", extrapolated from batches of {cost.measured_images};" if _extrapolated(cost) else ";"),
        ),
        (
            "",
            f"{cost.evaluated_frames} frames of an evaluation, {duration(cost.seconds_per_frame)} each; "
            f"{cost.parameters / 1e6:.3g} million parameters",
        ),
    ]


def _extrapolated(cost: StepCost) -> bool:
    return cost.measured_images < cost.images_per_batch


def _of_size(point: Mapping[str, Value]) -> dict[str, Value]:
    return {path: value for path, value in point.items() if path.startswith(OF_SIZE)}


def _time(found: Estimate) -> list[tuple[str, str]]:
    cost, space = found.cost, found.space
    repeats = f" and {counted(found.repeats, 'repeat', 'repeats')}" * bool(found.repeats)
    what = counted(found.trials, "trial", "trials") + repeats
    lines = [
        ("time", f"about {duration(found.wall_s)}: {what} of {duration(found.trial_s)}, {found.slots} at once"),
        (
            "",
            f"a trial: {counted(found.epochs, 'epoch', 'epochs')} of "
            f"{counted(cost.batches_per_epoch, 'batch', 'batches')} ({duration(found.training_s)}), "
            f"{counted(found.evaluations, 'evaluation', 'evaluations')} of {cost.evaluation_frames} frames "
            f"({duration(found.evaluation_s)}),",
        ),
        (
            "",
            f"and at most {duration(found.saving_s)} of {found.saves} saves: {duration(cost.copy_seconds)} to copy, "
            f"last.pt ({duration(cost.save_last_seconds)}) and best.pt ({duration(cost.save_best_seconds)}) beside it",
        ),
    ]
    if space.stopping.pauses:
        many = f"up to {found.configurations} configurations share these epochs: each pauses, and few continue"
        lines.append(("", many))
    elif space.stopping.rule != "none":
        lines.append(("", f"an upper bound in this: the stopping rule {space.stopping.rule} ends trials earlier"))
    lines.append(("", "not included: starting Ray and trials, ranking, and that trials side by side are slower"))
    lines += [("", f"the budget ends it before: {limit}") for limit in _limits(found)]
    hours = f"about {found.gpu_hours:.2g}" if found.share.gpus else "none"
    return [*lines, ("GPU hours", f"{hours}; {found.share.reason}")]


def _limits(found: Estimate) -> list[str]:
    """Limits of the budget that are reached before all trials are over."""
    budget, limits = found.space.budget, []
    if budget.epochs is not None and budget.epochs < (found.trials + found.repeats) * found.epochs:
        limits.append(counted(budget.epochs, "epoch", "epochs"))
    if budget.hours is not None and budget.hours * HOUR_S < found.wall_s:
        limits.append(f"{budget.hours:g} hours")
    if budget.gpu_hours is not None and budget.gpu_hours < found.gpu_hours:
        limits.append(f"{budget.gpu_hours:g} GPU hours")
    return limits


def _memory(found: Estimate) -> list[tuple[str, str]]:
    cost = found.cost
    each = f"{size(cost.memory_bytes)} per trial at its peak, {size(found.memory_bytes)} for {found.slots} at once"
    lines = [("memory", f"{each}{', extrapolated' * _extrapolated(cost)}; Ray, Ax and MLflow besides")]
    if cost.gpu_memory_bytes is not None and found.gpu_memory_bytes is not None:
        together = "" if found.trials_per_gpu == 1 else f", {size(found.gpu_memory_bytes)} for {found.trials_per_gpu}"
        lines.append(
            ("", f"{size(cost.gpu_memory_bytes)} of a GPU per trial{together}; what CUDA takes for each besides")
        )
    return lines


def _disk(found: Estimate) -> list[tuple[str, str]]:
    cost, most = found.cost, "at most " if found.space.stopping.pauses else ""
    return [
        (
            "disk",
            f"{size(found.disk_bytes)}: {most}"
            f"{counted(found.configurations + found.repeats, 'trial', 'trials')} with last.pt "
            f"({size(cost.last_bytes)}) and best.pt ({size(cost.best_bytes)}), "
            f"and {found.slots} last.pt twice while saving;",
        ),
        ("", "journal and MLflow take some kB per epoch besides"),
    ]
