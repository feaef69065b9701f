"""The trials of a search as its decisions see them, and the models of them: of learning curves, and of costs."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self, TypeAlias

import numpy as np

from orchestrator.algorithms.coded_points import CodedSpace
from orchestrator.algorithms.costs import CostModel
from orchestrator.algorithms.curve_kernel import Hyperparameters, fit
from orchestrator.algorithms.curve_values import Array, Ints, Observations, Scale
from orchestrator.algorithms.learning_curves import CurveModel

# Rows for the model of a trial that is not completed, by the number of trials up to which it gets as many.
ROWS = ((60, 3), (math.inf, 2))
# Hyperparameters are fitted to the first rows of the history: to a number of rows that grows by this factor,
REFIT = 1.1
# and to whole trials of about so many rows. A fit takes a time that grows with the cube of them.
MAX_FITTED = 240

State: TypeAlias = Literal["completed", "pending", "paused", "stopped", "diverged", "failed"]


class Evaluated(NamedTuple):
    """A value of a learning curve."""

    epoch: int
    value: float
    """Larger is better."""
    time: float
    """Orders the evaluations of all trials."""


@dataclass(frozen=True)
class CurveTrial:
    """A trial as the decision sees it."""

    places: Array
    """(p,): see `CodedSpace`."""
    state: State
    """`pending`: it trains or waits to train; `failed`: its values say nothing."""
    epochs: int
    """Of its whole training."""
    until: int
    """Epochs that it has trained or is going to train before the next decision about it."""
    first: int
    """The same at its first pause; `until` before."""
    pauses: int
    curve: Sequence[Evaluated]
    """At the ends of chunks and at its last evaluation; of a pending trial up to its last pause."""
    seconds: float | None = None
    """Of an epoch, times the GPUs held; None where no epoch was measured."""
    search: int = 0
    """0 of this search; another number for each earlier one (warm start), whose trials are all completed."""


@dataclass(frozen=True)
class History:
    """All that a decision depends on."""

    space: CodedSpace
    trials: Sequence[CurveTrial]
    ends: Sequence[int]
    """Epochs at which a new trial can first pause, and its last epoch."""
    chunks: Sequence[float]
    """Steps at which a trial that diverged counts as evaluated."""
    seed: int
    budget: int = 0
    """Trials of the whole search, over which priors are forgotten; 0 gives them no weight."""

    @classmethod
    def of(cls, question: Mapping[str, Any]) -> Self:
        """The history in a question of `orchestrator.algorithms.ax_experiment`."""
        space = CodedSpace.of(question)
        trials = [
            CurveTrial(
                space.places(told["params"]),
                told["state"],
                told["epochs"],
                told["until"],
                told["first"],
                told["pauses"],
                [Evaluated(*each) for each in told["curve"]],
                told.get("seconds"),
                told.get("search", 0),
            )
            for told in question["trials"]
        ]
        return cls(space, trials, question["ends"], question["chunks"], question["seed"], question["budget"])

    @property
    def own(self) -> Sequence[CurveTrial]:
        """The trials of this search."""
        return [trial for trial in self.trials if trial.search == 0]

    @property
    def completed(self) -> list[int]:
        """Places of the completed trials of this search."""
        return [run for run, trial in enumerate(self.trials) if trial.state == "completed" and trial.search == 0]

    @property
    def decisions(self) -> int:
        """Starts and continuations so far."""
        return sum(1 + trial.pauses - (trial.state == "paused") for trial in self.own)


# --- the model of a history ------------------------------------------------------------------------------------------


class _Row(NamedTuple):
    run: int
    step: float
    value: float
    time: float


def _rows(trial: CurveTrial, run: int, chunks: Sequence[float]) -> list[_Row]:
    """All rows of a trial, in the order of its steps."""
    if trial.state == "diverged":
        # What it was worth before says nothing: it is worth nothing at the end.
        time = trial.curve[-1].time if trial.curve else 0.0
        return [_Row(run, step, -math.inf, time) for step in (*chunks, 1.0)]
    if trial.state == "failed":
        return []
    rows = [_Row(run, each.epoch / trial.epochs, each.value, each.time) for each in trial.curve]
    return [*rows[:-1], rows[-1]._replace(step=1.0)] if rows and trial.state == "completed" else rows


def _thinned(rows: Sequence[_Row], most: int) -> list[_Row]:
    """The last row and some before it, evenly spread."""
    if len(rows) <= most:
        return list(rows)
    return [rows[round(place)] for place in np.linspace(0, len(rows) - 2, most - 1)] + [rows[-1]]


def _observations(rows: Sequence[_Row], points: Array, searches: Ints) -> Observations:
    runs = np.array([row.run for row in rows], dtype=int)
    steps, values = np.array([row.step for row in rows]), np.array([row.value for row in rows])
    return Observations(points[runs], steps, runs, values, searches[runs])


def curve_model(history: History) -> CurveModel | None:
    """The model of a history; None if its values do not differ.

    Earlier searches are left out where forecasts of this one's trials, each left out in turn, are better without them.
    """
    if not history.trials:
        return None
    alone, searches = _model_of(history, {0}), {trial.search for trial in history.trials}
    found = alone if searches == {0} else _model_of(history, searches)
    if alone is None or found is alone or found is None:
        return found
    return found if _left_out_density(history, found) >= _left_out_density(history, alone) else alone


def _left_out_density(history: History, model: CurveModel) -> float:
    """Logarithm of the density of the last values of completed trials, each left out of the model in turn."""
    (found,) = model.left_out(history.completed, [0.0])
    return float(-(0.5 * (found.error / found.deviation) ** 2 + np.log(found.deviation)).sum())


def _model_of(history: History, known: Set[int]) -> CurveModel | None:
    """The model of the trials of some searches."""
    points = history.space.coordinates(np.array([trial.places for trial in history.trials]))
    searches = np.array([trial.search for trial in history.trials])
    rows = [
        _rows(trial, run, history.chunks) if trial.search in known else [] for run, trial in enumerate(history.trials)
    ]
    most = next(most for limit, most in ROWS if len(rows) <= limit)
    told = [
        row
        for trial, each in zip(history.trials, rows, strict=True)
        for row in (each if trial.state == "completed" else _thinned(each, most))
    ]
    observations = _observations(told, points, searches)
    scale = Scale.of(observations)
    return None if scale is None else CurveModel.of(observations, scale, _hyperparameters(rows, points, searches))


def cost_model(history: History) -> CostModel | None:
    """The model of what whole trials cost; None if it cannot tell their costs apart."""
    measured = [(trial.places, trial.epochs * trial.seconds) for trial in history.trials if trial.seconds]
    if not measured:
        return None
    places, seconds = zip(*measured, strict=True)
    return CostModel.fitted(history.space.coordinates(np.array(places)), np.array(seconds))


def _hyperparameters(rows: Sequence[Sequence[_Row]], points: Array, searches: Ints) -> Hyperparameters:
    """The most probable ones given the first rows of the search, the latest of a series of moments, and earlier ones.

    They depend on the history alone, and a process that has just fitted them finds them in its memory.
    """
    in_order = sorted((row for each in rows for row in each), key=lambda row: row.time)
    earlier = [row for row in in_order if searches[row.run]]
    own = [row for row in in_order if not searches[row.run]]
    observations = _observations(_subset(earlier + own[: _moment(len(own))]), points, searches)
    scale = Scale.of(observations)
    if scale is None:  # all rows up to that moment are equal
        observations = _observations(in_order, points, searches)
        scale = Scale.of(observations)
        assert scale is not None
    return _fitted(*(part.tobytes() for part in scale.scaled(observations)), points.shape[1])


def _moment(rows: int) -> int:
    """The largest number of a series that grows by `REFIT`, at least by 1, up to a number of rows."""
    moment = 1
    while (following := max(moment + 1, math.ceil(REFIT * moment))) <= rows:
        moment = following
    return moment


def _subset(rows: Sequence[_Row]) -> list[_Row]:
    """The rows of evenly spread trials, about `MAX_FITTED` of them."""
    if len(rows) <= MAX_FITTED:
        return list(rows)
    runs = sorted({row.run for row in rows})
    count = max(1, len(runs) * MAX_FITTED // len(rows))
    kept = {runs[round(place)] for place in np.linspace(0, len(runs) - 1, count)}
    return [row for row in rows if row.run in kept]


@functools.lru_cache(maxsize=32)
def _fitted(points: bytes, steps: bytes, runs: bytes, values: bytes, searches: bytes, d: int) -> Hyperparameters:
    return fit(
        Observations(
            np.frombuffer(points).reshape(-1, d),
            np.frombuffer(steps),
            np.frombuffer(runs, dtype=int),
            np.frombuffer(values),
            np.frombuffer(searches, dtype=int),
        )
    )
