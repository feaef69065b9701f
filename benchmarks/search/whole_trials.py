"""Searches of whole trials on the unit cube by the project's own decision, without a space, a study or Ax."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.search.problems import Point, Vector
from orchestrator.algorithms.coded_points import CodedSpace
from orchestrator.algorithms.curve_history import CurveTrial, Evaluated, History
from orchestrator.algorithms.freeze_thaw import Start, decide


def unit_cube(dimensions: int, specs: Sequence[dict[str, Any]] = ()) -> CodedSpace:
    """The unit cube; `specs` has more of each coordinate, such as its prior."""
    each = specs or [{}] * dimensions
    parameters = {f"x{column}": {"type": "float", "high": 1.0, **spec} for column, spec in enumerate(each)}
    return CodedSpace.of({"parameters": parameters, "constraints": []})


def whole_trial(point: Point, value: float, time: int, *, seconds: float | None = None, search: int = 0) -> CurveTrial:
    """A completed trial of one epoch."""
    return CurveTrial(np.asarray(point), "completed", 1, 1, 1, 0, [Evaluated(1, value, time)], seconds, search)


def proposal(space: CodedSpace, trials: Sequence[CurveTrial], seed: int, budget: int = 0) -> Vector:
    """(p,): the point that the decision tries next."""
    found = decide(History(space, trials, (1,), (), seed, budget))
    assert isinstance(found, Start), "nothing pauses"
    return found.places
