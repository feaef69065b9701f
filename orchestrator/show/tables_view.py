"""Tables of results as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence

from orchestrator.base.escaping import csv_cell, latex_text, markdown_text
from orchestrator.show.tables import Cell, Line, Table
from trainer.formatting import one_line

HEADINGS = {"mAP": "mAP", "rank1": "R-1", "rank5": "R-5", "rank20": "R-20"}
LEGEND = (
    "Per cent; in brackets after re-ranking; ± is the standard deviation between seeds. Figures under different "
    "protocols must not be compared, nor those of other samplings: frames of a tracklet that were looked at."
)
ABOUT = ("protocol", "sampling", "queries", "dropped", "seeds", "epochs", "note")


def markdown(tables: Sequence[Table]) -> str:
    """Each table under its title."""
    parts = []
    for table in tables:
        headings = ["row", "source", *(HEADINGS[column] for column in table.columns), *ABOUT]
        rows = [
            [markdown_text(text) for text in (line.row, line.source)]
            + [_figure(line, column, "±") for column in table.columns]
            + [markdown_text(text) for text in _about(line)]
            for line in table.lines
        ]
        widths = [max(len(row[index]) for row in [headings, *rows]) for index in range(len(headings))]
        rule = ["-" * width for width in widths]
        lines = [
            "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
            for row in [headings, rule, *rows]
        ]
        parts.append("\n".join([f"**{markdown_text(table.title)}**", "", *lines]))
    return "\n\n".join([*parts, LEGEND]) + "\n"


def latex(tables: Sequence[Table]) -> str:
    r"""Each as a `tabular` with the rules of booktabs."""
    parts = []
    for table in tables:
        headings = ["row", "source", *(HEADINGS[column] for column in table.columns), *ABOUT]
        rows = [
            [latex_text(line.row), latex_text(line.source)]
            + [_figure(line, column, r"$\pm$") for column in table.columns]
            + [latex_text(text) for text in _about(line)]
            for line in table.lines
        ]
        spec = "ll" + "r" * len(table.columns) + "llrrrrl"
        body = [" & ".join(row) + r" \\" for row in rows]
        parts.append(
            "\n".join(
                [
                    f"% {one_line(table.title)}. {LEGEND}",
                    rf"\begin{{tabular}}{{{spec}}}",
                    r"\toprule",
                    " & ".join(headings) + r" \\",
                    r"\midrule",
                    *body,
                    r"\bottomrule",
                    r"\end{tabular}",
                ]
            )
        )
    return "\n\n".join(parts) + "\n"


def comma_separated(tables: Sequence[Table]) -> str:
    """One line per row of a table and one column per figure, shares in [0, 1]; what was not run is empty."""
    columns = list(dict.fromkeys(column for table in tables for column in table.columns))
    columns += [f"reranked/{column}" for column in columns]
    figures = [name for column in columns for name in (column, f"{column}_standard_deviation")]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["table", "row", "source", *figures, *ABOUT])
    for table in tables:
        for line in table.lines:
            cells = [table.title, line.row, line.source, *_numbers(line.cells, columns), *_about(line)]
            writer.writerow(map(csv_cell, cells))
    return out.getvalue()


def _numbers(cells: Mapping[str, Cell], columns: Iterable[str]) -> list[str]:
    found = []
    for column in columns:
        cell = cells.get(column)
        found.append("" if cell is None else f"{cell.value:.6f}")
        found.append("" if cell is None or cell.standard_deviation is None else f"{cell.standard_deviation:.6f}")
    return found


def _figure(line: Line, column: str, plus_minus: str) -> str:
    """A figure with that after re-ranking in brackets, as the paper prints them; empty where it was not run."""
    plain, reranked = line.cells.get(column), line.cells.get(f"reranked/{column}")
    if plain is None:
        return ""
    return _percent(plain, plus_minus) + ("" if reranked is None else f" ({_percent(reranked, plus_minus)})")


def _percent(cell: Cell, plus_minus: str) -> str:
    spread = "" if cell.standard_deviation is None else f" {plus_minus} {100 * cell.standard_deviation:.1f}"
    return f"{100 * cell.value:.1f}{spread}"


def _about(line: Line) -> list[str]:
    numbers = (line.queries, line.dropped_queries, line.seeds or None, line.epochs)
    return [line.protocol, line.sampling, *("" if number is None else str(number) for number in numbers), line.note]


FORMATS: Mapping[str, Callable[[Sequence[Table]], str]] = {
    "md": markdown,
    "latex": latex,
    "csv": comma_separated,
}
"""By the name that `reidsearch tables --format` knows."""
