"""Training time of each trial, and what stopping and pausing trials saved."""

from __future__ import annotations

import statistics
from typing import NamedTuple

from orchestrator.algorithms.budget import HOUR_S
from orchestrator.algorithms.scoring import costs
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.study import Study, Trial, TrialStatus

NOTHING_SAVED = ("user", "budget")
"""What stops a training trial for other reasons than its curve: nothing counts as saved."""

PACE = 5
"""Latest epochs whose mean duration is a trial's pace; evaluations are in some of them."""


class TrialCost(NamedTuple):
    """Time of one trial; lost work and waiting are not included."""

    trial: str
    status: TrialStatus
    epochs: int
    planned: int
    """Epochs of a complete training."""
    hours: float
    gpu_hours: float
    epochs_saved: int
    """Epochs that it did not train because it is paused, was stopped while it was paused, or was stopped by a rule."""
    saved_hours: float
    """Estimated time of these epochs, at the mean duration of those that were run."""
    saved_gpu_hours: float


class Costs(NamedTuple):
    """Sums over all trials and repeats."""

    trials: list[TrialCost]
    hours: float
    """Training and evaluation, added up over trials that may have run at the same time."""
    gpu_hours: float
    epochs_saved: int
    saved_hours: float
    saved_gpu_hours: float
    stopped_early: int
    """Trials that a rule stopped, those that it had paused before among them."""
    paused: int
    """Trials that paused at least once."""
    continued: int
    """Those of them that went on."""
    wall_hours: float
    """Wall time of all sessions of the search."""


def search_costs(study: Study) -> Costs:
    """Costs of the search so far."""
    trials = [*study.all_trials.values()]
    each = [trial_cost(trial) for trial in trials]
    return Costs(
        trials=sorted(each, key=lambda cost: cost.trial),
        hours=sum(cost.hours for cost in each),
        gpu_hours=sum(cost.gpu_hours for cost in each),
        epochs_saved=sum(cost.epochs_saved for cost in each),
        saved_hours=sum(cost.saved_hours for cost in each),
        saved_gpu_hours=sum(cost.saved_gpu_hours for cost in each),
        stopped_early=sum(cost.epochs_saved > 0 and cost.status == TrialStatus.STOPPED for cost in each),
        paused=sum(bool(trial.pauses) for trial in trials),
        continued=sum(_was_continued(trial) for trial in trials),
        wall_hours=study.gpu_hours.seconds / HOUR_S,
    )


def seconds_left(trial: Trial) -> float | None:
    """Time that a running trial still takes at the pace of its latest epochs; None where that is not known."""
    if trial.status != TrialStatus.RUNNING or not trial.results:
        return None
    return max((trial.until or trial.epochs) - trial.epoch, 0) * _pace(trial)


def _pace(trial: Trial) -> float:
    """Seconds of an epoch, the latest ones."""
    return statistics.fmean(result.seconds for result in trial.results[-PACE:])


def search_seconds_left(study: Study, space: SearchSpace) -> float | None:
    """Time to the end of a running search, if its trials take as long as those that are completed did.

    Before a trial is completed, as those that run will at their pace; None before their first epoch, and where trials
    pause, whose order is not known beforehand. Limits other than that on trials, and rules that stop trials, may end it
    earlier.
    """
    trials = study.all_trials.values()
    running = [trial for trial in trials if trial.status == TrialStatus.RUNNING]
    whole = [costs(trial)["hours"] * HOUR_S for trial in trials if trial.status == TrialStatus.COMPLETED]
    whole = whole or [trial.epochs * _pace(trial) for trial in running if trial.results]
    if not whole or space.stopping.pauses:
        return None
    mean = statistics.fmean(whole)
    known = [seconds_left(trial) for trial in running]
    waiting = max(space.budget.trials - len(study.trials), 0)
    waiting += max(space.replicates.planned(space.budget.trials) - len(study.replicates), 0)
    return (sum(mean if left is None else left for left in known) + waiting * mean) / max(len(running), 1)


def share_done(study: Study, space: SearchSpace) -> float:
    """Share of the planned epochs, those of repeats among them, that is trained or, by a rule or a failure, left out.

    In [0, 1]. Where trials pause, an epoch that was left out is trained by another trial, and does not count.
    """
    trials, budget = [*study.trials.values(), *study.replicates.values()], space.budget.trials
    done = sum(
        1.0 if trial.is_over and not space.stopping.pauses else trial.epoch / trial.epochs
        for trial in trials
        if trial.epochs
    )
    return min(1.0, done / (budget + space.replicates.planned(budget)))


def trial_cost(trial: Trial) -> TrialCost:
    """Cost of one trial."""
    spent, saved = costs(trial), _epochs_saved(trial)
    share = saved / trial.epoch if trial.epoch else 0.0
    return TrialCost(
        trial=trial.key,
        status=trial.status,
        epochs=trial.epoch,
        planned=trial.epochs,
        hours=spent["hours"],
        gpu_hours=spent["gpu_hours"],
        epochs_saved=saved,
        saved_hours=share * spent["hours"],
        saved_gpu_hours=share * spent["gpu_hours"],
    )


def _epochs_saved(trial: Trial) -> int:
    if trial.status not in (TrialStatus.STOPPED, TrialStatus.PAUSED):
        return 0
    waited = trial.until is not None and trial.epoch in trial.pauses and trial.epoch >= trial.until
    return max(0, trial.epochs - trial.epoch) if waited or trial.stopped_by not in NOTHING_SAVED else 0


def _was_continued(trial: Trial) -> bool:
    in_training = trial.status in (TrialStatus.PENDING, TrialStatus.RUNNING)
    return bool(trial.pauses) and (in_training or trial.epoch > trial.pauses[0])
