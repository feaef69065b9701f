"""Translates the study into an Ax experiment, and Ax's suggestion back into parameters.

Ax gets codes in place of values: the place of a number in its range, from 0 to 1, on the range's own scale, or the
index of a value, counted from 0. Ax itself refuses narrow ranges, lists every whole number of a range, and optimises in
the units that it is given.

The space is flat: conditional parameters count as always searched, at the middle of their range in trials that do not
have them. Ax's own hierarchical spaces would impute them too, and have no constraints.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

from orchestrator.algorithms.points import Point
from orchestrator.algorithms.scoring import modelled_metrics, outcome_limits, score
from orchestrator.algorithms.stopping import learning_curve
from orchestrator.space.expressions import LinearConstraint
from orchestrator.space.parameters import MAX_STEPS, Choice, FloatRange, IntRange, Value
from orchestrator.space.problems import SpaceError
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.study import Study, Trial, TrialStatus
from trainer.formatting import shown
from trainer.seeds import derived_seed

# Share of a range by which an answer may lie outside it: Ax maps to unit cubes and back.
ROUNDING = 1e-6
DIGITS = 15  # of a place in a range, after the point
# Ax lists all whole numbers of a range; a range of more values is coded by places, as a continuous one.
MAX_COUNTED = MAX_STEPS + 1
# Ax refuses choices of more values.
MAX_LISTED = 1000
# Completed curves from which the gain of a stopped one, and its spread, are taken.
CURVES = 3
MADE_UP = 3  # trials of the experiment that only tests whether the model answers

Parameter: TypeAlias = FloatRange | IntRange | Choice


def ax_experiment(space: SearchSpace, seed: int, study: Study) -> dict[str, Any]:
    """All that Ax needs to suggest a point, as plain JSON: parameters, goal, seed and every trial by its index.

    Completed trials with finite values are observations, with their standard error if `algorithm.noise` is `queries`;
    unfinished trials are pending points; failed and stopped ones are abandoned, so that Ax neither learns from them nor
    suggests them again. If `algorithm.stopped` is `estimated`, stopped ones are observations with a predicted value.
    Completed trials of an earlier search (warm start) come first, if they have a value for every objective.
    """
    in_order = sorted(study.trials.values(), key=lambda trial: trial.index)
    predictions = _predictions(space, in_order)
    ours = [predictions.get(trial.key) or _observation(space, trial) for trial in in_order]
    others = [term.metric for term in space.objective.terms[1:]]
    earlier = [
        _completed(space, known.params, known.value, known.standard_error, known.metrics)
        for known in study.attached
        if all(metric in known.metrics for metric in others)
    ]
    completed = [trial for trial in earlier + ours if trial["state"] == "completed"]
    return {
        "parameters": {path: _parameter(parameter) for path, parameter in space.parameters.items()},
        "constraints": [constraint.standard_form() for constraint in _coded_constraints(space)],
        "metric": space.objective.first.metric,
        "objective": ", ".join("-" * (term.goal == "minimize") + term.metric for term in space.objective.terms),
        "outcome_constraints": _outcome_constraints(space, study, completed),
        "method": space.algorithm.method,
        "seed": derived_seed(seed, "model", len(ours)) % 2**31,
        "trials": earlier + ours,
    }


def made_up_experiment(space: SearchSpace, seed: int) -> dict[str, Any]:
    """An experiment with invented results, which tests whether the model answers at all."""
    others = space.objective.metrics()[1:]
    trials = [
        _completed(space, point, place / MADE_UP, 1 / MADE_UP, {other: 1 - place / MADE_UP for other in others})
        for place, point in enumerate(islice(space.samples(seed), MADE_UP))
    ]
    question = ax_experiment(space, seed, Study())
    return {**question, "outcome_constraints": _outcome_constraints(space, Study(), trials), "trials": trials}


def reseeded(question: Mapping[str, Any], times: int) -> dict[str, Any]:
    """The same experiment with another seed, for use after an answer that could not be used."""
    return {**question, "seed": derived_seed(question["seed"], "asked again", times) % 2**31}


def point_from_answer(space: SearchSpace, answer: object) -> Point:
    """The point that an answer stands for, without the parameters that are not active there.

    Raises:
        SpaceError: the answer is no point of the space.
    """
    if not isinstance(answer, dict) or set(answer) != set(space.parameters):
        raise SpaceError("the answer does not give each parameter a value")
    values: Point = {}
    for path, parameter in space.parameters.items():
        value = decoded(parameter, answer[path])
        if value is None:
            raise SpaceError(f"{path}: {shown(answer[path])} is no value of it")
        values[path] = value
    for constraint in space.linear_constraints():
        if not constraint.holds({path: float(values[path]) for path in constraint.weights}):
            raise SpaceError(f"the answer breaks {constraint.text}")
    return space.active(values)


def _parameter(parameter: Parameter) -> dict[str, Any]:
    """A parameter as Ax takes it. Steps and ordered choices are integers: Ax would take every step for a category."""
    if isinstance(parameter, Choice) and not parameter.ordered:
        return {"type": "choice", "values": list(range(parameter.count())), "ordered": False}
    if _is_counted(parameter):
        return {"type": "int", "low": 0, "high": _highest(parameter)}
    if isinstance(parameter, IntRange) and parameter.log and parameter.count() <= MAX_LISTED:
        # Their logarithms are not evenly spaced, and between them is nothing that could be tried.
        return {"type": "choice", "values": [parameter.place(value) for value in parameter.points()], "ordered": True}
    return {"type": "float", "low": 0.0, "high": 1.0}


def _is_counted(parameter: Parameter) -> bool:
    """Whether the code of a value is its index among all values, rather than its place in the range."""
    count = parameter.count()
    return isinstance(parameter, Choice) or (count is not None and count <= MAX_COUNTED and not parameter.log)


def _highest(parameter: Parameter) -> int:
    """The largest code; the smallest is 0."""
    return (parameter.count() or 0) - 1 if _is_counted(parameter) else 1


def _encoded(space: SearchSpace, params: Mapping[str, Value]) -> dict[str, Value]:
    """A code for every parameter; for those that the point leaves out that of the middle of their range.

    Raises:
        SpaceError: a value is none of its parameter's, as in a journal that was not written for this space.
    """
    codes: dict[str, Value] = {}
    for path, parameter in space.parameters.items():
        value = params.get(path, parameter.at(0.5))
        try:
            codes[path] = coded(parameter, value)
        except (TypeError, ValueError) as error:
            raise SpaceError(f"{path}: {shown(value)} of a trial is no value of it") from error
    return codes


def coded(parameter: Parameter, value: Value) -> float:
    """Ax's code for a value of the parameter."""
    if not _is_counted(parameter):
        return parameter.place(value)
    if isinstance(parameter, Choice):
        return parameter.values.index(value)
    return round((float(value) - parameter.low) / (parameter.step or 1))


