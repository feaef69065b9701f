"""What every data set is read into."""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

ALL_CAMERAS = "see that the data set holds all its cameras"  # advice where `seen_by_one_camera`
DISTRACTOR, JUNK = 0, -1  # identities that are no identity, as MARS numbers them


class Tracklet(NamedTuple):
    """One identity walking past one camera."""

    frames: tuple[str, ...]
    """Paths of the frames, in temporal order."""
    identity: int
    """Identity as the data set numbers it; 0 is a distractor, -1 is junk."""
    camera: int
    """Camera as the data set numbers it."""


class Splits(NamedTuple):
    """The published parts of a data set. The gallery holds neither queries nor junk."""

    train: tuple[Tracklet, ...]
    query: tuple[Tracklet, ...]
    gallery: tuple[Tracklet, ...]


def seen_by_one_camera(tracklets: Sequence[Tracklet]) -> str | None:
    """Why nobody can be found again by another camera, as half a sentence; None where somebody can."""
    cameras: defaultdict[int, set[int]] = defaultdict(set)
    for tracklet in tracklets:
        if tracklet.identity > DISTRACTOR:
            cameras[tracklet.identity].add(tracklet.camera)
    if any(len(of_identity) > 1 for of_identity in cameras.values()):
        return None
    if len(all_cameras := set().union(*cameras.values())) == 1:
        return f"every identity is seen by camera {all_cameras.pop()} only"
    return "every identity is seen by one camera only"


def fingerprint(train: Sequence[Tracklet]) -> str:
    """SHA-256 in hex over identity, camera, length and the outer frames' base names of every tracklet.

    Folders do not count, so a data set that was moved keeps its fingerprint.
    """
    digest = hashlib.sha256()
    for tracklet in train:
        digest.update(_line(tracklet))
    return digest.hexdigest()


def dataset_fingerprint(splits: Splits) -> str:
    """As `fingerprint`, over the training, query and gallery tracklets, and which part each belongs to."""
    digest = hashlib.sha256()
    for part, tracklets in splits._asdict().items():
        digest.update(json.dumps([part, len(tracklets)]).encode() + b"\n")
        for tracklet in tracklets:
            digest.update(_line(tracklet))
    return digest.hexdigest()


def _line(tracklet: Tracklet) -> bytes:
    frames, identity, camera = tracklet
    ends = [os.path.basename(frame) for frame in (frames[0], frames[-1])]  # noqa: PTH119 - 5x Path
    return json.dumps([identity, camera, len(frames), *ends]).encode() + b"\n"
