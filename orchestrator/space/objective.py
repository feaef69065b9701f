"""The objective of a search: the metrics that it improves, and constraints on metrics."""

from __future__ import annotations

import functools
import re
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, cast, get_args

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_serializer,
)

from orchestrator.base.errors import EnvironmentProblem
from orchestrator.space.parameters import StrictConfig, readable_by
from trainer.formatting import did_you_mean, listed, shown

MAX_CONSTRAINTS = 50  # of one kind; more would hardly leave a point
MAX_TERMS = 3  # each one more makes a suggestion two to three times as long

ValidationMetric = Literal["mAP", "mINP", "rank1", "rank5", "rank10", "rank20"]
Cost = Literal["hours", "gpu_hours"]
Metric: TypeAlias = ValidationMetric | Cost
"""Metrics of the validation split, shares in [0, 1], and the cost of training a trial."""
Sign = Literal["<=", ">="]

VALIDATION_METRICS: tuple[str, ...] = get_args(ValidationMetric)
COSTS: tuple[str, ...] = get_args(Cost)
METRICS = (*VALIDATION_METRICS, *COSTS)

_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
OUTCOME = re.compile(
    rf"\s*(?P<metric>\w+)\s*(?P<sign><=|>=)\s*"
    rf"(?:(?P<limit>{_NUMBER})|(?:(?P<share>{_NUMBER})\s*\*\s*)?baseline(?:\s*(?P<shift>[-+]\s*{_NUMBER}))?)\s*",
    re.ASCII,
)


class ObjectiveTerm(NamedTuple):
    """A metric that a search improves, and its better direction."""

    metric: Metric
    goal: Literal["maximize", "minimize"]

    @property
    def sign(self) -> int:
        """1 or -1; a value times this is better when larger."""
        return 1 if self.goal == "maximize" else -1


class OutcomeConstraint(NamedTuple):
    """A bound on a metric of a trial."""

    metric: Metric
    sign: Sign
    limit: float

    def holds(self, value: float) -> bool:
        """Whether a value of the metric satisfies it."""
        return value >= self.limit if self.sign == ">=" else value <= self.limit


class RelativeConstraint(NamedTuple):
    """A bound relative to the baseline trial: `share * baseline + shift`."""

    metric: Metric
    sign: Sign
    share: float
    shift: float

    def against(self, baseline: float) -> OutcomeConstraint:
        """The same with a number as its limit, given the baseline's value of the metric."""
        return OutcomeConstraint(self.metric, self.sign, self.share * baseline + self.shift)


@functools.cache
def parse_outcome(text: str) -> OutcomeConstraint | RelativeConstraint:
    """The constraint in a text such as `rank1 >= 0.8`, `rank1 >= 0.95 * baseline` or `rank1 >= baseline - 0.02`.

    Raises:
        ValueError: the text bounds no metric.
    """
    found = OUTCOME.fullmatch(text)
    if found is None:
        what = "must compare a metric with a number or the baseline, such as 'rank1 >= 0.8', "
        raise ValueError(f"{what}'rank1 >= 0.95 * baseline' or 'rank1 >= baseline - 0.02' (is {shown(text)})")
    name, sign = found["metric"], cast("Sign", found["sign"])
    if name not in METRICS:
        raise ValueError(f"{shown(name)} is no metric, not one of {listed(list(METRICS))}{did_you_mean(name, METRICS)}")
    metric = cast("Metric", name)
    if found["limit"] is not None:
        _check_number(metric, found["limit"], "80 % is 0.8")
        return OutcomeConstraint(metric, sign, float(found["limit"]))
    share, shift = float(found["share"] or 1), (found["shift"] or "0").replace(" ", "")
    if share == 0:
        raise ValueError(f"0 times the baseline is 0 whatever the baseline is (is {shown(text)})")
    _check_number(metric, shift, "2 points are 0.02")
    return RelativeConstraint(metric, sign, share, float(shift))


def _check_number(metric: str, number: str, example: str) -> None:
    if metric in VALIDATION_METRICS and not abs(float(number)) <= 1:
        raise ValueError(f"metrics are shares between 0 and 1; {example} (is {number})")


@functools.cache
def parse_objective(text: str) -> tuple[ObjectiveTerm, ...]:
    """The terms in a text such as `mAP, -gpu_hours`; a minus lowers a value.

    Raises:
        ValueError: the text names no metrics that can be improved together.
    """
    terms = [_term(term.strip(), whole=text) for term in text.split(",")]
    names = [term.metric for term in terms]
    for term in terms[1:]:
        if term.metric in COSTS and term.goal == "maximize":
            raise ValueError(f"{term.metric} is a cost, which a minus lowers; write -{term.metric} (is {shown(text)})")
    for term in terms:
        if names.count(term.metric) > 1:
            raise ValueError(f"names {term.metric} twice (is {shown(text)})")
    if len(terms) > MAX_TERMS:
        raise ValueError(f"must name at most {MAX_TERMS} (names {len(terms)})")
    if names[0] in COSTS:
        what = f"{names[0]} is a cost; name a metric of the validation split first, such as 'mAP, -{names[0]}'"
        raise ValueError(f"{what}: trials are ranked and stopped early by it")
    return tuple(terms)


