"""The whole report as one HTML file that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from plotly.offline import get_plotlyjs

from orchestrator.show.report.markup import Markup, element, raw
from orchestrator.show.report.parameter_importance import insight
from orchestrator.show.report.progress import progress
from orchestrator.show.report.reid import reid
from orchestrator.show.report.report_data import SearchReport
from orchestrator.show.report.section import Section
from orchestrator.show.report.spending import spending
from orchestrator.show.report.summary import summary
from orchestrator.show.report.trials_table import all_trials
from orchestrator.show.report.warnings import doubts
from orchestrator.show.search_text import SYNTHETIC_MARK

SECTIONS = (summary, progress, insight, doubts, reid, spending, all_trials)
# The browser itself refuses whatever the page would fetch.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:; base-uri 'none'; form-action 'none'"
)
DRAWN = "The figures need JavaScript, which is switched off; the tables do not."


def page(report: SearchReport) -> str:
    """The report as HTML: about 5 MB, nearly all of it the library that draws the figures."""
    sections = [make(report) for make in SECTIONS]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", f"{report.search.name} - reidsearch report"),
        raw("style", _asset("page.css")),
    )
    body = element(
        "body",
        element("a", "Skip to content", href="#summary", class_="skip"),
        _banner(report),
        _header(report, sections),
        element("main", element("noscript", element("p", DRAWN, class_="callout")), *map(_section, sections)),
        element("footer", f"reidsearch report, written {report.written}. This file makes no network requests."),
        raw("script", get_plotlyjs()),
        raw("script", _asset("page.js")),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _asset(name: str) -> str:
    return files("orchestrator.show.report").joinpath(name).read_text(encoding="utf-8")


def _banner(report: SearchReport) -> Markup | None:
    if not report.search.description.synthetic:
        return None
    return element("div", SYNTHETIC_MARK, class_="banner", role="note")


def _header(report: SearchReport, sections: Sequence[Section]) -> Markup:
    links = [element("a", section.title, href=f"#{section.anchor}") for section in sections]
    state = element("span", report.search.state, class_=f"state {report.search.state}")
    lines = report.search.space.description.strip().splitlines()
    return element(
        "header",
        element("h1", report.search.name, " ", state),
        element("p", f"Space {report.search.space.name}" + (f": {lines[0]}" if lines else ""), class_="hint"),
        element("nav", *links, aria_label="Sections"),
    )


def _section(section: Section) -> Markup:
    return element("section", element("h2", section.title), section.body, id=section.anchor)
