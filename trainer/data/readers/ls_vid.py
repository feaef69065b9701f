"""LS-VID (Li et al. 2019, ICCV): lists of tracklets, 15 cameras.

Layout: ROOT/list_sequence/list_seq_{train,test}.txt with lines "PREFIX IDENTITY", PREFIX being the folder below ROOT
and the beginning of the names of a tracklet's frames; ROOT/test/data/info_test.mat, a MATLAB v7.3 file whose
`query` holds lines of the test list, counted from 1. The third of the parts that "_" cuts a frame's name into is the
camera. Public loaders were the source; the data itself is given on request only and was not seen.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from trainer.data.dataset import JUNK, Counts, DataSet, Splits, Tracklet, contents, read_bounded
from trainer.data.readers.matlab import read_matrix
from trainer.errors import DataError

TRAIN_LIST = "list_sequence/list_seq_train.txt"
TEST_LIST = "list_sequence/list_seq_test.txt"
QUERY_FILE = "test/data/info_test.mat"
VARIABLE = "query"
CAMERAS = 15
STEP = r"[A-Za-z0-9_-][A-Za-z0-9_.-]*"
ROW = re.compile(rf"((?:{STEP}/)+)({STEP})[ \t]+(-1|[0-9]{{1,8}})[ \t]*")
IMAGE = re.compile(r"(?!\.).*\.(?:jpg|png)", re.DOTALL)
FRAME = re.compile(r"[A-Za-z0-9]+_[A-Za-z0-9]+_([0-9]{1,4})_[A-Za-z0-9_.-]*")
MAX_LIST_BYTES = 16 * 2**20  # the published lists hold well below one


class _Row(NamedTuple):
    """A line of a list."""

    place: str
    """File and line, as messages name it."""
    folder: str
    """Below the root, with a slash at its end."""
    stem: str
    """What the names of the frames begin with."""
    identity: int


def read_ls_vid(root: Path) -> Splits:
    """The published training, query and gallery tracklets.

    The gallery is every test tracklet that is neither query nor junk (identity -1). The published validation identities
    are left out, as everywhere. Identities are numbered as listed, or one up if the lists count them from 0, which is
    the number of distractors here. Folders are listed, frames are not opened.

    Raises:
        DataError: a file is missing, damaged or disagrees with another.
    """
    _check_files(root)
    train, test = _read_list(root / TRAIN_LIST), _read_list(root / TEST_LIST)
    _check_identities(train, test)
    queries = _query_places(root / QUERY_FILE, test)
    count_from_0 = any(row.identity == 0 for row in (*train, *(test[place] for place in queries)))
    folders = _Folders(root, shift=int(count_from_0))
    asked = set(queries)
    return Splits(
        train=tuple([folders.tracklet(row) for row in train]),
        query=tuple([folders.tracklet(test[place]) for place in queries]),
        gallery=tuple(
            [folders.tracklet(row) for place, row in enumerate(test) if place not in asked and row.identity != JUNK]
        ),
    )


def _check_files(root: Path) -> None:
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; data.root must be the folder that holds LS-VID's list_sequence/")
    for name in (TRAIN_LIST, TEST_LIST, QUERY_FILE):
        if not (root / name).is_file():
            raise DataError(
                f"{root / name}: no such file; data.root must be the folder that holds LS-VID's list_sequence/ and "
                f"{QUERY_FILE}"
            )


def _read_list(path: Path) -> list[_Row]:
    text = read_bounded(path, MAX_LIST_BYTES, "a list of tracklets").replace(b"\r\n", b"\n").rstrip(b"\n")
    lines = text.decode("ascii", "backslashreplace").split("\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        found = ROW.fullmatch(line)
        if found is None:
            raise DataError(
                f"{path}: line {number}: {line[:60]!r} is not a tracklet and its identity like "
                "'tracklet_train/0001/0001_0001_01_ 1'; copy the file again"
            )
        rows.append(_Row(f"{path}: line {number}", found[1], found[2], int(found[3])))
    return rows


def _check_identities(train: Sequence[_Row], test: Sequence[_Row]) -> None:
    """Training identities are identities, and none of them is tested on."""
    tested = {row.identity for row in test}
    for row in train:
        if row.identity == JUNK:
            raise DataError(f"{row.place}: junk does not belong to the training tracklets; copy the file again")
        if row.identity in tested:
            raise DataError(f"{row.place}: identity {row.identity} is a test identity, too; copy the lists again")


def _query_places(path: Path, test: Sequence[_Row]) -> list[int]:
    """Places of the queries in the test list, counted from 0."""
    table = read_matrix(path, VARIABLE)
    if 1 not in table.shape or not table.size:
        raise DataError(f"{path}: {VARIABLE} has shape {table.shape}; [1 queries] is expected, at least one query")
    places: dict[int, int] = {}
    for entry, line in enumerate(table.ravel().tolist(), start=1):
        if not 1 <= line <= len(test):
            raise DataError(f"{path}: entry {entry}: {line}; lines of {Path(TEST_LIST).name} are 1 to {len(test)}")
        if test[line - 1].identity == JUNK:
            raise DataError(f"{path}: entry {entry}: line {line} of {Path(TEST_LIST).name} is junk, not an identity")
        if places.setdefault(line - 1, entry) != entry:
            raise DataError(f"{path}: entry {entry}: {line} is listed before, in entry {places[line - 1]}")
    return list(places)


class _Folders:
    """The folders of frames, each listed once: one search of the disk per tracklet would take minutes."""

    def __init__(self, root: Path, shift: int) -> None:
        self._root = root
        self._shift = shift
        self._names: dict[str, list[str]] = {}
        self._taken: dict[str, set[str]] = {}

    def tracklet(self, row: _Row) -> Tracklet:
        """The frames of a line of a list, in the order of their names, which is that in time."""
        names = list(_beginning_with(row.stem, self._listed(row)))
        if not names:
            place = self._root / row.folder
            raise DataError(
                f"{place / row.stem}*: no such frames, but {row.place} lists them; the folder "
                f"{contents(place, f'{row.stem}*.jpg')}"
            )
        taken = self._taken.setdefault(row.folder, set())
        if not taken.isdisjoint(names):
            raise DataError(f"{row.place}: {row.folder}{row.stem}: the frames belong to another line, too")
        taken.update(names)
        folder = os.fspath(self._root / row.folder) + os.sep
        camera = _camera(names, folder)
        identity = row.identity if row.identity == JUNK else row.identity + self._shift
        return Tracklet(tuple([folder + name for name in names]), identity, camera)

    def _listed(self, row: _Row) -> list[str]:
        """Sorted names of the images in the row's folder."""
        if row.folder not in self._names:
            folder = self._root / row.folder
            try:
                names = os.listdir(folder)  # noqa: PTH208 - names only, five times faster than Path.iterdir
            except OSError as error:
                raise DataError(f"{folder}: cannot be read ({error.strerror}), but {row.place} lists it") from error
            self._names[row.folder] = sorted(filter(IMAGE.fullmatch, names))
        return self._names[row.folder]


