"""What an import writes: tracklets, and where each of their frames comes from."""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from trainer.data.frames import Box

UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
MAX_NAME = 40  # characters of a folder's name
EDGE = 2**20  # bytes at either end of a file that its stamp depends on


class Cut(NamedTuple):
    """A part of a frame of a video, or of a folder of frames."""

    source: Path
    frame: int
    """Place of the frame in its video, or of its file in the sorted folder, from 0."""
    box: Box
    """Lies in the frame."""


class PlannedTracklet(NamedTuple):
    """A tracklet that is to be written."""

    identity: str
    camera: str | None
    """None where cameras are not known."""
    name: str
    frames: tuple[Path | Cut, ...]
    """In temporal order: image files, which are copied as they are, or parts of larger pictures; at least one."""


class ImportPlan(NamedTuple):
    """All that is to be written, found before anything is."""

    tracklets: tuple[PlannedTracklet, ...]
    stamp: str
    """Digest of what the sources hold, in hex; other sources have another one."""
    notes: tuple[str, ...]
    """What was left out, a line each."""


def cleaned(text: str) -> str:
    """The text as the table's reader takes it: without spaces around it, its accents composed."""
    return unicodedata.normalize("NFC", text.strip())


def safe_names(texts: Iterable[str]) -> Iterator[str]:
    """A name for each text that any file system takes; no two are alike, also where case does not count."""
    taken: set[str] = set()
    for text in texts:
        stem = UNSAFE.sub("_", text)[-MAX_NAME:].strip("_") or "x"
        name, number = stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        yield name


def crop_folders(tracklets: Sequence[PlannedTracklet]) -> list[str]:
    """The folder of each tracklet's frames, below that of the import: crops/IDENTITY[/CAMERA]/TRACKLET."""
    identities = _folder_by_text(each.identity for each in tracklets)
    cameras = _folder_by_text(each.camera for each in tracklets if each.camera is not None)
    above = [
        f"crops/{identities[each.identity]}" + ("" if each.camera is None else f"/{cameras[each.camera]}")
        for each in tracklets
    ]
    inside: defaultdict[str, list[str]] = defaultdict(list)
    for folder, each in zip(above, tracklets, strict=True):
        inside[folder].append(each.name)
    names = {folder: safe_names(texts) for folder, texts in inside.items()}
    return [f"{folder}/{next(names[folder])}" for folder in above]


def _folder_by_text(texts: Iterable[str]) -> dict[str, str]:
    distinct = list(dict.fromkeys(texts))
    return dict(zip(distinct, safe_names(distinct), strict=True))


def frame_names(tracklet: PlannedTracklet) -> Iterator[str]:
    """Names of the files that a tracklet's frames are written to."""
    for number, frame in enumerate(tracklet.frames, start=1):
        yield f"{number:06d}{'.jpg' if isinstance(frame, Cut) else frame.suffix.lower()}"


def stamp(paths: Iterable[Path]) -> str:
    """Digest of the files' names, sizes and ends; whole videos would take minutes to read."""
    digest = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size
        digest.update(json.dumps([os.fsencode(path.name).hex(), size]).encode())
        with path.open("rb") as file:
            digest.update(file.read(EDGE))
            if size > 2 * EDGE:
                file.seek(-EDGE, os.SEEK_END)
            digest.update(file.read(EDGE))
    return digest.hexdigest()


def stamp_of_sizes(paths: Iterable[Path]) -> str:
    """Digest of the files' names and sizes, for many small ones."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(json.dumps([os.fsencode(path).hex(), path.stat().st_size]).encode())
    return digest.hexdigest()
