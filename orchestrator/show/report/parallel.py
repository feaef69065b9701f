"""All trials through all settings, as parallel coordinates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.algorithms.scoring import score
from orchestrator.base.formatting import number
from orchestrator.show.report.markup import Figure, Markup, chart, plotly_text
from orchestrator.show.report.report_data import SearchReport
from orchestrator.show.report.scale import axis, compact, factor
from orchestrator.show.report.section import hint, part
from orchestrator.show.report.theme import PURPLE, figure
from orchestrator.space.parameters import Choice, FloatRange, IntRange, Value
from orchestrator.study.study import Trial
from orchestrator.summary.warnings import place_in_range

MOST_LINES = 100  # the best ones
BANDS = ("#5b02a3", "#9a179b", "#cb4679", "#eb7852", "#e8a020")  # of Plasma, without its ends, which paper swallows
STOPPED = "#a8a8a8"
FULL_LINES = 30  # beyond, lines let each other shine through
MOST_VALUES = 6  # of a choice that are written beside its axis


def parallel_coordinates(report: SearchReport) -> Markup | None:
    """The figure with its explanation; nothing before two trials have a value."""
    objective, sign = report.search.space.objective, report.aim.sign
    scored = [
        (trial, found.value)
        for trial in report.search.study.trials.values()
        if trial.status in ("completed", "stopped") and (found := score(trial, objective)) is not None
    ]
    if len(scored) < 2:
        return None
    kept = sorted(scored, key=lambda row: -sign * row[1])[:MOST_LINES]
    made = parallel_chart(kept, report.metric, report.search.space.parameters, report.best_key, sign=sign)
    describes = f"settings and {report.metric} of {len(kept)} trials, one line each"
    text = "One line per trial, coloured by its value; those stopped early are grey, the best configuration is bold."
    if len(scored) > len(kept):
        text += f" The best {len(kept)} of {len(scored)} trials are drawn."
    return part("Parallel coordinates", chart("parallel", made, describes=describes, height=420, wide=True), hint(text))


def parallel_chart(
    trials: Sequence[tuple[Trial, float]],
    metric: str,
    parameters: Mapping[str, FloatRange | IntRange | Choice],
    best: str | None,
    *,
    sign: int = 1,
) -> Figure:
    """One line per trial through its settings and its value; settings that a trial did not have leave a gap.

    Lines of one colour are one line with gaps, so that hundreds are drawn at once. Plotly's own parallel coordinates
    need WebGL and a page that may compile code, have one width, and cannot tell stopped trials apart.
    """
    ends = min(value for _, value in trials), max(value for _, value in trials)
    groups: dict[tuple[str, str, float], list[tuple[Trial, float]]] = {}
    # What is drawn last lies on top: stopped trials first, then from the worst to the best.
    for trial, value in sorted(trials, key=lambda row: (row[0].key == best, row[0].status != "stopped", sign * row[1])):
        groups.setdefault(_kind_of_line(trial, value, ends, metric, best), []).append((trial, value))
    opacity = max(0.25, min(1.0, FULL_LINES / len(trials)))
    data = [
        {**_lines(group, kind, parameters, ends), "opacity": 1.0 if kind[1] == PURPLE else opacity}
        for kind, group in groups.items()
    ]
    names = [*(path.rpartition(".")[2] for path in parameters), axis(metric)]
    across = {
        "title": "",
        "tickvals": [*range(len(names))],
        "ticktext": [plotly_text(name) for name in names],
        "side": "top",
        "range": [-0.45, len(names) - 0.7],
        "zeroline": False,
        "fixedrange": True,
    }
    up = {"title": "", "visible": False, "range": [-0.06, 1.06], "fixedrange": True}
    low, high = (factor(metric) * end for end in ends)
    labels = [label for place, each in enumerate(parameters.values()) for label in _labels(place, _marks(each))]
    labels += _labels(len(parameters), [(0.0, f"{low:.3g}"), (1.0, f"{high:.3g}")] if high > low else [])
    legend = {"orientation": "h", "y": -0.03, "yanchor": "top"}
    return figure(data, across, up, annotations=labels, legend=legend, hovermode="closest")


def _kind_of_line(
    trial: Trial, value: float, ends: tuple[float, float], metric: str, best: str | None
) -> tuple[str, str, float]:
    """Name, colour and width of a trial's line."""
    if trial.key == best:
        return f"best: {plotly_text(trial.key)}", PURPLE, 4.0
    if trial.status == "stopped":
        return "stopped early", STOPPED, 1.0
    low, high = ends
    share = (value - low) / (high - low) if high > low else 0.0
    band = min(int(share * len(BANDS)), len(BANDS) - 1)
    limits = [factor(metric) * (low + (high - low) * (band + step) / len(BANDS)) for step in (0, 1)]
    return f"{limits[0]:.3g} to {limits[1]:.3g}", BANDS[band], 1.8


def _lines(
    trials: Sequence[tuple[Trial, float]],
    kind: tuple[str, str, float],
    parameters: Mapping[str, FloatRange | IntRange | Choice],
    ends: tuple[float, float],
) -> dict[str, Any]:
    name, colour, width = kind
    low, high = ends
    x: list[int | None] = []
    y: list[float | None] = []
    texts: list[str] = []
    for trial, value in trials:
        for place, (path, parameter) in enumerate(parameters.items()):
            given = trial.params.get(path)
            x.append(place)
            y.append(None if given is None else compact(_height(parameter, given)))
            texts.append(plotly_text(trial.key if given is None else f"{trial.key}: {number(given)}"))
        x += [len(parameters), None]
        y += [compact((value - low) / (high - low) if high > low else 0.5), None]
        texts += [plotly_text(trial.key), ""]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": x,
        "y": y,
        "text": texts,
        "line": {"color": colour, "width": width},
        "marker": {"size": 4 + width / 2},
        "hovertemplate": "%{text}<extra></extra>",
    }


def _height(parameter: FloatRange | IntRange | Choice, value: Value) -> float:
    """Where a value stands on its axis, 0 to 1; those of a choice in the order of the list."""
    if isinstance(parameter, Choice):
        there = parameter.values.index(value) if value in parameter.values else 0
        return there / (len(parameter.values) - 1)
    share = place_in_range(parameter, value)
    assert share is not None
    return share


def _marks(parameter: FloatRange | IntRange | Choice) -> list[tuple[float, str]]:
    """What stands beside an axis: the ends of a range, all values of a short choice."""
    if isinstance(parameter, Choice):
        many = len(parameter.values) > MOST_VALUES
        shown = (parameter.values[0], parameter.values[-1]) if many else parameter.values
        return [(_height(parameter, value), str(value)) for value in shown]
    return [(0.0, number(parameter.low)), (1.0, number(parameter.high))]


def _labels(place: int, marks: Sequence[tuple[float, str]]) -> list[dict[str, Any]]:
    common = {"showarrow": False, "xshift": -8, "xanchor": "right", "font": {"size": 11}}
    return [{**common, "x": place, "y": height, "text": plotly_text(text)} for height, text in marks]
