"""`reidsearch tables`: the paper's tables with our results beside the published ones, as Markdown, LaTeX and CSV.

Our results are of the configuration that the validation split chose, trained on all identities, on the test set as it
was opened for the first time: the mean over seeds and the standard deviation between them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.base.escaping import csv_cell, latex_text, markdown_code, markdown_text
from orchestrator.base.hints import hint
from orchestrator.show.published import TABLES, PublishedTable
from orchestrator.stores.base import Store, existing_search
from orchestrator.study.study import TrialStatus
from orchestrator.summary import FinalResult, Mean, Summary, read_summary
from trainer.formatting import counted, one_line

if TYPE_CHECKING:
    from pandas import DataFrame

OTHER_COLUMNS = ("mAP", "rank1", "rank5", "rank20")
HEADINGS = {"mAP": "mAP", "rank1": "R-1", "rank5": "R-5", "rank20": "R-20"}
LEGEND = (
    "Per cent; in brackets after re-ranking; ± is the standard deviation between seeds. Metrics under different "
    "protocols must not be compared, nor those of other samplings: frames of a tracklet that were looked at."
)


class Line(NamedTuple):
    """A line of a table."""

    row: str
    """What was tried, in the paper's words where it is one of its rows."""
    source: str
    """`published`, or the search and its trial."""
    metrics: Mapping[str, Mean]
    """By name; shares in [0, 1]. What was not run is missing."""
    protocol: str
    sampling: str
    """Frames of a tracklet that were looked at; empty where nothing was run, or nobody noted it."""
    queries: int | None
    """Valid ones; None where nothing was run."""
    dropped_queries: int | None
    seeds: int
    """Trainings; 1 for published results."""
    epochs: int | None
    note: str
    """What a reader has to know, such as that the data is generated."""
    data: str = ""
    """`trained on A, tested on B` where these are two data sets."""

    @property
    def about(self) -> dict[str, str]:
        """Everything but row, source and metrics, in words."""
        numbers = {"queries": self.queries, "dropped": self.dropped_queries}
        numbers |= {"seeds": self.seeds or None, "epochs": self.epochs}
        texts = {name: "" if number is None else str(number) for name, number in numbers.items()}
        about = {"protocol": self.protocol, "sampling": self.sampling, **texts, "note": self.note}
        return {"data": self.data, **about} if self.data else about


class Table(NamedTuple):
    """A table of the paper, or of searches that are none of its rows."""

    title: str
    columns: tuple[str, ...]
    """Metrics; each also after re-ranking, as `reranked/mAP`."""
    lines: list[Line]


def tables_text(storage: Store, names: Iterable[str], form: str) -> str:
    """The tables of the named searches of a storage; `form` is a key of `FORMATS`.

    Raises:
        SearchError: there is no such search.
    """
    return FORMATS[form](tables_of([read_summary(existing_search(storage, name)) for name in names]))


def tables_of(searches: Sequence[Summary]) -> list[Table]:
    """The tables to which the searches belong, whole: also with the published rows that no search is of.

    Beside published rows stand searches of the same rows on the same data set only: one on generated data, on data of
    one's own, on part of a data set or on another partition stands in a table of its own, as do tests on another data
    set than that of the training.
    """
    found = [
        Table(table.title, table.columns, list(_lines(table, searches)))
        for table in TABLES
        if any(_belongs(search, table) for search in searches)
    ]
    others = [_own(search, search.space.name) for search in searches if not any(_belongs(search, t) for t in TABLES)]
    found += [Table("Other searches", OTHER_COLUMNS, others)] if others else []
    elsewhere = [_tested_elsewhere(search, each) for search in searches for each in search.other_results]
    return found + (
        [Table("Trained on one data set, tested on another", OTHER_COLUMNS, elsewhere)] if elsewhere else []
    )


def _belongs(search: Summary, table: PublishedTable) -> bool:
    """Whether the search is of a row of the table, on a data set with the counts of the published one."""
    description = search.description
    published = description.data_kind == "real"
    return published and search.space.name in table.rows and description.tracklets == table.data


def _lines(table: PublishedTable, searches: Sequence[Summary]) -> Iterator[Line]:
    for name, row in table.rows.items():
        means = {metric: Mean(value, None) for metric, value in row.metrics.items()}
        judged = (table.protocol, table.sampling, table.queries, table.dropped_queries)
        yield Line(row.row, "published", means, *judged, seeds=1, epochs=None, note="")
        for search in searches:
            if search.space.name == name and _belongs(search, table):
                yield _own(search, row.row)


def _own(search: Summary, row: str) -> Line:
    """What the test set said of a search's best configuration when it was first opened; empty where it was not."""
    found = next(iter(search.final_results), None)
    return _line(search, row, found, "; ".join(_notes(search, found)))


def _tested_elsewhere(search: Summary, found: FinalResult) -> Line:
    drawn = "SYNTHETIC data" if "tested on mini-" in (found.other_data or "") else ""
    kinds = dict.fromkeys(filter(None, [*_kind_of_data(search), drawn]))
    note = "; ".join([*kinds, *_missing_seeds(found)])
    return _line(search, search.space.name, found, note)._replace(data=found.other_data or "")


