"""Training time of each trial, and what early stopping saved."""

from __future__ import annotations

from typing import NamedTuple

from orchestrator.algorithms.budget import HOUR_S
from orchestrator.algorithms.scoring import costs
from orchestrator.study.study import Study, Trial, TrialStatus

EARLY = ("asha", "percentile")
"""Rules that stop a trial because of its curve. What a user or the budget stops is not counted as saved."""


class TrialCost(NamedTuple):
    """Time of one trial; lost work and waiting are not included."""

    trial: str
    status: TrialStatus
    epochs: int
    planned: int
    """Epochs of a complete training."""
    hours: float
    gpu_hours: float
    saved_hours: float
    """Estimated time of the epochs that early stopping left out, at the mean duration of those that were run; 0 for a
    trial that was not stopped early."""
    saved_gpu_hours: float


class Costs(NamedTuple):
    """Sums over all trials and repeats."""

    trials: list[TrialCost]
    hours: float
    """Training and evaluation, added up over trials that may have run at the same time."""
    gpu_hours: float
    saved_hours: float
    saved_gpu_hours: float
    stopped_early: int
    wall_hours: float
    """Wall time of all sessions of the search."""


def search_costs(study: Study) -> Costs:
    """Costs of the search so far."""
    each = [trial_cost(trial) for trial in study.all_trials.values()]
    return Costs(
        trials=sorted(each, key=lambda cost: cost.trial),
        hours=sum(cost.hours for cost in each),
        gpu_hours=sum(cost.gpu_hours for cost in each),
        saved_hours=sum(cost.saved_hours for cost in each),
        saved_gpu_hours=sum(cost.saved_gpu_hours for cost in each),
        stopped_early=sum(cost.saved_hours > 0 for cost in each),
        wall_hours=study.gpu_hours.seconds / HOUR_S,
    )


def trial_cost(trial: Trial) -> TrialCost:
    """Cost of one trial."""
    spent = costs(trial)
    left = (
        max(0, trial.epochs - trial.epoch) if trial.status == TrialStatus.STOPPED and trial.stopped_by in EARLY else 0
    )
    share = left / trial.epoch if trial.epoch else 0.0
    return TrialCost(
        trial=trial.key,
        status=trial.status,
        epochs=trial.epoch,
        planned=trial.epochs,
        hours=spent["hours"],
        gpu_hours=spent["gpu_hours"],
        saved_hours=share * spent["hours"],
        saved_gpu_hours=share * spent["gpu_hours"],
    )
