"""What the networks do as re-identification: CMC, attention, cameras, queries, and pictures where they may be shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.algorithms.scoring import ranked, score
from orchestrator.show.report.curves import learning_curves
from orchestrator.show.report.evaluations import CameraTable, EvaluationView, full_curve, histogram
from orchestrator.show.report.markup import Figure, Markup, chart, element, plotly_text
from orchestrator.show.report.progress import curves_chart
from orchestrator.show.report.report_data import SearchReport
from orchestrator.show.report.scale import axis, compact, factor
from orchestrator.show.report.section import Section, block, empty, hint, part, side_by_side, thirds
from orchestrator.show.report.theme import (
    BLUE,
    COLOURS,
    GREEN,
    NAMES,
    ORANGE,
    PURPLE,
    RED,
    SEQUENCE,
    SKY,
    SYMBOLS,
    figure,
)
from orchestrator.study.study import TrialStatus

RANKS = (1, 5, 10, 20)
LEADERS = 5  # whose CMC curves are drawn beside each other
PALETTE = (PURPLE, BLUE, GREEN, ORANGE, SKY, RED)
MANY_CAMERAS = 8  # beyond, cells are too small for numbers
CAPTIONS = {
    "ranking": "Ranking: the query on the left, then its nearest gallery tracklets; green shows the same identity.",
    "attention": "Attention over the frames of a clip; equal bars are uniform attention.",
}


def reid(report: SearchReport) -> Section:
    """Figures of the leading trials from the journal, and what the best one's evaluation left."""
    charts = thirds(_cmc(report), *_entropy(report))
    return Section("reid", "Re-identification", block(charts, _evaluation(report)))


def _cmc(report: SearchReport) -> Markup:
    curves = leading_curves(report)
    if not curves:
        return part("Cumulative matching characteristic", empty("No trial is completed yet."))
    judged = report.judged
    under = (
        f" {judged.protocol} protocol, {judged.queries} queries, {judged.dropped_queries} dropped." if judged else ""
    )
    text = f"Share of queries with a match among the first so many gallery tracklets, validation split.{under}"
    if any(len(curve) > len(RANKS) for curve in curves.values()):
        text += " Curves at every rank are of the network that a trial keeps: of the epoch with the best mAP."
    drawn = chart("cmc", cmc_chart(curves), describes=f"CMC curves of {len(curves)} trials")
    return part("Cumulative matching characteristic", drawn, hint(text))


def leading_curves(report: SearchReport) -> dict[str, list[tuple[int, float]]]:
    """CMC of the best trials, the best first: at every rank where the evaluation has it, else at 1, 5, 10 and 20."""
    leaders = [trial for trial, _ in ranked(report.search.study, report.search.space.objective)]
    leaders.sort(key=lambda trial: trial.key != report.best_key)
    curves: dict[str, list[tuple[int, float]]] = {}
    for trial in leaders[:LEADERS]:
        found = score(trial, report.search.space.objective)
        if found is None or found.result.validation is None:
            continue
        figures = found.result.metrics()
        full = full_curve(report.search.folder, trial.key)
        curves[trial.key] = list(enumerate(full, 1)) or [(rank, figures[f"rank{rank}"]) for rank in RANKS]
    return curves


def cmc_chart(curves: Mapping[str, Sequence[tuple[int, float]]]) -> Figure:
    """Shares of queries with a match among the first so many, a line by name."""
    data = [
        {
            "type": "scatter",
            "mode": "lines" if len(curve) > len(RANKS) else "lines+markers",
            "name": plotly_text(name),
            "x": [rank for rank, _ in curve],
            "y": [compact(100 * share) for _, share in curve],
            "line": {"color": PALETTE[place % len(PALETTE)], "width": 1.5 if place else 3},
            "hovertemplate": "rank %{x}: %{y:.1f} %<extra></extra>",
        }
        for place, (name, curve) in enumerate(curves.items())
    ]
    longest = max((curve[-1][0] for curve in curves.values()), default=0)
    return figure(
        data, {"title": "rank", "tickvals": [*RANKS, *range(30, longest + 1, 10)]}, "queries with a match (%)"
    )