def _line(search: Summary, row: str, found: FinalResult | None, note: str) -> Line:
    evaluations = [] if found is None else found.evaluations
    first = next(iter(evaluations), None)
    return Line(
        row=row,
        source=search.name if found is None else f"{search.name}/{found.configuration}",
        metrics={} if found is None else found.metrics,
        protocol="" if first is None else first.protocol,
        sampling="; ".join(dict.fromkeys(each.sampling for each in evaluations)),
        queries=None if first is None else first.queries,
        dropped_queries=None if first is None else first.dropped_queries,
        seeds=len(evaluations),
        epochs=found.trainings[0].epoch if found is not None and evaluations else None,
        note=note,
    )


def _kind_of_data(search: Summary) -> Iterator[str]:
    if search.description.data_kind != "real":
        yield {"SYNTHETIC": "SYNTHETIC data", "own data": "own data"}[search.description.data_kind]


def _missing_seeds(found: FinalResult) -> Iterator[str]:
    if len(found.evaluations) < found.asked.seeds:
        failed = sum(trial.status == TrialStatus.FAILED for trial in found.trainings)
        yield f"{len(found.evaluations)} of {found.asked.seeds} seeds" + f", {failed} failed" * bool(failed)


def _notes(search: Summary, found: FinalResult | None) -> Iterator[str]:
    yield from _kind_of_data(search)
    if found is None:
        yield f"test set not opened; `{hint('finalize', search.name, storage=search.folder.storage)}`"
    elif found.asked.data is None:
        yield from _missing_seeds(found)
    if (opened := len(search.study.finalizations)) > 1:
        yield f"test set opened {opened} times; these are the first"
    if uses := search.study.own_test_set_uses:
        seen = ", ".join(dict.fromkeys(use.asked.trial for use in uses))
        yield f"test set also used {counted(len(uses), 'time', 'times')} by hand, for {seen}"


def markdown(tables: Sequence[Table]) -> str:
    """Each table under its title."""
    parts = []
    for table in tables:
        frame = _printed(table, _markdown_cell, "±")
        rows = [[*frame.columns], *frame.to_numpy().tolist()]
        widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
        rows.insert(1, ["-" * width for width in widths])
        lines = [f"| {' | '.join(map(str.ljust, row, widths))} |" for row in rows]
        parts.append("\n".join([f"**{markdown_text(table.title)}**", "", *lines]))
    return "\n\n".join([*parts, LEGEND]) + "\n"


def _markdown_cell(text: str) -> str:
    """The text with what stands in backquotes, a command, as code: it can be copied also from a terminal."""
    parts = enumerate(re.split(r" ?`([^`|]+)`", text))
    return "".join(f" {markdown_code(part)}" if odd % 2 else markdown_text(part) for odd, part in parts).strip()


def latex(tables: Sequence[Table]) -> str:
    r"""Each as a `tabular` with the rules of booktabs."""
    parts = []
    for table in tables:
        frame = _printed(table, latex_text, r"$\pm$")
        data = "l" * any(line.data for line in table.lines)
        alignment = "ll" + "r" * len(table.columns) + data + "llrrrrl"
        tabular = frame.to_latex(index=False, escape=False, column_format=alignment)
        parts.append(f"% {one_line(table.title)}. {LEGEND}\n{tabular}")
    return "\n".join(parts)


def _printed(table: Table, escape: Callable[[str], str], plus_minus: str) -> DataFrame:
    """A row of texts per line: metrics in per cent, as the paper prints them."""
    from pandas import DataFrame

    return DataFrame(
        {"row": escape(line.row), "source": escape(line.source)}
        | {HEADINGS[column]: _shares(line, column, plus_minus) for column in table.columns}
        | {name: escape(text) for name, text in line.about.items()}
        for line in table.lines
    )


def _shares(line: Line, column: str, plus_minus: str) -> str:
    """A metric and in brackets the same after re-ranking; empty where it was not run."""
    plain, reranked = line.metrics.get(column), line.metrics.get(f"reranked/{column}")
    if plain is None:
        return ""
    return _percent(plain, plus_minus) + ("" if reranked is None else f" ({_percent(reranked, plus_minus)})")


def _percent(mean: Mean, plus_minus: str) -> str:
    deviation = mean.standard_deviation
    return f"{100 * mean.value:.1f}" + ("" if deviation is None else f" {plus_minus} {100 * deviation:.1f}")


def comma_separated(tables: Sequence[Table]) -> str:
    """One line per row of a table and one column per metric, shares in [0, 1]; what was not run is empty."""
    from pandas import DataFrame

    columns = list(dict.fromkeys(column for table in tables for column in table.columns))
    columns += [f"reranked/{column}" for column in columns]
    frame = DataFrame(
        {"table": csv_cell(table.title), "row": csv_cell(line.row), "source": csv_cell(line.source)}
        | {name: value for column in columns for name, value in _numbers(column, line.metrics.get(column))}
        | {name: csv_cell(text) for name, text in line.about.items()}
        for table in tables
        for line in table.lines
    )
    return str(frame.to_csv(index=False, lineterminator="\n", float_format="%.6f"))


def _numbers(column: str, mean: Mean | None) -> Iterator[tuple[str, float | None]]:
    yield column, None if mean is None else mean.value
    yield f"{column}_standard_deviation", None if mean is None else mean.standard_deviation


FORMATS: Mapping[str, Callable[[Sequence[Table]], str]] = {
    "md": markdown,
    "latex": latex,
    "csv": comma_separated,
}
"""By the name that `reidsearch tables --format` knows."""
