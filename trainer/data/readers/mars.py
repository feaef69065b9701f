"""MARS (Zheng et al. 2016, ECCV): the published lists and tables, checked against each other.

Layout: bbox_{train,test}/PPPP/PPPPCcTttttFfff.jpg (identity, camera, tracklet, frame) and info/. Copies whose archives
were unpacked to bbox_train/bbox_train/, or without the folders of identities, are read as well.
Identity 0000 is a distractor, 00-1 is junk. A tracklet is a row [first line, last line, identity, camera]
of a table; lines of the name lists and rows of the tables are counted from 1, both ends of a range belong
to it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from trainer.data.dataset import DISTRACTOR, JUNK, Counts, DataSet, Splits, Tracklet, read_bounded
from trainer.data.readers.matlab import read_matrix
from trainer.errors import DataError

NAME_LINE = rb"(?:[0-9]{4}|00-1)C[1-6]T[0-9]{4}F[0-9]{3,9}\.jpg"
INFO_FILES = (
    "train_name.txt",
    "test_name.txt",
    "tracks_train_info.mat",
    "tracks_test_info.mat",
    "query_IDX.mat",
)
FRAME_FOLDERS = ("bbox_train", "bbox_test")
MAX_NAMES_BYTES = 2**30  # the real lists hold 16 MB

Table = Int64[np.ndarray, "tracklets 4"]


class _Names(NamedTuple):
    """The lines of a name list, parsed."""

    path: Path
    lines: list[str]
    identity: Int64[np.ndarray, " lines"]
    camera: Int64[np.ndarray, " lines"]


def read_mars(root: Path) -> Splits:
    """The published training, query and gallery tracklets.

    The gallery is every test tracklet that is neither query nor junk; distractors (identity 0) belong to it.
    Reads only the five files of `root`/info; frames are not opened, and only the first ones are looked for.

    Raises:
        DataError: a file is missing, damaged or disagrees with another.
    """
    info = _info_folder(root)
    train_table, test_table, query_rows = _read_tables(info)
    train = _tracklets(root / FRAME_FOLDERS[0], info / "tracks_train_info.mat", train_table, "train_name.txt")
    test = _tracklets(root / FRAME_FOLDERS[1], info / "tracks_test_info.mat", test_table, "test_name.txt")
    _check_identities(info, train_table, test_table)
    queries = _query_indices(info / "query_IDX.mat", query_rows, test_table)
    is_query = np.zeros(len(test), dtype=bool)
    is_query[queries] = True
    in_gallery = ~is_query & (test_table[:, 2] != JUNK)
    return Splits(
        train=tuple(train),
        query=tuple(test[index] for index in queries),
        gallery=tuple(test[index] for index in np.flatnonzero(in_gallery)),
    )


def _info_folder(root: Path) -> Path:
    info = root / "info"
    if not info.is_dir() and any((root / folder).is_dir() for folder in FRAME_FOLDERS):
        raise DataError(
            f"{info}: no such folder; the lists of MARS, info/, are published apart from its frames, with the authors' "
            f"evaluation code (MARS-evaluation): copy them to {info}"
        )
    for folder in (root, info):
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; data.root must be the folder that holds MARS's info/")
    for name in INFO_FILES:
        if not (info / name).is_file():
            raise DataError(f"{info / name}: no such file; info/ of MARS holds {', '.join(INFO_FILES)}")
    return info


def _read_tables(info: Path) -> tuple[Table, Table, Int64[np.ndarray, " queries"]]:
    train = read_matrix(info / "tracks_train_info.mat", "track_train_info")
    test = read_matrix(info / "tracks_test_info.mat", "track_test_info")
    query = read_matrix(info / "query_IDX.mat", "query_IDX")
    for name, table in (("tracks_train_info.mat", train), ("tracks_test_info.mat", test)):
        if table.shape[1] != 4 or not len(table):
            raise DataError(f"{info / name}: shape {table.shape}; [tracklets 4] is expected, at least one tracklet")
    if 1 not in query.shape or not query.size:
        raise DataError(f"{info / 'query_IDX.mat'}: shape {query.shape}; [1 queries] is expected, at least one query")
    return train, test, query.ravel()


def _tracklets(images: Path, table_path: Path, table: Table, names_file: str) -> list[Tracklet]:
    """One tracklet per row of the table."""
    names = _read_names(table_path.with_name(names_file))
    _check_ranges(table_path, table, names)
    _check_labels(table_path, table, names)
    folder_of = _folder_of_identities(images, names.lines[0])
    tracklets = []
    for first, last, identity, camera in table.tolist():
        lines = names.lines[first - 1 : last]
        prefix = os.fspath(folder_of(lines[0][:4])) + os.sep
        tracklets.append(Tracklet(tuple([prefix + line for line in lines]), identity, camera))
    return tracklets


def _folder_of_identities(images: Path, frame: str) -> Callable[[str], Path]:
    """Folder of an identity's frames, laid out as that of the first frame; as published if that frame is not found."""
    for folder in (images, images / images.name):
        if (folder / frame[:4]).is_dir():
            return lambda identity: folder / identity
        if (folder / frame).is_file():
            return lambda identity: folder
    return lambda identity: images / identity


