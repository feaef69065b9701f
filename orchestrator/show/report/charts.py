"""The charts of a search: progress, learning curves, seeds, re-identification, cost.

Every function returns a `plotly` figure. Texts are escaped and numbers rounded once, where `page.py` writes a figure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup

from orchestrator.algorithms.replicates import Confirmation
from orchestrator.algorithms.scoring import Score
from orchestrator.show.report.evaluations import CameraTable
from orchestrator.show.report.report_data import RANKS, Curve
from orchestrator.show.report.theme import (
    BLUE,
    COLOURS,
    GREEN,
    GREY,
    NAMES,
    ORANGE,
    PURPLE,
    RED,
    SEQUENCE,
    SKY,
    SYMBOLS,
    Z_95,
    axis,
    factor,
    faint,
    figure,
)
from orchestrator.show.search_text import forecast_text
from orchestrator.space.objective import VALIDATION_METRICS
from orchestrator.study.events import Forecast
from orchestrator.study.study import Trial, TrialStatus
from orchestrator.summary import TracePoint
from orchestrator.summary.costs import Costs

PALETTE = (PURPLE, BLUE, GREEN, ORANGE, SKY, RED)
FULL_CURVES = 15  # of a kind; more than that are drawn translucent
MOST_FANS = 10  # of more forecasts, the others have only a line
MANY_CAMERAS = 8  # beyond, cells are too small for numbers
HOUR_S = 3600
FEW = 8  # trials, of which each has a mark at the axis
SPAN = 5.0  # points of per cent that an axis of bests shows at least: less looks like a difference
SMALL_HOURS = 0.1  # if the longest trial took less, seconds are drawn


def trace_chart(points: Sequence[TracePoint], metric: str, best: str | None) -> go.Figure:
    """Value by trial, the best so far, and how each trial ended; failed trials stand at the bottom."""
    times = factor(metric)
    floor = min((point.value for point in points if point.value is not None), default=0.0)
    leading = [(point.number, times * point.best) for point in points if point.best is not None]
    traces = []
    if leading:
        x, y = zip(*leading, strict=True)
        line = {"shape": "hv", "width": 2, "color": PURPLE}
        traces.append(go.Scatter(mode="lines", name="best so far", x=x, y=y, line=line, hoverinfo="skip"))
    for status in NAMES:
        alike = [
            point for point in points if point.status == status and (point.value is not None or status == "failed")
        ]
        if alike:
            traces.append(_trace_marks(alike, status, floor, times))
    for point in points:
        if point.trial == best and point.value is not None:
            marker = {"symbol": "circle-open", "size": 18, "color": PURPLE, "line": {"width": 3}}
            place = {"x": [point.number], "y": [times * point.value]}
            traces.append(go.Scatter(mode="markers", name="chosen as best", **place, marker=marker, hoverinfo="skip"))
    return figure(traces, _trial_axis([points]), axis(metric))


def best_so_far_chart(traces: Mapping[str, Sequence[TracePoint]], metric: str) -> go.Figure:
    """The best value so far of several searches, by trial."""
    lines = []
    for place, (name, points) in enumerate(traces.items()):
        leading = [(point.number, factor(metric) * point.best) for point in points if point.best is not None]
        line = {"shape": "hv", "width": 2, "color": PALETTE[place % len(PALETTE)]}
        x, y = [number for number, _ in leading], [value for _, value in leading]
        mode = "lines" if len(x) > 1 else "markers"
        lines.append(go.Scatter(mode=mode, name=name, x=x, y=y, line=line))
    values = [value for each in lines for value in each.y]
    y_axis: dict[str, Any] = {"title": axis(metric)}
    if values and factor(metric) != 1:
        middle = (min(values) + max(values)) / 2
        y_axis["autorangeoptions"] = {"include": [middle - SPAN / 2, middle + SPAN / 2]}
    return figure(lines, _trial_axis(traces.values()), y_axis)


def _trial_axis(traces: Iterable[Sequence[TracePoint]]) -> dict[str, Any]:
    """An axis of trials: of few ones plotly would also mark halves."""
    last = max((point.number for points in traces for point in points), default=0)
    return {"title": "trial"} | ({"dtick": 1} if last <= FEW else {})


def _trace_marks(points: Sequence[TracePoint], status: TrialStatus, floor: float, times: float) -> go.Scatter:
    broken = ["" if point.value is None or point.feasible else ", breaks a constraint" for point in points]
    errors = [times * (point.standard_error or 0.0) for point in points]
    return go.Scatter(
        mode="markers",
        name=NAMES[status],
        x=[point.number for point in points],
        y=[times * (floor if point.value is None else point.value) for point in points],
        error_y={"type": "data", "array": errors, "thickness": 1, "width": 0, "color": faint(COLOURS[status])},
        marker={"color": COLOURS[status], "symbol": SYMBOLS[status], "size": 9},
        text=[f"{point.trial} ({point.source}){note}" for point, note in zip(points, broken, strict=True)],
        hovertemplate=f"%{{text}}: {'no value' if status == 'failed' else '%{y:.4g}'}<extra></extra>",
    )


def front_chart(
    completed: Sequence[tuple[Trial, Score]], front: Sequence[tuple[Trial, Score]], metrics: Sequence[str]
) -> go.Figure:
    """The first two objectives of the completed trials; with two objectives the Pareto front is joined by a line."""
    leading = {trial.key for trial, _ in front}
    up, across = metrics[0], metrics[1]
    traces = []
    for name, inside, colour in (("dominated", False, GREY), ("Pareto front", True, GREEN)):
        rows = [(trial.key, found.values) for trial, found in completed if (trial.key in leading) == inside]
        rows.sort(key=lambda row: row[1][1])
        traces.append(
            go.Scatter(
                mode="lines+markers" if inside and len(metrics) == 2 else "markers",
                name=name,
                x=[factor(across) * values[1] for _, values in rows],
                y=[factor(up) * values[0] for _, values in rows],
                text=[trial for trial, _ in rows],
                marker={"color": colour, "size": 9},
                hovertemplate="%{text}: %{y:.4g}, %{x:.4g}<extra></extra>",
            )
        )
    return figure(traces, axis(across), axis(up))


def curves_chart(
    curves: Sequence[Curve],
    metric: str,
    best: str | None,
    *,
    title: str,
    forecasts: Mapping[str, Forecast] = MappingProxyType({}),
) -> go.Figure:
    """A metric of every trial over the epochs; pauses and the ends of stopped and failed trials are marked.

    A trial with a forecast of the metric has a fan from its last value to the end of its training: the forecast and its
    95 % interval. Forecasts are given with the most promising first; of many, the others have no interval. The best
    trial is bold.
    """
    times = factor(metric)
    traces = _fans([curve for curve in curves if curve.epochs[-1] < curve.planned], forecasts, metric)
    for status in NAMES:
        alike = [curve for curve in curves if curve.status == status and curve.trial != best]
        if alike:
            traces.append(_joined_curves(alike, status, times))
        if alike and status in ("stopped", "failed"):
            traces.append(_curve_ends(alike, status, times))
    traces += [_best_curve(curve, times) for curve in curves if curve.trial == best]
    if any(curve.pauses for curve in curves):
        traces.append(_pause_marks(curves, best, times))
    return figure(traces, "epoch", title)


def _fans(curves: Sequence[Curve], forecasts: Mapping[str, Forecast], metric: str) -> list[go.Scatter]:
    """The forecasts of curves that have one; of many, only the first have a band. One entry in the legend."""
    by_trial = {curve.trial: curve for curve in curves}
    ahead = [(by_trial[trial], forecast) for trial, forecast in forecasts.items() if trial in by_trial]
    traces = [_band(curve, forecast, metric) for curve, forecast in ahead[:MOST_FANS]]
    for status in NAMES:
        alike = [(curve, forecast) for curve, forecast in ahead if curve.status == status]
        if alike:
            traces.append(_middles(alike, metric, COLOURS[status]))
    for trace in traces:
        trace.update(name="forecast, 95 %", legendgroup="forecasts", showlegend=trace is traces[0])
    return traces


def _band(curve: Curve, forecast: Forecast, metric: str) -> go.Scatter:
    """A triangle from the last value to the 95 % interval at the last epoch."""
    low, high = _interval(forecast, metric)
    return go.Scatter(
        mode="lines",
        x=[curve.epochs[-1], curve.planned, curve.planned],
        y=[factor(metric) * value for value in (curve.values[-1], low, high)],
        fill="toself",
        fillcolor=faint(COLOURS[curve.status], 0.1),
        line={"width": 0, "color": COLOURS[curve.status]},
        hoverinfo="skip",
    )


def _middles(ahead: Sequence[tuple[Curve, Forecast]], metric: str, colour: str) -> go.Scatter:
    """Dotted lines from the last values to the forecasts, with a mark at the end."""
    x: list[int | None] = []
    y: list[float | None] = []
    texts: list[str] = []
    for curve, forecast in ahead:
        x += [curve.epochs[-1], curve.planned, None]
        y += [factor(metric) * curve.values[-1], factor(metric) * forecast.value, None]
        texts += [f"{curve.trial} ends at {forecast_text(metric, forecast)}"] * 3
    return go.Scatter(
        mode="lines+markers",
        x=x,
        y=y,
        text=texts,
        line={"color": faint(colour, _opacity(len(ahead))), "width": 1, "dash": "dot"},
        marker={"color": faint(colour, 0.7), "size": [0, 5, 0] * len(ahead), "line": {"width": 0}},
        hovertemplate="%{text}<extra></extra>",
    )


def _interval(forecast: Forecast, metric: str) -> tuple[float, float]:
    """The 95 % interval of a forecast, of shares within [0, 1]."""
    low, high = (forecast.value + sign * Z_95 * forecast.error for sign in (-1, 1))
    return (max(low, 0.0), min(high, 1.0)) if metric in VALIDATION_METRICS else (low, high)


def _pause_marks(curves: Sequence[Curve], best: str | None, times: float) -> go.Scatter:
    """Where trials paused: bars across their curves."""
    marks = [(curve, *pause) for curve in curves for pause in curve.pauses]
    opacity = max(0.3, min(1.0, 2 * FULL_CURVES / len(marks)))
    colours = [faint(PURPLE if curve.trial == best else COLOURS[curve.status], opacity) for curve, _, _ in marks]
    return go.Scatter(
        mode="markers",
        name="a pause",
        x=[epoch for _, epoch, _ in marks],
        y=[times * value for _, _, value in marks],
        text=[curve.trial for curve, _, _ in marks],
        marker={"symbol": "line-ns-open", "size": 9, "line": {"width": 2}, "color": colours},
        hovertemplate="%{text} paused after epoch %{x}: %{y:.4g}<extra></extra>",
    )


def _joined_curves(curves: Sequence[Curve], status: TrialStatus, times: float) -> go.Scatter:
    """Many curves as one line with gaps: Plotly takes seconds for hundreds of lines."""
    x: list[int | None] = []
    y: list[float | None] = []
    names: list[str] = []
    for curve in curves:
        x += [*curve.epochs, None]
        y += [*(times * value for value in curve.values), None]
        names += [curve.trial] * (len(curve.epochs) + 1)
    return go.Scatter(
        mode="lines+markers" if all(len(curve.epochs) < 3 for curve in curves) else "lines",
        name=NAMES[status],
        x=x,
        y=y,
        text=names,
        line={"color": faint(COLOURS[status], _opacity(len(curves))), "width": 1.3},
        hovertemplate="%{text}, epoch %{x}: %{y:.4g}<extra></extra>",
    )


def _opacity(lines: int) -> float:
    """How opaque each of so many lines is."""
    return max(0.15, min(0.6, FULL_CURVES / lines))


def _curve_ends(curves: Sequence[Curve], status: TrialStatus, times: float) -> go.Scatter:
    return go.Scatter(
        mode="markers",
        showlegend=False,
        x=[curve.epochs[-1] for curve in curves],
        y=[times * curve.values[-1] for curve in curves],
        text=[f"{curve.trial} {NAMES[status]}" for curve in curves],
        marker={"color": COLOURS[status], "symbol": SYMBOLS[status], "size": 8},
        hovertemplate="%{text} after epoch %{x}: %{y:.4g}<extra></extra>",
    )


def _best_curve(curve: Curve, times: float) -> go.Scatter:
    return go.Scatter(
        mode="lines+markers",
        name=f"best: {curve.trial}",
        x=curve.epochs,
        y=[times * value for value in curve.values],
        line={"color": PURPLE, "width": 3},
        marker={"size": 4},
        hovertemplate="epoch %{x}: %{y:.4g}<extra></extra>",
    )


def seeds_chart(confirmed: Sequence[Confirmation], first_values: Mapping[str, float], metric: str) -> go.Figure:
    """The value of each fresh seed, the mean with its interval, and the value by which the configuration was chosen."""
    times = factor(metric)
    chosen = [each.trial for each in confirmed if each.trial in first_values]
    margins = [times * (each.interval[1] - each.mean) if each.interval else 0 for each in confirmed]
    means = go.Scatter(
        mode="markers",
        name="their mean, 95 % interval",
        x=[each.trial for each in confirmed],
        y=[times * each.mean for each in confirmed],
        error_y={"type": "data", "array": margins, "color": GREEN, "thickness": 2},
        marker={"color": GREEN, "size": 24, "symbol": "line-ew-open", "line": {"width": 3}},
        hovertemplate="mean %{y:.4g}<extra></extra>",
    )
    seeds = go.Scatter(
        mode="markers",
        name="a fresh seed",
        x=[each.trial for each in confirmed for _ in each.values],
        y=[times * value for each in confirmed for value in each.values],
        marker={"color": BLUE, "size": 9, "opacity": 0.8},
        hovertemplate="%{y:.4g}<extra></extra>",
    )
    first = go.Scatter(
        mode="markers",
        name="the seed it was chosen by",
        x=chosen,
        y=[times * first_values[trial] for trial in chosen],
        marker={"color": ORANGE, "size": 11, "symbol": "diamond-open", "line": {"width": 2}},
        hovertemplate="first seed %{y:.4g}<extra></extra>",
    )
    return figure([means, seeds, first], {"type": "category"}, axis(metric))


def cmc_chart(curves: Mapping[str, Sequence[tuple[int, float]]]) -> go.Figure:
    """Share of the queries with a match among the first so many gallery tracklets, a line per trial, the best bold."""
    traces = [
        go.Scatter(
            mode="lines" if len(curve) > len(RANKS) else "lines+markers",
            name=name,
            x=[rank for rank, _ in curve],
            y=[100 * share for _, share in curve],
            line={"color": PALETTE[place % len(PALETTE)], "width": 1.5 if place else 3},
            hovertemplate="rank %{x}: %{y:.1f} %<extra></extra>",
        )
        for place, (name, curve) in enumerate(curves.items())
    ]
    longest = max((curve[-1][0] for curve in curves.values()), default=0)
    ranks = {"title": "rank", "tickvals": [*RANKS, *range(30, longest + 1, 10)]}
    return figure(traces, ranks, "queries with a match (%)")


def entropy_chart(trials: Sequence[tuple[Trial, Score]], metric: str) -> go.Figure:
    """Each trial's value by the entropy of its attention; 1 is uniform."""
    traces = []
    for status in NAMES:
        alike = [(trial, found) for trial, found in trials if trial.status == status]
        if alike:
            traces.append(
                go.Scatter(
                    mode="markers",
                    name=NAMES[status],
                    x=[found.metrics["attention_entropy"] for _, found in alike],
                    y=[factor(metric) * found.value for _, found in alike],
                    text=[trial.key for trial, _ in alike],
                    marker={"color": COLOURS[status], "symbol": SYMBOLS[status], "size": 9},
                    hovertemplate="%{text}: entropy %{x:.3f}, %{y:.4g}<extra></extra>",
                )
            )
    return figure(traces, "attention entropy", axis(metric))


