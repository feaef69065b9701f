"""Runs one search on one problem and counts epochs, in virtual time in which every epoch takes as long.

All searches of a seed see the same curves: the noise of a trial depends on the seed and the trial's number only.
"""

from __future__ import annotations

import heapq
import math
import time
from enum import Enum
from typing import NamedTuple, Protocol

import numpy as np

from benchmarks.search.problems import Problem

GOALS = (0.8, 0.9, 0.95)


class Start(NamedTuple):
    """A new trial."""

    point: list[float]


class Continue(NamedTuple):
    """A paused trial goes on."""

    trial: int


class Verdict(Enum):
    """What happens to a trial after an epoch that is not its last."""

    GO = "go"
    PAUSE = "pause"
    STOP = "stop"


class Contestant(Protocol):
    """A search. Trials are numbered from 0 in the order of their start; values are larger where better."""

    def decide(self) -> Start | Continue | None:
        """What a free slot does; None where the epochs that are left suffice for nothing."""

    def started(self, trial: int, point: list[float]) -> None:
        """A new trial has this point, which in a table differs from the proposed one."""

    def report(self, trial: int, values: list[float]) -> Verdict:
        """The values of a trial so far, after each epoch but the last."""

    def completed(self, trial: int, values: list[float]) -> None:
        """A trial has had its last epoch."""

    def failed(self, trial: int, values: list[float]) -> None:
        """A trial diverged after these values."""


class Run(NamedTuple):
    """One search."""

    epochs: dict[float, int | None]
    """Epochs spent until the search's best trial had the merit of each goal; None where it never had."""
    area: float
    """Mean regret over the budget: of max(0, 1 - merit of the search's best trial), 1 before the first complete one."""
    best: float
    """Merit of the trial that the search calls best at its end."""
    point: list[float]
    """That trial's point; empty where no trial was completed."""
    trials: int
    completed: int
    decision_s: float
    """Processor time of all decisions."""
    cpu_s: float
    """Processor time of everything."""


class _Trial:
    def __init__(self, point: list[float], curve: list[float]) -> None:
        self.point, self.curve, self.epoch = point, curve, 0


def run(contestant: Contestant, problem: Problem, seed: int, *, slots: int = 1) -> Run:
    """Runs until the highest goal is reached or the epochs of the budget are spent.

    The search's best trial is the one with the best value among those trained to their end: noise that flatters a trial
    makes it the best, and its merit counts.
    """
    return _Engine(contestant, problem, seed).run(slots)


class _Engine:
    def __init__(self, contestant: Contestant, problem: Problem, seed: int) -> None:
        self._contestant, self._problem, self._seed = contestant, problem, seed
        self._trials: list[_Trial] = []
        self._taken: set[tuple[float, ...]] = set()
        self._spent, self._completed, self._decision_s = 0, 0, 0.0
        self._seen, self._merit = -math.inf, -math.inf
        self._point: list[float] = []
        self._trace: list[tuple[int, float]] = []

    def run(self, slots: int) -> Run:
        start, budget = time.process_time(), self._problem.trials * self._problem.epochs
        free: list[tuple[int, int, int | None]] = [(0, slot, None) for slot in range(slots)]
        while self._spent < budget and self._merit < GOALS[-1]:
            now, slot, trial = heapq.heappop(free)
            trial = self._decide() if trial is None else trial
            if trial is None:
                if all(other is None for *_, other in free):
                    break
                heapq.heappush(free, (now + 1, slot, None))  # until the others are over
                continue
            heapq.heappush(free, (now + 1, slot, trial if self._goes_on(trial) else None))
        return Run(
            epochs={goal: next((spent for spent, merit in self._trace if merit >= goal), None) for goal in GOALS},
            area=regret_area(self._trace, budget),
            best=self._merit,
            point=self._point,
            trials=len(self._trials),
            completed=self._completed,
            decision_s=self._decision_s,
            cpu_s=time.process_time() - start,
        )

    def _decide(self) -> int | None:
        start = time.process_time()
        decision = self._contestant.decide()
        self._decision_s += time.process_time() - start
        if decision is None or isinstance(decision, Continue):
            return None if decision is None else decision.trial
        number = len(self._trials)
        point = self._problem.place(decision.point, self._taken)
        self._taken.add(tuple(point))
        noise = np.random.default_rng([self._seed, number])
        self._trials.append(_Trial(point, self._problem.curve(point, noise).tolist()))
        self._contestant.started(number, point)
        return number

    def _goes_on(self, number: int) -> bool:
        """One epoch of a trial; whether it keeps its slot."""
        trial = self._trials[number]
        trial.epoch += 1
        self._spent += 1
        values = trial.curve[: trial.epoch]
        if math.isnan(values[-1]):
            self._contestant.failed(number, values[:-1])
            return False
        if trial.epoch == self._problem.epochs:
            self._complete(trial)
            self._contestant.completed(number, values)
            return False
        return self._contestant.report(number, values) is Verdict.GO

    def _complete(self, trial: _Trial) -> None:
        self._completed += 1
        if trial.curve[-1] > self._seen:
            self._seen, self._point = trial.curve[-1], trial.point
            self._merit = self._problem.merit(trial.point)
            self._trace.append((self._spent, self._merit))


def regret_area(trace: list[tuple[int, float]], budget: int) -> float:
    """Mean over the budget of max(0, 1 - merit) of the best trial, at most 1; see `Run.area`."""
    area, since, regret = 0.0, 0, 1.0
    for spent, merit in trace:
        area += (spent - since) * regret
        since, regret = spent, min(1.0, max(0.0, 1 - merit))
    return (area + (budget - since) * regret) / budget
