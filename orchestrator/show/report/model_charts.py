"""The charts of Ax's model: importance of the settings, slices, contours, cross-validation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from orchestrator.show.report.model import Card
from orchestrator.show.report.theme import BLUE, GREY, ORANGE, PURPLE, SEQUENCE, Z_95, axis, factor, faint, figure, unit
from orchestrator.space.parameters import Choice, FloatRange, IntRange, Value
from orchestrator.study.study import Trial, TrialStatus

DIRECTIONS = {
    "raises": ("more of it raises it", BLUE),
    "lowers": ("more of it lowers it", ORANGE),
    "-": ("a choice without an order", GREY),
}
FEW_DECADES = 2.5  # of a logarithmic axis that has room for more ticks than its powers of ten


def importance_chart(card: Card, parameters: Mapping[str, FloatRange | IntRange | Choice]) -> go.Figure:
    """Share of the metric's variation by parameter, the largest on top; the colour tells the direction."""
    rows = list(zip(card.data["names"], card.data["values"], strict=True))
    traces = []
    for kind, (name, colour) in DIRECTIONS.items():
        alike = [(path, abs(value)) for path, value in rows if direction(parameters[path], value) == kind]
        if alike:
            traces.append(
                go.Bar(
                    orientation="h",
                    name=name,
                    x=[100 * value for _, value in alike],
                    y=[path for path, _ in alike],
                    marker={"color": colour},
                    hovertemplate="%{y}: %{x:.3g} %<extra></extra>",
                )
            )
    names = {"automargin": True, "categoryorder": "array", "categoryarray": [path for path, _ in rows][::-1]}
    return figure(traces, {"title": "share (%)", "rangemode": "tozero"}, names, barmode="stack")


def direction(parameter: FloatRange | IntRange | Choice, value: float) -> str:
    """`raises`, `lowers`, or `-` for a choice without an order.

    Args:
        parameter: the parameter.
        value: its importance, with the sign of the metric's mean slope along it.
    """
    if isinstance(parameter, Choice) and not parameter.ordered:
        return "-"
    return "raises" if value >= 0 else "lowers"


def slice_chart(card: Card, metric: str, parameter: FloatRange | IntRange | Choice, best: Value | None) -> go.Figure:
    """The prediction along one parameter with its 95 % interval; a dotted line marks the best configuration."""
    times, path = factor(metric), card.about[0]
    mean = [times * value for value in card.data["mean"]]
    margin = [Z_95 * times * value for value in card.data["sem"]]
    line = {"color": PURPLE, "width": 2, "dash": "dot"}
    mark = {"type": "line", "x0": _place(best), "x1": _place(best), "y0": 0, "y1": 1, "yref": "paper", "line": line}
    across = {"title": path, **_whole_range(parameter)}
    draw = _slice_of_choice if isinstance(parameter, Choice) else _slice_of_range
    traces = draw([_place(value) for value in card.data["x"]], mean, margin)
    return figure(traces, across, axis(metric), shapes=[] if best is None else [mark])


def _slice_of_choice(x: Sequence[Any], mean: Sequence[float], margin: Sequence[float]) -> list[go.Scatter]:
    return [
        go.Scatter(
            mode="markers",
            showlegend=False,
            x=x,
            y=mean,
            error_y={"type": "data", "array": margin},
            marker={"size": 10, "color": BLUE},
            hovertemplate="%{x}: %{y:.4g}<extra></extra>",
        )
    ]


def _slice_of_range(x: Sequence[Any], mean: Sequence[float], margin: Sequence[float]) -> list[go.Scatter]:
    hidden: dict[str, Any] = {"mode": "lines", "x": x, "line": {"width": 0}, "showlegend": False, "hoverinfo": "skip"}
    upper = [value + spread for value, spread in zip(mean, margin, strict=True)]
    lower = [value - spread for value, spread in zip(mean, margin, strict=True)]
    return [
        go.Scatter(**hidden, y=upper),
        go.Scatter(**hidden, y=lower, fill="tonexty", fillcolor=faint(BLUE, 0.18)),
        go.Scatter(
            mode="lines",
            showlegend=False,
            x=x,
            y=mean,
            line={"color": BLUE, "width": 2},
            hovertemplate="%{x:.4g}: %{y:.4g}<extra></extra>",
        ),
    ]


def contour_chart(
    card: Card, metric: str, parameters: Mapping[str, FloatRange | IntRange | Choice], trials: Sequence[Trial]
) -> go.Figure:
    """The prediction over two parameters, and the completed trials."""
    x, y = card.about
    there = [
        trial for trial in trials if trial.status == TrialStatus.COMPLETED and x in trial.params and y in trial.params
    ]
    surface = go.Contour(
        x=[_place(value) for value in card.data["x"]],
        y=[_place(value) for value in card.data["y"]],
        z=[[factor(metric) * value for value in row] for row in card.data["mean"]],
        colorscale=SEQUENCE,
        colorbar={"title": unit(metric), "thickness": 12},
        contours={"coloring": "heatmap"},
        line={"width": 0.5, "color": "rgba(255,255,255,0.5)"},
        hovertemplate="%{x:.4g}, %{y:.4g}: %{z:.4g}<extra></extra>",
    )
    dots = go.Scatter(
        mode="markers",
        showlegend=False,
        x=[_place(trial.params[x]) for trial in there],
        y=[_place(trial.params[y]) for trial in there],
        text=[trial.key for trial in there],
        marker={"color": "white", "size": 7, "line": {"color": "black", "width": 1}},
        cliponaxis=False,
        hovertemplate="%{text}<extra></extra>",
    )
    across, up = ({"title": path, **_whole_range(parameters[path])} for path in (x, y))
    return figure([surface, dots], across, up)


def fit_chart(card: Card) -> go.Figure:
    """Held-out predictions with their 95 % intervals against the observed values."""
    metric, times = card.about[0], factor(card.about[0])
    observed = [times * value for value in card.data["observed"]]
    ends = [min(observed), max(observed)]
    diagonal = go.Scatter(
        mode="lines", name="perfect", x=ends, y=ends, line={"dash": "dot", "color": GREY}, hoverinfo="skip"
    )
    margins = [times * value for value in card.data["margin"]]
    dots = go.Scatter(
        mode="markers",
        name="a trial that the model was not told",
        x=observed,
        y=[times * value for value in card.data["predicted"]],
        error_y={"type": "data", "array": margins, "thickness": 1, "width": 0, "color": faint(BLUE)},
        marker={"color": BLUE, "size": 8},
        hovertemplate="observed %{x:.4g}, predicted %{y:.4g}<extra></extra>",
    )
    return figure([diagonal, dots], f"observed {axis(metric)}", f"predicted {axis(metric)}")


def _place(value: Value | None) -> Any:
    """A value on an axis: True and False are names of a category, and whole numbers numbers."""
    return str(value) if isinstance(value, bool) else value


def _whole_range(parameter: FloatRange | IntRange | Choice) -> dict[str, Any]:
    """An axis over everything that was searched, with ticks that can be read."""
    if isinstance(parameter, Choice):
        return {"type": "category"}
    low, high = float(parameter.low), float(parameter.high)
    if not parameter.log:
        return {"type": "linear", "range": [low, high]}
    low, high = math.log10(low), math.log10(high)
    return {"type": "log", "range": [low, high], "dtick": "D2" if high - low < FEW_DECADES else 1}
