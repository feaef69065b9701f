"""What `reidsearch data check` finds out about a data set."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from trainer.data import READERS, Tracklet
from trainer.data.synthetic import is_synthetic
from trainer.data.tracklets import fingerprint


class PartCounts(NamedTuple):
    """Size of a part of a data set."""

    persons: int
    """Identities, distractors not counted."""
    tracklets: int
    frames: int


class DataSetCheck(NamedTuple):
    """A data set whose lists agree."""

    folder: str
    synthetic: bool
    train: PartCounts
    query: PartCounts
    gallery: PartCounts
    queries_without_match: int
    """Queries that the standard protocol drops: no tracklet of the person by another camera in the gallery."""
    fingerprint: str
    """SHA-256 over the training tracklets."""
    seconds: float

    def text(self) -> str:
        """The findings for people."""
        rows = [
            f"ok   {self.folder}" + ("  SYNTHETIC" if self.synthetic else ""),
            *(
                f"ok   {name:<8} {part.persons:>5} persons {part.tracklets:>6} tracklets {part.frames:>8} frames"
                for name, part in (("train", self.train), ("query", self.query), ("gallery", self.gallery))
            ),
            f"note {self.queries_without_match} queries have no match by another camera in the gallery; "
            "the standard protocol drops them",
            f"     training tracklets sha256:{self.fingerprint[:16]}   read in {self.seconds:.1f} s",
        ]
        return "\n".join(rows)


def check_mars(folder: Path) -> DataSetCheck:
    """Reads the lists of a data set in the layout of MARS.

    Raises:
        DataError: a list is missing, damaged, or disagrees with another; names the file.
    """
    began = time.monotonic()
    splits = READERS["mars"](folder)
    seen: dict[int, set[int]] = {}
    for tracklet in splits.gallery:
        seen.setdefault(tracklet.person, set()).add(tracklet.camera)
    dropped = sum(not seen.get(query.person, set()) - {query.camera} for query in splits.query)
    return DataSetCheck(
        folder=str(folder),
        synthetic=is_synthetic(folder),
        train=_counts(splits.train),
        query=_counts(splits.query),
        gallery=_counts(splits.gallery),
        queries_without_match=dropped,
        fingerprint=fingerprint(splits.train),
        seconds=time.monotonic() - began,
    )


def _counts(part: Sequence[Tracklet]) -> PartCounts:
    persons = {tracklet.person for tracklet in part if tracklet.person > 0}
    return PartCounts(len(persons), len(part), sum(len(tracklet.frames) for tracklet in part))