def camera_chart(table: CameraTable) -> go.Figure:
    """mAP by camera of the query and of the gallery; the number of queries stands in the cell."""
    names = [f"camera {camera}" for camera in table.cameras]
    cells = [
        ["" if value is None else Markup(f"{100 * value:.0f}<br>n={count}") for value, count in zip(*row, strict=True)]
        for row in zip(table.mean_ap, table.queries, strict=True)
    ]
    surface = go.Heatmap(
        x=names,
        y=names,
        z=[[None if value is None else 100 * value for value in row] for row in table.mean_ap],
        text=cells,
        texttemplate="%{text}" if len(names) <= MANY_CAMERAS else "",
        colorscale=SEQUENCE,
        colorbar={"title": "%", "thickness": 12},
        hovertemplate="query %{y}, gallery %{x}: mAP %{z:.1f} %<extra></extra>",
    )
    return figure([surface], "gallery", {"title": "query", "autorange": "reversed", "automargin": True})


def precision_chart(precisions: Sequence[float]) -> go.Figure:
    """How many queries have which average precision."""
    counts = histogram(precisions)
    bars = go.Bar(
        showlegend=False,
        x=[100 * (place + 0.5) / len(counts) for place in range(len(counts))],
        y=counts,
        width=100 / len(counts),
        marker={"color": BLUE, "line": {"width": 1, "color": "rgba(255,255,255,0.6)"}},
        hovertemplate="%{y} queries around %{x:.1f} %<extra></extra>",
    )
    return figure([bars], {"title": "average precision of a query (%)", "range": [0, 100]}, "queries")


