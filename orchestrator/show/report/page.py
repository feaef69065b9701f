"""The report as one HTML file that needs nothing but itself: `page.html.j2`, filled in; templates of other pages."""

from __future__ import annotations

import base64
import html
from functools import cache
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from orchestrator.algorithms.budget import HOUR_S
from orchestrator.base.escaping import visible
from orchestrator.base.formatting import duration, number
from orchestrator.show.report import charts, model_charts, tables
from orchestrator.show.report.parallel_chart import parallel_chart
from orchestrator.show.report.report_data import ReportData
from orchestrator.show.report.theme import axis
from orchestrator.show.search_text import data_mark, forecast_text, pauses_line
from orchestrator.summary.warnings import GOOD_FIT

# The browser itself refuses everything that the page would fetch.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:; base-uri 'none'; form-action 'none'"
)
DIGITS = 5  # significant, of numbers in charts: more than a screen shows
SHARES = ("mAP", "mINP", "rank1", "rank5", "rank10", "rank20")


def html_text(report: ReportData) -> str:
    """The page: about 5 MB, nearly all of it the library that draws the charts."""
    csv = base64.b64encode(tables.csv_text(report).encode()).decode()
    return render(
        "page.html.j2",
        report=report,
        csv_uri=f"data:text/csv;charset=utf-8;base64,{csv}",
        charts=charts,
        model_charts=model_charts,
        parallel_chart=parallel_chart,
        later=None,
        policy=POLICY,
        plotly_js=Markup(get_plotlyjs()),
    )


def render(template: str, *, report: ReportData | None, **values: Any) -> str:
    """A template filled in; `report` is the search that it shows."""
    return (
        _environment()
        .get_template(template)
        .render(
            report=report,
            tables=tables,
            axis=axis,
            forecast_text=forecast_text,
            pauses_line=pauses_line,
            data_mark=None if report is None else data_mark(report.summary.description),
            good_fit=GOOD_FIT,
            **values,
        )
    )


@cache
def _environment() -> Environment:
    """Jinja2 which escapes all texts, makes characters visible that do not print, and knows our filters."""
    environment = Environment(
        loader=PackageLoader("orchestrator.show", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.filters |= {
        "plain": plain,
        "duration": lambda hours: duration(HOUR_S * hours),
        "number": number,
        "metric": _metric_text,
    }
    return environment


def _visible(value: Any) -> Any:
    """What an expression of the template prints: nothing for None."""
    if value is None or isinstance(value, Markup):
        return value or ""
    return visible(str(value))


def _metric_text(value: float, name: str) -> str:
    return f"{100 * value:.1f}" if name in SHARES else f"{value:.2f}"


def plain(figure: go.Figure) -> dict[str, Any]:
    """A figure as plain data: numbers of few digits, so that a page stays small, and texts that are only text.

    Plotly takes `<b>`, `<a>` and the like in texts for markup. Templates of hover texts are ours and keep theirs.
    """
    drawn: dict[str, Any] = _plain(figure.to_plotly_json())
    return drawn


def _plain(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _plain(each, name) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each, key) for each in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, str) and not isinstance(value, Markup) and not key.endswith("template"):
        return html.escape(visible(value), quote=False)
    return value
