"""Replays a finished search from its recorded curves under another stopping rule or in another order.

Only trials that were trained to their end take part: how the others would have continued is not known. A replayed trial
reports its recorded epochs, each of which takes as long as it did. With `promote` every trial trains to its first
pause, and those that are paused at the end count as stopped.
"""

from __future__ import annotations

import heapq
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, cast

from orchestrator.algorithms.async_suggester import AsyncSuggester
from orchestrator.algorithms.ax_process import AxProcess
from orchestrator.algorithms.scoring import ranked
from orchestrator.algorithms.stopping import last_promotion, learning_curve, promotion, verdict
from orchestrator.algorithms.suggest import ALGORITHMS, AskModel, Proposal, Suggestion
from orchestrator.base.errors import SearchError
from orchestrator.space.objective import Objective
from orchestrator.space.options import StoppingConfig, next_pause
from orchestrator.space.parameters import AnyParameter, Choice, Value
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.events import (
    Source,
    TrialCompleted,
    TrialPaused,
    TrialReported,
    TrialStarted,
    TrialStopped,
    TrialSuggested,
)
from orchestrator.study.study import Study, Trial, TrialStatus

JOURNALED = "journaled"  # the order in which the search itself tried its trials
POLL_PERIOD_S = 0.02


class Candidate(NamedTuple):
    """A recorded trial that may be tried again."""

    trial: Trial
    learning_curve: Sequence[float]
    """The objective's value at each evaluation; larger is better."""
    rank: int
    """0 is the best of all."""
    value: float
    """The objective's value."""


class Pick(NamedTuple):
    """The candidate that is tried next, and the source of the choice."""

    candidate: Candidate
    source: Source


Order = Callable[[Study, Sequence[Candidate]], Pick]
"""Picks the next trial from those left, at least one, which are in the order of their suggestion."""


class Found(NamedTuple):
    """A new best value, and the cost at which it was found."""

    epochs: int
    hours: float
    value: float


class Replay(NamedTuple):
    """The result of a replay of all candidates."""

    epochs: int
    """Epochs trained, over all trials."""
    hours: float
    """Wall time; a slot starts its next trial at once."""
    stopped: int
    """Trials stopped early."""
    best_stopped: bool
    """Whether the best trial was among them."""
    found: tuple[Found, ...]
    """Each improvement of the best value by a trial that was trained to its end."""


def candidates(study: Study, objective: Objective) -> list[Candidate]:
    """The trials that can be replayed, in the order in which they were suggested.

    Raises:
        SearchError: there are fewer than two.
    """
    places = [
        Candidate(trial, learning_curve(trial, objective), rank, found.value)
        for rank, (trial, found) in enumerate(ranked(study, objective))
    ]
    if len(places) < 2:
        raise SearchError(f"{study.name}: {len(places)} trials were trained to their end; a replay needs at least 2")
    return sorted(places, key=lambda candidate: candidate.trial.index)


def replay(
    pool: Sequence[Candidate], objective: Objective, order: Order, *, stopping: StoppingConfig, slots: int
) -> Replay:
    """Runs all candidates in an order under a stopping rule, `slots` of them at a time."""
    return _Replaying(pool, objective, order, stopping).run(slots)


class _Running:
    """A candidate in a slot."""

    def __init__(self, key: str, candidate: Candidate, metric: str) -> None:
        self.key = key
        self.candidate = candidate
        self.epochs = iter(candidate.trial.results)
        self.left = len(candidate.trial.results)
        self.until: int | None = None
        """Epoch after which it pauses."""
        self.seen: list[float] = []
        self._metric = metric

    def seconds(self) -> float:
        """How long the next epoch takes."""
        return self.candidate.trial.results[-self.left].seconds

    def next_pause(self, stopping: StoppingConfig) -> int | None:
        """The epoch after which it pauses next; None if it is trained to its end."""
        results = self.candidate.trial.results
        every = next((result.epoch for result in results if result.validation is not None), 1)
        return next_pause(len(results) - self.left, self.candidate.trial.epochs, every, stopping)

    def advance(self) -> TrialReported:
        """The next epoch."""
        result = next(self.epochs)
        self.left -= 1
        self.evaluated = self._metric in result.metrics()
        if self.evaluated:
            self.seen.append(self.candidate.learning_curve[len(self.seen)])
        return TrialReported(trial=self.key, result=result)


