"""The trials of a search as a table: all of them, or those that fit a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, get_args

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from orchestrator.base.formatting import number, percent
from orchestrator.show.best_line import best_mark
from orchestrator.show.columns import Column, empty_table, fitting
from orchestrator.show.final_view import finals_table
from orchestrator.study.study import TrialStatus
from trainer.formatting import one_line, shortened

STATUS_STYLES = {
    "running": "cyan",
    "completed": "green",
    "failed": "red",
    "pending": "dim",
    "stopped": "yellow",
}
# The column of reasons gets what the others leave, and parameters leave it as much as this. The whole reason is in
# `reidsearch logs` and in --json.
REASON_WIDTH = 30
# A path or a list among the parameters leaves room for the others.
VALUE_WIDTH = 20


def trials_table(document: Mapping[str, Any], *, width: int, only: Collection[str] | None = None) -> Table:
    """One line per trial of a status document, in at most `width` columns; of the trials in `only`, if given."""
    trials = document["trials"]
    best = document["best"]["trial"] if document["best"] else None
    notes = [best_mark(document) if trial["trial"] == best else one_line(trial["reason"] or "") for trial in trials]
    columns = [
        Column("trial", [trial["trial"] for trial in trials], "left"),
        Column("state", [trial["status"] for trial in trials], "left"),
        Column("epoch", [str(trial["epoch"]) for trial in trials]),
        *(Column(name, [percent(trial["metrics"], name) for trial in trials]) for name in ("mAP", "rank1")),
    ]
    reasons = min(REASON_WIDTH, max(map(cell_len, notes), default=0))
    columns += fitting(_parameter_columns(trials), width - reasons - sum(column.width for column in columns))
    table = empty_table(columns)
    left = width - sum(column.width for column in columns)
    table.add_column("", overflow="ellipsis", no_wrap=True, max_width=max(left, 1))
    for index, trial in enumerate(trials):
        if only is None or trial["trial"] in only:
            key, status, *cells = (column.cells[index] for column in columns)
            style = "bold" if trial["trial"] == best else ""
            table.add_row(Text(key, style=style), Text(status, style=STATUS_STYLES[status]), *cells, Text(notes[index]))
    return table


def _parameter_columns(trials: Sequence[Mapping[str, Any]]) -> Iterator[Column]:
    """A column per searched parameter, named by the last part of its path where that tells it apart."""
    # Conditional parameters are in some trials only.
    paths = list(dict.fromkeys(path for trial in trials for path in trial["params"]))
    last = [path.rpartition(".")[2] for path in paths]
    for path, name in zip(paths, last, strict=True):
        values = [one_line(number(trial["params"].get(path, "-"))) for trial in trials]
        yield Column(name if last.count(name) == 1 else path, [shortened(text, VALUE_WIDTH - 1) for text in values])


class LiveView:
    """A running search in the lines of a terminal: what runs, the best, as much of the rest as fits, the summary."""

    def __init__(self, document: Mapping[str, Any], summary: str, hint: str = "") -> None:
        """Takes a status document, it in one line, and what can be done."""
        self._document = document
        self._summary = summary
        self._hint = hint

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draws it into the console's width and height."""
        document, width, height = self._document, options.max_width, options.size.height
        summary = Text(self._summary, style="dim", end="")
        summary.truncate(max(2, height // 6) * width - cell_len(self._hint) - 3, overflow="ellipsis")
        if self._hint:
            summary.append(f"   {self._hint}")
        shown = shown_trials(document, height - len(summary.wrap(console, width)))
        if any(trial["trial"] in shown for trial in document["trials"]):
            yield trials_table(document, width=width, only=shown)
        if (finals := finals_table(document, width=width, only=shown)) is not None:
            yield finals
        if rest := hidden_trials(document, shown):
            yield Text(rest, style="dim", no_wrap=True, overflow="ellipsis")
        yield summary


def shown_trials(document: Mapping[str, Any], lines: int) -> set[str]:
    """Keys of the trials, and of the trainings for the test set, whose tables take at most so many lines.

    Those that run come first, then the best one and the front, then the latest. A table has a line for its head; where
    not all fit, one line is left for a count of the others.
    """
    tables = [table for table in (document["trials"], document["finals"]) if table]
    if sum(len(table) + 1 for table in tables) <= lines:
        return {trial["trial"] for table in tables for trial in table}
    best = document["best"]["trial"] if document["best"] else None
    front = {each["trial"] for each in document["front"]}

    def urgency(place: tuple[int, Mapping[str, Any]]) -> int:
        key = place[1]["trial"]
        return 0 if place[1]["status"] == "running" else 1 if key == best else 2 if key in front else 3

    latest_first = [(index, trial) for index, table in reversed([*enumerate(tables)]) for trial in reversed(table)]
    shown: set[str] = set()
    begun: set[int] = set()
    left = lines - 1
    for index, trial in sorted(latest_first, key=urgency):
        cost = 1 if index in begun else 2
        if cost <= left:
            shown.add(trial["trial"])
            begun.add(index)
            left -= cost
    return shown


def hidden_trials(document: Mapping[str, Any], shown: Collection[str]) -> str:
    """How many trials are not shown, by status; empty where all are."""
    others = Counter(
        trial["status"] for trial in (*document["trials"], *document["finals"]) if trial["trial"] not in shown
    )
    counts = ", ".join(f"{others[status]} {status}" for status in get_args(TrialStatus) if others[status])
    return f"and {others.total()} more: {counts}" if counts else ""
