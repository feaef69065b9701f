"""What trains next, a new trial or a paused one, and for how long: a pure function of the trials and a seed.

Every possible training has an index: the improvement that an epoch of it is expected to bring
(`orchestrator.algorithms.learning_curves.index`). The largest one is chosen, as in freeze-thaw Bayesian optimisation
(Swersky et al. 2014, arXiv:1406.3896). Where nothing pauses, the same function is Bayesian optimisation of whole
trials, and the curves of trials that a stopping rule ended still tell of the others.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Self, TypeAlias

import numpy as np
from scipy.stats import rankdata

from orchestrator.algorithms.ax_experiment import ax_experiment
from orchestrator.algorithms.coded_points import CodedSpace, keys
from orchestrator.algorithms.health import WHOLE
from orchestrator.algorithms.learning_curves import (
    EQUAL,
    Array,
    CurveModel,
    Hyperparameters,
    Observations,
    Posterior,
    Rows,
    Scale,
    fit,
    index,
)
from orchestrator.algorithms.priors import prior_weight
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.events import Forecast
from orchestrator.study.study import Study

# --- constants of the decision, tuned on the development problems of `benchmarks.bench_search` ---------------------
# Forecasts are somewhat overconfident: standard deviations count as so many times larger.
INFLATION = 1.3
# Of every second decision, in units of the spread: by how much a training has to be better than the best one.
MARGIN = 0.1
# New trials take at most this share of all epochs, as long as a paused one is worth continuing:
SHARE_OF_STARTS = 0.5
# a logarithm of improvement per epoch above this.
WORTH_CONTINUING = -30.0
# Rows of a trial for the model, by the number of trials up to which it gets as many.
ROWS = ((60, 4), (120, 3), (math.inf, 2))
# Hyperparameters are fitted to the first rows of the history: to a number of rows that grows by this factor,
REFIT = 1.05
# and to whole trials of about so many rows. A fit takes a time that grows with the cube of them.
MAX_FITTED = 240
# Whole trials, none of which was chosen by its first values, before these may turn out to say nothing.
JUDGED = 5
# Candidates for a new trial: random points, points near each of the best trials, rounds of steps around the best.
RANDOM, BEST, NEAR_EACH = 256, 4, 48
ROUNDS, KEPT, STEPS_EACH, FIRST_WIDTH = 3, 5, 24, 0.08
PROBED = 64  # random points by which the length of a new trial's first chunk is chosen


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
    ends: Sequence[int] = ()
    """Of a paused one: the epochs at which it can pause again, and its last epoch."""


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
                told.get("ends", ()),
            )
            for told in question["trials"]
        ]
        return cls(space, trials, question["ends"], question["chunks"], question["seed"], question["budget"])

    @property
    def decisions(self) -> int:
        """Starts and continuations so far."""
        return sum(1 + trial.pauses - (trial.state == "paused") for trial in self.trials)

    def without_pauses(self) -> Self:
        """The same, but whatever trains next trains to its end."""
        return replace(self, ends=self.ends[-1:], trials=[replace(each, ends=each.ends[-1:]) for each in self.trials])

    def after(self, decision: Decision) -> Self:
        """The history once a decision is carried out."""
        trials = list(self.trials)
        if isinstance(decision, Continue):
            trials[decision.trial] = replace(trials[decision.trial], state="pending", until=decision.until)
        else:
            until, whole = decision.until, self.ends[-1]
            trials.append(CurveTrial(decision.places, "pending", whole, until, until, 0, ()))
        return replace(self, trials=trials)


class Start(NamedTuple):
    """A new trial."""

    places: Array
    """(p,)."""
    until: int
    """Epoch after which it pauses."""
    note: str = ""
    """Why it does not pause where it could; empty otherwise."""


class Continue(NamedTuple):
    """A paused trial goes on."""

    trial: int
    """Its place among the trials of the history."""
    until: int
    forecast: tuple[float, float]
    """Where it ends: mean and standard deviation, larger is better."""
    note: str = ""
    """Why it does not pause where it could; empty otherwise."""


Decision: TypeAlias = Start | Continue


def decisions(history: History) -> Iterator[Decision]:
    """One decision after the other, each as if those before it were carried out; ends where nothing is left to try."""
    while (decision := decide(history)) is not None:
        yield decision
        history = history.after(decision)


def decide(history: History) -> Decision | None:
    """What trains next; None if each point that was looked at has been tried."""
    draws = np.random.default_rng([history.seed, history.decisions])
    model = curve_model(history)
    if model is None:
        return _random_start(history, draws)
    note = silent_start(history)
    decision = _Choice(history.without_pauses() if note else history, model, draws).decision()
    return decision if decision is None else decision._replace(note=note)


def silent_start(history: History) -> str:
    """Why trials run whole: the first values of whole trials say nothing about their last ones. Empty otherwise.

    Their rank correlation is less than one standard error above 0, and last values are forecast from first ones, by a
    line through all other trials, no better than by the mean of the others. Trials that have paused do not count: they
    went on because of their first values, which hides what these say.
    """
    curves = [
        trial.curve
        for trial in history.trials
        if trial.state == "completed" and not trial.pauses and len(trial.curve) > 1
    ]
    if len(curves) < JUDGED or len(history.ends) < 2:
        return ""
    first, last = (np.array([curve[place].value for curve in curves]) for place in (0, -1))
    if first.std() < EQUAL or last.std() < EQUAL:
        return ""
    correlation = float(np.corrcoef(rankdata(first), rankdata(last))[0, 1])
    error, spread = _left_out_error(first, last), _left_out_error(np.zeros(len(last)), last)
    if correlation >= 1 / math.sqrt(len(curves) - 1) or error < spread:
        return ""
    return (
        f"{WHOLE}, because values after {curves[0][0].epoch} of {history.ends[-1]} epochs say nothing about "
        f"the last ones: their rank correlation over {len(curves)} whole trials is {correlation:.2f}"
    )


def _left_out_error(first: Array, last: Array) -> float:
    """Root mean square error of forecasts of each last value by a line through the others."""
    design = np.stack([np.ones(len(first)), first - first.mean()], axis=1)
    hat = design @ np.linalg.pinv(design)
    errors = (last - hat @ last) / (1 - np.diag(hat))
    return float(np.sqrt((errors**2).mean()))


def forecasts(study: Study, space: SearchSpace) -> dict[str, Forecast]:
    """Where each trial ends that has values and is not completed, by its key; of several objectives the first one.

    Those that failed, and those of spaces whose values do not differ, have none.
    """
    question = ax_experiment(space, study.seed, study, forecasting=True)
    history, sign = History.of(question), space.objective.first.sign
    return {
        question["trials"][number]["trial"]: Forecast(value=sign * mean, error=deviation)
        for number, (mean, deviation) in ends(history).items()
    }


def ends(history: History) -> dict[int, tuple[float, float]]:
    """Where trials that are not completed and have values end: mean and standard deviation, by place in the history."""
    model = curve_model(history)
    open_ = [
        number
        for number, trial in enumerate(history.trials)
        if trial.state in ("pending", "paused", "stopped") and trial.curve
    ]
    if model is None or not open_:
        return {}
    points = history.space.coordinates(np.array([history.trials[number].places for number in open_]))
    found = model.forecasts(points, np.array(open_))
    return {
        number: (float(mean), INFLATION * float(deviation))
        for number, mean, deviation in zip(open_, *found, strict=True)
    }


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


def _observations(rows: Sequence[_Row], points: Array) -> Observations:
    runs = np.array([row.run for row in rows], dtype=int)
    return Observations(points[runs], np.array([row.step for row in rows]), runs, np.array([row.value for row in rows]))


def curve_model(history: History) -> CurveModel | None:
    """The model of a history; None if its values do not differ."""
    if not history.trials:
        return None
    points = history.space.coordinates(np.array([trial.places for trial in history.trials]))
    rows = [_rows(trial, run, history.chunks) for run, trial in enumerate(history.trials)]
    most = next(most for limit, most in ROWS if len(rows) <= limit)
    told = [row for each in rows for row in _thinned(each, most)]
    scale = Scale.of(_observations(told, points)) if told else None
    if scale is None:
        return None
    return CurveModel.of(_observations(told, points), scale, _hyperparameters(rows, points))


def _hyperparameters(rows: Sequence[Sequence[_Row]], points: Array) -> Hyperparameters:
    """The most probable ones given the first rows of the history, the latest of a series of moments.

    They depend on the history alone, and a process that has just fitted them finds them in its memory.
    """
    in_order = sorted((row for each in rows for row in each), key=lambda row: row.time)
    first = _subset(in_order[: _moment(len(in_order))])
    observations = _observations(first, points)
    scale = Scale.of(observations)
    if scale is None:  # all rows up to that moment are equal
        observations = _observations(in_order, points)
        scale = Scale.of(observations)
        assert scale is not None
    scaled = observations._replace(values=scale.to_model(observations.values))
    return _fitted(*(part.tobytes() for part in scaled), points.shape[1])


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
def _fitted(points: bytes, steps: bytes, runs: bytes, values: bytes, d: int) -> Hyperparameters:
    return fit(
        Observations(
            np.frombuffer(points).reshape(-1, d),
            np.frombuffer(steps),
            np.frombuffer(runs, dtype=int),
            np.frombuffer(values),
        )
    )


# --- the choice ------------------------------------------------------------------------------------------------------


def _random_start(history: History, draws: np.random.Generator) -> Start | None:
    found = _untried(history, history.space.random(draws, RANDOM))
    return Start(found[0], history.ends[0]) if len(found) else None


def _untried(history: History, places: Array) -> Array:
    """The rows that are no trial yet."""
    tried = set(keys(np.array([trial.places for trial in history.trials]))) if history.trials else set()
    untried: Array = places[np.array([key not in tried for key in keys(places)], dtype=bool)]
    return untried


class _Valued(NamedTuple):
    """A training and what it is worth."""

    worth: float
    """See `learning_curves.index`."""
    until: int
    trial: int = -1
    """Of a paused one."""
    places: Array = np.empty(0)
    """Of a new one."""


class _Choice:
    """One decision, given a model."""

    def __init__(self, history: History, model: CurveModel, draws: np.random.Generator) -> None:
        self._history = history
        self._draws = draws
        self._places = np.array([trial.places for trial in history.trials])
        self._points = history.space.coordinates(self._places)
        self._model = self._believing(model)
        self._means = self._model.posterior(self._points).mean
        self._margin = MARGIN * (history.decisions % 2)

    def _believing(self, model: CurveModel) -> CurveModel:
        """The model as if each trial that trains had ended where it is expected to."""
        runs = np.array([run for run, trial in enumerate(self._history.trials) if trial.state == "pending"], dtype=int)
        return model.believing(Rows(self._points[runs], np.ones(len(runs)), runs)) if len(runs) else model

    def decision(self) -> Decision | None:
        paused, new = self._best_paused(), self._best_new()
        if paused is None:
            return None if new is None else Start(new.places, new.until)
        if new is None or paused.worth >= new.worth or (self._starts_took_enough() and paused.worth > WORTH_CONTINUING):
            return self._continue(paused)
        return Start(new.places, new.until)

    def _continue(self, paused: _Valued) -> Continue:
        run = np.array([paused.trial])
        (mean,), (deviation,) = self._model.forecasts(self._points[run], run)
        return Continue(paused.trial, paused.until, (float(mean), INFLATION * float(deviation)))

    def _best(self) -> float:
        """The mean of the best completed trial; without one that of a trial which is better than most."""
        done = [run for run, trial in enumerate(self._history.trials) if trial.state == "completed"]
        return float(self._means[done].max() if done else np.quantile(self._means, 0.25))

    def _starts_took_enough(self) -> bool:
        started = sum(trial.first for trial in self._history.trials)
        return started > SHARE_OF_STARTS * sum(trial.until for trial in self._history.trials)

    def _best_paused(self) -> _Valued | None:
        """The paused trial with the largest index, and the chunk that gives it."""
        alike: dict[tuple[int, int, Sequence[int]], list[int]] = {}
        for run, trial in enumerate(self._history.trials):
            if trial.state == "paused":
                alike.setdefault((trial.until, trial.epochs, tuple(trial.ends)), []).append(run)
        best, goal = None, self._best() + self._margin
        for (since, _, ends), runs in alike.items():
            posterior = self._model.posterior(self._points[runs], np.array(runs))
            for end in ends:
                values = _indices(posterior, goal, end - since, ends[-1] - end, end / ends[-1])
                place = int(values.argmax())
                if best is None or values[place] > best.worth:
                    best = _Valued(float(values[place]), end, runs[place])
        return best

    def _best_new(self) -> _Valued | None:
        """The new point with the largest index, and the first chunk that gives it."""
        ends, space = self._history.ends, self._history.space
        goal = max(self._best(), float(self._means.max())) + self._margin

        def indices(places: Array, end: int) -> Array:
            posterior = self._model.posterior(space.coordinates(places))
            return _indices(posterior, goal, end, ends[-1] - end, end / ends[-1])

        probes = space.random(self._draws, PROBED)
        if not len(probes):
            return None
        longest = max(ends, key=lambda end: indices(probes, end).max()) if len(ends) > 1 else ends[0]
        weight = prior_weight(len(self._history.trials), self._history.budget)
        found = self._maximum(lambda places: indices(places, longest) + weight * space.log_prior(places))
        if found is None:
            return None
        worth = {end: float(indices(found[None], end)[0]) for end in ends}
        until = max(ends, key=lambda end: worth[end])
        return _Valued(worth[until], until, places=found)

    def _maximum(self, worth: Callable[[Array], Array]) -> Array | None:
        """The untried point with the largest value that a search among random ones and around the best trials finds."""
        space, draws = self._history.space, self._draws
        found = space.every()
        if found is None:
            anchors = self._places[np.argsort(-self._means, kind="stable")[:BEST]]
            nearby = [space.near(draws, anchor, NEAR_EACH) for anchor in anchors]
            found = np.vstack([space.random(draws, RANDOM), *nearby])
            rounds = ROUNDS
        else:
            rounds = 0
        kept, values = self._kept(found, worth)
        for turn in range(rounds if len(kept) else 0):
            around = space.around(draws, kept, STEPS_EACH, FIRST_WIDTH * 0.5**turn)
            more, others = self._kept(around, worth)
            kept, values = np.vstack([kept, more]), np.concatenate([values, others])
            order = np.argsort(-values, kind="stable")[:KEPT]
            kept, values = kept[order], values[order]
        return kept[0] if len(kept) else None

    def _kept(self, places: Array, worth: Callable[[Array], Array]) -> tuple[Array, Array]:
        """The best untried rows and their values."""
        untried = _untried(self._history, places)
        if not len(untried):
            return untried, np.empty(0)
        values = worth(untried)
        order = np.argsort(-values, kind="stable")[:KEPT]
        return untried[order], values[order]


def _indices(posterior: Posterior, goal: float, cost: int, rest: int, step: float) -> Array:
    whole = INFLATION * posterior.gain(1.0)
    first = INFLATION * posterior.gain(step) if rest else whole
    return index(posterior.mean, first, whole, goal, cost, rest)
