"""What a search improves, and which figures it must keep."""

from __future__ import annotations

import re
from typing import Annotated, Literal, NamedTuple, cast, get_args

from pydantic import AfterValidator, Field

from orchestrator.parameters import StrictConfig
from trainer.wording import did_you_mean, listed, shown

MAX_CONSTRAINTS = 50  # of one kind; more would hardly leave a point

OUTCOME = re.compile(r"\s*(\w+)\s*(<=|>=)\s*((?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*", re.ASCII)

Metric = Literal["mAP", "mINP", "rank1", "rank5", "rank10", "rank20"]


class OutcomeBound(NamedTuple):
    """What a figure of a trial has to reach, or must not exceed."""

    metric: Metric
    sign: Literal["<=", ">="]
    limit: float

    def holds(self, value: float) -> bool:
        """Whether a figure satisfies it."""
        return value >= self.limit if self.sign == ">=" else value <= self.limit


def parse_outcome(text: str) -> OutcomeBound:
    """The bound in a text such as `rank1 >= 0.8`.

    Raises:
        ValueError: the text bounds no figure.
    """
    found = OUTCOME.fullmatch(text)
    if found is None:
        raise ValueError(f"must compare a figure with a number, such as 'rank1 >= 0.8' (is {shown(text)})")
    metric, sign, number = found.groups()
    if metric not in get_args(Metric):
        names = [*get_args(Metric)]
        raise ValueError(f"{shown(metric)} is no figure, not one of {listed(names)}{did_you_mean(metric, names)}")
    if not 0 <= float(number) <= 1:
        raise ValueError(f"figures are shares between 0 and 1; 80 % is 0.8 (is {number})")
    return OutcomeBound(cast("Metric", metric), cast("Literal['<=', '>=']", sign), float(number))


def _readable_outcome(text: str) -> str:
    parse_outcome(text)
    return text


OutcomeText = Annotated[str, AfterValidator(_readable_outcome)]


class Objective(StrictConfig):
    """What the search improves: a figure of the validation split."""

    metric: Metric = "mAP"
    """The figure."""
    goal: Literal["maximize", "minimize"] = "maximize"
    """Its better direction."""
    epoch: Literal["last", "best"] = "last"
    """Which evaluation of a trial counts; `best` favours noisy curves."""
    constraints: Annotated[tuple[OutcomeText, ...], Field(strict=False, max_length=MAX_CONSTRAINTS)] = ()
    """Bounds on other figures, such as `rank1 >= 0.8`; the model avoids what is likely to break them."""

    def outcome_bounds(self) -> list[OutcomeBound]:
        """The constraints, read."""
        return [parse_outcome(text) for text in self.constraints]
