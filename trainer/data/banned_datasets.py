"""Data sets that their authors withdrew; they are recognised to be refused."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from trainer.errors import DataError

PARTS = ("train", "query", "gallery")
# 0001_C6_F0099_X30823.jpg, in older copies without underscores; D in place of X marks a distractor.
FRAME = re.compile(r"[0-9]{4}_?C[1-8]_?F[0-9]{4}_?[XD][0-9]+\.jpg")
LOOKED_AT = 3  # entries of a folder


def refuse_withdrawn(root: Path) -> None:
    """Nothing, unless the folder looks like DukeMTMC-VideoReID (Wu et al. 2018, CVPR), or holds it.

    Looks at a few names only: PART/IDENTITY/TRACKLET/FRAME with frames such as 0001_C6_F0099_X30823.jpg.

    Raises:
        DataError: it does; says why it is not supported.
    """
    for folder in (root, root / "DukeMTMC-VideoReID"):
        if any(FRAME.fullmatch(name) for part in PARTS for name in _names_below(folder / part)):
            raise DataError(
                f"{folder}: this is DukeMTMC-VideoReID, which its authors withdrew in 2019 to protect the privacy of "
                "the people in it; it is not supported, use another data set"
            )


def _names_below(part: Path) -> Iterator[str]:
    """Names of the first frames of the first tracklets of the first identities."""
    for identity in _first_entries(part):
        for tracklet in _first_entries(part / identity):
            yield from _first_entries(part / identity / tracklet)


def _first_entries(folder: Path) -> list[str]:
    """A few names; none where it is no folder or cannot be read, which its reader will say."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in islice(entries, LOOKED_AT)]
    except OSError:
        return []
