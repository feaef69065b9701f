"""The search algorithms: each says what to try next, as a pure function of the space, the seed and the history."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from orchestrator.algorithms.ax_experiment import ax_experiment
from orchestrator.algorithms.points import first_untried, grid_points, tried_points
from orchestrator.algorithms.suggest import (
    AskModel,
    Exhausted,
    Step,
    Suggestion,
    initial_suggestion,
    new_random_suggestion,
    sobol_suggestion,
    start_suggestion,
)
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.study import Study


def ax(space: SearchSpace, seed: int, study: Study) -> Step:
    """An initial design from the Sobol sequence, then Bayesian optimisation by Ax."""
    if (initial := initial_suggestion(space, seed, study)) is not None:
        return initial
    # Only a space that still holds something new is worth a question; the answer is known to be new by then.
    fallback = new_random_suggestion(space, seed, study)
    return fallback if isinstance(fallback, Exhausted) else AskModel(ax_experiment(space, seed, study))


def sobol(space: SearchSpace, seed: int, study: Study) -> Step:
    """A scrambled Sobol sequence (Owen 1998): even coverage, whatever the results."""
    return (
        start_suggestion(space, study)
        or sobol_suggestion(space, seed, study)
        or new_random_suggestion(space, seed, study, note="the Sobol sequence brought no new point")
    )


def random(space: SearchSpace, seed: int, study: Study) -> Step:
    """Independent uniform points, each on its parameter's scale (Bergstra and Bengio 2012)."""
    return start_suggestion(space, study) or new_random_suggestion(space, seed, study)


def grid(space: SearchSpace, seed: int, study: Study) -> Step:
    """The points of `orchestrator.algorithms.points.grid_points`, one after the other."""
    if (start := start_suggestion(space, study)) is not None:
        return start
    point = first_untried(grid_points(space, seed), tried_points(study))
    return Exhausted("every point of the grid was tried") if point is None else Suggestion(point, "grid")


ALGORITHMS: Mapping[str, Callable[[SearchSpace, int, Study], Step]] = {
    "ax": ax,
    "sobol": sobol,
    "random": random,
    "grid": grid,
}
"""By the name that a space gives under `algorithm`."""
