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
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from itertools import islice
from typing import Any, TypeAlias

import numpy as np

from orchestrator.algorithms.coded_points import CodedSpace
from orchestrator.algorithms.curve_values import Array
from orchestrator.algorithms.points import Point
from orchestrator.algorithms.scoring import modelled_metrics, outcome_limits, score
from orchestrator.algorithms.stopping import evaluated_curve
from orchestrator.space.expressions import LinearConstraint
from orchestrator.space.options import StoppingConfig, chunk_ends, pause_shares
from orchestrator.space.parameters import MAX_STEPS, Choice, FloatRange, IntRange, Value
from orchestrator.space.problems import SpaceError
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.events import Observation
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
# Where trials are stopped early but never pause: the shares of a training at which curves are told.
CURVE_STEPS = (1 / 16, 1 / 8, 1 / 4, 1 / 2)
MADE_UP = 3  # trials of the experiment that only tests whether the model answers

Parameter: TypeAlias = FloatRange | IntRange | Choice


def ax_experiment(space: SearchSpace, seed: int, study: Study, *, forecasting: bool = False) -> dict[str, Any]:
    """All that Ax needs to suggest a point, as plain JSON: parameters, goal, seed and every trial by its index.

    Completed trials with finite values are observations; unfinished trials are pending points; failed and stopped ones
    are not suggested again. Completed trials of an earlier search (warm start) come first, if they have a value for
    every objective. Our model (`SearchSpace.has_curve_model`) gets curves besides, and may answer with a paused trial.

    Args:
        space: the space.
        seed: of the search.
        study: the history.
        forecasting: whether the curves of all trials are told up to their latest evaluation, for forecasts and not for
            a decision: the question then changes with each epoch.
    """
    in_order = sorted(study.trials.values(), key=lambda trial: trial.index)
    others = [term.metric for term in space.objective.terms[1:]]
    earlier = [
        _known(space, known, search)
        for search, observations in enumerate(study.attached, 1)
        for known in observations
        if all(metric in known.metrics for metric in others)
    ]
    question = {
        "parameters": _parameters(space),
        "constraints": [constraint.standard_form() for constraint in _coded_constraints(space)],
        "metric": space.objective.first.metric,
        "objective": ", ".join("-" * (term.goal == "minimize") + term.metric for term in space.objective.terms),
        "method": space.algorithm.method,
        "seed": derived_seed(seed, "model", len(in_order)) % 2**31,
        "model": "ax",
    }
    if space.has_curve_model or forecasting:
        steps = (_steps(space.stopping) or list(CURVE_STEPS)) if forecasting else _steps(space.stopping)
        typical = space.config(space.any_sample())
        ours = [_told(space, trial) | _curve_of(space, trial, steps, latest=forecasting) for trial in in_order]
        trials = earlier + ours
        ends = chunk_ends(0, typical.optim.epochs, typical.evaluation.every, space.stopping)
        # With another rule than freeze_thaw a new trial is judged as a whole one. A paused trial is told as paused with
        # `promote`, too: what no rung promotes may still be what promises most per remaining epoch.
        is_choosing = space.stopping.rule == "freeze_thaw"
        curves = {"ends": ends if is_choosing else ends[-1:], "chunks": steps}
        question |= {"model": "curves", "budget": space.budget.trials, **curves}
    else:
        trials = earlier + [_told(space, trial) for trial in in_order]
    completed = [trial for trial in trials if trial["state"] == "completed"]
    return question | {"outcome_constraints": _outcome_constraints(space, study, completed), "trials": trials}


def coordinates(space: SearchSpace, points: Iterable[Mapping[str, Value]]) -> Array:
    """(m, d): points as our model sees them.

    Raises:
        SpaceError: a value is none of its parameter's.
    """
    coded_space = CodedSpace.of({"parameters": _parameters(space), "constraints": []})
    codes = ({path: float(code) for path, code in _encoded(space, point).items()} for point in points)
    places = [coded_space.places(each) for each in codes]
    return coded_space.coordinates(np.array(places).reshape(-1, len(space.parameters)))


