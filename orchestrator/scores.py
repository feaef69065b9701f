"""What the objective makes of trials, and their order."""

from __future__ import annotations

from typing import NamedTuple

from orchestrator.objective import Objective
from orchestrator.study import Study, Trial
from trainer.result import EpochResult


class Score(NamedTuple):
    """What the objective makes of a trial."""

    value: float
    standard_error: float | None
    """Standard error over queries where the metric has one."""
    result: EpochResult
    """The epoch that the value was taken from."""


def score(trial: Trial, objective: Objective) -> Score | None:
    """The objective's value of a trial so far: of its last evaluated epoch, or of its best one if the space says so.

    None before the first evaluation.
    """
    evaluated = [result for result in trial.results if objective.metric in result.metrics()]
    if not evaluated:
        return None
    sign = 1 if objective.goal == "maximize" else -1
    chosen = (
        evaluated[-1]
        if objective.epoch == "last"
        else max(evaluated, key=lambda result: sign * result.metrics()[objective.metric])
    )
    figures = chosen.metrics()
    return Score(figures[objective.metric], figures.get(f"{objective.metric}_standard_error"), chosen)


def ranked(study: Study, objective: Objective) -> list[tuple[Trial, Score]]:
    """Completed trials, best first; the earlier suggested of equals first.

    Those that break a constraint of the objective come after all that keep them.
    """
    sign = 1 if objective.goal == "maximize" else -1
    scored = [
        (trial, found)
        for trial in study.trials.values()
        if trial.status == "completed" and (found := score(trial, objective)) is not None
    ]
    return sorted(scored, key=lambda pair: (not is_feasible(pair[1], objective), -sign * pair[1].value, pair[0].index))


def is_feasible(found: Score, objective: Objective) -> bool:
    """Whether the figures of the epoch that counts keep the objective's constraints."""
    figures = found.result.metrics()
    return all(bound.holds(figures[bound.metric]) for bound in objective.outcome_bounds())