def decoded(parameter: Parameter, code: object) -> Value | None:
    """The value that a code stands for; None if it stands for none."""
    if isinstance(code, bool) or not isinstance(code, int | float) or not abs(code) < math.inf:
        return None
    highest = _highest(parameter)
    if _is_counted(parameter):
        return parameter.at((round(code) + 0.5) / (highest + 1)) if 0 <= round(code) <= highest else None
    # Rounded, because a place of 1e-200 is an end of the range that was missed, and no value that training could use.
    return parameter.at(min(max(round(code, DIGITS), 0.0), 1.0)) if -ROUNDING <= code <= 1 + ROUNDING else None


def _coded_constraints(space: SearchSpace) -> list[LinearConstraint]:
    """The linear constraints on codes, without those that all codes satisfy.

    Computed exactly and rounded once; the largest weight is 1, because Ax checks with an absolute tolerance.
    """
    coded = (_coded_constraint(space, constraint) for constraint in space.linear_constraints())
    return [constraint for constraint in coded if constraint is not None]


def _coded_constraint(space: SearchSpace, constraint: LinearConstraint) -> LinearConstraint | None:
    limit, weights, most = Fraction(constraint.limit), {}, Fraction(0)
    for path, written in constraint.weights.items():
        parameter, weight = space.parameters[path], Fraction(written)
        assert not isinstance(parameter, Choice) and not parameter.log, "the check of a space refuses these"
        step = Fraction(parameter.step or 1)
        is_counted = _is_counted(parameter)
        weights[path] = weight * (step if is_counted else Fraction(parameter.high) - Fraction(parameter.low))
        limit -= weight * Fraction(parameter.low)
        if isinstance(parameter, IntRange) and not is_counted:
            limit -= abs(weight) * step  # by which the value may differ from the place that Ax checks
        most += max(weights[path], Fraction(0)) * _highest(parameter)
    if most <= limit:
        return None
    scale = max(map(abs, weights.values()))
    scaled = {path: float(weight / scale) for path, weight in weights.items()}
    kept = {path: weight for path, weight in scaled.items() if weight}
    return LinearConstraint(constraint.text, kept, float(limit / scale))


