"""The table of a data set of one's own: `tracklets.csv` or `tracklets.parquet`, and the frames that it names.

With a header. Columns `identity` and `path`, and `camera` unless cameras are not known; identities and cameras are any
text. Either a row is a tracklet: `path` is a folder of frames, a glob or an image, `tracklet` may name it and `frames`
say how many frames it has. Or a row is a frame: `tracklet` and `frame` tell which, `path` is an image, and `x, y, w, h`
may tell which part of it, in pixels. Paths start at the table's folder. `part`, `split` and `time`: see
`trainer.data.readers.tracklets`.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import logging
import math
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from pathlib import Path
from typing import IO, NamedTuple, TypeAlias

from trainer.data.dataset import contents
from trainer.data.frames import Box, crop_address, in_threads
from trainer.errors import DataError
from trainer.files import open_regular
from trainer.formatting import counted, listed, one_line, shown

CSV, PARQUET = "tracklets.csv", "tracklets.parquet"
BOX = ("x", "y", "w", "h")
COLUMNS = ("identity", "camera", "tracklet", "path", "frame", "frames", *BOX, "part", "split", "time")
PARTS = {"part": ("train", "query", "gallery", "test"), "split": ("train", "test")}
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
VIDEOS = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".flv")
OUTSIDE = re.compile(r"/|\\|[A-Za-z]:[\\/]|(?:.*/)?\.\.(?:/|\Z)", re.DOTALL)
DETOUR = re.compile(r"//|(?:\A|/)\.(?:/|\Z)|/\Z")
GLOB = re.compile(r"[*?[]")
DIGITS = re.compile(r"([0-9]+)")
SHOWN = 20  # faults of a table whose text is shown
LOOKING = 16  # threads that list folders; on a network file system that is waiting, not work
MAX_PIXEL = 10**6 - 1  # of an edge of a box

Group: TypeAlias = tuple[str, ...]

log = logging.getLogger(__name__)


class Listed(NamedTuple):
    """A tracklet as the table lists it."""

    identity: str
    camera: str | None
    """None where cameras are not known."""
    name: str
    """What the column `tracklet` calls it, otherwise its path."""
    frames: tuple[str, ...]
    part: str | None
    """train, query or gallery, or test where queries are to be drawn; None where nothing is said."""
    time: float
    """Seconds; 0 where the table has none."""
    row: int
    """Its first row in the table; the header of a CSV file is row 1."""


class _Table(NamedTuple):
    path: Path
    header: Sequence[str]
    columns: Mapping[str, int]
    """Place of each known column."""
    rows: Iterator[tuple[int, Sequence[str]]]
    """Number and fields of each row."""


class Faults:
    """What is wrong in a table: every fault is counted, the first are kept."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: list[str] = []
        self._count = 0

    def add(self, row: int | None, what: str) -> None:
        """Adds a line that names the row; None where the fault is the table's."""
        self._count += 1
        if len(self._lines) < SHOWN:
            where = "" if row is None else f"row {row}: "
            self._lines.append(one_line(f"{self._path}: {where}{what}"))

    def refuse(self) -> None:
        """Raises DataError, a line for each fault, if there is any."""
        if self._count:
            more = self._count - len(self._lines)
            raise DataError("\n".join([*self._lines, *([f"{self._path}: and {more:,} more"] if more else [])]))


# What is in the table


def read_table(root: Path) -> list[Listed]:
    """The tracklets that the table in the folder lists, in the order of identity, camera, time and row.

    Folders are listed to find frames, images are not opened. Numbers in names count as numbers: 2 comes before 10.

    Raises:
        DataError: there is no table, it cannot be read, or it has faults; a line each that names the row.
    """
    path = table_path(root)
    faults = Faults(path)
    with _opened(path, faults) as table:
        _check_columns(table, faults)
        by_frame = "frame" in table.columns
        found = list((_listed_by_frame if by_frame else _listed_by_folder)(root, table, faults))
    faults.refuse()
    if not found:
        raise DataError(f"{path}: lists no tracklet; every row below the header is one, or a frame of one")
    _check_overlaps(root, found, faults)
    faults.refuse()
    return sorted(found, key=lambda each: (natural(each.identity), natural(each.camera or ""), each.time, each.row))


