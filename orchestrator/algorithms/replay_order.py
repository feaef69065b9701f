"""In which order a replay tries the recorded trials: as the search did, at random, or as an algorithm would have."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from orchestrator.algorithms.async_suggester import AsyncSuggester
from orchestrator.algorithms.ax_process import AxProcess
from orchestrator.algorithms.registry import ALGORITHMS
from orchestrator.algorithms.simulate import Candidate, Order, Pick
from orchestrator.algorithms.suggest import AskModel, Exhausted, Step, Suggestion
from orchestrator.space.parameters import Choice, FloatRange, IntRange, Value
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.events import Source
from orchestrator.study.study import Study

JOURNALED = "journaled"
POLL_PERIOD_S = 0.02


def order_of(name: str, space: SearchSpace, seed: int, model: AxProcess) -> Order:
    """The order by its name: `journaled`, or that of an algorithm.

    What an algorithm proposes was hardly ever tried, so that the nearest recorded trial that is left is taken for it.
    That of `random` are drawn directly, since those far from all others would be nearest too often.
    """
    if name == JOURNALED:
        return _journaled
    if name == "random":
        draws = random.Random(seed)
        return lambda study, untried: Pick(draws.choice(untried), "random")
    algorithm, ahead = ALGORITHMS[name], AsyncSuggester(model, space, stale=0)

    def algorithm_order(study: Study, untried: Sequence[Candidate]) -> Pick:
        step = _answered(lambda: algorithm(space, seed, study), ahead, study)
        if not isinstance(step, Suggestion):
            return _journaled(study, untried)
        return Pick(nearest(space, step.params, untried), step.source)

    return algorithm_order


def _journaled(study: Study, untried: Sequence[Candidate]) -> Pick:
    return Pick(untried[0], cast(Source, untried[0].trial.source))


def _answered(ask: Callable[[], Step], ahead: AsyncSuggester, study: Study) -> Suggestion | Exhausted:
    """The algorithm's step, with the model's answer in the place of a question."""
    step = ask()
    while isinstance(step, AskModel):
        found = ahead.take(step, study)
        if found is not None:
            return found
        time.sleep(POLL_PERIOD_S)
    return step


def nearest(space: SearchSpace, point: Mapping[str, Value], untried: Sequence[Candidate]) -> Candidate:
    """The candidate closest to a point, each parameter measured as a share of its own range; the earlier of equals."""
    return min(untried, key=lambda candidate: (_distance(space, point, candidate.trial.params), candidate.trial.index))


def _distance(space: SearchSpace, first: Mapping[str, Value], second: Mapping[str, Value]) -> float:
    return sum(
        _difference(parameter, first.get(path), second.get(path)) ** 2 for path, parameter in space.parameters.items()
    )


def _difference(parameter: FloatRange | IntRange | Choice, first: Value | None, second: Value | None) -> float:
    """In [0, 1]; a parameter that is active in one of the points only differs as much as can be."""
    if first == second:
        return 0.0
    if first is None or second is None or (isinstance(parameter, Choice) and not parameter.ordered):
        return 1.0
    return abs(parameter.place(first) - parameter.place(second))
