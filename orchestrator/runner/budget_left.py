"""What a search has left to run, as pure functions of its history."""

from __future__ import annotations

from orchestrator.algorithms.budget import Spent, spent
from orchestrator.algorithms.finalization import finals_left
from orchestrator.algorithms.replicates import replicates_left
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.study import Study, unfinished


def nothing_new(study: Study, space: SearchSpace, moment: float) -> Spent | None:
    """Why no more configurations are suggested, or None where there may be.

    Args:
        study: the history.
        space: what is searched.
        moment: what is the time, in seconds since 1970.
    """
    # They import torch, for which looking at a search should not wait.
    from orchestrator.algorithms.suggest import ALGORITHMS, Exhausted

    end = spent(study, space, moment)
    if end is not None:
        return end
    step = ALGORITHMS[space.algorithm.name](space, study.seed, study)
    return Spent(step.reason, at_once=False) if isinstance(step, Exhausted) else None


def trials_left(study: Study, space: SearchSpace, moment: float) -> int:
    """Trials that may still run: unfinished ones, new ones while there are a budget and points, then repeats and
    trainings for the test set."""
    end = nothing_new(study, space, moment)
    if end is not None:
        return len(unfinished(study)) + trials_again_left(study, space, end)
    over = sum(trial.is_over for trial in study.trials.values())
    return max(len(unfinished(study)), space.budget.trials - over)


def trials_again_left(study: Study, space: SearchSpace, end: Spent) -> int:
    """Trials of configurations that are known, still to be suggested when no new configuration is."""
    repeats = 0 if end.ends_replicates else sum(1 for _ in replicates_left(study, space))
    return repeats + sum(1 for _ in finals_left(study))