def _beginning_with(stem: str, names: Sequence[str]) -> Iterator[str]:
    """The sorted names that begin with the stem; if it ends in a number, the number does not go on: 1 is not 10."""
    start = bisect_left(names, stem)
    found = takewhile(lambda name: name.startswith(stem), (names[place] for place in range(start, len(names))))
    return (name for name in found if not (stem[-1:].isdigit() and name[len(stem) : len(stem) + 1].isdigit()))


def _camera(names: Sequence[str], folder: str) -> int:
    cameras = {}
    for name in names:
        found = FRAME.fullmatch(name)
        if found is None or not 1 <= int(found[1]) <= CAMERAS:
            raise DataError(
                f"{folder}{name!a}: not the name of a frame, such as 0001_0001_01_0001.jpg with cameras 1 to {CAMERAS} "
                "in the third part"
            )
        cameras[int(found[1])] = name
    if len(cameras) > 1:
        raise DataError(f"{folder}{' and '.join(cameras.values())}: one tracklet, but of two cameras")
    return next(iter(cameras))


LS_VID = DataSet(
    title="LS-VID",
    read=lambda root, fold: read_ls_vid(root),
    recognises=lambda root: any((root / name).is_file() for name in (TRAIN_LIST, TEST_LIST)),
    protocol="mars",
    published={
        "train": Counts(842, 2_831, None),
        "query": Counts(None, 3_504, None),
        "gallery": Counts(None, 7_829, None),
    },
    frame_folders=("tracklet_train", "tracklet_test"),
)
