"""Early stopping: which trials are stopped before their last epoch, as a pure function of their learning curves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.algorithms.scoring import is_baseline
from orchestrator.space.options import StoppingConfig
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
    first = objective.first
    metrics = (result.metrics() for result in trial.results)
    values = [first.sign * each[first.metric] for each in metrics if first.metric in each]
    return list(_best_so_far(values)) if objective.epoch == "best" else values


def _best_so_far(values: Iterable[float]) -> Iterator[float]:
    best = -float("inf")
    for value in values:
        best = max(best, value)
        yield best


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
