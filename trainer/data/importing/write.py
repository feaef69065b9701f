"""Writes an import: crops, each once and under its name only when it is whole, and then the table."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import simplejpeg
from pydantic import Field, ValidationError

from trainer.data.importing.plan import Cut, ImportPlan, PlannedTracklet, crop_folders, frame_names
from trainer.data.importing.source import ImportOptions, read_source
from trainer.data.importing.video import pictures
from trainer.data.readers.table_file import CSV, Faults
from trainer.errors import DataError
from trainer.files import check_apart, read_regular, write_atomically
from trainer.settings import FrozenConfig

STATE = "import.json"
OnProgress = Callable[[int, int], None]
"""Called with the frames that are written and all frames."""


class ImportSummary(NamedTuple):
    """Size of an import."""

    identities: int
    cameras: int
    tracklets: int
    frames: int
    written: int
    """Frames that were not there before."""
    seconds: float
    notes: tuple[str, ...]
    """What was left out, a line each."""


class _State(FrozenConfig):
    """What a folder is an import of: import.json."""

    version: Literal[1] = 1
    options: ImportOptions
    source: str = Field(pattern="^[0-9a-f]{64}$")
    """Digest of what the sources held."""


def import_data(
    source: Path,
    out: Path,
    options: ImportOptions = ImportOptions(),  # noqa: B008 - frozen
    *,
    progress: OnProgress = lambda done, total: None,
) -> ImportSummary:
    """Writes the tracklets in `source` to `out`, as data set `tracklets`: tracklets.csv, and crops below crops/.

    Everything in the source is checked before anything is written. Interrupted, the same call goes on; the table is
    written last. Nothing outside of `out` is written.

    Raises:
        ConfigError: `out` lies in the source.
        DataError: the source is faulty (a line for each fault), or `out` holds something else, or the import of
            another source, or cannot be written.
    """
    start = time.perf_counter()
    check_apart(out, source)
    plan = read_source(source, options)
    folders = crop_folders(plan.tracklets)
    try:
        _claim(out, _State(options=options, source=_digest(plan)))
        written = _write_frames(out, plan.tracklets, folders, options.quality, progress)
        write_atomically(out / CSV, _table(plan.tracklets, folders))
    except OSError as error:
        raise DataError(f"{error.filename or out}: cannot be written ({error.strerror or error})") from error
    return ImportSummary(
        identities=len({each.identity for each in plan.tracklets}),
        cameras=len({each.camera for each in plan.tracklets} - {None}),
        tracklets=len(plan.tracklets),
        frames=sum(len(each.frames) for each in plan.tracklets),
        written=written,
        seconds=time.perf_counter() - start,
        notes=plan.notes,
    )


def _digest(plan: ImportPlan) -> str:
    """Digest of the sources and of all that is taken from them."""
    digest = hashlib.sha256(plan.stamp.encode())
    for identity, camera, name, frames in plan.tracklets:
        places = [(frame.frame, *frame.box) if isinstance(frame, Cut) else frame.name for frame in frames]
        digest.update(repr((identity, camera, name, places)).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _claim(out: Path, state: _State) -> None:
    """Makes the folder one of this import, or sees that it is.

    Raises:
        DataError: it holds something else.
    """
    path = out / STATE
    if path.is_file():
        try:
            before = _State.model_validate_json(read_regular(path))
        except ValidationError as error:
            raise DataError(f"{path}: damaged; remove {out} and import again") from error
        if before != state:
            what = "with other options" if before.options != state.options else "of another source, or it was changed"
            raise DataError(f"{out}: holds an import {what}; name another folder, or remove this one")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: is there and not empty; name another folder, or remove this one")
    else:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(path, state.model_dump_json() + "\n")


def _write_frames(
    out: Path, tracklets: Sequence[PlannedTracklet], folders: Sequence[str], quality: int, progress: OnProgress
) -> int:
    """Writes the frames that are not there; returns how many."""
    missing: dict[str, Path | Cut] = {}
    total = 0
    for tracklet, folder in zip(tracklets, folders, strict=True):
        (out / folder).mkdir(parents=True, exist_ok=True)
        # Frames are not synced one by one, which would take longer than cutting them: after a power failure some may
        # be empty, and are written again.
        whole = {entry.name for entry in os.scandir(out / folder) if entry.stat().st_size}
        named = zip(frame_names(tracklet), tracklet.frames, strict=True)
        missing |= {f"{out / folder}/{name}": frame for name, frame in named if name not in whole}
        total += len(tracklet.frames)
    faults = Faults()
    for done, (name, content) in enumerate(_contents(missing, quality, faults), start=total - len(missing) + 1):
        _write(name, content)
        progress(done, total)
    faults.refuse()
    return len(missing)


def _write(name: str, content: bytes) -> None:
    temporary = Path(f"{name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(name)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _contents(missing: Mapping[str, Path | Cut], quality: int, faults: Faults) -> Iterator[tuple[str, bytes]]:
    """The files' contents; each video is decoded once."""
    cuts: defaultdict[Path, defaultdict[int, list[tuple[str, Cut]]]] = defaultdict(lambda: defaultdict(list))
    for name, frame in missing.items():
        if isinstance(frame, Cut):
            cuts[frame.source][frame.frame].append((name, frame))
        else:
            yield name, read_regular(frame)
    for source, by_frame in cuts.items():
        try:
            yield from _crops(source, by_frame, quality)
        except DataError as error:
            path, _, what = str(error).partition(": ")
            faults.add(Path(path), what)


def _crops(
    source: Path, by_frame: Mapping[int, Iterable[tuple[str, Cut]]], quality: int
) -> Iterator[tuple[str, bytes]]:
    for place, picture in pictures(source, {*by_frame}):
        for name, cut in by_frame[place]:
            left, top, width, height = cut.box
            crop = np.ascontiguousarray(picture[top : top + height, left : left + width])
            yield name, simplejpeg.encode_jpeg(crop, quality, colorsubsampling="444")


def _table(tracklets: Sequence[PlannedTracklet], folders: Sequence[str]) -> str:
    """The table, a row a tracklet."""
    has_cameras = any(each.camera is not None for each in tracklets)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["identity", *["camera"] * has_cameras, "tracklet", "path", "frames"])
    for each, folder in zip(tracklets, folders, strict=True):
        writer.writerow([each.identity, *[each.camera] * has_cameras, each.name, folder, len(each.frames)])
    return text.getvalue()
