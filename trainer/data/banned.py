"""Data sets that are refused."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path

from trainer.errors import DataError

# Frames of DukeMTMC-VideoReID, PART/IDENTITY/TRACKLET/0001_C6_F0099_X30823.jpg; in older copies without underscores; D
# in place of X marks a distractor.
BANNED_PARTS = ("train", "query", "gallery")
BANNED_FRAME = re.compile(r"[0-9]{4}_?C[1-8]_?F[0-9]{4}_?[XD][0-9]+\.jpg")
FIRST_FRAMES = 10  # looked at in each part


def refuse_banned(root: Path) -> None:
    """Refuses DukeMTMC-VideoReID (Wu et al. 2018, CVPR), which was withdrawn in 2019; looks at a few names only.

    Raises:
        DataError: the folder looks like it, or holds it.
    """
    for folder in (root, root / "DukeMTMC-VideoReID"):
        frames = (frame for part in BANNED_PARTS for frame in islice((folder / part).glob("*/*/*"), FIRST_FRAMES))
        if any(BANNED_FRAME.fullmatch(frame.name) for frame in frames):
            raise DataError(
                f"{folder}: this is DukeMTMC-VideoReID, which its authors withdrew in 2019 to protect the privacy of "
                "the people in it; it is not supported, use another data set"
            )