def _outcome_constraints(space: SearchSpace, study: Study, completed: Sequence[Mapping[str, Any]]) -> list[str]:
    """Constraints on metrics of which every completed trial has a value; Ax cannot use the others yet.

    Those relative to the baseline are left out until it is completed.
    """
    first = space.objective.first.metric
    return [
        f"{constraint.metric} {constraint.sign} {constraint.limit!r}"
        for constraint in outcome_limits(study, space.objective)
        if constraint is not None and all(constraint.metric in (first, *trial["metrics"]) for trial in completed)
    ]


def _observation(space: SearchSpace, trial: Trial) -> dict[str, Any]:
    found = score(trial, space.objective) if trial.status == TrialStatus.COMPLETED else None
    if found is None or not all(math.isfinite(value) for value in found.values):
        return {"params": _encoded(space, trial.params), "state": "abandoned" if trial.is_over else "pending"}
    metrics = modelled_metrics(found, space.objective)
    return _completed(space, trial.params, found.value, found.standard_error, metrics)


def _predictions(space: SearchSpace, trials: Sequence[Trial]) -> dict[str, dict[str, Any]]:
    """Predicted observations of stopped trials, by their keys, if the space asks for them."""
    objective = space.objective
    if space.algorithm.stopped == "ignored" or len(objective.metrics()) > 1:
        return {}
    completed = [trial for trial in trials if trial.status == TrialStatus.COMPLETED]
    done = [(learning_curve(trial, objective), score(trial, objective)) for trial in completed]
    curves = [curve for curve, _ in done]
    errors = [found.standard_error for _, found in done if found is not None and found.standard_error is not None]
    found = {}
    for trial in trials:
        if trial.status == TrialStatus.STOPPED and errors:
            guess = predicted_value(learning_curve(trial, objective), curves, statistics.median(errors))
            if guess is not None:
                value = objective.first.sign * guess.value
                found[trial.key] = _completed(space, trial.params, value, guess.standard_error, {})
    return found


def _completed(
    space: SearchSpace,
    params: Mapping[str, Value],
    value: float,
    error: float | None,
    metrics: Mapping[str, float],
) -> dict[str, Any]:
    tells_error = space.algorithm.noise == "queries" and error is not None and math.isfinite(error)
    return {
        "params": _encoded(space, params),
        "state": "completed",
        "value": value,
        "standard_error": error if tells_error else None,
        "metrics": dict(metrics),
    }


class Prediction(NamedTuple):
    """The value that a stopped trial would have reached."""

    value: float
    """At its last epoch; larger is better."""
    standard_error: float


def predicted_value(own: Sequence[float], completed: Sequence[Sequence[float]], error: float) -> Prediction | None:
    """A stopped trial's last value plus the mean gain of completed trials from there to their end.

    Its standard error combines the spread of those gains with the error of one value. Completed trials are the
    survivors of the stopping rule, which biases the gain; the error has to cover that, too. None with fewer than
    `CURVES` completed trials that went further.

    Args:
        own: values of the stopped trial at its evaluations; larger is better.
        completed: those of completed trials.
        error: standard error of a completed trial's last value.
    """
    gains = [curve[-1] - curve[len(own) - 1] for curve in completed if len(curve) > len(own)]
    if not own or len(gains) < CURVES:
        return None
    return Prediction(own[-1] + statistics.fmean(gains), math.hypot(statistics.stdev(gains), error))
