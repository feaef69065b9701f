"""What further trials are expected to bring: how much better the best configuration becomes.

The search is played on, many times, in the model's own world: each time values of many points are drawn from the joint
posterior of the model (`orchestrator.algorithms.learning_curves`), then trial after trial goes to the point with the
largest expected improvement, and its value, with luck, is told to the model. Hyperparameters stay as they are.

m points, s draws.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from orchestrator.algorithms.ax_experiment import coordinates
from orchestrator.algorithms.curve_kernel import JITTER
from orchestrator.algorithms.curve_values import Array
from orchestrator.algorithms.final_choice import FirstValues, first_values, model_of
from orchestrator.algorithms.learning_curves import CurveModel, expected_improvement
from orchestrator.study.events import Outlook
from orchestrator.study.study import Study, Trial
from trainer.seeds import derived_seed

if TYPE_CHECKING:
    from orchestrator.space.search_space import SearchSpace

Places: TypeAlias = NDArray[np.int64]

AHEAD = 10  # trials that are looked ahead
ENOUGH = 20  # completed trials from which intervals hold (benchmarks/bench_expected_gain.py)

# Models of few trials are too sure of themselves: standard deviations count as so many times larger
# (benchmarks/bench_expected_gain.py).
INFLATION = 1.25
DRAWS = 200
TINY = 1e-12  # variance of a value that is known
RANDOM, BEST, NEAR_EACH = 200, 4, 50  # points that further trials may try
NEAR = (0.02, 0.3)  # standard deviations of steps away from one of the best points, drawn on a log scale


def outlook(study: Study, space: SearchSpace) -> Outlook | None:
    """What `AHEAD` further trials of a search are expected to bring.

    None before `ENOUGH` trials are completed, where their values do not differ, and where the space has another
    algorithm than `ax`, several objectives, or constraints on metrics.
    """
    objective = space.objective
    if space.algorithm.name != "ax" or len(objective.terms) > 1 or objective.constraints:
        return None
    told = first_values(study, objective)
    if sum(math.isfinite(value) for _, value in told) < ENOUGH:
        return None
    content = tuple((trial.key, value, *trial.params.values()) for trial, value in told)
    return _remembered(_Question((content, space.fingerprint(), study.seed), told, space, study.seed))


@dataclass(frozen=True)
class _Question:
    """Equal to another one where the answer is the same."""

    content: Hashable
    told: Sequence[tuple[Trial, float]] = field(compare=False)
    space: SearchSpace = field(compare=False)
    seed: int = field(compare=False)


@lru_cache(maxsize=4)  # asked again at each step until another trial is completed
def _remembered(question: _Question) -> Outlook | None:
    first = FirstValues.of(question.told, question.space)
    model = model_of(first.points, first.values)
    if model is None:
        return None
    best = [trial for trial, _ in sorted(question.told, key=lambda row: -row[1])[:BEST]]
    known = first.points[np.isfinite(first.values)]
    points = np.vstack([known, _further_points(question.space, best, question.seed)])
    draws = np.random.default_rng(derived_seed(question.seed, "played worlds"))
    gains = played_gains(model, points, len(known), AHEAD, draws)
    low, high = np.quantile(gains, [0.025, 0.975])
    return Outlook(trials=AHEAD, gain=float(gains.mean()), low=float(low), high=float(high))


def _further_points(space: SearchSpace, best: Sequence[Trial], seed: int) -> Array:
    """(m, d): as the model sees them."""
    draws = np.random.default_rng(derived_seed(seed, "outlook"))
    known = [
        [each.place(trial.params.get(path, each.at(0.5))) for path, each in space.parameters.items()] for trial in best
    ]
    points = (space.sample(shares) for shares in candidates(np.array(known), draws).tolist())
    return coordinates(space, (point for point in points if point is not None))


def played_gains(model: CurveModel, points: Array, known: int, trials: int, draws: np.random.Generator) -> Array:
    """(s,): by how much the point with the best mean after further trials is better than that with the best mean now.

    Args:
        model: of the trials so far.
        points: (m, d): where further trials may be, after the points of the finished ones.
        known: number of the finished ones, at least 1.
        trials: number of further ones.
        draws: decides the luck.
    """
    worlds = _Worlds(model, points, known, draws)
    best_now = worlds.best()
    for _ in range(trials):
        worlds.try_one()
    return worlds.truth(worlds.best()) - worlds.truth(best_now)


class _Worlds:
    """Searches that go on, each in a world of its own that the model has drawn."""

    def __init__(self, model: CurveModel, points: Array, known: int, draws: np.random.Generator) -> None:
        """Worlds after the `known` first of the points are finished."""
        mean, covariance = model.final(points)
        self._noise, self._draws = model.noise, draws
        self._covariance = INFLATION**2 * covariance
        root = np.linalg.cholesky(self._covariance + JITTER * model.scale.deviation**2 * np.eye(len(mean)))
        self._truth = mean + draws.standard_normal((DRAWS, len(mean))) @ root.T
        self._tried = np.tile(np.arange(len(mean)) < known, (DRAWS, 1))
        self._mean = np.tile(mean, (DRAWS, 1))
        self._variance = np.tile(np.diag(self._covariance), (DRAWS, 1))
        self._shifts: list[Array] = []
        self._worlds = np.arange(DRAWS)

    def best(self) -> Places:
        """(s,): the point that is called the best in each world: the tried one with the largest mean."""
        found: Places = np.where(self._tried, self._mean, -math.inf).argmax(1)
        return found

    def truth(self, places: Places) -> Array:
        """(s,): what points are worth."""
        found: Array = self._truth[self._worlds, places]
        return found

    def try_one(self) -> None:
        """A trial in each world, where it promises most."""
        best = self._mean[self._worlds, self.best()][:, None]
        tells = self._variance / np.sqrt(self._variance + self._noise)
        promised = np.where(self._tried, -1.0, expected_improvement(self._mean - best, tells, 0.0))
        places = promised.argmax(1)
        luck = math.sqrt(self._noise) * self._draws.standard_normal(DRAWS)
        self._tell(places, self.truth(places) + luck)
        self._tried[self._worlds, places] = True

    def _tell(self, places: Places, values: Array) -> None:
        """Conditions each world's model on a value; `_shifts` are the columns of a factor of what was learnt so far."""
        column = self._covariance[places]
        for earlier in self._shifts:
            column = column - earlier[self._worlds, places][:, None] * earlier
        deviation = np.sqrt(column[self._worlds, places] + self._noise)
        shift = column / deviation[:, None]
        self._mean += shift * ((values - self._mean[self._worlds, places]) / deviation)[:, None]
        self._variance = np.maximum(self._variance - shift**2, TINY)
        self._shifts.append(shift)


def candidates(best: Array, draws: np.random.Generator) -> Array:
    """(m, d): random points of the unit cube, and points near some of the best ones.

    Args:
        best: (b, d): the best points, b at most `BEST`.
        draws: decides which.
    """
    d = best.shape[1]
    low, high = map(math.log, NEAR)
    width = np.exp(draws.uniform(low, high, (len(best), NEAR_EACH, 1)))
    steps = draws.standard_normal((len(best), NEAR_EACH, d)) * width
    moved = draws.random(steps.shape) < max(0.5, 2 / d)
    near = np.clip(best[:, None] + np.where(moved, steps, 0.0), 0.0, 1.0)
    return np.vstack([draws.random((RANDOM, d)), near.reshape(-1, d)])
