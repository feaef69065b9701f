"""A search's summary on standard output: tables and labelled lines."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import IO, Literal

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from orchestrator.base.escaping import harmless
from orchestrator.base.formatting import number, percent
from orchestrator.show.search_text import (
    TEST_METRICS,
    RunningTrial,
    attention_line,
    bar,
    best_lines,
    best_value,
    data_mark,
    final_lines,
    forecast_text,
    metric_text,
    outlook_line,
    pauses_line,
    progress_line,
    running_trials,
    spark_line,
    summary_line,
)
from orchestrator.study.study import Trial, TrialStatus
from orchestrator.summary import Summary
from orchestrator.summary.costs import share_done
from trainer.formatting import one_line, shortened

STATUS_STYLES = {
    "running": "cyan",
    "paused": "blue",
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
GAP = 2  # blanks between columns
TRIAL_BAR = 10  # characters
SMALL = 16  # lines of a terminal in which what runs leaves no room for bars and events
PIPED_WIDTH = 120  # of tables where there is no terminal to ask


def output() -> Console:
    """Standard output for tables; brackets and colons in texts are no markup."""
    console = Console(highlight=False, markup=False, emoji=False)
    return harmless(console) if console.is_terminal else plain_output()


def plain_output(file: IO[str] | None = None) -> Console:
    """A file, or standard output, for tables without colours; also in a notebook."""
    return harmless(
        Console(
            file=file,
            width=PIPED_WIDTH,
            color_system=None,
            force_jupyter=False,
            highlight=False,
            markup=False,
            emoji=False,
        )
    )


def print_summary(console: Console, summary: Summary) -> None:
    """Prints all that people want to know of a search: the table of its trials and a few labelled lines."""
    console.print(trials_table(summary, width=console.width))
    console.print(summary_line(summary))
    if summary.proposals.fails:
        console.print(Text(f"model     {summary.proposals}"), soft_wrap=True)
    if pauses := pauses_line(summary.costs):
        console.print(f"pauses    {pauses}", soft_wrap=True)
    if front := front_table(summary):
        console.print(front)
    for index, line in enumerate(best_lines(summary)):
        console.print(f"{'' if index else 'best':<10}{line}", soft_wrap=True)
    if outlook := outlook_line(summary):
        console.print(f"outlook   {outlook}", soft_wrap=True)
    if attention := attention_line(summary):
        console.print(f"attention {attention}", soft_wrap=True)
    if finals := finals_table(summary, width=console.width):
        console.print(finals)
    for line in final_lines(summary):
        console.print(f"test set  {line}", soft_wrap=True)
    if mark := data_mark(summary.description):
        console.print(f"data      {mark}")


@dataclass(frozen=True)
class Column:
    """A column's head and its cells, one per row."""

    name: str
    cells: Sequence[str]
    justify: Literal["left", "right"] = "right"

    @cached_property
    def width(self) -> int:
        """Columns of the terminal that it takes, with the gap that follows."""
        return max(map(cell_len, (self.name, *self.cells))) + GAP

    def aligned(self, cell: str) -> str:
        """The cell, or the head, with blanks that fill the column and the gap."""
        blanks = " " * (self.width - GAP - cell_len(cell))
        return (blanks + cell if self.justify == "right" else cell + blanks) + " " * GAP


