"""The manifest of a data set: every tracklet and the size of every frame, to see later what changed.

JSON lines: a header, then a line per tracklet. It holds neither times nor absolute paths, so equal data sets have
equal manifests wherever they lie.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import ValidationError

from trainer.data.dataset import Splits, Tracklet, dataset_fingerprint, read_bounded
from trainer.data.pack import HEADER, packed_data_set
from trainer.data.statistics import PartCounts, part_counts
from trainer.errors import DataError
from trainer.files import write_atomically
from trainer.formatting import one_line, shortened
from trainer.settings import FrozenConfig

MANIFEST = "reidsearch_manifest.jsonl"
MAX_BYTES = 2**28  # MARS's holds 6 MB
ABSENT = -1  # size of a frame that is not there; such manifests are compared, never written


class ManifestLine(FrozenConfig):
    """A tracklet."""

    parts: tuple[str, ...]
    """train, query, gallery; several where the partitions of the data set put it into several."""
    identity: int
    camera: int
    first: str
    """Its first frame, from the data set's folder on."""
    sizes: tuple[int, ...]
    """Bytes of its frames."""


class ManifestHeader(FrozenConfig):
    """The first line."""

    version: Literal[2] = 2
    """Of the layout of the file."""
    data_set: str
    """Key of `READERS`."""
    fingerprints: tuple[str, ...]
    """`dataset_fingerprint` of each partition."""
    counts: dict[str, PartCounts]
    """Of partition 0, by part."""
    tracklets: int
    """Lines that follow."""
    frames: int
    bytes: int
    sha256: str
    """Digest of all lines that follow."""


class Manifest(NamedTuple):
    """What the file says."""

    header: ManifestHeader
    lines: Mapping[str, ManifestLine]
    """By first frame."""


class Filed(NamedTuple):
    """A tracklet, and the parts it belongs to."""

    tracklet: Tracklet
    parts: tuple[str, ...]


def filed_tracklets(partitions: Sequence[Splits]) -> list[Filed]:
    """Every tracklet of the partitions once, in the order of their first appearance."""
    tracklets: dict[str, Tracklet] = {}
    parts: dict[str, dict[str, None]] = {}
    for splits in partitions:
        for part, members in splits._asdict().items():
            for tracklet in members:
                tracklets.setdefault(tracklet.frames[0], tracklet)
                parts.setdefault(tracklet.frames[0], {})[part] = None
    return [Filed(tracklet, tuple(sorted(parts[first]))) for first, tracklet in tracklets.items()]


def make_manifest(
    root: Path, name: str, partitions: Sequence[Splits], filed: Sequence[Filed], sizes: Mapping[str, int]
) -> Manifest:
    """The manifest of the data set, given the bytes of each frame by its path; `ABSENT` where there is no such file."""
    lines = {line.first: line for line in (_line(root, each, sizes) for each in filed)}
    header = ManifestHeader(
        data_set=name,
        fingerprints=tuple(map(dataset_fingerprint, partitions)),
        counts={part: part_counts(members) for part, members in partitions[0]._asdict().items()},
        tracklets=len(lines),
        frames=sum(len(line.sizes) for line in lines.values()),
        bytes=sum(sum(line.sizes) for line in lines.values()),
        sha256=hashlib.sha256(_body(lines).encode()).hexdigest(),
    )
    return Manifest(header, lines)


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Writes the file, whole or not at all; an OSError where it cannot be written."""
    write_atomically(path, _compact(manifest.header) + _body(manifest.lines))


def read_manifest(path: Path) -> Manifest | None:
    """What the file says; None where there is none.

    Raises:
        DataError: it cannot be read, is no manifest, or was changed since it was written.
    """
    if not path.exists():
        return None
    first, *rest = read_bounded(path, MAX_BYTES, "a manifest").split(b"\n")
    try:
        header = ManifestHeader.model_validate_json(first, strict=True)
        intact = hashlib.sha256(b"\n".join(rest)).hexdigest() == header.sha256
        lines = [ManifestLine.model_validate_json(line, strict=True) for line in rest[:-1]] if intact else []
    except ValidationError as error:
        raise DataError(f"{path}: not a manifest of this version; remove it to have it written anew") from error
    by_first = {line.first: line for line in lines}
    if not intact or len(by_first) != header.tracklets:
        raise DataError(f"{path}: changed since it was written; restore it, or remove it to have it written anew")
    return Manifest(header, by_first)


def differences(root: Path, path: Path, now: Manifest, filed: Sequence[Filed]) -> Iterator[str]:
    """What is no longer as the manifest in the file says, a line each that names the frame; nothing if there is none.

    `filed` are the tracklets that `now` was made of.

    Raises:
        DataError: as `read_manifest`.
    """
    before = read_manifest(path)
    if before is None:
        return
    if before.header.data_set != now.header.data_set:
        yield f"{path}: of data set {shortened(one_line(before.header.data_set))}, this is {now.header.data_set}"
        return
    for each, line in zip(filed, now.lines.values(), strict=True):
        yield from _differences(path, each.tracklet, line, before.lines.get(line.first))
    for first in before.lines:
        if first not in now.lines:
            frame = f"{root}/{shortened(one_line(first), 160)}"
            yield f"{frame}: a tracklet starts here by {path}, but no longer by the data set's lists"


def manifest_digest(root: Path) -> str | None:
    """SHA-256 of the data set's manifest, of the index of a packed one; None where there is none yet.

    Equal for equal copies of a data set in whatever folder.
    """
    path = root / (HEADER if packed_data_set(root) else MANIFEST)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _differences(path: Path, tracklet: Tracklet, now: ManifestLine, before: ManifestLine | None) -> Iterator[str]:
    if now == before:
        return
    first = tracklet.frames[0]
    if before is None:
        yield f"{first}: a tracklet starts here by the data set's lists, but not by {path}"
        return
    if (now.identity, now.camera, now.parts) != (before.identity, before.camera, before.parts):
        yield f"{first}: {_owner(now)}, but by {path} {_owner(before)}"
    if len(now.sizes) != len(before.sizes):
        yield f"{first}: its tracklet has {len(now.sizes)} frames, but {len(before.sizes)} by {path}"
        return
    for frame, size, was in zip(tracklet.frames, now.sizes, before.sizes, strict=True):
        if size > 0 and size != was:  # an absent or empty frame is a problem of its own
            yield f"{frame}: {size} bytes, but {was} by {path}"


def _owner(line: ManifestLine) -> str:
    return one_line(f"identity {line.identity}, camera {line.camera}, {shortened(' and '.join(line.parts))}")


def _line(root: Path, each: Filed, sizes: Mapping[str, int]) -> ManifestLine:
    (frames, identity, camera), parts = each
    # The lists are checked already and there are 20,000 tracklets: nothing is validated a second time.
    return ManifestLine.model_construct(
        parts=parts,
        identity=identity,
        camera=camera,
        first=os.path.relpath(frames[0], root).replace(os.sep, "/"),
        sizes=tuple([sizes.get(frame, ABSENT) for frame in frames]),
    )


def _body(lines: Mapping[str, ManifestLine]) -> str:
    return "".join(map(_compact, lines.values()))


def _compact(line: FrozenConfig) -> str:
    return json.dumps(line.model_dump(), separators=(",", ":")) + "\n"
