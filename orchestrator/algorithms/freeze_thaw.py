"""What trains next, a new trial or a paused one, and for how long: a pure function of the trials and a seed.

The training with the largest expected improvement per remaining epoch is chosen
(`orchestrator.algorithms.learning_curves.log_improvement_rate`), as in freeze-thaw Bayesian optimisation (Swersky et
al. 2014, arXiv:1406.3896). Where measured durations differ with the point, a second counts in place of an epoch
(`orchestrator.algorithms.costs`; Snoek et al. 2012, arXiv:1206.2944). Where nothing pauses, the same function is
Bayesian optimisation of whole trials, which also uses the curves of trials that a stopping rule ended.

The first trials train to their end. They decide after how many epochs later ones pause, or that none pauses
(`Evidence`). A trial pauses once; continued, it trains to its end. With the rule `promote` the rungs come first, and
the same choice is made where none of their trials is due.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np

from orchestrator.algorithms.ax_experiment import ax_experiment
from orchestrator.algorithms.coded_points import CodedSpace, keys
from orchestrator.algorithms.curve_history import CurveTrial, History, cost_model, curve_model
from orchestrator.algorithms.curve_kernel import Rows
from orchestrator.algorithms.curve_values import Array
from orchestrator.algorithms.health import WHOLE
from orchestrator.algorithms.learning_curves import CurveModel, LeftOut, log_improvement_rate
from orchestrator.algorithms.priors import prior_weight
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.events import Forecast
from orchestrator.study.study import Study

# --- constants of the decision, tuned on the development problems of `benchmarks.bench_search` ---------------------
WHOLE_FIRST = 8  # completed trials before one may pause
# Completed trials before a forecast is shown: what they say of its error has to be known.
FORECASTING = 3
# A trial pauses where the values so far leave at most this share of the squared error of forecasts of its last value.
MAX_RESIDUAL = 0.6
# Added to the completed trials: so many whose early values told nothing, and so many whose forecasts were calibrated.
UNINFORMATIVE, CALIBRATED = 1, 4
MAX_Z = 4.0  # a larger error of a forecast, in its standard deviations, counts as this one
# This share of the change that a forecast expects after the last value is part of its error: the model knows it from
# trials that went on, which are the better ones, and many of the others stay where they are (`bench_forecasts`).
UNSEEN = 0.5
MARGIN = 0.1  # of every second decision: the least improvement, in units of the spread
# New trials take at most this share of the epochs of all trials that pause,
SHARE_OF_STARTS = 0.5
# unless the logarithm of improvement per epoch of every paused trial is lower.
MIN_IMPROVEMENT = -30.0
# Candidates for a new trial: random points, points near each of the best trials, rounds of steps around the best.
RANDOM, BEST, NEAR_EACH = 128, 4, 32
ROUNDS, KEPT, STEPS_EACH, FIRST_WIDTH = 3, 8, 16, 0.08


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
    reason: str
    """Why it and no new trial."""


Decision: TypeAlias = Start | Continue


def decisions(history: History) -> Iterator[Decision]:
    """One decision after the other, each as if those before it were carried out; ends where nothing is left to try."""
    while (decision := decide(history)) is not None:
        yield decision
        history = _after(history, decision)


def _after(history: History, decision: Decision) -> History:
    """The history once a decision is carried out."""
    trials = list(history.trials)
    if isinstance(decision, Continue):
        trials[decision.trial] = replace(trials[decision.trial], state="pending", until=decision.until)
    else:
        until, whole = decision.until, history.ends[-1]
        trials.append(CurveTrial(decision.places, "pending", whole, until, until, 0, ()))
    return replace(history, trials=trials)


def answer(question: Mapping[str, Any], space: CodedSpace, decision: Decision) -> dict[str, Any]:
    """A decision in the words of `orchestrator.algorithms.ax_worker.answers`."""
    if isinstance(decision, Start):
        note = {"note": decision.note} if decision.note else {}
        return {"params": dict(space.codes(decision.places)), "until": decision.until, **note}
    key = question["trials"][decision.trial]["trial"]
    return {"continue": key, "until": decision.until, "forecast": decision.forecast, "reason": decision.reason}


def decide(history: History) -> Decision | None:
    """What trains next; None if each point that was looked at has been tried."""
    draws = np.random.default_rng([history.seed, history.decisions])
    model = curve_model(history)
    if model is None:
        return _random_start(history, draws)
    return _Choice(history, model, Evidence.of(history, model), draws).decision()


class Evidence(NamedTuple):
    """What completed trials say of forecasts, each left out of the model in turn."""

    completed: int
    residual: Sequence[float]
    """By the ends of chunks but the last: the share of the squared error of forecasts of last values that is left when
    the values up to there are known; at most 1, and not larger after more epochs."""
    new_inflation: float
    """By how much deviations of forecasts of new trials are too small; at least 1."""
    paused_inflation: Sequence[float]
    """The same for trials that have paused, by the ends of chunks but the last."""

    @classmethod
    def of(cls, history: History, model: CurveModel) -> Self:
        """Of the completed trials of a history and its model."""
        completed = history.completed
        steps = [end / history.ends[-1] for end in history.ends[:-1]]
        unknown, *known = model.left_out(completed, [0.0, *steps])
        squares = unknown.error**2
        prior = UNINFORMATIVE * (squares.mean() if completed else 1.0)
        left = [float(((each.error**2).sum() + prior) / (squares.sum() + prior)) for each in known]
        falling = np.minimum.accumulate(np.minimum(left, 1.0)) if left else np.empty(0)
        return cls(len(completed), falling.tolist(), _inflation(unknown), [_inflation(each) for each in known])

    def first_pause(self, history: History) -> int:
        """The epoch after which a new trial pauses, or its last one."""
        if self.completed < WHOLE_FIRST:
            return history.ends[-1]
        return next(
            (end for end, residual in zip(history.ends, self.residual, strict=False) if residual <= MAX_RESIDUAL),
            history.ends[-1],
        )

    def why_whole(self, history: History) -> str:
        """Why trials run whole although they could pause; empty where they do not, or where it is too early to say."""
        if len(history.ends) < 2 or self.completed < WHOLE_FIRST or self.first_pause(history) < history.ends[-1]:
            return ""
        latest, last = history.ends[-2:]
        return (
            f"{WHOLE}: values up to epoch {latest} of {last} leave {100 * self.residual[-1]:.0f} % of what is "
            f"unknown about the last one, by {self.completed} completed trials"
        )

    def inflation(self, step: float, history: History) -> float:
        """Of a trial that paused at a step."""
        ends = [end / history.ends[-1] for end in history.ends[:-1]]
        place = bisect.bisect_right(ends, step + 1e-9) - 1
        return self.paused_inflation[place] if place >= 0 else self.new_inflation


def _inflation(forecasts: LeftOut) -> float:
    z = np.minimum(np.abs(forecasts.error / forecasts.deviation), MAX_Z)
    return max(1.0, math.sqrt((CALIBRATED + float((z**2).sum())) / (CALIBRATED + len(z))))


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
    """Where trials that are not completed and have values end: mean and standard deviation, by place in the history.

    None before `FORECASTING` trials are completed.
    """
    open_ = [
        number
        for number, trial in enumerate(history.trials)
        if trial.state in ("pending", "paused", "stopped") and trial.curve
    ]
    if not open_ or len(history.completed) < FORECASTING or (model := curve_model(history)) is None:
        return {}
    evidence = Evidence.of(history, model)
    return {number: _told(history, model, evidence, number) for number in open_}


def _told(history: History, model: CurveModel, evidence: Evidence, run: int) -> tuple[float, float]:
    """Where a run that has values ends: mean and standard deviation, as people read them."""
    trial = history.trials[run]
    (mean,), (deviation,) = model.forecasts(history.space.coordinates(trial.places[None]), np.array([run]))
    inflated = evidence.inflation(_step_of(trial), history) * float(deviation)
    return float(mean), math.hypot(inflated, UNSEEN * (float(mean) - trial.curve[-1].value))


def _step_of(trial: CurveTrial) -> float:
    return trial.curve[-1].epoch / trial.epochs if trial.curve else 0.0


# --- the choice ------------------------------------------------------------------------------------------------------


def _random_start(history: History, draws: np.random.Generator) -> Start | None:
    found = _untried(history, history.space.random(draws, RANDOM))
    return Start(found[0], history.ends[-1]) if len(found) else None


def _untried(history: History, places: Array) -> Array:
    """The rows that are no trial of this search yet."""
    tried = set(keys(np.array([trial.places for trial in history.own]))) if history.own else set()
    untried: Array = places[np.array([key not in tried for key in keys(places)], dtype=bool)]
    return untried


class _Candidate(NamedTuple):
    """A training and its logarithm of expected improvement per epoch."""

    rate: float
    trial: int = -1
    """Of a paused one."""
    places: Array = np.empty(0)
    """Of a new one."""


class _Choice:
    """One decision, given a model."""

    def __init__(self, history: History, model: CurveModel, evidence: Evidence, draws: np.random.Generator) -> None:
        self._history = history
        self._evidence = evidence
        self._draws = draws
        self._places = np.array([trial.places for trial in history.trials])
        self._points = history.space.coordinates(self._places)
        self._model = self._believing(model)
        self._means = self._model.posterior(self._points).mean
        self._is_own = np.array([trial.search == 0 for trial in history.trials])
        self._margin = MARGIN * (history.decisions % 2)
        self._costs = cost_model(history)

    def _believing(self, model: CurveModel) -> CurveModel:
        """The model as if each trial that trains had ended where it is expected to."""
        runs = np.array([run for run, trial in enumerate(self._history.trials) if trial.state == "pending"], dtype=int)
        return model.believing(Rows.of(self._points[runs], np.ones(len(runs)), runs)) if len(runs) else model

    def decision(self) -> Decision | None:
        paused, new = self._best_paused(), self._best_new()
        if new is None:
            return None if paused is None else self._continue(paused, "no new point is left")
        if paused is not None and paused.rate >= new.rate:
            return self._continue(paused, "a new trial promises less per epoch")
        if paused is not None and paused.rate > MIN_IMPROVEMENT and self._starts_took_enough():
            return self._continue(paused, f"first epochs took {SHARE_OF_STARTS:.0%} of those of all that paused")
        return Start(new.places, self._evidence.first_pause(self._history), self._evidence.why_whole(self._history))

    def _continue(self, paused: _Candidate, reason: str) -> Continue:
        forecast = _told(self._history, self._model, self._evidence, paused.trial)
        return Continue(paused.trial, self._history.trials[paused.trial].epochs, forecast, reason)

    def _best(self) -> float:
        """The mean of the best completed trial; without one that of a trial which is better than most."""
        done = self._history.completed
        return float(self._means[done].max() if done else np.quantile(self._means[self._is_own], 0.25))

    def _starts_took_enough(self) -> bool:
        """Of the epochs of trials that paused, or will."""
        pausing = [trial for trial in self._history.trials if trial.first < trial.epochs]
        return sum(trial.first for trial in pausing) > SHARE_OF_STARTS * sum(trial.until for trial in pausing)

    def _best_paused(self) -> _Candidate | None:
        """The paused trial with the largest rate."""
        runs = [run for run, trial in enumerate(self._history.trials) if trial.state == "paused"]
        if not runs:
            return None
        posterior = self._model.posterior(self._points[runs], np.array(runs))
        trials = [self._history.trials[run] for run in runs]
        inflation = np.array([self._evidence.inflation(_step_of(trial), self._history) for trial in trials])
        values = log_improvement_rate(
            posterior.mean, inflation * posterior.gain(), self._best() + self._margin, self._to_end(runs)
        )
        place = int(values.argmax())
        return _Candidate(float(values[place]), runs[place])

    def _best_new(self) -> _Candidate | None:
        """The new point with the largest rate; better than the best forecast, which needs no new trial."""
        goal = max(self._best(), float(self._means[self._is_own].max())) + self._margin

        def value(places: Array) -> Array:
            points = self._history.space.coordinates(places)
            posterior = self._model.posterior(points)
            return log_improvement_rate(
                posterior.mean, self._evidence.new_inflation * posterior.gain(), goal, self._whole(points)
            )

        space = self._history.space
        weight = prior_weight(len(self._history.own), self._history.budget)
        found = self._maximum(lambda places: value(places) + weight * space.log_prior(places))
        return None if found is None else _Candidate(float(value(found[None])[0]), places=found)

    def _whole(self, points: Array) -> Array | float:
        """Cost of new trials at points (m, d): their epochs; where costs differ, each counts as many typical ones."""
        epochs = float(self._history.ends[-1])
        return epochs if self._costs is None else epochs * self._costs.predicted(points)

    def _to_end(self, runs: Sequence[int]) -> Array:
        """(m,): the same of what paused trials have left, by their own durations."""
        trials = [self._history.trials[run] for run in runs]
        left = np.array([trial.epochs - trial.until for trial in trials], dtype=float)
        if self._costs is None:
            return left
        epochs = np.array([trial.epochs for trial in trials])
        seconds = np.array([trial.seconds or math.nan for trial in trials])
        known, predicted = self._costs.measured(epochs * seconds), self._costs.predicted(self._points[runs])
        cost: Array = self._history.ends[-1] * left / epochs * np.where(np.isnan(known), predicted, known)
        return cost

    def _maximum(self, rate: Callable[[Array], Array]) -> Array | None:
        """The untried point with the largest value that a search among random ones and around the best trials finds."""
        space, draws = self._history.space, self._draws
        found = space.every()
        if found is None:
            anchors = self._places[np.argsort(-self._means, kind="stable")[:BEST]]
            nearby = [space.near(draws, anchor, NEAR_EACH) for anchor in anchors]
            # Points of earlier searches may be the best of this one, too.
            found = np.vstack([space.random(draws, RANDOM), *nearby, self._places[~self._is_own]])
            rounds = ROUNDS
        else:
            rounds = 0
        kept, values = self._kept(found, rate)
        for turn in range(rounds if len(kept) else 0):
            around = space.around(draws, kept, STEPS_EACH, FIRST_WIDTH * 0.5**turn)
            more, others = self._kept(around, rate)
            kept, values = np.vstack([kept, more]), np.concatenate([values, others])
            order = np.argsort(-values, kind="stable")[:KEPT]
            kept, values = kept[order], values[order]
        return kept[0] if len(kept) else None

    def _kept(self, places: Array, rate: Callable[[Array], Array]) -> tuple[Array, Array]:
        """The best untried rows and their values."""
        untried = _untried(self._history, places)
        if not len(untried):
            return untried, np.empty(0)
        values = rate(untried)
        order = np.argsort(-values, kind="stable")[:KEPT]
        return untried[order], values[order]
