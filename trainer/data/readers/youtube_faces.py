"""YouTube Faces (Wolf, Hassner and Maoz 2011, CVPR): videos of faces, no cameras, and a list of pairs in ten folds.

Layout: ROOT/aligned_images_DB/IDENTITY/VIDEO/aligned_detect_VIDEO.FRAME.jpg, or, where it is missing, whole frames
ROOT/frame_images_DB/IDENTITY/VIDEO/VIDEO.FRAME.jpg; and ROOT/splits.txt, a header and lines "FOLD, PAIR,
IDENTITY/VIDEO, IDENTITY/VIDEO, SAME" with folds and pairs counted from 1 and SAME 1 or 0; PAIR may be missing. No
identity is in two folds. A copy of the published list and public loaders were the source; the frames were not seen.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from trainer.data.dataset import (
    NO_CAMERA,
    Counts,
    DataSet,
    NamedNumber,
    Pair,
    Splits,
    Tracklet,
    contents,
    names_in,
    read_bounded,
)
from trainer.errors import DataError
from trainer.formatting import shown

FOLDERS = ("aligned_images_DB", "frame_images_DB")
LIST = "splits.txt"
FOLDS = 10
VIDEO = re.compile(r"[0-9]{1,9}")
FRAME = re.compile(r"(?:aligned_detect_)?([0-9]{1,9})\.([0-9]{1,9})\.jpg")
NUMBER = re.compile(r"\s*[0-9]+\s*")
ROW = re.compile(
    rf"\s*([0-9]{{1,9}})\s*,(?:{NUMBER.pattern},)?\s*([^,/]+/[0-9]+)\s*,\s*([^,/]+/[0-9]+)\s*,\s*([01])\s*"
)
EXAMPLE = "'1, 7, Ann/0, Ann/2, 1' (fold, pair, two videos, 1 for the same identity or 0)"
MAX_LIST_BYTES = 16 * 2**20  # the published list holds 0.2 MB
AGAIN = "copy the file again"


class _Row(NamedTuple):
    """A line of the list."""

    fold: int
    """From 0."""
    first: str
    """Name of a video, IDENTITY/VIDEO."""
    second: str

    @property
    def identities(self) -> tuple[str, str]:
        """Of both videos."""
        return _identity(self.first), _identity(self.second)


def read_youtube_faces(root: Path, fold: int) -> Splits:
    """The videos as tracklets: those of the identities in a fold's pairs are tested, all others are trained on.

    The query is the first video of each tested identity that has several. Identities are numbered from 1 in the order
    of their names.

    Raises:
        DataError: a folder or the list is missing or damaged, or they disagree.
    """
    videos, rows = _read(root)
    tested = {identity for row in rows if row.fold == fold for identity in row.identities}
    parts: dict[str, list[Tracklet]] = {part: [] for part in Splits._fields}
    by_identity: dict[str, list[Tracklet]] = {}
    for name, video in videos.items():
        by_identity.setdefault(_identity(name), []).append(video)
    for identity, shown_in in by_identity.items():
        if identity not in tested:
            parts["train"] += shown_in
        else:
            queries = 1 if len(shown_in) > 1 else 0
            parts["query"] += shown_in[:queries]
            parts["gallery"] += shown_in[queries:]
    return Splits(*map(tuple, parts.values()))


def read_pairs(root: Path) -> tuple[Pair, ...]:
    """The listed pairs of videos, in the order of the list.

    Raises:
        DataError: as `read_youtube_faces`.
    """
    videos, rows = _read(root)
    return tuple(Pair(videos[row.first], videos[row.second], row.fold) for row in rows)


def _read(root: Path) -> tuple[dict[str, Tracklet], list[_Row]]:
    """The videos by their names, and the list."""
    needed = f"data.root must be the folder that holds YouTube Faces' {FOLDERS[0]}/ and {LIST}"
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; {needed}")
    images = next((root / folder for folder in FOLDERS if (root / folder).is_dir()), None)
    if images is None:
        raise DataError(f"{root / FOLDERS[0]}: no such folder, nor {FOLDERS[1]}/; {needed}")
    if not (root / LIST).is_file():
        raise DataError(f"{root / LIST}: no such file; {needed}")
    videos = dict(_videos(images))
    return videos, _read_list(root / LIST, images, videos)


def _videos(images: Path) -> Iterator[tuple[str, Tracklet]]:
    """Name and frames of every video, sorted by identity and number; frames are not opened."""
    unknown = NamedNumber(NO_CAMERA, "unknown")
    identities = [name for name in sorted(names_in(images)) if name[0] != "." and (images / name).is_dir()]
    for number, identity in enumerate(identities, start=1):
        folder = images / identity
        numbers = sorted(filter(VIDEO.fullmatch, names_in(folder)), key=int)
        if not numbers:
            raise DataError(f"{folder}: {contents(folder, '0')}; unpack YouTube Faces again, or remove this folder")
        for video in numbers:
            yield f"{identity}/{video}", Tracklet(_frames(folder / video), NamedNumber(number, identity), unknown)


def _frames(folder: Path) -> tuple[str, ...]:
    """The frames of a video by their numbers, which are written without leading zeros."""
    found = [named for name in names_in(folder) if (named := FRAME.fullmatch(name)) and named[1] == folder.name]
    if not found:
        raise DataError(
            f"{folder}: {contents(folder, f'aligned_detect_{folder.name}.1.jpg')}; unpack YouTube Faces again"
        )
    prefix = os.fspath(folder) + os.sep
    return tuple([prefix + named[0] for named in sorted(found, key=lambda named: (int(named[2]), named[0]))])


def _read_list(path: Path, images: Path, videos: Mapping[str, Tracklet]) -> list[_Row]:
    """The list, every line of it checked against the videos and against those before."""
    text = read_bounded(path, MAX_LIST_BYTES, "a list of pairs").decode("utf-8-sig", "backslashreplace")
    rows: list[_Row] = []
    lines: dict[frozenset[str], int] = {}
    folds: dict[str, tuple[int, int]] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or (number == 1 and not any(map(NUMBER.fullmatch, line.split(",")))):
            continue  # a header holds no number
        place = f"{path}: line {number}"
        row = _row(place, line)
        for name in (row.first, row.second):
            if name not in videos:
                raise DataError(f"{place}: {images} holds no video {shown(name)}; unpack YouTube Faces again")
        if (before := lines.setdefault(frozenset((row.first, row.second)), number)) != number:
            raise DataError(f"{place}: the pair is listed before, in line {before}; {AGAIN}")
        for identity in row.identities:
            fold, before = folds.setdefault(identity, (row.fold, number))
            if fold != row.fold:
                raise DataError(
                    f"{place}: identity {shown(identity)} is in fold {row.fold + 1}, but in line {before} in fold "
                    f"{fold + 1}, and would be trained on where it is tested; {AGAIN}"
                )
        rows.append(row)
    for fold in range(FOLDS):
        kinds = [len({*row.identities}) == 1 for row in rows if row.fold == fold]
        if len(set(kinds)) < 2:
            raise DataError(
                f"{path}: fold {fold + 1} holds {sum(kinds)} pairs of the same identity and "
                f"{len(kinds) - sum(kinds)} of different ones, and each of {FOLDS} folds needs both; {AGAIN}"
            )
    return rows


def _row(place: str, line: str) -> _Row:
    found = ROW.fullmatch(line)
    if found is None:
        fields = line.count(",") + 1
        raise DataError(f"{place}: {shown(line.strip())} ({fields} fields) is not a pair like {EXAMPLE}; {AGAIN}")
    row = _Row(int(found[1]) - 1, found[2], found[3])
    if not 0 <= row.fold < FOLDS:
        raise DataError(f"{place}: fold {row.fold + 1}, but folds are 1 to {FOLDS}; {AGAIN}")
    if row.first == row.second:
        raise DataError(f"{place}: {shown(row.first)} is paired with itself; {AGAIN}")
    one, other = row.identities
    if (one == other) != (found[4] == "1"):
        said = "the same identity" if found[4] == "1" else "different identities"
        raise DataError(f"{place}: {shown(row.first)} and {shown(row.second)} are listed as {said}; {AGAIN}")
    return row


def _identity(video: str) -> str:
    return video.rpartition("/")[0]


YOUTUBE_FACES = DataSet(
    title="YouTube Faces",
    read=read_youtube_faces,
    recognises=lambda root: any((root / folder).is_dir() for folder in FOLDERS),
    protocol="no_camera",
    published={"all": Counts(1_595, 3_425, None)},
    folds=FOLDS,
    pairs=read_pairs,
)
