"""Which of the finished configurations is best, and where one more training tells most of that.

A Gaussian process of their values (`orchestrator.algorithms.learning_curves`) gives the joint distribution of what the
configurations are worth without luck. The next training belongs where it is expected to raise the largest mean most:
the knowledge gradient (Frazier, Powell and Dayanik 2009, INFORMS J. Comput. 21, 599-613).

m configurations, d coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from scipy.special import ndtr

from orchestrator.algorithms.ax_experiment import coordinates
from orchestrator.algorithms.curve_values import Array, Observations
from orchestrator.algorithms.learning_curves import CurveModel
from orchestrator.algorithms.scoring import feasible, score
from orchestrator.study.study import Study, Trial, TrialStatus

if TYPE_CHECKING:
    from orchestrator.space.objective import Objective
    from orchestrator.space.search_space import SearchSpace

CANDIDATES = 12  # the others have no chance to be the best
MODELLED = 300  # the best configurations; a fit takes a time that grows with the cube of their number


class Belief(NamedTuple):
    """The joint normal distribution of what configurations are worth; larger is better."""

    mean: Array
    """(m,)."""
    covariance: Array
    """(m, m)."""
    noise: float
    """Variance of the value of one training around that."""

    def among(self, places: Sequence[int]) -> Self:
        """Of some of the configurations, in this order."""
        return self._replace(mean=self.mean[places], covariance=self.covariance[np.ix_(places, places)])

    def told(self, place: int, value: float) -> Self:
        """After the value of one more training of the configuration at a place."""
        shifts, deviation = self.shifts(place), self._deviation(place)
        moved = shifts * ((value - self.mean[place]) / deviation) if deviation > 0 else shifts
        return self._replace(mean=self.mean + moved, covariance=self.covariance - np.outer(shifts, shifts))

    def expecting(self, place: int) -> Self:
        """While one more training runs there: as if it had the value that is expected of it, which moves no mean."""
        return self.told(place, self.mean[place])

    def shifts(self, place: int) -> Array:
        """(m,): standard deviations of the changes of the means by one more training; they change together."""
        deviation = self._deviation(place)
        found: Array = self.covariance[place] / deviation if deviation > 0 else np.zeros(len(self.mean))
        return found

    def _deviation(self, place: int) -> float:
        """Of the value of one more training."""
        return math.sqrt(max(self.covariance[place, place] + self.noise, 0.0))


class Contenders(NamedTuple):
    """The finished configurations that may be the best, and what is known of them."""

    trials: list[Trial]
    belief: Belief
    """Of the trials, in their order, after all trainings that compare them; in the objective's units, negated where
    less is better."""

    @classmethod
    def of(cls, study: Study, space: SearchSpace) -> Self | None:
        """Of a study; None before a configuration is completed that satisfies the objective's constraints.

        One that failed, or was stopped, when it was compared is out.
        """
        compared, first = comparing(study), FirstValues.of(first_values(study, space.objective), space)
        out = {trial.repeats for trial in compared if trial.status in (TrialStatus.FAILED, TrialStatus.STOPPED)}
        trials = [trial for trial, _ in feasible(study, space.objective) if trial.key in first.places.keys() - out]
        if not trials:
            return None
        known = belief(first.points, first.values).among([first.places[trial.key] for trial in trials])
        best = np.argsort(-known.mean, kind="stable")[:CANDIDATES].tolist()
        found = cls([trials[place] for place in best], known.among(best))
        return found._after([(trial.repeats, _value(trial, space.objective)) for trial in compared])

    def _after(self, trainings: Iterable[tuple[str, float | None]]) -> Self:
        """After trainings of configurations by their keys, and the values of those that do not run any more."""
        places, known = {trial.key: place for place, trial in enumerate(self.trials)}, self.belief
        for key, value in trainings:
            if (place := places.get(key)) is not None:
                known = known.expecting(place) if value is None else known.told(place, value)
        return self._replace(belief=known)

    @property
    def winner(self) -> Trial:
        """The configuration with the largest mean."""
        return self.trials[int(self.belief.mean.argmax())]

    def next_training(self) -> tuple[Trial, float]:
        """The configuration that one more training tells most of, and by how much that raises the largest mean."""
        gains = knowledge_gradients(self.belief)
        place = int(gains.argmax())
        return self.trials[place], float(gains[place])


def comparing(study: Study) -> list[Trial]:
    """The trainings that choose the winner."""
    return [trial for trial in study.replicates.values() if trial.source == "compare"]


def _value(trial: Trial, objective: Objective) -> float | None:
    """Larger is better; None of a trial that is not completed or has no finite value."""
    found = score(trial, objective) if trial.status == TrialStatus.COMPLETED else None
    return objective.first.sign * found.value if found is not None and math.isfinite(found.value) else None


class FirstValues(NamedTuple):
    """The values of completed configurations with their first seeds, and the configurations that diverged."""

    places: dict[str, int]
    """Of the completed ones among the rows, by their keys."""
    points: Array
    """(m, d): see `coordinates`."""
    values: Array
    """(m,): larger is better; minus infinity of one that diverged."""

    @classmethod
    def of(cls, told: Sequence[tuple[Trial, float]], space: SearchSpace) -> Self:
        """Of `first_values`."""
        places = {trial.key: place for place, (trial, value) in enumerate(told) if math.isfinite(value)}
        return cls(
            places, coordinates(space, (trial.params for trial, _ in told)), np.array([each for _, each in told])
        )


def first_values(study: Study, objective: Objective) -> list[tuple[Trial, float]]:
    """The completed configurations and their values, larger where better, and those that diverged: minus infinity.

    Other trials that failed say nothing.
    """
    values = ((trial, _value(trial, objective)) for trial in study.trials.values())
    rows = ((trial, -math.inf if value is None and _has_diverged(trial) else value) for trial, value in values)
    return [(trial, value) for trial, value in rows if value is not None]


def _has_diverged(trial: Trial) -> bool:
    return trial.status == TrialStatus.FAILED and trial.failures["diverged"] > 0


def belief(points: Array, values: Array) -> Belief:
    """What single trainings tell of configurations, the best of which are looked at.

    Where the values do not differ nothing can be told apart, and every mean is sure.

    Args:
        points: (m, d), in [0, 1].
        values: (m,), larger is better; minus infinity of a training that diverged.
    """
    return _belief(points.tobytes(), values.tobytes(), points.shape[1])


@lru_cache(maxsize=4)  # asked again for each free place
def _belief(points_: bytes, values_: bytes, d: int) -> Belief:
    points, values = np.frombuffer(points_).reshape(-1, d), np.frombuffer(values_)
    model = model_of(points, values)
    if model is None:
        return Belief(values, np.zeros((len(values), len(values))), 0.0)
    return Belief(*model.final(points), model.noise)


def model_of(points: Array, values: Array) -> CurveModel | None:
    """The model of the best of these configurations; None where their values do not differ. Arguments as `belief`."""
    known = np.sort(np.argsort(-values, kind="stable")[:MODELLED])
    return CurveModel.fitted(Observations.of(points[known], np.ones(len(known)), np.arange(len(known)), values[known]))


def knowledge_gradients(belief: Belief) -> Array:
    """(m,): by how much one more training of each is expected to raise the largest mean; at least 0."""
    places = range(len(belief.mean))
    gains: Array = np.array([expected_maximum(belief.mean, belief.shifts(place)) for place in places])
    gains -= belief.mean.max()
    return gains


def expected_maximum(means: Array, slopes: Array) -> float:
    """E[max_i(means_i + slopes_i Z)] of a standard normal Z: exact, by the upper envelope of the lines.

    Args:
        means: (m,).
        slopes: (m,).
    """
    means, slopes, ends = _envelope(means, slopes)
    # Between two ends a line is the highest: its mean counts by the chance of that, its slope by E[Z] there.
    chances = np.diff(ndtr(ends))
    expected = -np.diff(np.exp(-0.5 * ends**2)) / math.sqrt(2 * math.pi)
    return float(means @ chances + slopes @ expected)


class _Envelope(NamedTuple):
    means: Array
    slopes: Array
    ends: Array
    """Where each line begins to be the highest, and infinity: one more than lines."""


def _envelope(means: Array, slopes: Array) -> _Envelope:
    """The lines that are the highest somewhere, by ascending slope."""
    kept: list[int] = []
    starts: list[float] = []
    for line in np.lexsort((means, slopes)):
        start = -math.inf
        while kept:
            rise = slopes[line] - slopes[kept[-1]]
            start = (means[kept[-1]] - means[line]) / rise if rise > 0 else -math.inf
            if start > starts[-1]:
                break
            kept.pop()
            starts.pop()
        kept.append(int(line))
        starts.append(start)
    return _Envelope(means[kept], slopes[kept], np.array([*starts, math.inf]))