def histogram(values: Sequence[float], bins: int = 20) -> list[int]:
    """How many shares fall into each of so many equal parts of [0, 1]; 1 falls into the last."""
    counts = [0] * bins
    for value in values:
        counts[min(int(value * bins), bins - 1)] += 1
    return counts


def cost_chart(costs: Costs) -> go.Figure:
    """What each trial took and, stacked on it, its epochs that were not trained; in GPU hours if GPUs were held."""
    gpus = costs.gpu_hours > 0
    taken = [cost.gpu_hours if gpus else cost.hours for cost in costs.trials]
    saved = [cost.saved_gpu_hours if gpus else cost.saved_hours for cost in costs.trials]
    times, unit = (HOUR_S, "s") if max(taken) < SMALL_HOURS else (1, "hours")
    unit = f"GPU {unit}" if gpus else unit
    bars: list[tuple[str, list[float], Any, str]] = [
        ("taken", taken, [COLOURS[cost.status] for cost in costs.trials], f"%{{y:.3g}} {unit}")
    ]
    if any(saved):
        text = f"about %{{y:.3g}} {unit} not trained"
        bars.append(("not trained (estimate)", saved, "rgba(140,140,140,0.3)", text))
    traces = [
        go.Bar(
            name=name,
            x=[cost.trial for cost in costs.trials],
            y=[times * value for value in values],
            marker={"color": colour},
            hovertemplate=f"%{{x}}: {text}<extra></extra>",
        )
        for name, values, colour, text in bars
    ]
    return figure(traces, {"type": "category"}, unit, barmode="stack")
