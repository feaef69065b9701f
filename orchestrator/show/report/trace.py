"""How the best value came about, trial by trial, as a pure function of the history."""

from __future__ import annotations

import math
from typing import NamedTuple

from orchestrator.algorithms.scoring import outcome_limits, satisfies_all, score
from orchestrator.space.objective import Objective
from orchestrator.study.study import Study, TrialStatus


class TracePoint(NamedTuple):
    """One configuration in the order in which they were suggested."""

    trial: str
    number: int
    """From 0."""
    status: TrialStatus
    value: float | None
    """Of the first objective, of the epoch that counts; of a stopped trial where it was stopped. None without one."""
    standard_error: float | None
    """Over the queries."""
    feasible: bool
    """Whether the figures keep the objective's constraints."""
    best: float | None
    """The best value of completed, feasible trials up to here."""
    source: str
    """Who proposed it."""


def optimisation_trace(study: Study, objective: Objective) -> list[TracePoint]:
    """One point per configuration; repeats with other seeds are not part of the optimisation."""
    bounds, sign = outcome_limits(study, objective), objective.first.sign
    best: float | None = None
    points = []
    for trial in sorted(study.trials.values(), key=lambda trial: trial.index):
        found = score(trial, objective)
        value = found.value if found is not None and math.isfinite(found.value) else None
        feasible = found is not None and satisfies_all(found.metrics, bounds)
        if value is not None and feasible and trial.status == "completed":
            best = value if best is None else sign * max(sign * best, sign * value)
        error = None if found is None else found.standard_error
        points.append(TracePoint(trial.key, trial.index, trial.status, value, error, feasible, best, trial.source))
    return points
