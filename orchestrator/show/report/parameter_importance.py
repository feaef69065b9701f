"""What matters: importance of the settings, how the model sees them, and all trials through all settings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.show.report.markup import Figure, Markup, chart, element, plotly_text
from orchestrator.show.report.model import Card
from orchestrator.show.report.parallel import parallel_coordinates
from orchestrator.show.report.report_data import SearchReport
from orchestrator.show.report.scale import axis, compact, factor, unit
from orchestrator.show.report.section import Section, block, empty, hint, part, side_by_side, thirds
from orchestrator.show.report.theme import BLUE, GREY, ORANGE, PURPLE, SEQUENCE, figure
from orchestrator.space.parameters import Choice, FloatRange, IntRange, Value
from orchestrator.study.study import Trial
from orchestrator.summary.warnings import GOOD_FIT

TITLES = {
    "importance": "Importance for",
    "fit": "Cross-validation of",
    "slice": "Slice along",
    "contour": "Contour over",
}
DIRECTIONS = {
    "raises": ("more of it raises it", BLUE),
    "lowers": ("more of it lowers it", ORANGE),
    "-": ("a choice without an order", GREY),
}
FEW_DECADES = 2.5  # of a logarithmic axis that has room for more ticks than its powers of ten
Z_95 = 1.96  # standard errors to either side of a 95 % interval


def insight(report: SearchReport) -> Section:
    """All cards that the model gave, one by one, those that it could not give, and the parallel coordinates."""
    cards = (_caution(report), _importance(report), _slices(report), _contours(report))
    body = block(*cards, parallel_coordinates(report), _skipped(report))
    return Section("insight", "What matters", body)


def _caution(report: SearchReport) -> Markup | None:
    fit = report.model.fits().get(report.metric)
    if not report.model.cards:
        return empty(f"Importance, slices and contours are missing: {report.model.missing}.")
    if fit is None:
        return None
    how = "well enough to be read" if fit >= GOOD_FIT else "poorly: what follows is guesses"
    return hint(
        f"Ax's model, a Gaussian process fitted to the trials' values, predicts held-out trials {how} (R² {fit:.2f})."
    )


def _importance(report: SearchReport) -> Markup | None:
    drawn = [
        part(
            f"Importance for {card.about[0]}",
            chart(
                f"importance-{place}",
                importance_chart(card, report.search.space.parameters),
                describes=f"importance of {len(card.data['names'])} settings",
                height=90 + 34 * len(card.data["names"]),
            ),
            hint(
                "Share of the variation of the model's prediction that each setting has a part in (total Sobol index)."
            ),
        )
        for place, card in enumerate(report.model.of_kind("importance"))
    ]
    return side_by_side(*drawn) if drawn else None


def importance_chart(card: Card, parameters: Mapping[str, FloatRange | IntRange | Choice]) -> Figure:
    """Share of the metric's variation by parameter, the largest on top; colour says in which direction it acts."""
    paths = [plotly_text(path) for path in card.data["names"]]
    data = []
    for kind, (name, colour) in DIRECTIONS.items():
        there = [
            (plotly_text(path), abs(value))
            for path, value in zip(card.data["names"], card.data["values"], strict=True)
            if direction(parameters[path], value) == kind
        ]
        if there:
            data.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "name": name,
                    "x": [compact(100 * value) for _, value in there],
                    "y": [path for path, _ in there],
                    "marker": {"color": colour},
                    "hovertemplate": "%{y}: %{x:.3g} %<extra></extra>",
                }
            )
    names = {
        "title": "",
        "automargin": True,
        "categoryorder": "array",
        "categoryarray": paths[::-1],
    }
    return figure(data, {"title": "share (%)", "rangemode": "tozero"}, names, barmode="stack")


def direction(parameter: FloatRange | IntRange | Choice, value: float) -> str:
    """`raises`, `lowers`, or `-` for a choice without an order, of which there is no more or less."""
    if isinstance(parameter, Choice) and not parameter.ordered:
        return "-"
    return "raises" if value >= 0 else "lowers"


def _slices(report: SearchReport) -> Markup | None:
    parameters, best = report.search.space.parameters, report.best
    drawn = [
        chart(
            f"slice-{place}",
            slice_chart(
                card, report.metric, parameters[card.about[0]], best.trial.params.get(card.about[0]) if best else None
            ),
            describes=f"predicted {report.metric} along {card.about[0]}",
            height=300,
        )
        for place, card in enumerate(report.model.of_kind("slice"))
    ]
    if not drawn:
        return None
    text = (
        "The model's prediction and its 95 % interval along one setting, the others as in the best configuration, "
        "whose own value is dotted."
    )
    return part("Slices", thirds(*drawn), hint(text))