class _Replaying:
    """A replay under way: a clock, the slots and the study that the order and the rule see."""

    def __init__(self, pool: Sequence[Candidate], objective: Objective, order: Order, stopping: StoppingConfig) -> None:
        self._untried = list(pool)
        self._objective = objective
        self._metric = objective.first.metric
        self._order = order
        self._stopping = stopping
        self._study = Study()
        self._events: list[tuple[float, int]] = []
        self._slots: dict[int, _Running] = {}
        self._free: list[int] = []
        self._all: list[_Running] = []
        self._epochs, self._now = 0, 0.0
        self._stopped: list[Candidate] = []
        self._found: list[Found] = []
        self._best = len(pool)

    def run(self, slots: int) -> Replay:
        self._free = [*range(slots)]
        while self._fill_places():
            self._now, slot = heapq.heappop(self._events)
            self._advance(slot, self._slots[slot])
        for trial in self._study.trials.values():
            if trial.status == TrialStatus.PAUSED:
                self._stop(self._all[trial.index], "paused for good")
        best_stopped = any(candidate.rank == 0 for candidate in self._stopped)
        return Replay(self._epochs, self._now / 3600, len(self._stopped), best_stopped, tuple(self._found))

    def _fill_places(self) -> bool:
        """Starts or continues trials in the free slots; whether any slot is at work."""
        while self._free and (running := self._continued() or self._started() or self._last()) is not None:
            slot = self._free.pop(0)
            running.until = running.next_pause(self._stopping)
            self._study.apply(TrialStarted(trial=running.key, attempt=1, gpus=running.candidate.trial.gpus))
            self._slots[slot] = running
            self._schedule(slot, running)
        return bool(self._events)

    def _continued(self) -> _Running | None:
        """The paused trial that the rule continues now."""
        found = promotion(self._study, self._stopping, self._objective, lambda trial: True)
        return None if found is None else self._all[found.trial.index]

    def _last(self) -> _Running | None:
        """The best paused trial, once no other can become the first to be trained to its end."""
        if self._events or self._found:
            return None
        found = last_promotion(self._study, self._objective, lambda trial: True)
        return None if found is None else self._all[found.trial.index]

    def _started(self) -> _Running | None:
        """A new trial, in the order's turn."""
        if not self._untried:
            return None
        candidate, source = self._order(self._study, self._untried)
        self._untried.remove(candidate)
        index = len(self._all)
        running = _Running(f"t{index:04d}", candidate, self._metric)
        known = candidate.trial
        self._study.apply(
            TrialSuggested(
                trial=running.key,
                index=index,
                params=known.params,
                source=source,
                seed=known.seed,
                epochs=known.epochs,
            )
        )
        self._all.append(running)
        return running

    def _schedule(self, slot: int, running: _Running) -> None:
        heapq.heappush(self._events, (self._now + running.seconds(), slot))

    def _advance(self, slot: int, running: _Running) -> None:
        self._study.apply(running.advance())
        self._epochs += 1
        if running.left == 0:
            self._complete(running)
        elif len(self._study.trials[running.key].results) == running.until:
            self._study.apply(TrialPaused(trial=running.key, epoch=running.until, reason=""))
        elif running.evaluated and (reason := self._reason(running)) is not None:
            self._stop(running, reason)
        else:
            self._schedule(slot, running)
            return
        self._free.append(slot)

    def _reason(self, running: _Running) -> str | None:
        others = (other.seen for other in self._all if other is not running)
        return verdict(running.seen, others, self._stopping)

    def _complete(self, running: _Running) -> None:
        self._study.apply(TrialCompleted(trial=running.key))
        if running.candidate.rank < self._best:
            self._best = running.candidate.rank
            self._found.append(Found(self._epochs, self._now / 3600, running.candidate.value))

    def _stop(self, running: _Running, reason: str) -> None:
        assert self._stopping.rule != "none"
        epoch = self._study.trials[running.key].epoch
        event = TrialStopped(trial=running.key, rule=self._stopping.rule, epoch=epoch, reason=reason)
        self._study.apply(event)
        self._stopped.append(running.candidate)


def order_of(name: str, space: SearchSpace, seed: int, model: AxProcess) -> Order:
    """The order by its name: `journaled`, or that of an algorithm.

    The point that an algorithm proposes was hardly ever tried; the nearest recorded trial that is left stands for it.
    For `random` trials are drawn directly: of nearest trials, those far from all others would come too often.
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


def _answered(ask: Callable[[], Proposal], ahead: AsyncSuggester, study: Study) -> Proposal:
    """The algorithm's proposal, with the model's answer in place of a question."""
    step = ask()
    while isinstance(step, AskModel):
        found = ahead.take(step, study)
        if found is not None:
            return found
        time.sleep(POLL_PERIOD_S)
    return step


def nearest(space: SearchSpace, point: Mapping[str, Value], untried: Sequence[Candidate]) -> Candidate:
    """The candidate nearest to a point, the earlier of equals; distances are shares of each parameter's range."""
    return min(untried, key=lambda candidate: (_distance(space, point, candidate.trial.params), candidate.trial.index))


def _distance(space: SearchSpace, first: Mapping[str, Value], second: Mapping[str, Value]) -> float:
    return sum(
        _difference(parameter, first.get(path), second.get(path)) ** 2 for path, parameter in space.parameters.items()
    )


def _difference(parameter: AnyParameter, first: Value | None, second: Value | None) -> float:
    """In [0, 1]; 1 for a parameter that is active in only one of the points."""
    if first == second:
        return 0.0
    if first is None or second is None or (isinstance(parameter, Choice) and not parameter.ordered):
        return 1.0
    return abs(parameter.place(first) - parameter.place(second))