def made_up_experiment(space: SearchSpace, seed: int) -> dict[str, Any]:
    """An experiment with invented results, which tests whether the model answers at all."""
    others = space.objective.metrics()[1:]
    trials = [
        _known(
            space,
            Observation(
                trial=f"t{place:04d}",
                params=point,
                value=place / MADE_UP,
                standard_error=None,
                metrics={other: 1 - place / MADE_UP for other in others},
            ),
            search=0,
        )
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


def _parameters(space: SearchSpace) -> dict[str, dict[str, Any]]:
    """All parameters; our model also needs to know their priors, where one is not active, and its code there."""
    found = {path: _parameter(parameter) for path, parameter in space.parameters.items()}
    for path, parameter in space.parameters.items():
        if parameter.prior is not None:
            found[path]["prior"] = {"code": coded(parameter, parameter.prior.value), "sure": parameter.prior.sure}
        if parameter.when:
            found[path]["inactive"] = coded(parameter, parameter.at(0.5))
            found[path]["when"] = {
                other: [coded(space.parameters[other], value) for value in values]
                for other, values in parameter.when.items()
            }
    return found


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


def _told(space: SearchSpace, trial: Trial) -> dict[str, Any]:
    """A trial of this search: its point, its state and, if it is completed, its values."""
    told = {"trial": trial.key, "params": _encoded(space, trial.params), "state": _state(trial)}
    if trial.status != TrialStatus.COMPLETED:
        return told
    found = score(trial, space.objective)
    if found is None or not all(math.isfinite(value) for value in found.values):
        return told | {"state": "failed"}
    return told | {"value": found.value, "metrics": modelled_metrics(found, space.objective)}


def _state(trial: Trial) -> str:
    """The status; a trial that waits is pending like one that runs, and one that diverged is told from other failures.

    Other failures say nothing about a configuration.
    """
    if trial.status == TrialStatus.RUNNING:
        return "pending"
    return "diverged" if trial.status == TrialStatus.FAILED and trial.failures["diverged"] else trial.status.value


def _curve_of(space: SearchSpace, trial: Trial, steps: Sequence[float], *, latest: bool) -> dict[str, Any]:
    """What `orchestrator.algorithms.freeze_thaw.CurveTrial` holds besides.

    The curve and the durations of a trial that trains end at its last pause, so that the question does not change with
    each epoch.

    Args:
        space: the space.
        trial: one of its trials.
        steps: shares of a training at which values are told.
        latest: whether those of a trial that trains go on to its latest evaluation.
    """
    trains = trial.status in (TrialStatus.PENDING, TrialStatus.RUNNING)
    until = (trial.until or trial.epochs) if trains else trial.epoch
    last = max(trial.pauses, default=0) if trains and not latest else trial.epochs
    return {
        "epochs": trial.epochs,
        "until": until,
        "first": trial.pauses[0] if trial.pauses else until,
        "pauses": len(trial.pauses),
        "curve": _kept_values(trial, space, steps, last),
        "seconds": _seconds_per_epoch(trial, last),
    }


def _seconds_per_epoch(trial: Trial, last: int) -> float | None:
    """A typical duration up to an epoch, times the GPUs held, to three digits; None if no epoch was measured.

    The median of the training, of which the first epoch may be slower, and the mean of the evaluations, which most
    epochs may not have.
    """
    results = [result for result in trial.results if result.epoch <= last]
    if not results:
        return None
    training = statistics.median(result.seconds - result.evaluation_seconds for result in results)
    evaluation = statistics.fmean(result.evaluation_seconds for result in results)
    seconds = float(f"{(training + evaluation) * (trial.gpus or 1):.3g}")
    return seconds if seconds > 0 else None


def _kept_values(trial: Trial, space: SearchSpace, steps: Sequence[float], last: int) -> list[list[float]]:
    """Epoch, value and time at the first evaluation after each step, and at the last one."""
    values = {epoch: value for epoch, value in evaluated_curve(trial, space.objective) if math.isfinite(value)}
    times = {result.epoch: result.time for result in trial.results}
    known = sorted(epoch for epoch in values if epoch <= last)
    firsts = (next((epoch for epoch in known if epoch >= step * trial.epochs), None) for step in steps)
    kept = sorted({epoch for epoch in firsts if epoch is not None} | set(known[-1:]))
    return [[epoch, values[epoch], times[epoch]] for epoch in kept]


def _steps(stopping: StoppingConfig) -> list[float]:
    """Shares of a training at which the model gets values of curves."""
    if stopping.rule == "none":
        return []  # all trainings are whole, and curves would add little
    return [float(share) for share in pause_shares(stopping)] or list(CURVE_STEPS)


def _known(space: SearchSpace, known: Observation, search: int) -> dict[str, Any]:
    """A completed trial of an earlier search, by the number of that."""
    curve = [[1, space.objective.first.sign * known.value, 0.0]]
    return {
        "trial": known.trial,
        "params": _encoded(space, known.params),
        "state": "completed",
        "search": search,
        "value": known.value,
        "metrics": dict(known.metrics),
        **{"epochs": 1, "until": 1, "first": 1, "pauses": 0, "curve": curve},
    }