def _entropy(report: SearchReport) -> list[Markup]:
    objective = report.search.space.objective
    points = [
        (trial.key, trial.status, found.metrics["attention_entropy"], found.value)
        for trial in report.search.study.trials.values()
        if (found := score(trial, objective)) is not None and "attention_entropy" in found.metrics
    ]
    parts = []
    if points:
        drawn = chart("entropy", entropy_chart(points, report.metric), describes="value by attention entropy")
        text = "Entropy of the weights over the frames of a clip, divided by log T. At 1 all frames weigh the same."
        parts.append(part("Attention entropy", drawn, hint(text)))
    curves = learning_curves(report.search.study.trials.values(), "attention/entropy")
    if curves:
        made = curves_chart(curves, "attention/entropy", report.best_key, title="attention entropy, training clips")
        parts.append(part("Attention entropy by epoch", chart("entropy-curves", made, describes="entropy by epoch")))
    return parts


def entropy_chart(points: Sequence[tuple[str, TrialStatus, float, float]], metric: str) -> Figure:
    """Each trial's value by the entropy of its attention; 1 is uniform."""
    data: list[dict[str, Any]] = []
    for status in NAMES:
        alike = [point for point in points if point[1] == status]
        if alike:
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": NAMES[status],
                    "x": [compact(point[2]) for point in alike],
                    "y": [compact(factor(metric) * point[3]) for point in alike],
                    "text": [plotly_text(point[0]) for point in alike],
                    "marker": {"color": COLOURS[status], "symbol": SYMBOLS[status], "size": 9},
                    "hovertemplate": "%{text}: entropy %{x:.3f}, %{y:.4g}<extra></extra>",
                }
            )
    return figure(data, "attention entropy", axis(metric))


def _evaluation(report: SearchReport) -> Markup:
    found = report.evaluation
    if found is None:
        text = "The best trial left no evaluation folder: cameras, queries and ranking sheets are missing."
        return part("Queries and cameras of the best trial", empty(text))
    parts = []
    if found.cameras is not None:
        drawn = chart("cameras", camera_chart(found.cameras), describes="mAP by pair of cameras", height=400)
        text = "mAP of the queries of one camera in the gallery of another alone, and the number of queries."
        parts.append(part(f"Cameras ({found.trial})", drawn, hint(text)))
    if found.precisions:
        drawn = chart(
            "queries", precision_chart(found.precisions), describes="histogram of average precision", height=400
        )
        parts.append(part(f"Queries ({found.trial})", drawn, hint(f"{len(found.precisions)} valid queries.")))
    problems = [element("li", problem) for problem in found.problems]
    return block(
        side_by_side(*parts) if parts else None,
        _pictures(found, synthetic=report.search.description.synthetic),
        part("Left out", element("ul", *problems)) if problems else None,
    )


def _pictures(found: EvaluationView, *, synthetic: bool) -> Markup | None:
    if not found.pictures:
        return None
    mark = "SYNTHETIC people. " if synthetic else ""
    shown = [
        element(
            "figure",
            element("div", element("img", src=uri, alt=CAPTIONS[name], loading="lazy"), class_=f"scroll tall {name}"),
            element("figcaption", mark + CAPTIONS[name]),
        )
        for name, uri in found.pictures.items()
    ]
    return part(f"Ranking and attention ({found.trial})", *shown)


def camera_chart(table: CameraTable) -> Figure:
    """mAP by camera of the query and of the gallery; the number of queries stands in the cell."""
    names = [f"camera {camera}" for camera in table.cameras]
    cells = [
        ["" if value is None else f"{100 * value:.0f}<br>n={count}" for value, count in zip(row, counts, strict=True)]
        for row, counts in zip(table.mean_ap, table.queries, strict=True)
    ]
    surface = {
        "type": "heatmap",
        "x": names,
        "y": names,
        "z": [[None if value is None else compact(100 * value) for value in row] for row in table.mean_ap],
        "text": cells,
        "texttemplate": "%{text}" if len(names) <= MANY_CAMERAS else "",
        "colorscale": SEQUENCE,
        "colorbar": {"title": {"text": "%"}, "thickness": 12},
        "hovertemplate": "query %{y}, gallery %{x}: mAP %{z:.1f} %<extra></extra>",
    }
    return figure([surface], "gallery", {"title": "query", "autorange": "reversed", "automargin": True})


def precision_chart(precisions: Sequence[float]) -> Figure:
    """How many queries have which average precision."""
    counts = histogram(precisions)
    bars = {
        "type": "bar",
        "showlegend": False,
        "x": [compact(100 * (place + 0.5) / len(counts)) for place in range(len(counts))],
        "y": counts,
        "width": 100 / len(counts),
        "marker": {"color": BLUE, "line": {"width": 1, "color": "rgba(255,255,255,0.6)"}},
        "hovertemplate": "%{y} queries around %{x:.1f} %<extra></extra>",
    }
    return figure([bars], {"title": "average precision of a query (%)", "range": [0, 100]}, "queries")
