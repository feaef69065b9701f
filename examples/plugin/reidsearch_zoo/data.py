"""A data set of animals: ROOT/PART/ANIMAL_CAMERA_TRACKLET/FRAME.jpg, where PART is train, query or gallery."""

from __future__ import annotations

import re
from pathlib import Path

from trainer.data import DataSet, Splits, Tracklet
from trainer.errors import DataError

NAME = re.compile(r"(?P<animal>[^_]+)_(?P<camera>[0-9]{1,4})_[^_]+")


def read_zoo(root: Path, fold: int) -> Splits:
    """The tracklets below `root`; frames are not opened.

    Raises:
        DataError: a folder is missing, empty, or has another kind of name.
    """
    animals: dict[str, int] = {}
    parts = {part: _read_part(root / part, animals) for part in ("train", "query", "gallery")}
    return Splits(**parts)


def _read_part(folder: Path, animals: dict[str, int]) -> tuple[Tracklet, ...]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    tracklets = []
    for path in sorted(folder.iterdir()):
        found = NAME.fullmatch(path.name)
        frames = tuple(map(str, sorted(path.glob("*.jpg"))))
        if found is None or not frames:
            raise DataError(f"{path}: is no folder ANIMAL_CAMERA_TRACKLET with frames")
        # Identities are numbers from 1, as 0 and -1 have meanings of their own.
        identity = animals.setdefault(found["animal"], len(animals) + 1)
        tracklets.append(Tracklet(frames, identity, int(found["camera"])))
    return tuple(tracklets)


ZOO = DataSet(
    title="Zoo",
    read=read_zoo,
    recognises=lambda root: (root / "train").is_dir() and (root / "query").is_dir(),
    protocol="mars",
    published={},
)
