"""A report as Markdown, CSV or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from orchestrator.algorithms.replicates import confirmations
from orchestrator.base.escaping import markdown_text as escaped
from orchestrator.base.formatting import number as short
from orchestrator.base.formatting import percent
from orchestrator.show.report.curves import learning_curves
from orchestrator.show.report.page import page
from orchestrator.show.report.parameter_importance import TITLES, importance_rows
from orchestrator.show.report.report_data import SearchReport
from orchestrator.show.report.scale import points, shown
from orchestrator.show.report.spending import cost_rows
from orchestrator.show.report.summary import HEADLINE, facts, value_and_spread
from orchestrator.show.report.trials_table import csv_text, paths, rows
from orchestrator.show.search_text import SYNTHETIC_MARK

ALL_POINTS = 10**9


def html_text(report: SearchReport) -> str:
    """The page."""
    return page(report)


def json_text(report: SearchReport) -> str:
    """Everything as one document; shares are between 0 and 1, durations in hours."""
    trials = report.search.study.all_trials.values()
    evaluation = report.evaluation
    description = report.search.description
    document = {
        "format": 1,
        "written": report.written,
        "status": report.status,
        "data": {
            "name": report.data_set,
            "synthetic": description.synthetic,
            "fingerprint": description.data_fingerprint,
            "protocol": None if report.judged is None else report.judged.protocol,
            "queries": None if report.judged is None else report.judged.queries,
            "dropped_queries": None if report.judged is None else report.judged.dropped_queries,
        },
        "remarks": [remark._asdict() for remark in report.remarks],
        "trace": [point._asdict() for point in report.trace],
        "curves": {
            metric: [curve._asdict() for curve in learning_curves(trials, metric, most=ALL_POINTS)]
            for metric in ("mAP", "loss/total", "attention/entropy")
        },
        "model": {"cards": [card._asdict() for card in report.model.cards], "missing": report.model.missing},
        "evaluation": None if evaluation is None else _evaluation(evaluation),
        "cost": {**report.costs._asdict(), "trials": [cost._asdict() for cost in report.costs.trials]},
    }
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def _evaluation(found: Any) -> dict[str, Any]:
    """Without pictures: those are in the page."""
    cameras = None if found.cameras is None else found.cameras._asdict()
    kept = {name: value for name, value in found._asdict().items() if name != "pictures"}
    return {**kept, "cameras": cameras}


def markdown_text(report: SearchReport) -> str:
    """The tables of the page, for a wiki, an issue or a terminal."""
    return "\n".join(_markdown(report)) + "\n"


def _markdown(report: SearchReport) -> Iterator[str]:
    yield f"# {escaped(report.search.name)}"
    if report.search.description.synthetic:
        yield from ("", f"> **{SYNTHETIC_MARK}**")
    if report.best is not None:
        value, spread = value_and_spread(report.metric, report.best)
        yield from ("", f"**Best {report.metric}: {value}** ({escaped(spread)})")
    yield from _titled("This search", ("", ""), facts(report))
    if report.best is not None:
        figures = [
            (name, percent(report.best.score.metrics, name)) for name in HEADLINE if name in report.best.score.metrics
        ]
        yield from _titled("Best configuration, first seed, %", ("figure", report.best.trial.key), figures)
        settings = [(path, short(value)) for path, value in report.best.trial.params.items()]
        yield from _titled("Its settings", ("setting", "value"), settings)
    yield from ("", "## Can I trust this?", "")
    yield from [f"- **{remark.level}**: {escaped(remark.text)}" for remark in report.remarks] or [
        "Nothing speaks against it."
    ]
    yield from _titled("Fresh seeds", ("trial", "mean", "sd", "seeds", "confirmed"), _seeds(report))
    yield from _titled("Importance", ("setting", "share", f"more of it ... {report.metric}"), importance_rows(report))
    missing = [
        f"{TITLES[card.kind]} {' and '.join(card.about)}: {card.skipped}" for card in report.model.cards if card.skipped
    ]
    missing += [report.model.missing] if report.model.missing else []
    yield from [line for text in missing for line in ("", f"Left out: {escaped(text)}")]
    if report.costs.hours:
        yield from _titled("Cost", ("", ""), cost_rows(report))
    named = paths(report)
    head = ("trial", "state", "epoch", "mAP %", "R1 %", *named, "reason or note")
    yield from _titled("All trials", head, (_trial(row, named) for row in rows(report)))


def _seeds(report: SearchReport) -> Iterator[tuple[str, ...]]:
    for each in confirmations(report.search.study, report.search.space.objective):
        spread = "-" if each.standard_deviation is None else points(report.metric, each.standard_deviation)
        yield (
            each.trial,
            shown(report.metric, each.mean),
            spread,
            str(len(each.values)),
            "yes" if each.confirmed else "no",
        )


def _trial(row: dict[str, Any], named: Sequence[str]) -> tuple[str, ...]:
    figures = {name: row[name] for name in ("mAP", "rank1") if row[name] is not None}
    settings = ["-" if row[path] is None else short(row[path]) for path in named]
    return (
        row["trial"],
        row["status"],
        f"{row['epoch']}/{row['epochs']}",
        percent(figures, "mAP"),
        percent(figures, "rank1"),
        *settings,
        row["reason"] or row["note"] or "",
    )


def _titled(title: str, head: Sequence[str], body: Any) -> Iterator[str]:
    """A table under a heading; nothing without rows."""
    lines = [f"| {' | '.join(escaped(cell) for cell in row)} |" for row in body]
    if lines:
        rule = f"|{'---|' * len(head)}"
        yield from ("", f"## {title}", "", f"| {' | '.join(map(escaped, head))} |", rule, *lines)


FORMATS = {"html": html_text, "md": markdown_text, "csv": lambda report: csv_text(report), "json": json_text}
