"""When a search has spent its budget, as a pure function of its history."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from orchestrator.scores import is_feasible, ranked, score
from orchestrator.study import Study

if TYPE_CHECKING:
    from orchestrator.space import Budget, Objective, SearchSpace

HOUR_S = 3600.0


class Spent(NamedTuple):
    """Why no more trials are suggested."""

    reason: str
    at_once: bool
    """Whether the running trials are given up too, rather than trained to their end."""


def spent(study: Study, space: SearchSpace, moment: float | None = None) -> Spent | None:
    """Why the search is at its end, or None where it may go on.

    Budgets of time and epochs and a target that is reached end running trials too: they have nothing left to gain. A
    search without improvement waits for its running trials, which may yet improve it.

    Args:
        study: the history.
        space: its budget and objective.
        moment: what is the time, in seconds since 1970; None asks as of the last event.
    """
    budget = space.budget
    reason = _resources(study, budget, moment) or _target(study, space)
    if reason is not None:
        return Spent(reason, at_once=True)
    if budget.patience is not None and without_improvement(study, space.objective) >= budget.patience:
        return Spent(f"{budget.patience} completed trials in a row improved nothing", at_once=False)
    if len(study.trials) >= budget.trials:
        return Spent(f"{budget.trials} trials", at_once=False)
    return None


def without_improvement(study: Study, objective: Objective) -> int:
    """Completed trials since the best one."""
    sign = 1 if objective.goal == "maximize" else -1
    best, since = float("-inf"), 0
    for key in study.completed:
        found = score(study.trials[key], objective)
        since += 1
        if found is not None and is_feasible(found, objective) and sign * found.value > best:
            best, since = sign * found.value, 0
    return since


def _resources(study: Study, budget: Budget, moment: float | None) -> str | None:
    spending = study.spending
    seconds, gpu_seconds = (spending.seconds, spending.gpu_seconds) if moment is None else spending.until(moment)
    if budget.epochs is not None and sum(trial.epoch for trial in study.trials.values()) >= budget.epochs:
        return f"{budget.epochs} epochs"
    if budget.hours is not None and seconds >= budget.hours * HOUR_S:
        return f"{budget.hours:g} hours"
    if budget.gpu_hours is not None and gpu_seconds >= budget.gpu_hours * HOUR_S:
        return f"{budget.gpu_hours:g} GPU hours"
    return None


def _target(study: Study, space: SearchSpace) -> str | None:
    target, objective = space.budget.target, space.objective
    best = ranked(study, objective)
    if target is None or not best or not is_feasible(best[0][1], objective):
        return None
    trial, found = best[0]
    reached = found.value >= target if objective.goal == "maximize" else found.value <= target
    return f"{objective.metric} {found.value:.4g} of {trial.key} reaches the target {target:g}" if reached else None
