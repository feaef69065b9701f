"""How the search went: the best value trial by trial, and the learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.algorithms.scoring import ranked
from orchestrator.show.report.curves import Curve, learning_curves
from orchestrator.show.report.markup import Figure, Markup, chart, plotly_text
from orchestrator.show.report.report_data import SearchReport
from orchestrator.show.report.scale import axis, compact, factor, shown
from orchestrator.show.report.section import Section, block, empty, hint, part, side_by_side
from orchestrator.show.report.theme import COLOURS, GREEN, GREY, NAMES, PURPLE, SYMBOLS, faint, figure
from orchestrator.space.objective import VALIDATION_METRICS
from orchestrator.study.study import TrialStatus
from orchestrator.summary import TracePoint

FULL_LINES = 15  # of a kind; beyond, curves let each other shine through


def progress(report: SearchReport) -> Section:
    """Optimisation trace, Pareto chart where there are several objectives, learning curves."""
    return Section("progress", "Progress", block(_trace(report), _front(report), _curves(report)))


def _trace(report: SearchReport) -> Markup:
    if not any(point.value is not None for point in report.trace):
        return part("Optimisation trace", empty("No trial was evaluated yet."))
    drawn = trace_chart(report.trace, report.metric, report.best_key)
    text = (
        "One mark per configuration, in the order in which they were proposed. Those stopped early show the value at "
        "which they were stopped, failed ones stand at the bottom. Bars are the standard error over the queries."
    )
    describes = f"{report.metric} of {len(report.trace)} trials and the best so far"
    return part("Optimisation trace", chart("trace", drawn, describes=describes), hint(text), _why_another(report))


def _why_another(report: SearchReport) -> Markup | None:
    """Why the chosen configuration is not the one with the best value of the trace, where it is not."""
    best = report.status["best"]
    if best is None or not best["confirmed"]:
        return None
    leader = ranked(report.search.study, report.search.space.objective)[0][0].key
    if leader == best["trial"]:
        return None
    return hint(
        f"{leader} has the best value here, which is of one seed; {best['trial']} is chosen, because its mean over "
        f"{best['seeds']} fresh seeds is the best: {shown(report.metric, best['mean'])}. The value by which a "
        "configuration leads is too good on average."
    )


def trace_chart(points: Sequence[TracePoint], metric: str, best: str | None) -> Figure:
    """Value by trial, the best so far, and what became of each; failed trials stand at the bottom."""
    times = factor(metric)
    data = []
    known = [point for point in points if point.best is not None]
    if known:
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": "best so far",
                "x": [point.number for point in known],
                "y": [compact(times * (point.best or 0.0)) for point in known],
                "line": {"shape": "hv", "width": 2, "color": GREEN},
                "hoverinfo": "skip",
            }
        )
    values = [point.value for point in points if point.value is not None]
    floor = times * min(values) if values else 0.0
    for status in NAMES:
        alike = [
            point for point in points if point.status == status and (point.value is not None or status == "failed")
        ]
        if alike:
            data.append(_marks(alike, status, floor, times))
    data += [_star(point, times) for point in points if point.trial == best and point.value is not None]
    return figure(data, "trial", axis(metric))


def _marks(points: Sequence[TracePoint], status: TrialStatus, floor: float, times: float) -> dict[str, Any]:
    notes = [
        f"{point.trial} ({point.source})" + ("" if point.value is None or point.feasible else ", breaks a constraint")
        for point in points
    ]
    errors = [compact(times * (point.standard_error or 0.0)) for point in points]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": NAMES[status],
        "x": [point.number for point in points],
        "y": [compact(floor if point.value is None else times * point.value) for point in points],
        "error_y": {"type": "data", "array": errors, "thickness": 1, "width": 0, "color": faint(COLOURS[status])},
        "marker": {"color": COLOURS[status], "symbol": SYMBOLS[status], "size": 9},
        "text": [plotly_text(note) for note in notes],
        "hovertemplate": "%{text}: " + ("no value" if status == "failed" else "%{y:.4g}") + "<extra></extra>",
    }


def _star(point: TracePoint, times: float) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "chosen as best",
        "x": [point.number],
        "y": [compact(times * (point.value or 0.0))],
        "marker": {"symbol": "circle-open", "size": 18, "color": PURPLE, "line": {"width": 3}},
        "hoverinfo": "skip",
    }


def _front(report: SearchReport) -> Markup | None:
    objective = report.search.space.objective
    metrics = [term.metric for term in objective.terms]
    if len(metrics) < 2:
        return None
    rows = [(trial.key, found.values) for trial, found in ranked(report.search.study, objective)]
    if not rows:
        return None
    leading = {each["trial"] for each in report.status["front"]}
    front = [row for row in rows if row[0] in leading]
    others = [row for row in rows if row[0] not in leading]
    drawn = chart(
        "front", front_chart(front, others, metrics), describes=f"Pareto front of {metrics[0]} and {metrics[1]}"
    )
    more = (
        hint(f"Only {metrics[0]} and {metrics[1]} of {len(metrics)} objectives are drawn.")
        if len(metrics) > 2
        else None
    )
    return part("Pareto front", drawn, more)


def front_chart(
    front: Sequence[tuple[str, tuple[float, ...]]],
    others: Sequence[tuple[str, tuple[float, ...]]],
    metrics: Sequence[str],
) -> Figure:
    """The first two objectives of completed trials; with two objectives those that no other dominates are joined."""
    up, across = metrics[0], metrics[1]
    data = []
    for name, rows, colour in (("dominated", others, GREY), ("Pareto front", front, GREEN)):
        ordered = sorted(rows, key=lambda row: row[1][1])
        joined = colour == GREEN and len(metrics) == 2
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers" if joined else "markers",
                "name": name,
                "x": [compact(factor(across) * values[1]) for _, values in ordered],
                "y": [compact(factor(up) * values[0]) for _, values in ordered],
                "text": [plotly_text(trial) for trial, _ in ordered],
                "marker": {"color": colour, "size": 9},
                "hovertemplate": "%{text}: %{y:.4g}, %{x:.4g}<extra></extra>",
            }
        )
    return figure(data, axis(across), axis(up))


def _curves(report: SearchReport) -> Markup:
    trials = list(report.search.study.trials.values())
    metric = report.metric if report.metric in VALIDATION_METRICS else "mAP"
    drawn: list[Markup] = []
    for name, title in ((metric, axis(metric)), ("loss/total", "training loss")):
        curves = learning_curves(trials, name)
        if curves:
            made = curves_chart(curves, name, report.best_key, title=title)
            drawn.append(chart(f"curve-{len(drawn)}", made, describes=f"{title} over the epochs of every trial"))
    if not drawn:
        return part("Learning curves", empty("No epoch is finished yet."))
    text = "One line per configuration; open squares mark where trials were stopped early, crosses where they failed."
    return part("Learning curves", side_by_side(*drawn), hint(text))


def curves_chart(curves: Sequence[Curve], metric: str, best: str | None, *, title: str) -> Figure:
    """All curves of a figure over the epochs; ends of stopped and failed trials are marked, the best one stands out."""
    times = factor(metric)
    data = []
    for status in NAMES:
        alike = [curve for curve in curves if curve.status == status and curve.trial != best]
        if alike:
            data.append(_bundle(alike, status, times))
        if alike and status in ("stopped", "failed"):
            data.append(_ends(alike, status, times))
    data += [_bold(curve, times) for curve in curves if curve.trial == best]
    return figure(data, "epoch", title)


def _bundle(curves: Sequence[Curve], status: TrialStatus, times: float) -> dict[str, Any]:
    """Many curves as one line with gaps: Plotly takes seconds for hundreds of lines."""
    x: list[int | None] = []
    y: list[float | None] = []
    names: list[str] = []
    opacity = max(0.15, min(0.6, FULL_LINES / len(curves)))
    for curve in curves:
        x += [*curve.epochs, None]
        y += [*(compact(times * value) for value in curve.values), None]
        names += [plotly_text(curve.trial)] * (len(curve.epochs) + 1)
    return {
        "type": "scatter",
        "mode": "lines+markers" if all(len(curve.epochs) < 3 for curve in curves) else "lines",
        "name": NAMES[status],
        "x": x,
        "y": y,
        "text": names,
        "line": {"color": faint(COLOURS[status], opacity), "width": 1.3},
        "hovertemplate": "%{text}, epoch %{x}: %{y:.4g}<extra></extra>",
    }


def _ends(curves: Sequence[Curve], status: TrialStatus, times: float) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "showlegend": False,
        "x": [curve.epochs[-1] for curve in curves],
        "y": [compact(times * curve.values[-1]) for curve in curves],
        "text": [f"{plotly_text(curve.trial)} {NAMES[status]}" for curve in curves],
        "marker": {"color": COLOURS[status], "symbol": SYMBOLS[status], "size": 8},
        "hovertemplate": "%{text} after epoch %{x}: %{y:.4g}<extra></extra>",
    }


def _bold(curve: Curve, times: float) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": f"best: {plotly_text(curve.trial)}",
        "x": curve.epochs,
        "y": [compact(times * value) for value in curve.values],
        "line": {"color": PURPLE, "width": 3},
        "marker": {"size": 4},
        "hovertemplate": "epoch %{x}: %{y:.4g}<extra></extra>",
    }
