"""The paper's tables in our figures, beside the published ones.

Ours are of the configuration that the validation split chose, trained on all identities, on the test set as it was
opened for the first time: the mean over seeds and the standard deviation between them.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from orchestrator.base.hints import hint
from orchestrator.show.published import TABLES, PublishedTable
from orchestrator.stores.loading import LoadedSearch
from orchestrator.study.study import Trial
from trainer.formatting import counted
from trainer.result import Evaluation

OTHER_COLUMNS = ("mAP", "rank1", "rank5", "rank20")


class Cell(NamedTuple):
    """A figure of a row: a share in [0, 1]."""

    value: float
    standard_deviation: float | None
    """Between the seeds, by n - 1; None for one seed, and for published figures."""


class Line(NamedTuple):
    """A line of a table."""

    row: str
    """What was tried, in the paper's words where it is one of its rows."""
    source: str
    """`published`, or the search and its trial."""
    cells: dict[str, Cell]
    """By the names of our figures; what was not run is not there."""
    protocol: str
    sampling: str
    """Frames of a tracklet that were looked at; empty where nothing was run, or nobody noted it."""
    queries: int | None
    """Valid ones; None where nothing was run."""
    dropped_queries: int | None
    seeds: int
    """Trainings; of published figures it is 1."""
    epochs: int | None
    note: str
    """What a reader has to know, such as that the data is generated."""


class Table(NamedTuple):
    """A table of the paper, or of searches that are none of its rows."""

    title: str
    columns: tuple[str, ...]
    """Figures; each also after re-ranking, as `reranked/mAP`."""
    lines: list[Line]


def tables(searches: Sequence[LoadedSearch]) -> list[Table]:
    """The tables to which the searches belong, whole: also with the published rows that no search is of.

    Beside published rows stand searches of the same rows on the same data set only: one on generated data, on part of a
    data set or on another partition stands in a table of its own.
    """
    found = [
        Table(table.title, table.columns, list(_lines(table, searches)))
        for table in TABLES
        if any(_belongs(search, table) for search in searches)
    ]
    others = [
        _own(search, search.space.name) for search in searches if not any(_belongs(search, table) for table in TABLES)
    ]
    return found + ([Table("Other searches", OTHER_COLUMNS, others)] if others else [])


def _belongs(search: LoadedSearch, table: PublishedTable) -> bool:
    """Whether the search is of a row of the table, on a data set with the counts of the published one."""
    if search.space.name not in table.rows or search.description.synthetic:
        return False
    if search.description.tracklets is not None:
        return search.description.tracklets == table.data
    # Searches of before did not note them: the queries of the test set tell.
    found = [(test.queries, test.dropped_queries) for test in _tests(_winner(search)[1])]
    return bool(found) and all(sum(counts) == table.data["query"] for counts in found)


def _lines(table: PublishedTable, searches: Sequence[LoadedSearch]) -> Iterator[Line]:
    for name, row in table.rows.items():
        cells = {figure: Cell(value, None) for figure, value in row.metrics.items()}
        yield Line(
            *(row.row, "published", cells, table.protocol, table.sampling, table.queries, table.dropped_queries),
            seeds=1,
            epochs=None,
            note="",
        )
        for search in searches:
            if search.space.name == name and _belongs(search, table):
                yield _own(search, row.row)


def _own(search: LoadedSearch, row: str) -> Line:
    """What the test set said of a search's winner; a line without figures where it was not asked."""
    winner, trials = _winner(search)
    tests = _tests(trials)
    first = tests[0] if tests else None
    return Line(
        row=row,
        source=f"{search.name}/{winner}" if winner else search.name,
        cells=_cells(tests),
        protocol="" if first is None else first.protocol,
        sampling="; ".join(dict.fromkeys(test.sampling for test in tests)),
        queries=None if first is None else first.queries,
        dropped_queries=None if first is None else first.dropped_queries,
        seeds=len(tests),
        epochs=trials[0].epoch if tests else None,
        note="; ".join(_notes(search, trials, tests)),
    )


def _winner(search: LoadedSearch) -> tuple[str, list[Trial]]:
    """The best configuration of the first time that the test set was opened, and its trainings."""
    if not search.study.finalizations:
        return "", []
    asked = search.study.finalizations[0].asked
    finals = search.study.finals.values()
    return asked.leaders[0], [
        trial for trial in finals if (trial.finalization, trial.repeats) == (asked.finalization, asked.leaders[0])
    ]


def _tests(trials: Sequence[Trial]) -> list[Evaluation]:
    return [trial.test for trial in trials if trial.test is not None]


def _cells(tests: Sequence[Evaluation]) -> dict[str, Cell]:
    figures = [test.metrics() for test in tests]
    shared = [name for name in (figures[0] if figures else ()) if all(name in each for each in figures)]
    return {name: _cell([each[name] for each in figures]) for name in shared}


def _cell(values: Sequence[float]) -> Cell:
    return Cell(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def _notes(search: LoadedSearch, trials: Sequence[Trial], tests: Sequence[Evaluation]) -> Iterator[str]:
    if search.description.synthetic:
        yield "SYNTHETIC data"
    if not search.study.finalizations:
        yield f"test set not opened; `{hint('finalize', search.name, storage=search.folder.path.parent)}`"
    elif len(tests) < search.study.finalizations[0].asked.seeds:
        failed = sum(trial.status == "failed" for trial in trials)
        yield f"{len(tests)} of {search.study.finalizations[0].asked.seeds} seeds" + f", {failed} failed" * bool(failed)
    if len(search.study.finalizations) > 1:
        yield f"test set opened {len(search.study.finalizations)} times; these are the first"
    if uses := search.study.test_set_uses:
        seen = ", ".join(dict.fromkeys(use.asked.trial for use in uses))
        yield f"test set also used {counted(len(uses), 'time', 'times')} by hand, for {seen}"