def slice_chart(card: Card, metric: str, parameter: FloatRange | IntRange | Choice, best: Value | None) -> Figure:
    """The model's prediction along one parameter with its 95 % band, and where the best configuration is."""
    times, path = factor(metric), card.about[0]
    mean = [times * value for value in card.data["mean"]]
    margin = [Z_95 * times * value for value in card.data["sem"]]
    marks = [] if best is None else [_upright(_place(best) if isinstance(parameter, Choice) else best)]
    if isinstance(parameter, Choice):
        dots = {
            "type": "scatter",
            "mode": "markers",
            "showlegend": False,
            "x": _places(card.data["x"]),
            "y": [compact(value) for value in mean],
            "error_y": {"type": "data", "array": [compact(value) for value in margin]},
            "marker": {"size": 10, "color": BLUE},
            "hovertemplate": "%{x}: %{y:.4g}<extra></extra>",
        }
        return figure([dots], {"title": path, "type": "category"}, axis(metric), shapes=marks)
    hidden = {
        "type": "scatter",
        "mode": "lines",
        "x": _places(card.data["x"]),
        "line": {"width": 0},
        "showlegend": False,
        "hoverinfo": "skip",
    }
    upper = {**hidden, "y": [compact(value + spread) for value, spread in zip(mean, margin, strict=True)]}
    lower = {**hidden, "y": [compact(value - spread) for value, spread in zip(mean, margin, strict=True)]}
    line = {
        **hidden,
        "y": [compact(value) for value in mean],
        "line": {"color": BLUE, "width": 2},
        "hoverinfo": "all",
        "hovertemplate": "%{x:.4g}: %{y:.4g}<extra></extra>",
    }
    band = {**lower, "fill": "tonexty", "fillcolor": "rgba(0,114,178,0.18)"}
    across = {"title": path, **_whole_range(parameter)}
    return figure([upper, band, line], across, axis(metric), shapes=marks)


def _upright(value: Any) -> dict[str, Any]:
    line = {"color": PURPLE, "width": 2, "dash": "dot"}
    return {"type": "line", "x0": value, "x1": value, "y0": 0, "y1": 1, "yref": "paper", "line": line}


def _contours(report: SearchReport) -> Markup | None:
    parameters = report.search.space.parameters
    trials = [trial for trial in report.search.study.trials.values() if trial.status == "completed"]
    drawn = [
        chart(
            f"contour-{place}",
            contour_chart(card, report.metric, parameters, trials),
            describes=f"predicted {report.metric} over {card.about[0]} and {card.about[1]}",
        )
        for place, card in enumerate(report.model.of_kind("contour"))
    ]
    if not drawn:
        return None
    text = "The prediction over two settings, the others as in the best configuration; dots are completed trials."
    return part("Contours", thirds(*drawn), hint(text))


def contour_chart(
    card: Card, metric: str, parameters: Mapping[str, FloatRange | IntRange | Choice], trials: Sequence[Trial]
) -> Figure:
    """The model's prediction over two parameters, and the completed trials where they are."""
    x, y = card.about
    surface = {
        "type": "contour",
        "x": _places(card.data["x"]),
        "y": _places(card.data["y"]),
        "z": [[compact(factor(metric) * value) for value in row] for row in card.data["mean"]],
        "colorscale": SEQUENCE,
        "colorbar": {"title": {"text": unit(metric)}, "thickness": 12},
        "contours": {"coloring": "heatmap"},
        "line": {"width": 0.5, "color": "rgba(255,255,255,0.5)"},
        "hovertemplate": "%{x:.4g}, %{y:.4g}: %{z:.4g}<extra></extra>",
    }
    there = [trial for trial in trials if x in trial.params and y in trial.params]
    dots = {
        "type": "scatter",
        "mode": "markers",
        "showlegend": False,
        "x": _places([trial.params[x] for trial in there]),
        "y": _places([trial.params[y] for trial in there]),
        "text": [plotly_text(trial.key) for trial in there],
        "marker": {"color": "white", "size": 7, "line": {"color": "black", "width": 1}},
        "cliponaxis": False,
        "hovertemplate": "%{text}<extra></extra>",
    }
    across = {"title": x, **_whole_range(parameters[x])}
    up = {"title": y, **_whole_range(parameters[y])}
    return figure([surface, dots], across, up)


def _places(values: Sequence[Value]) -> list[Any]:
    return [_place(value) for value in values]


def _place(value: Value) -> Any:
    return plotly_text(value) if isinstance(value, bool | str) else compact(float(value))


def _whole_range(parameter: FloatRange | IntRange | Choice) -> dict[str, Any]:
    """An axis over all that was searched, with ticks that can be read."""
    if isinstance(parameter, Choice):
        return {"type": "category"}
    low, high = float(parameter.low), float(parameter.high)
    if not parameter.log:
        return {"type": "linear", "range": [low, high]}
    low, high = math.log10(low), math.log10(high)
    return {"type": "log", "range": [low, high], "dtick": "D2" if high - low < FEW_DECADES else 1}


def _skipped(report: SearchReport) -> Markup | None:
    """Which cards are missing, and why."""
    model = report.model
    reasons = [
        f"{TITLES.get(card.kind, card.kind)} {' and '.join(card.about)}: {card.skipped}"
        for card in model.cards
        if card.skipped
    ]
    if model.cards and model.missing:
        reasons.append(model.missing)
    return part("Left out", element("ul", *(element("li", reason) for reason in reasons))) if reasons else None


def importance_rows(report: SearchReport) -> list[tuple[str, str, str]]:
    """Importance as a table: setting, share, direction."""
    return [
        (name, f"{100 * abs(value):.0f} %", direction(report.search.space.parameters[name], value))
        for card in report.model.of_kind("importance")[:1]
        for name, value in zip(card.data["names"], card.data["values"], strict=True)
    ]
