"""Search spaces for tests of what is proposed, built without a file."""

from __future__ import annotations

from itertools import islice
from typing import Any

from orchestrator.algorithms.points import Point, random_points, sobol_points
from orchestrator.space.search_space import SearchSpace

RATE = {"type": "float", "low": 1e-5, "high": 1e-1, "log": True}
MARGIN = {"type": "float", "low": 0.0, "high": 1.0}
STEPPED = {"type": "float", "low": 0.1, "high": 0.9, "step": 0.1}
IDENTITIES = {"type": "int", "low": 2, "high": 9}
GATE = {"type": "choice", "values": ["mean", "attention"]}
WIDTH = {"type": "int", "low": 4, "high": 64, "log": True}
FLAG = {"type": "choice", "values": [False, True]}


def space_of(parameters: dict[str, Any], *, trials: int = 30, **fields: Any) -> SearchSpace:
    """A space of these parameters, `loss.osm_detach` among those that can be; constraints and the like by keyword."""
    trainer = {"loss": {"osm_share": 0.5, "center_weight": 5e-4}}
    given = {"version": 1, "name": "small", "budget": {"trials": trials}, "parameters": parameters, "trainer": trainer}
    return SearchSpace.model_validate({**given, **fields})


def sobol_point(space: SearchSpace, seed: int, index: int) -> Point:
    """Point `index` of `sobol_points`."""
    return next(islice(sobol_points(space, seed), index, None))


def random_point(space: SearchSpace, seed: int, index: int) -> Point:
    """The first of `random_points`."""
    return next(random_points(space, seed, index))


def mixed(**fields: Any) -> SearchSpace:
    """Every kind of parameter, one of them conditional, and a constraint."""
    parameters = {
        "optim.learning_rate": RATE,
        "clips.flip": MARGIN,
        "clips.erase": STEPPED,
        "clips.identities": IDENTITIES,
        "model.pooling": GATE,
        "model.attention_hidden": {
            "type": "int",
            "low": 4,
            "high": 64,
            "log": True,
            "when": {"model.pooling": ["attention"]},
        },
    }
    return space_of(parameters, **{"constraints": ["clips.flip + 2 * clips.erase <= 1.5"], **fields})


def finite(**fields: Any) -> SearchSpace:
    """A space of 9 points: 3 steps, and 2 more settings of which one is conditional."""
    parameters = {
        "clips.erase": {"type": "float", "low": 0.1, "high": 0.3, "step": 0.1},
        "model.pooling": GATE,
        "loss.osm_detach": {**FLAG, "when": {"model.pooling": ["attention"]}},
    }
    return space_of(parameters, **fields)