def _read_names(path: Path) -> _Names:
    """The name list, each line checked against the grammar of names."""
    text = read_bounded(path, MAX_NAMES_BYTES, "a list of frame names").replace(b"\r\n", b"\n").rstrip(b"\n")
    if not text:
        raise DataError(f"{path}: empty; a frame name per line is expected")
    good = re.match(rb"(?:" + NAME_LINE + rb"\n)*+", text + b"\n")
    assert good is not None  # the pattern also matches the empty text
    if good.end() <= len(text):
        number = text.count(b"\n", 0, good.end()) + 1
        line = text[good.end() :].partition(b"\n")[0]
        raise DataError(f"{path}: line {number}: {line[:40]!r} is not a frame name like 0065C1T0002F016.jpg")
    lines = text.decode("ascii").split("\n")
    _check_repetition(path, lines)
    heads = np.array(text.split(b"\n"), dtype="S6").view(np.uint8).reshape(-1, 6).astype(np.int64) - ord("0")
    junk = heads[:, 2] == ord("-") - ord("0")
    return _Names(path, lines, np.where(junk, JUNK, heads[:, :4] @ [1000, 100, 10, 1]), heads[:, 5])


def _check_repetition(path: Path, lines: list[str]) -> None:
    if len(set(lines)) == len(lines):
        return
    first: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if first.setdefault(line, number) != number:
            raise DataError(f"{path}: line {number}: {line} is listed before, in line {first[line]}")


def _check_ranges(path: Path, table: Table, names: _Names) -> None:
    """Every row is a range of lines of the name list, and no line belongs to two rows."""
    first, last = table[:, 0], table[:, 1]
    _refuse(path, table, first < 1, "lines are counted from 1")
    _refuse(path, table, last < first, "the last line stands before the first")
    _refuse(path, table, last > len(names.lines), f"{names.path.name} has {len(names.lines)} lines only")
    order = np.argsort(first, kind="stable")
    overlaps = np.zeros(len(table), dtype=bool)
    overlaps[order[1:]] = first[order[1:]] <= last[order[:-1]]
    _refuse(path, table, overlaps, "the lines belong to another row, too")


def _check_labels(path: Path, table: Table, names: _Names) -> None:
    """Identity and camera of every row are those of all its frame names."""
    _refuse(path, table, (table[:, 3] < 1) | (table[:, 3] > 6), "cameras are 1 to 6")
    lengths = table[:, 1] - table[:, 0] + 1
    row = np.repeat(np.arange(len(table)), lengths)
    offset = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    line = table[row, 0] - 1 + offset
    for noun, column, named in (("identity", 2, names.identity), ("camera", 3, names.camera)):
        wrong = np.flatnonzero(named[line] != table[row, column])
        if wrong.size:
            at, listed = int(row[wrong[0]]), int(line[wrong[0]])
            raise DataError(
                f"{path}: row {at + 1} {table[at].tolist()}: {noun} {table[at, column]}, "
                f"but line {listed + 1} of {names.path.name} is {names.lines[listed]}; "
                f"they are of different copies"
            )


def _check_identities(info: Path, train: Table, test: Table) -> None:
    """Training identities are identities, and none of them is tested on."""
    path = info / "tracks_train_info.mat"
    _refuse(path, train, train[:, 2] <= DISTRACTOR, "distractors and junk do not belong to the training tracklets")
    _refuse(path, train, np.isin(train[:, 2], test[:, 2]), "the identity is a test identity, too")


def _query_indices(path: Path, rows: Int64[np.ndarray, " queries"], test: Table) -> Int64[np.ndarray, " queries"]:
    """Indices of the query tracklets, counted from 0."""
    column = rows[:, None]
    _refuse(
        path,
        column,
        (rows < 1) | (rows > len(test)),
        f"rows of tracks_test_info.mat are 1 to {len(test)}",
        "entry",
    )
    repeated = np.ones(len(rows), dtype=bool)
    repeated[np.unique(rows, return_index=True)[1]] = False
    _refuse(path, column, repeated, "the row is listed before", "entry")
    not_people = test[rows - 1, 2] <= DISTRACTOR
    _refuse(
        path, column, not_people, "the row of tracks_test_info.mat is a distractor or junk, not an identity", "entry"
    )
    return rows - 1


def _refuse(
    path: Path,
    table: Int64[np.ndarray, "rows columns"],
    bad: Bool[np.ndarray, " rows"],
    why: str,
    noun: str = "row",
) -> None:
    """Raises DataError for the first bad row."""
    if bad.any():
        at = int(bad.argmax())
        raise DataError(f"{path}: {noun} {at + 1} {table[at].tolist()}: {why}")


MARS = DataSet(
    title="MARS",
    read=lambda root, fold: read_mars(root),
    recognises=lambda root: any((root / "info" / name).is_file() for name in INFO_FILES),
    protocol="mars",
    published={
        "train": Counts(625, 8_298, 509_914),
        "query": Counts(626, 1_980, 114_493),
        "gallery": Counts(620, 9_330, 543_216),
    },
    frame_folders=FRAME_FOLDERS,
    lists=tuple(f"info/{name}" for name in INFO_FILES),
)