def natural(text: str) -> list[tuple[int, str]]:
    """Sorts texts so that numbers in them count as numbers."""
    return [(int(part), "") if index % 2 else (-1, part) for index, part in enumerate(DIGITS.split(text))]


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
def _opened(path: Path, faults: Faults) -> Iterator[_Table]:
    """The table, whose rows are read one after another."""
    number, opened = (1, _parquet_rows) if path.name == PARQUET else (2, _csv_rows)
    try:
        with open_regular(path) as file:
            rows = opened(path, file)
            header = [name.strip() for name in next(rows, [])]
            columns = {name: place for place, name in enumerate(header) if name in COLUMNS}
            _check_header(path, header)
            yield _Table(path, header, columns, _numbered(rows, number, len(header), faults))
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
    rows: Iterable[Sequence[str]], first: int, width: int, faults: Faults
) -> Iterator[tuple[int, Sequence[str]]]:
    """Rows that hold something, with their numbers."""
    for number, row in enumerate(rows, start=first):
        if len(row) == width:
            yield number, row
        elif row:
            faults.add(number, f"{len(row)} fields, the header has {width}; quote texts that hold commas")


def _check_columns(table: _Table, faults: Faults) -> None:
    """Columns that are needed are there, none twice, and none under another name; others are warned of."""
    columns = {*table.columns}
    needed = ["identity", "path", *(["tracklet"] if "frame" in columns else [])]
    needed += ["tracklet", "frame", *BOX] if columns & {*BOX} else []
    for name in dict.fromkeys(needed):
        if name not in columns:
            faults.add(None, f"has no column {name}; add it")
    for one, other, advice in (
        ("part", "split", "keep part, which says more"),
        ("frame", "frames", "frames is of tables with a row for each tracklet"),
    ):
        if {one, other} <= columns:
            faults.add(None, f"has the columns {one} and {other}; {advice}")
    for name in sorted({name for name in table.header if table.header.count(name) > 1 and name}):
        faults.add(None, f"has the column {shown(name)} twice; remove one of them")
    unknown = [name for name in dict.fromkeys(table.header) if name and name not in COLUMNS]
    for name in unknown:
        if (meant := _meant(name)) is not None and meant not in columns:
            faults.add(None, f"has a column {shown(name)}; call it {meant}, or something else if it is not")
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


# A row for each tracklet


class _Labels(NamedTuple):
    """What a row says of its tracklet."""

    identity: str
    camera: str | None
    tracklet: str
    part: str | None
    time: float


def _label_columns(table: _Table) -> Callable[[Sequence[str]], Group]:
    """Gives the fields of a row that all rows of a tracklet share: the raw texts, cheap to compare."""
    places = [table.columns[name] for name in ("identity", "camera", "tracklet", *PARTS) if name in table.columns]
    return lambda row: tuple([row[place] for place in places])


def _labels(table: _Table, row: Sequence[str], number: int, faults: Faults) -> _Labels:
    """The fields that are not of a frame, checked."""
    field = {name: _clean(row[place]) for name, place in table.columns.items()}
    for name in ("identity", "camera", *(["tracklet"] if "frame" in table.columns else [])):
        if field.get(name) == "":
            otherwise = ", or remove the column if cameras are not known" if name == "camera" else ""
            faults.add(number, f"{name} is empty; every row names one{otherwise}")
    for name in ("identity", "camera"):
        if not is_label(field.get(name, "")):
            faults.add(number, f"{name} {shown(field[name])} holds a line break or a NUL; remove it")
    part = None
    for name, known in PARTS.items():
        if name in field:
            part = field[name]
            if part not in known:
                faults.add(number, f"{name} is {shown(part)}; it is {listed(known)}")
    time = _seconds(field.get("time", ""))
    if time is None:
        faults.add(number, f"time is {shown(field['time'])}; seconds or ISO 8601, as 2026-05-01T12:00:00, are expected")
    return _Labels(field["identity"], field.get("camera"), field.get("tracklet", ""), part, time or 0.0)


