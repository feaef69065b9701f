"""Can I trust this? Warnings, the noise between seeds, and how well the model predicts what it was not told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.algorithms.replicates import Confirmation, confirmations
from orchestrator.algorithms.scoring import score
from orchestrator.show.report.markup import Figure, Markup, chart, element, number, plotly_text, table
from orchestrator.show.report.model import Card
from orchestrator.show.report.report_data import SearchReport
from orchestrator.show.report.scale import axis, compact, factor, points, shown
from orchestrator.show.report.section import Section, block, empty, hint, part, side_by_side
from orchestrator.show.report.theme import BLUE, GREEN, GREY, ORANGE, faint, figure


def doubts(report: SearchReport) -> Section:
    """What speaks for and against the result."""
    body = block(_remarks(report), side_by_side(_seeds(report), *_fits(report)))
    return Section("trust", "Can I trust this?", body)


def _remarks(report: SearchReport) -> Markup:
    if not report.remarks:
        return element("p", "Nothing that was looked at speaks against the result.")
    items = [
        element("li", element("span", remark.level, class_="level"), " ", remark.text, class_=remark.level)
        for remark in report.remarks
    ]
    return element("ul", *items, class_="remarks")


def _seeds(report: SearchReport) -> Markup:
    study, objective = report.search.study, report.search.space.objective
    known = confirmations(study, objective)
    if not known:
        text = "No configuration was trained again with other seeds: set `replicates` in the search space, 3 or more."
        return part("Noise between seeds", empty(text))
    first = {
        each.trial: found.value for each in known if (found := score(study.trials[each.trial], objective)) is not None
    }
    rows = [
        (
            each.trial,
            number(shown(report.metric, first.get(each.trial))),
            number(shown(report.metric, each.mean)),
            number("-" if each.standard_deviation is None else points(report.metric, each.standard_deviation)),
            number("-" if each.interval is None else " to ".join(points(report.metric, end) for end in each.interval)),
            number(f"{len(each.values)}" + (f" ({each.lost} lost)" if each.lost else "")),
            "yes" if each.confirmed else "no",
        )
        for each in known
    ]
    head = ("trial", "first seed", "mean", "sd", "95 % interval", "seeds", "confirmed")
    drawn = chart("seeds", seeds_chart(known, first, report.metric), describes="value of each fresh seed", height=340)
    text = (
        "Means are over fresh seeds only. The seed by which a configuration was chosen is the luckiest of many, so "
        "that its value is too good on average."
    )
    return part("Noise between seeds", drawn, table(head, rows), hint(text))


def seeds_chart(confirmed: Sequence[Confirmation], first_values: Mapping[str, float], metric: str) -> Figure:
    """The value of each fresh seed, the mean with its interval, and the value by which the configuration was chosen."""
    times = factor(metric)
    names = [plotly_text(each.trial) for each in confirmed]
    margins = [compact(times * (each.interval[1] - each.mean)) if each.interval else 0 for each in confirmed]
    chosen = [each.trial for each in confirmed if each.trial in first_values]
    means = {
        "type": "scatter",
        "mode": "markers",
        "name": "their mean, 95 % interval",
        "x": names,
        "y": [compact(times * each.mean) for each in confirmed],
        "error_y": {"type": "data", "array": margins, "color": GREEN, "thickness": 2},
        "marker": {"color": GREEN, "size": 24, "symbol": "line-ew-open", "line": {"width": 3}},
        "hovertemplate": "mean %{y:.4g}<extra></extra>",
    }
    seeds = {
        "type": "scatter",
        "mode": "markers",
        "name": "a fresh seed",
        "x": [name for name, each in zip(names, confirmed, strict=True) for _ in each.values],
        "y": [compact(times * value) for each in confirmed for value in each.values],
        "marker": {"color": BLUE, "size": 9, "opacity": 0.8},
        "hovertemplate": "%{y:.4g}<extra></extra>",
    }
    first = {
        "type": "scatter",
        "mode": "markers",
        "name": "the seed it was chosen by",
        "x": [plotly_text(trial) for trial in chosen],
        "y": [compact(times * first_values[trial]) for trial in chosen],
        "marker": {"color": ORANGE, "size": 11, "symbol": "diamond-open", "line": {"width": 2}},
        "hovertemplate": "first seed %{y:.4g}<extra></extra>",
    }
    return figure([means, seeds, first], {"title": "", "type": "category"}, axis(metric))


def _fits(report: SearchReport) -> list[Markup]:
    cards = report.model.of_kind("fit")
    if not cards:
        return [part("Cross-validation of the model", empty(_why_no_fit(report)))]
    text = (
        "Each trial as the model predicts it from all others, its settings kept, with 95 % intervals. A flat row of "
        "dots means that the model only knows the mean."
    )
    return [
        part(
            f"Cross-validation of the model: {card.about[0]}" + (f", R² {fit:.2f}" if fit is not None else ""),
            chart(f"fit-{place}", fit_chart(card), describes="predicted against observed values", height=340),
            hint(text),
        )
        for place, card in enumerate(cards)
        for fit in [card.data["r2"]]
    ]


def _why_no_fit(report: SearchReport) -> str:
    reasons = [card.skipped for card in report.model.cards if card.kind == "fit" and card.skipped]
    return f"Missing: {reasons[0] if reasons else report.model.missing or 'the model gave none'}."


def fit_chart(card: Card) -> Figure:
    """Held-out predictions with their 95 % intervals against what was observed."""
    metric = card.about[0]
    times = factor(metric)
    observed = [compact(times * value) for value in card.data["observed"]]
    ends = [times * min(card.data["observed"]), times * max(card.data["observed"])]
    diagonal = {
        "type": "scatter",
        "mode": "lines",
        "name": "perfect",
        "x": ends,
        "y": ends,
        "line": {"dash": "dot", "color": GREY},
        "hoverinfo": "skip",
    }
    margin = [compact(times * value) for value in card.data["margin"]]
    dots = {
        "type": "scatter",
        "mode": "markers",
        "name": "a trial that the model was not told",
        "x": observed,
        "y": [compact(times * value) for value in card.data["predicted"]],
        "error_y": {"type": "data", "array": margin, "thickness": 1, "width": 0, "color": faint(BLUE)},
        "marker": {"color": BLUE, "size": 8},
        "hovertemplate": "observed %{x:.4g}, predicted %{y:.4g}<extra></extra>",
    }
    return figure([diagonal, dots], f"observed {axis(metric)}", f"predicted {axis(metric)}")