def _term(text: str, *, whole: str) -> ObjectiveTerm:
    name = text.removeprefix("-").strip()
    if not name:
        raise ValueError(f"names nothing beside a comma or a minus (is {shown(whole)})")
    if name not in METRICS:
        raise ValueError(
            f"must be {listed([shown(each) for each in METRICS])} (is {shown(name)})" + did_you_mean(name, METRICS)
        )
    return ObjectiveTerm(cast("Metric", name), "minimize" if text.startswith("-") else "maximize")


OutcomeText = Annotated[str, readable_by(parse_outcome)]
_TERM = f"-?({'|'.join(METRICS)})"
_TERMS = rf"^ *{_TERM}( *, *{_TERM})* *$"
ObjectiveText = Annotated[
    str,
    readable_by(parse_objective),
    # Editors complete the names, and accept lists of them.
    WithJsonSchema({"anyOf": [{"enum": [*VALIDATION_METRICS]}, {"type": "string", "pattern": _TERMS}]}),
]


class Objective(StrictConfig):
    """What the search improves: a metric of the validation split, or several metrics at once."""

    metric: ObjectiveText = "mAP"
    """The metric; of several, such as `mAP, -gpu_hours`, a minus lowers one, and the first one ranks trials."""
    goal: Literal["maximize", "minimize"] = "maximize"
    """The better direction of a single metric without a minus."""
    epoch: Literal["last", "best"] = "last"
    """Which evaluation of a trial counts; `best` favours noisy curves."""
    constraints: Annotated[tuple[OutcomeText, ...], Field(strict=False, max_length=MAX_CONSTRAINTS)] = ()
    """Bounds on metrics, such as `rank1 >= 0.8`, or `rank1 >= 0.95 * baseline`, which compares with the first point
    under `start`; the model avoids points that are likely to violate them."""

    @field_validator("goal")
    @classmethod
    def _given_once(cls, goal: str, info: ValidationInfo) -> str:
        if _says_goals(info.data.get("metric", "")):
            raise ValueError("drop it; where metric holds a comma or a minus, a minus marks what is lowered")
        return goal

    @model_serializer(mode="wrap")
    def _without_implied_goal(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves out `goal` where `metric` states the directions, so that the dump can be loaded again."""
        fields: dict[str, Any] = dump(self)
        return {key: value for key, value in fields.items() if key != "goal" or not _says_goals(self.metric)}

    @property
    def terms(self) -> tuple[ObjectiveTerm, ...]:
        """The metrics that are improved."""
        terms = parse_objective(self.metric)
        return terms if _says_goals(self.metric) else (ObjectiveTerm(terms[0].metric, self.goal),)

    @property
    def first(self) -> ObjectiveTerm:
        """The metric that ranks and stops trials, and to which `budget.target` refers."""
        return self.terms[0]

    @property
    def is_relative(self) -> bool:
        """Whether a constraint compares with the baseline."""
        return any(isinstance(constraint, RelativeConstraint) for constraint in self.outcome_constraints())

    def outcome_constraints(self) -> list[OutcomeConstraint | RelativeConstraint]:
        """The parsed constraints."""
        return [parse_outcome(text) for text in self.constraints]

    def metrics(self) -> list[Metric]:
        """All metrics that are improved or bounded, once each."""
        return list(dict.fromkeys(each.metric for each in (*self.terms, *self.outcome_constraints())))


def _says_goals(metric: str) -> bool:
    return "," in metric or "-" in metric


def check_costs(objective: Objective, gpus: float, *, is_limited: bool = False) -> None:
    """Checks that trials hold GPUs if `gpu_hours` is improved or bounded.

    Args:
        objective: names what is improved and bounded.
        gpus: GPUs of each trial.
        is_limited: whether the budget limits `gpu_hours`.

    Raises:
        EnvironmentProblem: `gpus` per trial is 0, and the objective or the budget names `gpu_hours`.
    """
    if not gpus and (is_limited or "gpu_hours" in objective.metrics()):
        where = "budget.gpu_hours" if is_limited else "objective"
        raise EnvironmentProblem(f"{where}: no GPU for the trials here, so that gpu_hours are always 0; use hours")
