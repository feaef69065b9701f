"""A report in one of its formats: an HTML page, Markdown, CSV or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.base.escaping import markdown_text as escaped
from orchestrator.base.formatting import number, percent
from orchestrator.show.report.evaluations import EvaluationView
from orchestrator.show.report.page import html_text
from orchestrator.show.report.report_data import ReportData, learning_curves, read_report
from orchestrator.show.report.tables import (
    best_metrics,
    best_settings,
    cost_rows,
    csv_text,
    facts,
    importance_rows,
    left_out,
    seed_rows,
    setting_paths,
    trial_rows,
    value_and_spread,
)
from orchestrator.show.search_text import data_mark
from orchestrator.show.status import status_document
from orchestrator.stores.base import SearchFolder
from trainer.files import check_writable, write_atomically

FILE = "report.html"
CURVES = ("mAP", "loss/total", "attention/entropy")


class Written(NamedTuple):
    """A report that was made."""

    path: Path | None
    """Its file; None if it is to be printed."""
    text: str
    """What to print: the report itself, or where it was written and what it lacks."""


def write_report(folder: SearchFolder, kind: str, out: Path | None, *, model: bool, images: bool) -> Written:
    """Makes a report and writes it, whole or not at all.

    Args:
        folder: of the search.
        kind: a key of `FORMATS`.
        out: the file; None is `report.html` in the search's folder, and for other formats no file.
        model: whether Ax's model is asked.
        images: whether pictures of real people may be in it.

    Raises:
        JournalError: the journal is damaged.
        SearchError: `search.yaml` is damaged.
        OSError: the file cannot be written.
    """
    path = folder.path / FILE if out is None and kind == "html" else out
    if path is not None:
        check_writable(path)  # before the model is asked, which may take a minute
    report = read_report(folder, model=model, images=images)
    text = FORMATS[kind](report)
    if path is None:
        return Written(None, text)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text)
    problems = [] if report.evaluation is None else report.evaluation.problems
    missing = left_out(report) + [f"evaluation of {report.best_key}: {problem}" for problem in problems]
    lines = [f"{path}  {len(text.encode()) / 1e6:.1f} MB", *(f"left out  {text}" for text in missing)]
    return Written(path, "\n".join(lines))


def json_text(report: ReportData) -> str:
    """Everything as one document; shares are between 0 and 1, durations in hours."""
    summary = report.summary
    description, judged, costs = summary.description, summary.protocol, summary.costs
    trials = summary.study.all_trials.values()
    document = {
        "format": 1,
        "written": report.written,
        "status": status_document(summary),
        "data": {
            "name": report.data_set,
            "synthetic": description.synthetic,
            "fingerprint": description.data_fingerprint,
            "protocol": None if judged is None else judged.protocol,
            "queries": None if judged is None else judged.queries,
            "dropped_queries": None if judged is None else judged.dropped_queries,
        },
        "warnings": [each._asdict() for each in report.warnings],
        "trace": [point._asdict() for point in summary.trace],
        "curves": {
            metric: [curve._asdict() for curve in learning_curves(trials, metric, most=None)] for metric in CURVES
        },
        "forecasts": {key: forecast.model_dump() for key, forecast in report.forecasts.items()},
        "model": {"cards": [card._asdict() for card in report.model.cards], "missing": report.model.missing},
        "evaluation": None if report.evaluation is None else _evaluation_document(report.evaluation),
        "cost": {**costs._asdict(), "trials": [cost._asdict() for cost in costs.trials]},
    }
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def _evaluation_document(found: EvaluationView) -> dict[str, Any]:
    """The evaluation without its pictures, which only the page holds."""
    document = found._asdict() | {"cameras": None if found.cameras is None else found.cameras._asdict()}
    del document["pictures"]
    return document


def markdown_text(report: ReportData) -> str:
    """The tables of the page, for a wiki, an issue or a terminal."""
    return "\n".join(_markdown(report)) + "\n"


def _markdown(report: ReportData) -> Iterator[str]:
    yield f"# {escaped(report.summary.name)}"
    if mark := data_mark(report.summary.description):
        yield from ("", f"> **{mark}**")
    if report.best is not None:
        value, spread = value_and_spread(report)
        yield from ("", f"**Best {report.metric}: {value}** ({escaped(spread)})")
    yield from _titled("This search", ("", ""), facts(report))
    if report.best is not None:
        # The last column is the first seed's.
        metrics = [(row[0], row[-1]) for row in best_metrics(report)[1]]
        yield from _titled("Best configuration, first seed, %", ("metric", report.best.trial.key), metrics)
    yield from _titled("Its settings", ("setting", "value"), (row[:2] for row in best_settings(report)))
    yield from ("", "## Can I trust this?", "")
    yield from [f"- **{each.level}**: {escaped(each.text)}" for each in report.warnings] or [
        "Nothing speaks against it."
    ]
    seeds = ((trial, mean, sd, count, known) for trial, _, mean, sd, _, count, known in seed_rows(report))
    yield from _titled("Fresh seeds", ("trial", "mean", "sd", "seeds", "confirmed"), seeds)
    yield from _titled("Importance", ("setting", "share", f"more of it ... {report.metric}"), importance_rows(report))
    yield from [line for text in left_out(report) for line in ("", f"Left out: {escaped(text)}")]
    yield from _titled("Cost", ("", ""), cost_rows(report))
    paths = setting_paths(report)
    head = ("trial", "state", "epoch", "mAP %", "R1 %", *paths, "reason or note")
    yield from _titled("All trials", head, (_markdown_trial(row, paths) for row in trial_rows(report)))


def _markdown_trial(row: dict[str, Any], paths: Sequence[str]) -> tuple[str, ...]:
    metrics = {name: row[name] for name in ("mAP", "rank1") if row[name] is not None}
    return (
        row["trial"],
        row["status"],
        f"{row['epoch']}/{row['epochs']}",
        percent(metrics, "mAP"),
        percent(metrics, "rank1"),
        *("-" if row[path] is None else number(row[path]) for path in paths),
        row["reason"] or row["note"] or "",
    )


def _titled(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table under a heading; nothing without rows."""
    lines = [f"| {' | '.join(escaped(cell) for cell in row)} |" for row in rows]
    if lines:
        rule = f"|{'---|' * len(head)}"
        yield from ("", f"## {title}", "", f"| {' | '.join(map(escaped, head))} |", rule, *lines)


FORMATS = {"html": html_text, "md": markdown_text, "csv": csv_text, "json": json_text}
