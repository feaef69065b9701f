"""The score of a trial by the objective of its search, and the order of trials."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from orchestrator.space.objective import COSTS, Objective, ObjectiveTerm, OutcomeConstraint, RelativeConstraint
from orchestrator.study.study import Study, Trial, TrialStatus
from trainer.result import EpochResult

HOUR_S = 3600.0


class Score(NamedTuple):
    """A trial's value by the objective, and the metrics it was taken from."""

    value: float
    """Of the objective; of the first one of several."""
    standard_error: float | None
    """Over queries; None for a metric without one."""
    result: EpochResult
    """Epoch of the value."""
    values: tuple[float, ...]
    """Of all objectives, in their order."""
    metrics: Mapping[str, float]
    """All metrics of this epoch, and the trial's costs."""


def score(trial: Trial, objective: Objective) -> Score | None:
    """The score of a trial so far: at its last evaluated epoch, or at its best one if `objective.epoch` is `best`.

    None before the first evaluation. The first of several objectives decides which epoch is best.
    """
    first = objective.first
    chosen = _last(trial, first) if objective.epoch == "last" else _best(trial, first)
    if chosen is None:
        return None
    metrics = chosen.metrics() | costs(trial)
    values = tuple(metrics[term.metric] for term in objective.terms)
    return Score(values[0], metrics.get(f"{first.metric}_standard_error"), chosen, values, metrics)


def _last(trial: Trial, term: ObjectiveTerm) -> EpochResult | None:
    return next((result for result in reversed(trial.results) if result.metric(term.metric) is not None), None)


def _best(trial: Trial, term: ObjectiveTerm) -> EpochResult | None:
    """The earliest of equals."""
    evaluated = [(value, result) for result in trial.results if (value := result.metric(term.metric)) is not None]
    return max(evaluated, key=lambda pair: term.sign * pair[0])[1] if evaluated else None


def costs(trial: Trial) -> dict[str, float]:
    """Time of the trial's epochs in hours, and in hours times the GPUs held; lost work and waiting are not counted."""
    seconds = sum(result.seconds for result in trial.results)
    return dict(zip(COSTS, (seconds / HOUR_S, trial.gpu_seconds / HOUR_S), strict=True))


def ranked(study: Study, objective: Objective) -> list[tuple[Trial, Score]]:
    """Completed trials in the order of `best_first`."""
    completed = [trial for trial in study.trials.values() if trial.status == TrialStatus.COMPLETED]
    return best_first(completed, study, objective)


def best_first(trials: Iterable[Trial], study: Study, objective: Objective) -> list[tuple[Trial, Score]]:
    """Those of some trials that have a score, by it, best first; of equals the earlier suggested one first.

    Those that violate a constraint of the objective come last. Several objectives rank by the first.
    """
    constraints, sign = outcome_limits(study, objective), objective.first.sign
    scored = [(trial, found) for trial in trials if (found := score(trial, objective)) is not None]
    return sorted(
        scored, key=lambda pair: (not satisfies_all(pair[1].metrics, constraints), -sign * pair[1].value, pair[0].index)
    )


def feasible(study: Study, objective: Objective) -> list[tuple[Trial, Score]]:
    """The completed trials that satisfy the objective's constraints, best first.

    Empty as long as a constraint waits for the baseline: before that no trial is called good.
    """
    constraints = outcome_limits(study, objective)
    return [pair for pair in ranked(study, objective) if satisfies_all(pair[1].metrics, constraints)]


def baseline(study: Study) -> Trial | None:
    """The trial of the first point under `start`; None before it is suggested."""
    return next((trial for trial in study.trials.values() if is_baseline(trial)), None)


def is_baseline(trial: Trial) -> bool:
    """Whether this is the trial that relative constraints compare with."""
    return trial.index == 0 and trial.source == "start"


def outcome_limits(study: Study, objective: Objective) -> list[OutcomeConstraint | None]:
    """The objective's constraints with numbers as limits; None for one that waits for the baseline."""
    known = baseline(study) if objective.is_relative else None
    found = score(known, objective) if known is not None and known.status == TrialStatus.COMPLETED else None
    metrics = {} if found is None else found.metrics
    return [_in_numbers(constraint, metrics) for constraint in objective.outcome_constraints()]


def _in_numbers(
    constraint: OutcomeConstraint | RelativeConstraint, baseline: Mapping[str, float]
) -> OutcomeConstraint | None:
    if isinstance(constraint, OutcomeConstraint):
        return constraint
    return constraint.against(baseline[constraint.metric]) if constraint.metric in baseline else None


def satisfies_all(metrics: Mapping[str, float], constraints: Sequence[OutcomeConstraint | None]) -> bool:
    """Whether metrics satisfy all constraints; one whose limit is not known yet is not satisfied."""
    return all(constraint is not None and constraint.holds(metrics[constraint.metric]) for constraint in constraints)


def is_feasible(found: Score, study: Study, objective: Objective) -> bool:
    """Whether a score satisfies the objective's constraints; False as long as one of them waits for the baseline."""
    return satisfies_all(found.metrics, outcome_limits(study, objective))


def lost_baseline(study: Study, objective: Objective) -> str | None:
    """Why relative constraints can never be decided: the baseline failed or was stopped. None otherwise."""
    known = baseline(study) if objective.is_relative else None
    if known is None or not known.is_over or known.status == TrialStatus.COMPLETED:
        return None
    return f"the baseline {known.key} {known.status}, with which objective.constraints compare"


def pareto_front(study: Study, objective: Objective) -> list[tuple[Trial, Score]]:
    """The feasible trials that no other feasible trial dominates, in the order of `ranked`.

    A trial dominates another if it is at least as good in all objectives and better in one. With one objective these
    are the best trials.
    """
    candidates = feasible(study, objective)
    front: set[tuple[float, ...]] = set()
    # Only what comes before a trial in this order can dominate it.
    for values in sorted({signed_values(found, objective) for _, found in candidates}, reverse=True):
        if not _is_covered(values, front):
            front.add(values)
    return [pair for pair in candidates if signed_values(pair[1], objective) in front]


def signed_values(found: Score, objective: Objective) -> tuple[float, ...]:
    """The values of all objectives, negated where less is better."""
    return tuple(term.sign * value for term, value in zip(objective.terms, found.values, strict=True))


def _is_covered(values: tuple[float, ...], others: Iterable[tuple[float, ...]]) -> bool:
    """Whether one of the others is at least as good in all objectives."""
    return any(all(theirs >= ours for theirs, ours in zip(other, values, strict=True)) for other in others)


def modelled_metrics(found: Score, objective: Objective) -> dict[str, float]:
    """The metrics that the model is told besides the first objective: other objectives and constraints."""
    told = [metric for metric in objective.metrics() if metric != objective.first.metric]
    return {metric: found.metrics[metric] for metric in told if math.isfinite(found.metrics[metric])}


def trials_since_improvement(study: Study, objective: Objective) -> int:
    """Completed trials since the Pareto front last changed; with one objective, since the best one.

    A trial that equals another changes nothing. 0 as long as a constraint waits for the baseline.
    """
    constraints = outcome_limits(study, objective)
    if None in constraints:
        return 0
    front: list[tuple[float, ...]] = []
    since = 0
    for key in study.completed:
        found = score(study.trials[key], objective)
        since += 1
        if found is not None and satisfies_all(found.metrics, constraints):
            values = signed_values(found, objective)
            if not _is_covered(values, front):
                front = [other for other in front if not _is_covered(other, [values])] + [values]
                since = 0
    return since
