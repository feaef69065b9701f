"""A search algorithm: a hill climber with steps that shrink."""

from __future__ import annotations

import random

from orchestrator.algorithms.points import MAX_DRAWS, first_untried, tried_points
from orchestrator.algorithms.scoring import score
from orchestrator.algorithms.suggest import Exhausted, Suggestion
from orchestrator.space.parameters import Value
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.study import Study, TrialStatus

FIRST_RANDOM = 3
STEP = 0.3


def hill(space: SearchSpace, seed: int, study: Study) -> Suggestion | Exhausted:
    """A point near the best one, after a few random ones. It depends on the arguments alone: the draws derive from the
    seed and the number of trials, so that a resumed search goes on as if it had not stopped."""
    known = len(study.trials)
    draws = random.Random(f"{seed} {known}")
    # Trials that still run do not count: which epoch they have reached is a matter of timing.
    finished = [trial for trial in study.trials.values() if trial.status == TrialStatus.COMPLETED]
    found = [(score(trial, space.objective), dict(trial.params)) for trial in finished]
    scored = [(space.objective.first.sign * each.value, params) for each, params in found if each is not None]
    best = max(scored, key=lambda pair: pair[0], default=None) if known >= FIRST_RANDOM else None
    near = (_near(space, None if best is None else best[1], draws, known) for _ in range(MAX_DRAWS))
    point = first_untried((each for each in near if each is not None), tried_points(study))
    return Exhausted("no untried point near the best one") if point is None else Suggestion(point, "plugin")


def _near(
    space: SearchSpace, best: dict[str, Value] | None, draws: random.Random, known: int
) -> dict[str, Value] | None:
    """A point at a random distance from `best` in every parameter; None where a constraint forbids it."""
    places = []
    for path, parameter in space.parameters.items():
        place = draws.random()
        if best is not None and path in best:
            place = parameter.place(best[path]) + draws.gauss(0, STEP / (1 + known / 10))
        places.append(min(max(place, 0.0), 1.0 - 1e-9))
    return space.sample(places)