def _clean(text: str) -> str:
    """The text without spaces around it, its accents composed: what looks alike is alike."""
    return text if text.isascii() and text == text.strip() else unicodedata.normalize("NFC", text.strip())


def is_label(text: str) -> bool:
    """Whether the text may name an identity or a camera: it is one line, without NUL."""
    return "\0" not in text and len(text.splitlines()) < 2


def _seconds(text: str) -> float | None:
    """The time in seconds, 0 where nothing is said; None if it cannot be read."""
    if not text:
        return 0.0
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = datetime.fromisoformat(text).timestamp()
        except (ValueError, OverflowError, OSError):
            return None
    return seconds if math.isfinite(seconds) else None


class _Found(NamedTuple):
    """Frames below a path of the table, or why there are none."""

    frames: tuple[str, ...] = ()
    fault: str = ""


def _listed_by_folder(root: Path, table: _Table, faults: Faults) -> Iterator[Listed]:
    rows, path_at = [*table.rows], table.columns["path"]
    paths = [row[path_at] for _, row in rows]
    with contextlib.closing(in_threads(functools.partial(_frames_at, root), paths, LOOKING)) as looks:
        for (number, row), path, found in zip(rows, paths, looks, strict=True):
            identity, camera, name, part, time = _labels(table, row, number, faults)
            if fault := found.fault or _wrong_count(table, row, len(found.frames)):
                faults.add(number, fault)
            else:
                yield Listed(identity, camera, name or path, found.frames, part, time, number)


def _frames_at(root: Path, path: str) -> _Found:
    """The frames that a path names: of a folder, of a glob, or an image."""
    if (fault := _path_fault(path)) is not None:
        return _Found(fault=fault)
    plain = _plain(path)
    place, said = root / plain, shown(path)
    try:
        if place.is_dir():
            names = [entry.name for entry in os.scandir(place) if _is_image(entry.name)]
            if not names:
                return _Found(fault=f"{said} {contents(place, '000001.jpg')}; a folder of frames is expected")
            prefix = os.fspath(place) + os.sep
            return _Found(tuple([prefix + name for name in sorted(names, key=natural)]))
        if place.is_file():
            return _Found((os.fspath(place),)) if _is_image(plain) else _Found(fault=_no_image(path))
        if GLOB.search(plain):
            frames = [os.fspath(each) for each in root.glob(plain) if _is_image(each.name)]
            return _Found(tuple(sorted(frames, key=natural)), "" if frames else f"{said} matches no frame")
    except (OSError, ValueError, NotImplementedError) as error:
        return _Found(fault=f"{said}: cannot be read ({error})")
    return _Found(fault=f"{said}: no such folder or image below {root}; paths start there")


def _path_fault(path: str) -> str | None:
    if not path.strip():
        return "path is empty; it names a folder of frames, a glob or an image"
    if "\0" in path:
        return f"path {shown(path)} holds a NUL; remove it"
    if OUTSIDE.match(path):
        return f"path {shown(path)} leaves the folder; paths start at the table's folder, with / and without .."
    return None


def _plain(path: str) -> str:
    """The path without detours such as `./`."""
    return os.path.normpath(path) if DETOUR.search(path) else path


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGES) and not name.startswith(".")


def _no_image(path: str) -> str:
    if path.lower().endswith(VIDEOS):
        return f"{shown(path)} is a video; `reidsearch data import` writes its tracklets as images"
    return f"{shown(path)} is no image; frames end in {listed(IMAGES)}"


def _wrong_count(table: _Table, row: Sequence[str], found: int) -> str:
    """What is wrong with the number of frames, where the table tells it."""
    place = table.columns.get("frames")
    told = "" if place is None else row[place].strip()
    if not told or told == str(found):
        return ""
    if not told.isdecimal():
        return f"frames is {shown(told)}; a whole number is expected"
    path = shown(row[table.columns["path"]])
    return f"{path} holds {counted(found, 'frame', 'frames')}, but frames is {told}; copy it again, or correct it"


