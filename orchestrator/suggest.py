"""What to try next, as a pure function of the space, the seed and the history.

The same history always gives the same suggestion: points come from the space's own list first, then from a scrambled
Sobol sequence, then from Ax's model (`orchestrator.ax_worker`), which is rebuilt from the history for every question.
A restart therefore cannot change what a search proposes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from orchestrator.parameters import Value
from orchestrator.space import SearchSpace
from orchestrator.study import Study, score
from trainer.seeds import derived_seed

# Fewer finished trials than this say too little for a model to be worth its time.
OBSERVATIONS_FOR_A_MODEL = 2


class Suggestion(NamedTuple):
    """A point of the space and who proposed it."""

    params: dict[str, Value]
    source: Literal["start", "sobol", "ax", "random"]


def initial_trials(space: SearchSpace) -> int:
    """Trials before the model is asked: a third of the budget, at least 4 and at most two per parameter."""
    return max(len(space.start), min(2 * len(space.parameters), max(4, space.budget.trials // 3)))


def initial_suggestion(space: SearchSpace, seed: int, study: Study) -> Suggestion | None:
    """The next point of the initial design, or None when the model should be asked.

    As long as too few trials have finished the design goes on, so that a search never waits for a first result.
    """
    index = len(study.trials)
    if index < len(space.start):
        return Suggestion(dict(space.start[index]), "start")
    finished = sum(trial.status == "completed" for trial in study.trials.values())
    if index < initial_trials(space) or finished < OBSERVATIONS_FOR_A_MODEL:
        return Suggestion(sobol_point(space, seed, index - len(space.start)), "sobol")
    return None


def sobol_point(space: SearchSpace, seed: int, index: int) -> dict[str, Value]:
    """Point `index` of the space's scrambled Sobol sequence."""
    sequence: Any = torch.quasirandom.SobolEngine(  # type: ignore[no-untyped-call]
        len(space.parameters), scramble=True, seed=derived_seed(seed, "initial design")
    )
    sequence.fast_forward(index)
    draws = sequence.draw(1, dtype=torch.float64)[0].tolist()
    return _point(space, draws)


def random_point(space: SearchSpace, seed: int, index: int) -> dict[str, Value]:
    """A uniformly random point for trial `index`: the fallback when the model fails."""
    draws = np.random.default_rng(derived_seed(seed, "random point", index))
    return _point(space, draws.random(len(space.parameters)).tolist())


def _point(space: SearchSpace, draws: list[float]) -> dict[str, Value]:
    return {path: parameter.at(draw) for (path, parameter), draw in zip(space.parameters.items(), draws, strict=True)}


def model_question(space: SearchSpace, seed: int, study: Study) -> dict[str, Any]:
    """All that Ax needs to answer, as plain JSON: parameters, goal, seed and every trial in the order of its index.

    Only finite values of completed trials enter as observations, with their standard error; unfinished trials are
    pending points; failed ones are abandoned, so that Ax neither learns from them nor proposes them again.
    """
    trials = sorted(study.trials.values(), key=lambda trial: trial.index)
    return {
        "parameters": {path: parameter.model_dump() for path, parameter in space.parameters.items()},
        "metric": space.objective.metric,
        "goal": space.objective.goal,
        "seed": derived_seed(seed, "model", len(trials)) % 2**31,
        "trials": [_observation(space, trial.params, trial.status, score(trial, space.objective)) for trial in trials],
    }


def _observation(space: SearchSpace, params: Mapping[str, Value], status: str, found: Any) -> dict[str, Any]:
    state = {"completed": "completed", "failed": "abandoned", "stopped": "abandoned"}.get(status, "pending")
    if state != "completed" or found is None:
        return {"params": dict(params), "state": "abandoned" if state == "completed" else state}
    return {
        "params": dict(params),
        "state": "completed",
        "value": found.value,
        "standard_error": found.standard_error,
    }