def plain_table() -> Table:
    """A table without a frame."""
    return Table(box=None, pad_edge=False, padding=(0, GAP // 2), header_style="bold")


def trials_table(summary: Summary, *, width: int, only: Collection[str] | None = None) -> Group:
    """One line per trial, in at most `width` columns; of the trials with keys in `only`, if given.

    The widths of columns depend on all trials, so that a live table does not jump. It is no `rich.Table`, which takes
    half a second for a thousand trials.
    """
    trials, best = summary.trials, summary.best
    mark = "" if best is None else "best" if best.confirmed else "best?"
    is_best = [best is not None and trial.key == best.trial.key for trial in trials]
    notes = [mark if each else _note(summary, trial) for trial, each in zip(trials, is_best, strict=True)]
    metrics = [summary.latest_metrics[trial.key] for trial in trials]
    columns = [
        *_first_columns("trial", trials),
        *(Column(name, [percent(each, name) for each in metrics]) for name in ("mAP", "rank1")),
    ]
    reasons = min(REASON_WIDTH, max(map(cell_len, notes), default=0))
    columns += _fitting(_parameter_columns(trials, trials), width - reasons - sum(column.width for column in columns))
    table = _headed(columns)
    for index, trial in enumerate(trials):
        if only is None or trial.key in only:
            key, status, *cells = (column.aligned(column.cells[index]) for column in columns)
            table.append("\n").append(key, "bold" if is_best[index] else "").append(status, STATUS_STYLES[trial.status])
            table.append(("".join(cells) + notes[index]).rstrip())
    return Group(table)  # a text alone would lose how it overflows when it is printed


def _headed(columns: Sequence[Column]) -> Text:
    head = "".join(column.aligned(column.name) for column in columns).rstrip()
    return Text(no_wrap=True, overflow="ellipsis").append(head, "bold")


def _note(summary: Summary, trial: Trial) -> str:
    """How far a running trial is, what an unfinished one is expected to reach, and why one paused or ended."""
    forecast = None if trial.is_over else summary.forecasts.get(trial.key)
    ends = "" if forecast is None else f"ends at {forecast_text(summary.metric, forecast)}"
    return "; ".join(filter(None, (ends, progress_line(trial), one_line(trial.reason or ""))))


def finals_table(summary: Summary, *, width: int, only: Collection[str] | None = None) -> Table | None:
    """The trainings for the test set, or those with keys in `only`, with as many metrics, in per cent, as fit `width`.

    None where there is no such training.
    """
    finals = [trial for trial in summary.study.finals.values() if only is None or trial.key in only]
    if not finals:
        return None
    metrics = [{} if trial.test is None else trial.test.metrics() for trial in finals]
    shares = [Column(name, [percent(each, name) for each in metrics]) for name in TEST_METRICS]
    columns = _fitting([*_first_columns("test set", finals), *shares], width + GAP)
    table = _empty_table(columns)
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*row)
    return table


def front_table(summary: Summary) -> Table | None:
    """The Pareto front, metrics in per cent; None where there is only one objective, or no completed trial."""
    metrics = [term.metric for term in summary.objective.terms]
    if len(metrics) == 1 or not summary.front:
        return None
    table = plain_table()
    table.add_column("front", no_wrap=True)
    for metric in metrics:
        table.add_column(metric.replace("_", " "), justify="right", no_wrap=True)
    for trial, score in summary.front:
        table.add_row(trial.key, *map(metric_text, metrics, score.values))
    return table


def _first_columns(head: str, trials: Sequence[Trial]) -> list[Column]:
    return [
        Column(head, [trial.key for trial in trials], "left"),
        Column("state", [trial.status for trial in trials], "left"),
        Column("epoch", [_epoch(trial) for trial in trials]),
    ]


def _epoch(trial: Trial) -> str:
    """`5/20`, or `20` of a completed trial."""
    return str(trial.epoch) if trial.status == TrialStatus.COMPLETED else f"{trial.epoch}/{trial.epochs}"


def _parameter_columns(trials: Sequence[Trial], search: Sequence[Trial]) -> Iterator[Column]:
    """A column per parameter of the search, named by the last part of its path where that tells it apart."""
    # Conditional parameters are in some trials only.
    paths = list(dict.fromkeys(path for trial in search for path in trial.params))
    last = [path.rpartition(".")[2] for path in paths]
    for path, name in zip(paths, last, strict=True):
        values = [one_line(number(trial.params.get(path, "-"))) for trial in trials]
        yield Column(name if last.count(name) == 1 else path, [shortened(text, VALUE_WIDTH - 1) for text in values])


def _fitting(columns: Iterable[Column], width: int) -> list[Column]:
    """The first columns that fit `width` together: rich would cut all columns of a table that is too wide."""
    found: list[Column] = []
    for column in columns:
        width -= column.width
        if width < 0:
            break
        found.append(column)
    return found


def _empty_table(columns: Iterable[Column]) -> Table:
    table = plain_table()
    for column in columns:
        table.add_column(column.name, justify=column.justify, no_wrap=True)
    return table


class LiveView:
    """A running search in the lines of a terminal: what runs, the best, as much of the rest as fits, how far it is."""

    def __init__(self, summary: Summary, parts: Sequence[str], hint: str = "", events: Sequence[str] = ()) -> None:
        """Takes a summary, how far it is in words, what the user can do, and events, the latest first."""
        self._summary = summary
        self._parts = parts
        self._hint = hint
        self._events = events

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draws it into the console's width and height."""
        summary, width, height = self._summary, options.max_width, options.size.height
        below = [] if height < SMALL else [*self._below(width, height)]
        words = [summary_line(summary, best=False)] if below else [summary_line(summary), *self._parts]
        line = Text(", ".join(words), style="dim", end="")
        line.truncate(max(2, height // 6) * width - cell_len(self._hint) - 3, overflow="ellipsis")
        if self._hint:
            fits = line.wrap(console, width)[-1].cell_len + 3 + cell_len(self._hint) <= width
            line.append(("   " if fits else "\n") + self._hint)
        left = height - len(below) - len(line.wrap(console, width))
        shown = _fitting_trials(summary, left)
        running = [row for row in running_trials(summary) if row.key in shown]
        others = shown - {row.key for row in running}
        parts: list[RenderableType] = []
        if running:
            parts.append(running_table(summary, running, width=width))
        if any(trial.key in others for trial in summary.trials):
            parts.append(trials_table(summary, width=width, only=others))
        if (finals := finals_table(summary, width=width, only=others)) is not None:
            parts.append(finals)
        if rest := _hidden(summary, shown):
            parts.append(Text(rest, style="dim", no_wrap=True, overflow="ellipsis"))
        elif len(shown) + 2 * len(parts) <= left:  # there is room for a blank line below each table
            parts = [each for part in parts for each in (part, "")]
        yield from parts
        yield from below
        yield line

    def _below(self, width: int, height: int) -> Iterator[Text]:
        """How far the search is, how its best value has grown, and the newest events, a line each."""
        summary = self._summary
        done = bar(share_done(summary.study, summary.space), width // 10)
        yield _labelled("progress", done, "cyan", f" {', '.join(self._parts)}")
        if summary.best is not None:
            values = [point.best for point in summary.trace if point.best is not None]
            marks = spark_line(values, width // 10)
            yield _labelled("best", marks, "green", f" {best_value(summary.metric, summary.best)}")
        for place, event in enumerate(self._events[: height // 10]):
            yield _labelled("" if place else "events", event, "dim")


def _labelled(label: str, text: str, style: str, rest: str = "") -> Text:
    return Text.assemble(f"{label:<10}", (text, style), rest, no_wrap=True, overflow="ellipsis")


def running_table(summary: Summary, rows: Sequence[RunningTrial], *, width: int) -> Group:
    """One line per trial that runs, in at most `width` columns: how far it is, then the first of its parameters."""
    head = ("loss", summary.metric, "best", "images/s", "memory", "left")
    cells = [(row.loss, row.value, row.best, row.speed, row.memory, row.left) for row in rows]
    columns = [
        Column("running", [row.key for row in rows], "left"),
        Column("", [bar(row.epoch / row.epochs, TRIAL_BAR) for row in rows], "left"),
        Column("epoch", [f"{row.epoch}/{row.epochs}" for row in rows]),
        *(Column(name, column) for name, column in zip(head, zip(*cells, strict=True), strict=True)),
        *_parameter_columns([summary.study.all_trials[row.key] for row in rows], summary.trials),
    ]
    columns = _fitting(columns, width + GAP)
    table = _headed(columns)
    for index in range(len(rows)):
        key, *rest = (column.aligned(column.cells[index]) for column in columns)
        table.append("\n").append(key, "bold").append("".join(rest[:1]), "cyan").append("".join(rest[1:]).rstrip())
    return Group(table)


def _fitting_trials(summary: Summary, lines: int) -> set[str]:
    """Keys of the trials, and of the trainings for the test set, whose tables take at most so many lines.

    Running ones come first, then the best and the front, then the latest, those that were stopped last. A table has a
    line for its head; where not all fit, one line is left for a count of the others.
    """
    running = [trial for trial in summary.study.all_trials.values() if trial.status == TrialStatus.RUNNING]
    over = [[trial for trial in each if trial.status != TrialStatus.RUNNING] for each in _tables(summary)]
    tables = [table for table in (running, *over) if table]
    if sum(len(table) + 1 for table in tables) <= lines:
        return {trial.key for table in tables for trial in table}
    best = None if summary.best is None else summary.best.trial.key
    front = {trial.key for trial, _ in summary.front}

    def urgency(place: tuple[int, Trial]) -> int:
        trial = place[1]
        if trial.status == TrialStatus.RUNNING:
            return 0
        if trial.key in (best, *front):
            return 1 if trial.key == best else 2
        return 4 if trial.status == TrialStatus.STOPPED else 3

    latest_first = [(index, trial) for index, table in reversed([*enumerate(tables)]) for trial in reversed(table)]
    shown: set[str] = set()
    begun: set[int] = set()
    left = lines - 1
    for index, trial in sorted(latest_first, key=urgency):
        cost = 1 if index in begun else 2
        if cost <= left:
            shown.add(trial.key)
            begun.add(index)
            left -= cost
    return shown


def _tables(summary: Summary) -> tuple[list[Trial], list[Trial]]:
    return summary.trials, [*summary.study.finals.values()]


def _hidden(summary: Summary, shown: Collection[str]) -> str:
    """How many trials are not shown, by status; empty where all are."""
    trials = itertools.chain(*_tables(summary))
    others = Counter(trial.status for trial in trials if trial.key not in shown)
    counts = ", ".join(f"{others[status]} {status}" for status in TrialStatus if others[status])
    return f"and {others.total()} more: {counts}" if counts else ""
