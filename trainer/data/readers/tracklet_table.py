"""The table of a data set of one's own: `tracklets.csv` or `tracklets.parquet`, and the frames that it names.

With a header. Columns `identity` and `path`, and `camera` unless cameras are not known; identities and cameras are any
text. Either a row is a tracklet: `path` is a folder of frames, a glob or an image, `tracklet` may name it and `frames`
say how many frames it has. Or a row is a frame: `tracklet` and `frame` tell which, `path` is an image, and `x, y, w, h`
may tell which part of it, in pixels. Paths start at the table's folder. `part`, `split` and `time`: see
`trainer.data.readers.tracklets`.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple, TypeAlias

from trainer.data.dataset import contents
from trainer.data.frames import Box, crop_address, in_threads
from trainer.data.readers.table_file import BOX, Faults, Table, check_columns, opened_table, table_path
from trainer.errors import DataError
from trainer.formatting import counted, listed, shown

PARTS = {"part": ("train", "query", "gallery", "test"), "split": ("train", "test")}
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
VIDEOS = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".flv")
OUTSIDE = re.compile(r"/|\\|[A-Za-z]:[\\/]|(?:.*/)?\.\.(?:/|\Z)", re.DOTALL)
DETOUR = re.compile(r"//|(?:\A|/)\.(?:/|\Z)|/\Z")
GLOB = re.compile(r"[*?[]")
DIGITS = re.compile(r"([0-9]+)")
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


def read_table(root: Path) -> list[Listed]:
    """The tracklets that the table in the folder lists, in the order of identity, camera, time and row.

    Folders are listed to find frames, images are not opened. Numbers in names count as numbers: 2 comes before 10.

    Raises:
        DataError: there is no table, it cannot be read, or it has faults; a line each that names the row.
    """
    path = table_path(root)
    faults = Faults()
    with opened_table(path, faults) as table:
        check_columns(table, faults)
        by_frame = "frame" in table.columns
        found = list((_listed_by_frame if by_frame else _listed_by_folder)(root, table, faults))
    faults.refuse()
    if not found:
        raise DataError(f"{path}: lists no tracklet; every row below the header is one, or a frame of one")
    _check_overlaps(path, found, faults)
    faults.refuse()
    return sorted(found, key=lambda each: (natural(each.identity), natural(each.camera or ""), each.time, each.row))


def natural(text: str) -> list[tuple[int, str]]:
    """Sorts texts so that numbers in them count as numbers."""
    return [(int(part), "") if index % 2 else (-1, part) for index, part in enumerate(DIGITS.split(text))]


# A row for each tracklet


class _Labels(NamedTuple):
    """What a row says of its tracklet."""

    identity: str
    camera: str | None
    tracklet: str
    part: str | None
    time: float


def _label_columns(table: Table) -> Callable[[Sequence[str]], Group]:
    """Gives the fields of a row that all rows of a tracklet share: the raw texts, cheap to compare."""
    places = [table.columns[name] for name in ("identity", "camera", "tracklet", *PARTS) if name in table.columns]
    return lambda row: tuple([row[place] for place in places])


def _labels(table: Table, row: Sequence[str], number: int, faults: Faults) -> _Labels:
    """The fields that are not of a frame, checked."""
    field = {name: _clean(row[place]) for name, place in table.columns.items()}
    for name in ("identity", "camera", *(["tracklet"] if "frame" in table.columns else [])):
        if field.get(name) == "":
            otherwise = ", or remove the column if cameras are not known" if name == "camera" else ""
            faults.add(table.path, f"{name} is empty; every row names one{otherwise}", number)
    for name in ("identity", "camera"):
        if not is_label(field.get(name, "")):
            faults.add(table.path, f"{name} {shown(field[name])} holds a line break or a NUL; remove it", number)
    part = None
    for name, known in PARTS.items():
        if name in field:
            part = field[name]
            if part not in known:
                faults.add(table.path, f"{name} is {shown(part)}; it is {listed(known)}", number)
    time = _seconds(field.get("time", ""))
    if time is None:
        said = f"time is {shown(field['time'])}; seconds or ISO 8601, as 2026-05-01T12:00:00, are expected"
        faults.add(table.path, said, number)
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


def _listed_by_folder(root: Path, table: Table, faults: Faults) -> Iterator[Listed]:
    rows, path_at = [*table.rows], table.columns["path"]
    paths = [row[path_at] for _, row in rows]
    with contextlib.closing(in_threads(functools.partial(_frames_at, root), paths, LOOKING)) as looks:
        for (number, row), path, found in zip(rows, paths, looks, strict=True):
            identity, camera, name, part, time = _labels(table, row, number, faults)
            if fault := found.fault or _wrong_count(table, row, len(found.frames)):
                faults.add(table.path, fault, number)
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


def _wrong_count(table: Table, row: Sequence[str], found: int) -> str:
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


def _listed_by_frame(root: Path, table: Table, faults: Faults) -> Iterator[Listed]:
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
        frame = whole_number(row[frame_at])
        box = None if boxed is None else _box(boxed(row))
        if fault is not None:
            faults.add(table.path, fault, number)
        elif frame is None:
            faults.add(table.path, f"frame is {shown(row[frame_at])}; a whole number from 0 is expected", number)
        elif isinstance(box, str):
            faults.add(table.path, box, number)
        elif frame in group.frames:
            faults.add(table.path, f"frame {frame} of tracklet {shown(group.labels.tracklet)} is there before", number)
        else:
            image = prefix + _plain(path)
            group.frames[frame] = image if box is None else crop_address(image, box)
    _check_groups(table.path, by_labels.values(), faults)
    for labels, first, frames in by_labels.values():
        in_order = tuple([frames[frame] for frame in sorted(frames)])
        if in_order:
            yield Listed(labels.identity, labels.camera, labels.tracklet, in_order, labels.part, labels.time, first)


def whole_number(text: str) -> int | None:
    """A whole number from 0, also as 12.0; None if the text is none."""
    whole = text.strip().removesuffix(".0")
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


def _check_groups(path: Path, groups: Iterable[_Frames], faults: Faults) -> None:
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
            what = f"tracklet {shown(labels.tracklet)} is of {mine}, but in row {known.row} of {before}"
            faults.add(path, what, group.row)


# What holds for both


def _check_overlaps(path: Path, found: Sequence[Listed], faults: Faults) -> None:
    """No frame, or crop, belongs to two tracklets; of two that overlap one frame is named."""
    owner: dict[str, int] = {}
    for each in found:
        for frame in each.frames:
            before = owner.setdefault(frame, each.row)
            if before != each.row:
                name = shown(frame.removeprefix(f"{path.parent}{os.sep}"))
                faults.add(path, f"{name} belongs to row {before} as well; remove one of them", each.row)
                break
