"""Columns that are wholly on the screen or left out: a table that is too wide has all of its columns cut by rich."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from rich.cells import cell_len
from rich.table import Table

GAP = 2  # blanks between columns


class Column(NamedTuple):
    """A column's head and its cells, one per row."""

    name: str
    cells: Sequence[str]
    justify: Any = "right"

    @property
    def width(self) -> int:
        """Columns of the terminal that it takes, with the gap that follows."""
        return max(map(cell_len, (self.name, *self.cells))) + GAP


def fitting(columns: Iterable[Column], width: int) -> list[Column]:
    """The first of the columns, as many as take at most `width` together."""
    found: list[Column] = []
    for column in columns:
        width -= column.width
        if width < 0:
            break
        found.append(column)
    return found


def empty_table(columns: Iterable[Column]) -> Table:
    """A table with the columns' heads, without a frame."""
    table = Table(box=None, pad_edge=False, padding=(0, GAP // 2), header_style="bold")
    for column in columns:
        table.add_column(column.name, justify=column.justify, no_wrap=True)
    return table
