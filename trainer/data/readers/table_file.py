"""The file of a tracklet table: CSV or Parquet, its header and its rows, and what is wrong in it."""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from trainer.errors import DataError
from trainer.files import open_regular
from trainer.formatting import one_line, shown

CSV, PARQUET = "tracklets.csv", "tracklets.parquet"
BOX = ("x", "y", "w", "h")
COLUMNS = ("identity", "camera", "tracklet", "path", "frame", "frames", *BOX, "part", "split", "time")
SHOWN = 20  # faults whose text is shown

log = logging.getLogger(__name__)


class Table(NamedTuple):
    """An open table."""

    path: Path
    header: Sequence[str]
    columns: Mapping[str, int]
    """Place of each known column."""
    rows: Iterator[tuple[int, Sequence[str]]]
    """Number and fields of each row."""


class Faults:
    """What is wrong in tables and folders: every fault is counted, the first are kept."""

    def __init__(self) -> None:
        self.count = 0
        self._lines: list[tuple[str, tuple[Path, str] | None]] = []
        self._alike: Counter[tuple[Path, str]] = Counter()

    def add(self, path: Path, what: str, row: int | None = None, *, cause: str | None = None) -> None:
        """Adds a line that names the file, and the row if it is one's.

        Of the faults of a file with one cause the first has a line, which says how many there are besides.
        """
        self.count += 1
        key = None if cause is None else (path, cause)
        if key is not None:
            self._alike[key] += 1
        if (key is None or self._alike[key] == 1) and len(self._lines) < SHOWN:
            self._lines.append((one_line(f"{path}: {'' if row is None else f'row {row}: '}{what}"), key))

    def refuse(self) -> None:
        """Raises DataError, a line for each fault or cause, if there is any."""
        if self.count:
            counts = [1 if key is None else self._alike[key] for _, key in self._lines]
            lines = [
                line + (f" (and {count - 1:,} more like it)" if count > 1 else "")
                for (line, _), count in zip(self._lines, counts, strict=True)
            ]
            more = self.count - sum(counts)
            raise DataError("\n".join([*lines, *([f"and {more:,} more"] if more else [])]))


def table_path(root: Path) -> Path:
    """Where the table of the folder is, or where one is expected.

    Raises:
        DataError: there is no such folder, or it holds two tables.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; data.root must be the folder that holds {CSV}")
    there = [root / name for name in (CSV, PARQUET) if (root / name).exists()]
    if len(there) == 2:
        raise DataError(f"{there[1]}: there is {CSV} as well; keep one of them")
    return there[0] if there else root / CSV


@contextlib.contextmanager
def opened_table(path: Path, faults: Faults) -> Iterator[Table]:
    """The table, whose rows are read one after another; rows of another width than the header are faults.

    Raises:
        DataError: the file cannot be read, is no such table, or has no header.
    """
    number, rows_of = (1, _parquet_rows) if path.name == PARQUET else (2, _csv_rows)
    try:
        with open_regular(path) as file:
            rows = rows_of(path, file)
            header = [name.strip() for name in next(rows, [])]
            columns = {name: place for place, name in enumerate(header) if name in COLUMNS}
            _check_header(path, header)
            yield Table(path, header, columns, _numbered(path, rows, number, len(header), faults))
    except OSError as error:
        why = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise DataError(f"{path}: {why}") from error


def _csv_rows(path: Path, file: IO[bytes]) -> Iterator[Sequence[str]]:
    reader = csv.reader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""), strict=True)
    try:
        yield from reader
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8; save the table as CSV in UTF-8") from error
    except csv.Error as error:
        raise DataError(
            f"{path}: line {reader.line_num}: {error}; quote texts with commas, quotes or breaks"
        ) from error


def _parquet_rows(path: Path, file: IO[bytes]) -> Iterator[Sequence[str]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise DataError(f"{path}: needs pyarrow to be read; install it, or save the table as {CSV}") from error
    try:
        content = parquet.ParquetFile(file)
        yield content.schema_arrow.names
        for batch in content.iter_batches():
            yield from zip(*([_text(value) for value in column.to_pylist()] for column in batch.columns), strict=True)
    except (ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: not a Parquet file, or a damaged one ({type(error).__name__})") from error


def _text(value: object) -> str:
    """A value of a typed table as a CSV file would hold it; nothing for what is missing."""
    if value is None or value != value:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _check_header(path: Path, header: Sequence[str]) -> None:
    if not any(header):
        raise DataError(f"{path}: empty; a header with the columns identity, camera and path is expected")
    if len(header) == 1 and (other := next((mark for mark in ";\t|" if mark in header[0]), None)):
        raise DataError(f"{path}: columns are separated by {other!r}; save the table with commas")
    if len({*header} & {*COLUMNS}) < 2:
        names = shown(", ".join(header))
        raise DataError(f"{path}: columns are {names}; identity, camera and path are expected, in a header")


def _numbered(
    path: Path, rows: Iterable[Sequence[str]], first: int, width: int, faults: Faults
) -> Iterator[tuple[int, Sequence[str]]]:
    """Rows that hold something, with their numbers."""
    for number, row in enumerate(rows, start=first):
        if len(row) == width:
            yield number, row
        elif row:
            faults.add(path, f"{len(row)} fields, the header has {width}; quote texts that hold commas", number)


def check_columns(table: Table, faults: Faults) -> None:
    """Columns that are needed are there, none twice, and none under another name; others are warned of.

    Raises:
        DataError: a line for each fault.
    """
    columns = {*table.columns}
    needed = ["identity", "path", *(["tracklet"] if "frame" in columns else [])]
    needed += ["tracklet", "frame", *BOX] if columns & {*BOX} else []
    for name in dict.fromkeys(needed):
        if name not in columns:
            faults.add(table.path, f"has no column {name}; add it")
    for one, other, advice in (
        ("part", "split", "keep part, which says more"),
        ("frame", "frames", "frames is of tables with a row for each tracklet"),
    ):
        if {one, other} <= columns:
            faults.add(table.path, f"has the columns {one} and {other}; {advice}")
    for name in sorted({name for name in table.header if table.header.count(name) > 1 and name}):
        faults.add(table.path, f"has the column {shown(name)} twice; remove one of them")
    unknown = [name for name in dict.fromkeys(table.header) if name and name not in COLUMNS]
    for name in unknown:
        if (meant := _meant(name)) is not None and meant not in columns:
            faults.add(table.path, f"has a column {shown(name)}; call it {meant}, or something else if it is not")
    faults.refuse()
    if unknown:
        _warn_of_columns(table.path, tuple(unknown))


def _meant(name: str) -> str | None:
    """The column that a name like `Identity` or `camid` stands for; without its cameras a table is read otherwise."""
    plain = name.casefold()
    return "camera" if plain.startswith("cam") else plain if plain in COLUMNS else None


@functools.cache  # one warning for all readings of a process
def _warn_of_columns(path: Path, names: tuple[str, ...]) -> None:
    log.warning("%s: not read: %s; known columns are %s", path, ", ".join(map(shown, names)), ", ".join(COLUMNS))
