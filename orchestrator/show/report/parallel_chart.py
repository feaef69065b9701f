"""All trials through all settings: the chart of parallel coordinates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from orchestrator.base.formatting import number
from orchestrator.show.report.theme import PURPLE, axis, factor, figure
from orchestrator.space.parameters import Choice, FloatRange, IntRange, Value
from orchestrator.study.study import Trial, TrialStatus

BANDS = ("#5b02a3", "#9a179b", "#cb4679", "#eb7852", "#e8a020")  # of Plasma, without its ends, which paper swallows
STOPPED = "#a8a8a8"
FULL_LINES = 30  # more than that are drawn translucent
MOST_LABELS = 6  # of a choice beside its axis; of a longer one only the ends are labelled


class _Line(NamedTuple):
    """Lines of the parallel coordinates that are drawn alike."""

    name: str
    colour: str
    width: float


def parallel_chart(
    trials: Sequence[tuple[Trial, float]],
    metric: str,
    parameters: Mapping[str, FloatRange | IntRange | Choice],
    best: str | None,
    *,
    sign: int = 1,
) -> go.Figure:
    """One line per trial through its settings and its value; a setting that a trial does not have leaves a gap.

    `go.Parcoords` is no alternative: it draws a missing value as the lowest one, cannot tell stopped trials apart, has
    no hover texts, and needs WebGL and a page whose policy allows `unsafe-eval`.
    """
    low, high = min(value for _, value in trials), max(value for _, value in trials)
    kinds: dict[_Line, list[tuple[Trial, float]]] = defaultdict(list)
    # What is drawn last lies on top: stopped trials first, then from the worst to the best.
    for trial, value in sorted(
        trials, key=lambda row: (row[0].key == best, row[0].status != TrialStatus.STOPPED, sign * row[1])
    ):
        kinds[_line_of(trial, (value - low) / (high - low or 1), (low, high), metric, best)].append((trial, value))
    opacity = max(0.25, min(1.0, FULL_LINES / len(trials)))
    traces = [
        _joined_lines(group, kind, parameters, (low, high), 1.0 if kind.colour == PURPLE else opacity)
        for kind, group in kinds.items()
    ]
    titles = [*(path.rpartition(".")[2] for path in parameters), axis(metric)]
    across = {"tickvals": [*range(len(titles))], "ticktext": titles, "side": "top", "range": [-0.45, len(titles) - 0.7]}
    up = {"visible": False, "range": [-0.06, 1.06]}
    ends = [(height, f"{factor(metric) * end:.3g}") for height, end in ((0.0, low), (1.0, high))]
    labels = [(place, *mark) for place, each in enumerate(parameters.values()) for mark in _axis_labels(each)]
    labels += [(len(parameters), *mark) for mark in ends if high > low]
    common = {"showarrow": False, "xshift": -8, "xanchor": "right", "font": {"size": 11}}
    return figure(
        traces,
        {**across, "zeroline": False, "fixedrange": True},
        {**up, "fixedrange": True},
        annotations=[{**common, "x": place, "y": height, "text": text} for place, height, text in labels],
        legend={"orientation": "h", "y": -0.03, "yanchor": "top"},
        hovermode="closest",
    )


def _line_of(trial: Trial, share: float, ends: tuple[float, float], metric: str, best: str | None) -> _Line:
    """How a trial is drawn whose value lies at this share of the range of all values."""
    if trial.key == best:
        return _Line(f"best: {trial.key}", PURPLE, 4.0)
    if trial.status == TrialStatus.STOPPED:
        return _Line("stopped early", STOPPED, 1.0)
    low, high = ends
    band = min(int(share * len(BANDS)), len(BANDS) - 1)
    limits = [factor(metric) * (low + (high - low) * (band + step) / len(BANDS)) for step in (0, 1)]
    return _Line(f"{limits[0]:.3g} to {limits[1]:.3g}", BANDS[band], 1.8)


def _joined_lines(
    trials: Sequence[tuple[Trial, float]],
    kind: _Line,
    parameters: Mapping[str, FloatRange | IntRange | Choice],
    ends: tuple[float, float],
    opacity: float,
) -> go.Scatter:
    """Lines of one kind as one line with gaps, so that hundreds are drawn at once."""
    low, high = ends
    x: list[int | None] = []
    y: list[float | None] = []
    texts: list[str] = []
    for trial, value in trials:
        given = [trial.params.get(path) for path in parameters]
        x += [*range(len(given) + 1), None]
        y += [_height(parameter, each) for parameter, each in zip(parameters.values(), given, strict=True)]
        y += [(value - low) / (high - low) if high > low else 0.5, None]
        texts += [trial.key if each is None else f"{trial.key}: {number(each)}" for each in given]
        texts += [trial.key, ""]
    return go.Scatter(
        mode="lines+markers",
        name=kind.name,
        x=x,
        y=y,
        text=texts,
        line={"color": kind.colour, "width": kind.width},
        marker={"size": 4 + kind.width / 2},
        opacity=opacity,
        hovertemplate="%{text}<extra></extra>",
    )


def _height(parameter: FloatRange | IntRange | Choice, value: Value | None) -> float | None:
    """Where a value stands on its axis, from 0 to 1; None for one that the trial or the space does not have."""
    if value is None or (isinstance(parameter, Choice) and value not in parameter.values):
        return None
    return parameter.place(value)


def _axis_labels(parameter: FloatRange | IntRange | Choice) -> list[tuple[float, str]]:
    """Heights and labels beside an axis: the ends of a range, all values of a short choice."""
    if not isinstance(parameter, Choice):
        return [(0.0, number(parameter.low)), (1.0, number(parameter.high))]
    many = len(parameter.values) > MOST_LABELS
    shown = (parameter.values[0], parameter.values[-1]) if many else parameter.values
    return [(parameter.place(value), str(value)) for value in shown]
