"""When a search has spent its budget, as a pure function of the study."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.algorithms.finalization import open_finalization
from orchestrator.algorithms.scoring import is_feasible, lost_baseline, ranked, trials_since_improvement
from orchestrator.study.study import Study, Trial, TrialStatus
from trainer.formatting import counted

if TYPE_CHECKING:
    from orchestrator.space.objective import Objective
    from orchestrator.space.options import Budget
    from orchestrator.space.search_space import SearchSpace

HOUR_S = 3600.0


class Spent(NamedTuple):
    """Why no more configurations are suggested."""

    reason: str
    at_once: bool
    """Whether running trials are stopped, too, rather than trained to their end."""
    ends_replicates: bool = False
    """Whether replicates of the best configurations end as well; otherwise they begin now."""
    continues_paused: bool = False
    """Whether paused trials may be continued nevertheless, as far as the budget of trials lasts."""


def spent(study: Study, space: SearchSpace, moment: float | None = None) -> Spent | None:
    """Why no more configurations are suggested; None if they may be.

    A spent budget of time or epochs and a reached target stop running trials, too. Without improvement for `patience`
    trials, or where less than `gain` is expected of more, running ones go on: they may still improve the search.
    Replicates of the best configurations cost time and epochs like all trials, but are not counted as trials or for
    `patience`, and they begin when a single seed reaches the target. While the test set is open, only trainings for it
    run, and no budget applies.

    Args:
        study: the history.
        space: holds the limits, and the objective that decides improvements and whether the target is reached.
        moment: the time in seconds since 1970; None for the time of the last event.
    """
    budget, objective = space.budget, space.objective
    if open_finalization(study) is not None:
        return Spent("the test set is open", at_once=False, ends_replicates=True)
    if (reason := _resources(study, budget, moment)) is not None:
        return Spent(reason, at_once=True, ends_replicates=True)
    if (reason := lost_baseline(study, objective)) is not None:
        return Spent(reason, at_once=False, ends_replicates=True)
    if (reason := _target(study, budget.target, objective)) is not None:
        return Spent(reason, at_once=True)
    if budget.patience is not None and trials_since_improvement(study, objective) >= budget.patience:
        return Spent(f"{budget.patience} completed trials in a row improved nothing", at_once=False)
    if budget.gain is not None and (reason := _expects_little(study, space, budget.gain)) is not None:
        return Spent(reason, at_once=False)
    if trainings_left(study, space) < 1:
        return Spent(counted(budget.trials, "trial", "trials"), at_once=False, continues_paused=True)
    return None


def _expects_little(study: Study, space: SearchSpace, least: float) -> str | None:
    from orchestrator.algorithms.expected_gain import outlook  # imports SciPy, which few searches need here

    ahead = outlook(study, space)
    if ahead is None or ahead.gain >= least:
        return None
    metric = space.objective.first.metric
    return f"{ahead.trials} more trials are expected to improve {metric} by less than {least:g} (budget.gain)"


def trainings_left(study: Study, space: SearchSpace) -> Fraction:
    """Trials that the budget leaves.

    A new trial, or the rest of a paused one, starts only if all of it is left: whatever starts can come to its end.
    """
    return space.budget.trials - trainings_taken(study, space)


def trainings_taken(study: Study, space: SearchSpace) -> Fraction:
    """Trials of the budget that the configurations have taken: their number or, where they pause, whole trainings.

    A trial that pauses takes the share of its epochs that it has trained or will train without another decision.
    """
    if not (space.stopping.pauses or any(trial.pauses for trial in study.trials.values())):
        return Fraction(len(study.trials))
    epochs = Counter[int]()
    for trial in study.trials.values():
        epochs[trial.epochs] += _taken(trial)
    return sum((Fraction(taken, whole) for whole, taken in epochs.items()), Fraction())


def _taken(trial: Trial) -> int:
    if trial.status in (TrialStatus.PAUSED, TrialStatus.STOPPED):
        return trial.epoch
    # A failed one has taken what it was to train: else trials that fail at once would never use the budget up.
    return trial.epochs if trial.until is None else min(trial.until, trial.epochs)


def rest(trial: Trial) -> Fraction:
    """The share of its epochs that a trial has left."""
    return Fraction(trial.epochs - trial.epoch, trial.epochs)


def _resources(study: Study, budget: Budget, moment: float | None) -> str | None:
    spending = study.gpu_hours
    seconds, gpu_seconds = (spending.seconds, spending.gpu_seconds) if moment is None else spending.until(moment)
    if budget.epochs is not None and _epochs(study) >= budget.epochs:
        return counted(budget.epochs, "epoch", "epochs")
    if budget.hours is not None and seconds >= budget.hours * HOUR_S:
        return f"{budget.hours:g} hours"
    if budget.gpu_hours is not None and gpu_seconds >= budget.gpu_hours * HOUR_S:
        return f"{budget.gpu_hours:g} GPU hours"
    return None


def _epochs(study: Study) -> int:
    """Trained so far by configurations and replicates; trainings for the test set have no budget."""
    return sum(trial.epoch for trial in (*study.trials.values(), *study.replicates.values()))


def _target(study: Study, target: float | None, objective: Objective) -> str | None:
    if target is None:  # asked whenever a place is free
        return None
    best = ranked(study, objective)
    if not best or not is_feasible(best[0][1], study, objective):
        return None
    trial, found = best[0]
    first = objective.first
    reached = found.value >= target if first.goal == "maximize" else found.value <= target
    return f"{first.metric} {found.value:.4g} of {trial.key} reaches the target {target:g}" if reached else None