# A row for each frame


class _Frames(NamedTuple):
    """A tracklet that is being collected."""

    labels: _Labels
    row: int
    frames: dict[int, str]
    """By number."""


def _listed_by_frame(root: Path, table: _Table, faults: Faults) -> Iterator[Listed]:
    prefix = os.fspath(root) + os.sep
    shared, path_at, frame_at = _label_columns(table), table.columns["path"], table.columns["frame"]
    boxed = itemgetter(*(table.columns[name] for name in BOX)) if "x" in table.columns else None
    groups: dict[Group, _Frames] = {}
    by_labels: dict[_Labels, _Frames] = {}
    for number, row in table.rows:
        group = groups.get(key := shared(row))
        if group is None:
            labels = _labels(table, row, number, faults)
            group = groups[key] = by_labels.setdefault(labels._replace(time=0.0), _Frames(labels, number, {}))
        path = row[path_at]
        fault = _path_fault(path) or (None if _is_image(path.rpartition("/")[2]) else _no_image(path))
        frame = _whole(row[frame_at])
        box = None if boxed is None else _box(boxed(row))
        if fault is not None:
            faults.add(number, fault)
        elif frame is None:
            faults.add(number, f"frame is {shown(row[frame_at])}; a whole number from 0 is expected")
        elif isinstance(box, str):
            faults.add(number, box)
        elif frame in group.frames:
            faults.add(number, f"frame {frame} of tracklet {shown(group.labels.tracklet)} is there before")
        else:
            image = prefix + _plain(path)
            group.frames[frame] = image if box is None else crop_address(image, box)
    _check_groups(by_labels.values(), faults)
    for labels, first, frames in by_labels.values():
        in_order = tuple([frames[frame] for frame in sorted(frames)])
        if in_order:
            yield Listed(labels.identity, labels.camera, labels.tracklet, in_order, labels.part, labels.time, first)


def _whole(text: str) -> int | None:
    """A whole number from 0, also as 12.0; None if the text is none."""
    whole = text.strip()
    if whole.endswith(".0"):
        whole = whole[:-2]
    return int(whole) if whole.isascii() and whole.isdecimal() and len(whole) < 19 else None


def _box(texts: Sequence[str]) -> Box | str:
    """The box in whole pixels, or what is wrong with it."""
    try:
        x, y, w, h = map(float, texts)
        left, top, right, bottom = (round(edge) for edge in (x, y, x + w, y + h))
    except (ValueError, OverflowError):
        return f"x, y, w, h are {shown(', '.join(texts))}; four numbers are expected, in pixels"
    if right <= left or bottom <= top:
        return f"the box of {shown(', '.join(texts))} (x, y, w, h) holds no pixel"
    if right <= 0 or bottom <= 0 or max(right, bottom, -left, -top) > MAX_PIXEL:
        return f"the box of {shown(', '.join(texts))} (x, y, w, h) lies outside of every image"
    return Box(left, top, right - left, bottom - top)


def _check_groups(groups: Iterable[_Frames], faults: Faults) -> None:
    """A tracklet has one identity and one part; cameras may count their tracklets alike."""
    first: dict[tuple[str | None, str], _Frames] = {}
    for group in groups:
        labels = group.labels
        known = first.setdefault((labels.camera, labels.tracklet), group)
        if known is not group:
            mine, before = (
                f"identity {shown(each.identity)}" + (f", {each.part}" if each.part else "")
                for each in (labels, known.labels)
            )
            faults.add(group.row, f"tracklet {shown(labels.tracklet)} is of {mine}, but in row {known.row} of {before}")


# What holds for both


def _check_overlaps(root: Path, found: Sequence[Listed], faults: Faults) -> None:
    """No frame, or crop, belongs to two tracklets; of two that overlap one frame is named."""
    owner: dict[str, int] = {}
    for each in found:
        for frame in each.frames:
            before = owner.setdefault(frame, each.row)
            if before != each.row:
                name = shown(frame.removeprefix(f"{root}{os.sep}"))
                faults.add(each.row, f"{name} belongs to row {before} as well; remove one of them")
                break
