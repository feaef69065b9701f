"""Figures over the epochs of each trial, thinned to what a picture can show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

from orchestrator.study.study import Trial, TrialStatus

MOST_POINTS = 80  # of one curve; a chart is some hundred pixels wide

Item = TypeVar("Item")


class Curve(NamedTuple):
    """A figure of one trial by epoch."""

    trial: str
    status: TrialStatus
    epochs: list[int]
    values: list[float]


def learning_curves(trials: Iterable[Trial], metric: str, *, most: int = MOST_POINTS) -> list[Curve]:
    """The curves of the trials that have the figure; at most so many points each, the first and the last among them."""
    curves = []
    for trial in trials:
        points = [
            (result.epoch, figures[metric]) for result in trial.results if metric in (figures := result.metrics())
        ]
        if points:
            kept = thinned(points, most)
            curves.append(Curve(trial.key, trial.status, [epoch for epoch, _ in kept], [value for _, value in kept]))
    return curves


def thinned(items: Sequence[Item], most: int) -> list[Item]:
    """At most `most` of the items, evenly spread, the first and the last among them.

    Raises:
        ValueError: fewer than two may be kept.
    """
    if most < 2:
        raise ValueError(f"{most} points cannot hold both ends")
    if len(items) <= most:
        return list(items)
    return [items[round(place * (len(items) - 1) / (most - 1))] for place in range(most)]
