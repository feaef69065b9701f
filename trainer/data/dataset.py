"""Tracklets and their splits, and the description of a published data set: layout, protocol, counts."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Self

from trainer.errors import DataError
from trainer.files import open_regular
from trainer.formatting import one_line, shortened

ALL_CAMERAS = "see that the data set holds all its cameras"  # advice beside `seen_by_one_camera`
DISTRACTOR, JUNK = 0, -1  # numbers of what is not a person, as in MARS
NO_CAMERA = -1  # camera of every tracklet of a data set that does not tell cameras apart
MEMBER = 10**9  # identities and cameras of the n-th member of a joined data set are numbered from n times this on
TRUTH = "synth_truth.json"  # in info/ of a generated data set
LOOKED_AT = 100  # entries of a folder that are looked at
ProtocolName = Literal["mars", "mars_official", "mars_query_in_gallery", "prid", "no_camera"]
Precision = Literal["standard", "mars_official"]


class NamedNumber(int):
    """The number of an identity or a camera that prints as the text by which its data set knows it."""

    name: str
    """The text as it is, line breaks and all."""

    def __new__(cls, number: int, name: str) -> Self:
        """The number with its text."""
        made = super().__new__(cls, number)
        made.name = name
        return made

    def __getnewargs__(self) -> tuple[int, str]:  # type: ignore[override]  # copied and pickled with its text
        return int(self), self.name

    def __str__(self) -> str:
        return one_line(shortened(self.name))

    def __format__(self, specification: str) -> str:
        return format(str(self), specification)


def named(number: int, names: Mapping[int, str]) -> int:
    """The number, with its name if it has one."""
    return NamedNumber(number, names[number]) if number in names else number


def names_of(numbers: Iterable[int]) -> dict[int, str]:
    """The names of those numbers that have one, by number."""
    return {int(number): number.name for number in numbers if isinstance(number, NamedNumber)}


class Tracklet(NamedTuple):
    """Frames of one identity walking past one camera."""

    frames: Sequence[str]
    """Paths of the frames, in temporal order: a tuple, or what is equal to one."""
    identity: int
    """Identity as the data set numbers it; 0 is a distractor, -1 is junk. A `NamedNumber` where it has a name."""
    camera: int
    """Camera as the data set numbers it, or `NO_CAMERA`. A `NamedNumber` where it has a name."""


class Splits(NamedTuple):
    """The published parts of a data set. The gallery holds neither queries nor junk."""

    train: tuple[Tracklet, ...]
    query: tuple[Tracklet, ...]
    gallery: tuple[Tracklet, ...]


class Pair(NamedTuple):
    """Two tracklets of a data set's own list of pairs, by which networks are judged to tell identities apart."""

    first: Tracklet
    second: Tracklet
    fold: int
    """The partition that tests it, from 0."""

    @property
    def same(self) -> bool:
        """Whether both show the same identity."""
        return self.first.identity == self.second.identity


class Protocol(NamedTuple):
    """A ranking protocol: which gallery is searched, and how precision is averaged."""

    queries_in_gallery: bool
    """Whether the queries stand in the gallery; none matches itself, as its own camera is left out."""
    precision: Precision
    """How precision is averaged, see `trainer.evaluation.metrics.evaluate_ranking`."""
    about: str
    """Where it comes from, in a few words."""


# Metrics under different protocols must not be compared: on the same embeddings they differ by points.
PROTOCOLS: dict[ProtocolName, Protocol] = {
    "mars": Protocol(False, "standard", "gallery without the queries; the paper, deep-person-reid"),
    "mars_official": Protocol(True, "mars_official", "queries in the gallery, trapezoidal precision; the MARS authors"),
    "mars_query_in_gallery": Protocol(True, "standard", "queries in the gallery; AP3D, TKP, STE-NVAN"),
    "prid": Protocol(
        False, "standard", "one query and one gallery tracklet per identity; mAP is the mean reciprocal rank"
    ),
    "no_camera": Protocol(
        False, "standard", "cross-tracklet: cameras are not known, nothing is left out of the gallery but the query"
    ),
}


def protocol_for(tracklets: Sequence[Tracklet], protocol: ProtocolName) -> ProtocolName:
    """The protocol under which a ranking of the tracklets counts: `no_camera` where their cameras are not known."""
    return "no_camera" if any(tracklet.camera == NO_CAMERA for tracklet in tracklets) else protocol


class Counts(NamedTuple):
    """Size of a part of a data set; None where nothing was published."""

    identities: int | None
    """Identities, distractors not counted."""
    tracklets: int | None
    frames: int | None


