"""All trials as one table: for the page, and as CSV."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Sequence
from typing import Any

from orchestrator.algorithms.budget import HOUR_S
from orchestrator.base.escaping import csv_cell
from orchestrator.base.formatting import duration
from orchestrator.base.formatting import number as short
from orchestrator.show.report.markup import Markup, element
from orchestrator.show.report.report_data import SearchReport
from orchestrator.show.report.scale import compact
from orchestrator.show.report.section import Section, block, hint

FIGURES = ("mAP", "mAP_standard_error", "mINP", "rank1", "rank5", "rank10", "rank20", "attention_entropy")
SHARES = ("mAP", "mINP", "rank1", "rank5", "rank10", "rank20")
SHOWN = ("mAP", "rank1", "rank5", "attention_entropy")


def all_trials(report: SearchReport) -> Section:
    """Every trial and repeat in a table that can be sorted, and the same as CSV."""
    uri = "data:text/csv;charset=utf-8;base64," + base64.b64encode(csv_text(report).encode()).decode()
    link = element("a", "Download as CSV", href=uri, download=f"{report.search.name}-trials.csv", class_="button")
    text = "Click a heading to sort. Figures are of the last evaluated epoch, shares in per cent."
    return Section("trials", "All trials", block(element("p", link), _table(report), hint(text)))


def paths(report: SearchReport) -> list[str]:
    """Every searched setting that some trial has."""
    trials = report.search.study.all_trials.values()
    return list(dict.fromkeys(path for trial in trials for path in trial.params))


def rows(report: SearchReport) -> list[dict[str, Any]]:
    """One flat row per trial and repeat: what it is, what it took, its figures, its settings."""
    costs = {cost.trial: cost for cost in report.costs.trials}
    named = paths(report)
    found = []
    for document in report.status["trials"]:
        cost = costs[document["trial"]]
        row = {name: document[name] for name in ("trial", "status", "epoch")}
        row |= {"epochs": cost.planned}
        row |= {name: document["metrics"].get(name) for name in FIGURES}
        row |= {"hours": cost.hours, "gpu_hours": cost.gpu_hours, "saved_hours": cost.saved_hours}
        row |= {name: document[name] for name in ("seed", "fold", "repeats", "source", "attempts")}
        row |= {path: document["params"].get(path) for path in named}
        row |= {"note": document["note"], "reason": document["reason"]}
        found.append(row)
    return found


def csv_text(report: SearchReport) -> str:
    """The rows as CSV with a heading; shares are between 0 and 1. A ' keeps a spreadsheet from running a text."""
    found = rows(report)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    columns = list(found[0]) if found else ["trial"]
    writer.writerow(map(csv_cell, columns))
    for row in found:
        writer.writerow([csv_cell(row[name]) for name in columns])
    return buffer.getvalue()


def _table(report: SearchReport) -> Markup:
    named = paths(report)
    last = [path.rpartition(".")[2] for path in named]
    labels = [name if last.count(name) == 1 else path for path, name in zip(named, last, strict=True)]
    heads = [
        *(_head(name) for name in ("trial", "state", "epoch")),
        *(_head(name if name != "attention_entropy" else "attention") for name in SHOWN),
        _head("time", title="of all epochs; hours in the table as CSV"),
        *(_head(label, title=path) for path, label in zip(named, labels, strict=True)),
        _head("source"),
        _head("reason or note"),
    ]
    body = [_row(row, named, best=row["trial"] == report.best_key) for row in rows(report)]
    made = element(
        "table", element("thead", element("tr", *heads)), element("tbody", *body), class_="sortable", id="all-trials"
    )
    return element("div", made, class_="scroll tall", tabindex="0", role="region", aria_label="All trials")


def _head(name: str, title: str | None = None) -> Markup:
    return element("th", element("button", name, type="button", title=title), scope="col")


def _row(row: dict[str, Any], named: Sequence[str], *, best: bool) -> Markup:
    state = element("td", element("span", row["status"], class_=f"state {row['status']}"))
    cells = [
        element("th", row["trial"], " ★" if best else "", scope="row"),
        state,
        _number(row["epoch"], f"{row['epoch']}/{row['epochs']}"),
        *(_figure(name, row[name]) for name in SHOWN),
        _number(row["hours"], duration(HOUR_S * row["hours"])),
        *(_setting(row[path]) for path in named),
        element("td", row["source"] + (f" of {row['repeats']}" if row["repeats"] else "")),
        element("td", row["reason"] or row["note"], class_="words"),
    ]
    return element("tr", *cells, class_="best" if best else None)


def _figure(name: str, value: float | None) -> Markup:
    if value is None:
        return _number(None, "-")
    return _number(value, f"{100 * value:.1f}" if name in SHARES else f"{value:.2f}")


def _setting(value: Any) -> Markup:
    if isinstance(value, bool | str):
        return element("td", value)
    return _number(value, "-" if value is None else short(value))


def _number(value: float | None, text: str) -> Markup:
    """A cell that is sorted by its value, not by its text."""
    return element("td", text, class_="number", data_value="" if value is None else compact(float(value)))
