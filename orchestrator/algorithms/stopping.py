"""Early stopping: which trials are stopped before their last epoch, and which paused ones continue.

Both are pure functions of their learning curves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.algorithms.scoring import best_first, is_baseline
from orchestrator.space.options import StoppingConfig, pause_shares
from orchestrator.study.study import TrialStatus

if TYPE_CHECKING:
    from orchestrator.space.objective import Objective
    from orchestrator.study.study import Study, Trial


class Standing(NamedTuple):
    """The rank of a trial among those with as many evaluations."""

    evaluations: int
    """Of the trial so far."""
    better: int
    """Other trials that were better after as many."""
    others: int
    """Other trials with as many."""


def decide(trial: Trial, study: Study, stopping: StoppingConfig, objective: Objective) -> str | None:
    """The reason to stop the trial after its latest epoch; None if it continues.

    To be called right after each epoch is recorded: it sees what the journal holds at that moment, so that the order of
    events decides. The best trial so far always continues, and so does the first one to reach any number of
    evaluations, so that a search never ends without a completed trial unless the best ones fail. Failed trials are not
    compared with. Replicates are neither stopped nor compared with: a mean over only the seeds that went well would be
    too good. Of several objectives the first one decides; a baseline that constraints compare with always continues.
    """
    if trial.repeats or (objective.is_relative and is_baseline(trial)):
        return None
    if not trial.results or objective.first.metric not in trial.results[-1].metrics():
        return None
    if trial.epoch >= trial.epochs:
        return None
    others = (
        learning_curve(other, objective)
        for other in study.trials.values()
        if other.key != trial.key and other.status != TrialStatus.FAILED
    )
    return verdict(learning_curve(trial, objective), others, stopping)


def learning_curve(trial: Trial, objective: Objective) -> list[float]:
    """The objective's value at each evaluation of the trial; larger is better."""
    return [value for _, value in evaluated_curve(trial, objective)]


def evaluated_curve(trial: Trial, objective: Objective) -> Iterator[tuple[int, float]]:
    """The epoch and the objective's value at each evaluation of the trial; larger is better."""
    first, best = objective.first, -math.inf
    for result in trial.results:
        found = result.metric(first.metric)
        if found is not None:
            value = first.sign * found
            best = max(best, value)
            yield result.epoch, best if objective.epoch == "best" else value


def verdict(own: Sequence[float], others: Iterable[Sequence[float]], stopping: StoppingConfig) -> str | None:
    """The reason to stop a trial at the end of its curve, or None. Larger is better; curves may have any length."""
    if stopping.rule not in ("asha", "percentile") or len(own) < stopping.grace:
        return None
    if stopping.rule == "asha" and not is_rung(len(own), stopping):
        return None
    standing = _standing(own, others)
    return _behind_rung(standing, stopping) if stopping.rule == "asha" else _below_percentile(standing, stopping)


def is_rung(evaluations: int, stopping: StoppingConfig) -> bool:
    """Whether successive halving decides after so many evaluations: `grace` times a power of `reduction`."""
    rung = stopping.grace
    while rung < evaluations:
        rung *= stopping.reduction
    return rung == evaluations


def _standing(own: Sequence[float], others: Iterable[Sequence[float]]) -> Standing:
    reached = [other[len(own) - 1] for other in others if len(other) >= len(own)]
    return Standing(len(own), sum(value > own[-1] for value in reached), len(reached))


def _behind_rung(standing: Standing, stopping: StoppingConfig) -> str | None:
    # A rung of fewer than `reduction` trials keeps its best one: waiting for more would leave the slot idle.
    kept = max(1, (standing.others + 1) // stopping.reduction)
    if standing.better < kept:
        return None
    return (
        f"number {standing.better + 1} of {standing.others + 1} after {_evaluations(standing)}, "
        f"and the best {kept} of them {'goes' if kept == 1 else 'go'} on"
    )


def _below_percentile(standing: Standing, stopping: StoppingConfig) -> str | None:
    not_better = standing.others - standing.better
    if standing.others < stopping.curves or 100 * not_better >= stopping.percentile * standing.others:
        return None
    return (
        f"no worse than {not_better} of {standing.others} other trials after {_evaluations(standing)}, "
        f"below percentile {stopping.percentile:g}"
    )


def _evaluations(standing: Standing) -> str:
    return f"{standing.evaluations} evaluation{'s' * (standing.evaluations > 1)}"


class Promotion(NamedTuple):
    """A paused trial that continues."""

    trial: Trial
    reason: str


def promotion(
    study: Study, stopping: StoppingConfig, objective: Objective, fits: Callable[[Trial], bool]
) -> Promotion | None:
    """The paused trial that the rule `promote` continues in a free place; None if a new trial is tried there.

    Asynchronous successive halving by promotion (Li et al. 2020, arXiv:1810.05934, algorithm 2): of the highest rung
    first, the best paused trial among the best 1 / `reduction` of all that have reached the rung. Trials that have
    passed a rung without a pause count there, too; failed ones do not. Of several objectives the first one decides, of
    equals the earlier trial.

    Args:
        study: the history.
        stopping: the rule; with another one than `promote` nothing is promoted.
        objective: decides which is better.
        fits: whether the budget lasts for the rest of a trial.
    """
    if stopping.rule != "promote" or not any(trial.status == TrialStatus.PAUSED for trial in study.trials.values()):
        return None
    higher: set[str] = set()
    for share in reversed(pause_shares(stopping)):
        rung = _rung(study, share, objective)
        best = rung[: len(rung) // stopping.reduction]
        for place, trial in enumerate(best, 1):
            if trial.status == TrialStatus.PAUSED and trial.key not in higher and fits(trial):
                goes_on = f"the best {len(best)} of them {'goes' if len(best) == 1 else 'go'} on"
                reason = f"number {place} of {len(rung)} after {float(share):.3g} of the epochs, and {goes_on}"
                return Promotion(trial, reason)
        higher.update(trial.key for trial in rung)
    return None


def _rung(study: Study, share: Fraction, objective: Objective) -> list[Trial]:
    """The trials that were evaluated at or after a share of their epochs, by the first such evaluation, best first."""
    reached = [
        (-value, trial.index, trial)
        for trial in study.trials.values()
        if trial.status != TrialStatus.FAILED and (value := _value_after(trial, share, objective)) is not None
    ]
    return [trial for _, _, trial in sorted(reached, key=lambda each: each[:2])]


def _value_after(trial: Trial, share: Fraction, objective: Objective) -> float | None:
    due = math.ceil(share * trial.epochs)
    if trial.epoch < due:
        return None
    return next((value for epoch, value in evaluated_curve(trial, objective) if epoch >= due), None)


def last_promotion(study: Study, objective: Objective, fits: Callable[[Trial], bool]) -> Promotion | None:
    """The paused trial that uses the rest of the budget once no new trial is tried; None if there is none it lasts for.

    The best by its value so far, whatever it was trained: the rest is too short for a rung to fill up.
    """
    paused = [trial for trial in study.trials.values() if trial.status == TrialStatus.PAUSED and fits(trial)]
    in_order = best_first(paused, study, objective)
    if not in_order:
        return None
    return Promotion(in_order[0][0], f"the best of {len(in_order)} paused trials that the rest of the budget lasts for")