@dataclass(frozen=True)
class DataSet:
    """A published data set; calling it with its folder reads it."""

    title: str
    """Name in its paper."""
    read: Callable[[Path, int], Splits]
    """Reads the partition with this number, from 0; see `__call__`."""
    recognises: Callable[[Path], bool]
    """Whether a folder looks like this data set; a look at a few names, never an error."""
    protocol: ProtocolName
    """Protocol under which its metrics are usually published."""
    published: Mapping[str, Counts]
    """What each partition holds, by part: train, query, gallery, or "all" for the three together. Empty for data of
    one's own, whose results never stand beside published ones."""
    folds: int = 1
    """Number of published partitions."""
    frame_folders: tuple[str, ...] = ()
    """Folders of its frames, by which it is recognised if its lists are missing."""
    lists: tuple[str, ...] = ()
    """The files below its folder whose bytes decide what `read` gives; empty where that looks into folders, too."""
    pairs: Callable[[Path], tuple[Pair, ...]] | None = None
    """Reads its list of pairs, of all partitions; None where it has none."""
    tested: bool = True
    """Whether it has a test part; joined data sets are for training only."""

    @property
    def own(self) -> bool:
        """Whether it is data of one's own: nothing is published of it."""
        return not self.published

    def __call__(self, root: Path, fold: int = 0) -> Splits:
        """The tracklets below the folder `root`; frames are not opened.

        Raises:
            DataError: a file is missing, damaged or disagrees with another; names the file.
        """
        assert 0 <= fold < self.folds, fold
        return self.read(root, fold)


def same_view(one: Tracklet, other: Tracklet) -> bool:
    """Whether both show the same identity by the same camera, so that neither counts as found by the other.

    Two tracklets of unknown cameras never do (`NO_CAMERA`).
    """
    return one.identity == other.identity and one.camera == other.camera != NO_CAMERA


def seen_by_one_camera(tracklets: Sequence[Tracklet]) -> str | None:
    """Why no identity can be found again by another camera, as half a sentence; None if one can.

    Where cameras are not known, one can be found again if it has two tracklets.
    """
    cameras: defaultdict[int, set[int]] = defaultdict(set)
    seen: Counter[int] = Counter()
    for tracklet in tracklets:
        if tracklet.identity > DISTRACTOR:
            cameras[tracklet.identity].add(tracklet.camera)
            seen[tracklet.identity] += tracklet.camera == NO_CAMERA
    if any(len(of_identity) > 1 for of_identity in cameras.values()) or any(count > 1 for count in seen.values()):
        return None
    if not cameras:
        return "there is no identity"
    if any(seen.values()):
        return "every identity has one tracklet only"
    if len(all_cameras := set().union(*cameras.values())) == 1:
        return f"every identity is seen by camera {all_cameras.pop()} only"
    return "every identity is seen by one camera only"


def fingerprint(train: Sequence[Tracklet]) -> str:
    """SHA-256 in hex over identity, camera, length and the outer frames' base names of every tracklet.

    Identities and cameras count by their names where they have any. Folders do not count, so a data set that was moved
    keeps its fingerprint.
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
    known = [number.name if isinstance(number, NamedNumber) else number for number in (identity, camera)]
    return json.dumps([*known, len(frames), *ends]).encode() + b"\n"


def read_bounded(path: Path, limit: int, what: str) -> bytes:
    """Content of a file that comes from elsewhere.

    Raises:
        DataError: it cannot be read, is no regular file, or has more than `limit` bytes and so is not `what`.
    """
    try:
        with open_regular(path) as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if len(content) > limit:
        raise DataError(f"{path}: more than {limit} bytes; this is not {what}")
    return content


def names_in(folder: Path) -> list[str]:
    """Names of what the folder holds; a DataError where it cannot be read."""
    try:
        return os.listdir(folder)  # noqa: PTH208 - names only, five times faster than Path.iterdir
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from error


def contents(folder: Path, example: str | None = None) -> str:
    """Half a sentence on what a folder holds; `example` is a name that was looked for and not found."""
    try:
        entries = sorted(folder.iterdir())
        kinds = {entry.is_dir() for entry in entries[:LOOKED_AT]}
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if not entries:
        return "is empty"
    kind = "entries" if len(kinds) > 1 else "folders" if kinds.pop() else "files"
    none = "" if example is None else f", none named like {example}"
    return f"holds {len(entries):,} {kind}{none}; the first is {one_line(shortened(entries[0].name))}"
