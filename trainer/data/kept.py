"""The data set of a training: read, or kept in memory by the process that forked the training's."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
from jaxtyping import Int64

from trainer.data.dataset import Tracklet, fingerprint
from trainer.data.folder import DataConfig, data_record, read_splits
from trainer.data.frames import frame_file
from trainer.data.pack import HEADER, TABLE, packed_data_set
from trainer.data.readers import find_data_set
from trainer.data.splits import TrainingData, applied_split, cut_validation, read_validation, write_validation
from trainer.data.synthetic.dataset import is_synthetic
from trainer.errors import DataError
from trainer.result import DataRecord


class _TrainingPart(NamedTuple):
    """What a training takes of a data set."""

    train: Sequence[Tracklet]
    fingerprint: str
    """Of these."""
    record: DataRecord


class _Kept(NamedTuple):
    """The data set that this process keeps, and of what it was read."""

    place: tuple[str, Path, int]
    digest: str
    part: _TrainingPart


_kept: _Kept | None = None


def training_data(config: DataConfig, split: Path, *, make: bool) -> tuple[TrainingData, DataRecord]:
    """Reads the data set and applies the validation split in the file `split`, cutting it first if `make`.

    It is not read if it is kept (`keep_training_data`) and has not changed since.

    Returns:
        The tracklets of a trial, and which data set they are of.

    Raises:
        DataError: the data set or the split is missing, damaged, or they do not belong together.
    """
    part = _kept_part(config, _digest(config)) if _kept is not None else None
    train, known, record = part or _read(config)
    if make:
        write_validation(split, cut_validation(train, config.validation), train)
    return applied_split(train, read_validation(split, train, known)), record


def keep_training_data(config: DataConfig) -> bool:
    """Reads the data set for all trainings of this process and of those that it forks; whether it is kept now.

    One is kept at a time. It counts as unchanged while the files that its reader takes (`DataSet.lists`) have the same
    bytes, a pack's frames the same sizes, and the folder of its first frame is there. Not kept is a data set one of
    whose files is missing, and one whose reader looks into folders, unless it is packed.

    Raises:
        DataError: the data set is damaged.
    """
    global _kept
    digest = _digest(config)
    if _kept_part(config, digest) is None:
        _kept = None  # first, as memory may not hold two
        if digest is not None:
            train, known, record = _read(config)
            _kept = _Kept(_place(config), digest, _TrainingPart(_compact(train), known, record))
    return _kept is not None


def _read(config: DataConfig) -> _TrainingPart:
    splits = read_splits(config)
    return _TrainingPart(splits.train, fingerprint(splits.train), data_record(config, splits))


def _place(config: DataConfig) -> tuple[str, Path, int]:
    return config.name, config.root, config.fold


def _kept_part(config: DataConfig, digest: str | None) -> _TrainingPart | None:
    """What is kept of the data set; None if nothing is, or of another state of it."""
    if _kept is None or _kept.place != _place(config) or _kept.digest != digest:
        return None
    first = Path(frame_file(_kept.part.train[0].frames[0]))
    return _kept.part if first.parent.is_dir() else None


def _digest(config: DataConfig) -> str | None:
    """SHA-256 in hex of all that reading depends on; None if that is more than a few files, or if one is missing."""
    root = config.root
    try:
        packed = packed_data_set(root) is not None
        lists = (HEADER, TABLE) if packed else find_data_set(config.name).lists
        if not lists:
            return None
        parts: list[object] = [is_synthetic(root)]
        for name in lists:
            with (root / name).open("rb") as file:
                parts.append(hashlib.file_digest(file, "sha256").hexdigest())
        if packed:
            parts += [(path.name, path.stat().st_size) for path in sorted(root.glob("frames-*.pack"))]
    except (OSError, DataError):
        return None
    return hashlib.sha256(repr(parts).encode()).hexdigest()


class _Frames(Sequence[str]):
    """Paths of a tracklet's frames, cut when asked for out of the text that holds those of all tracklets.

    Python writes to each object that it looks at, its count of users. As objects of their own the paths of MARS take
    60 MB, and every forked process would come to have a copy of all the pages that they lie on.
    """

    __slots__ = ("_ends", "_first", "_last", "_text")

    def __init__(self, text: bytes, ends: Int64[np.ndarray, " frames_and_one"], first: int, last: int) -> None:
        self._text, self._ends, self._first, self._last = text, ends, first, last

    def __len__(self) -> int:
        return self._last - self._first

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        place = range(self._first, self._last)[index]
        return self._path(place) if isinstance(place, int) else tuple(map(self._path, place))

    def _path(self, place: int) -> str:
        start, end = self._ends[place : place + 2].tolist()
        return os.fsdecode(self._text[start:end])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))


def _compact(tracklets: Sequence[Tracklet]) -> list[Tracklet]:
    """The same tracklets, their paths in one text."""
    paths = [os.fsencode(path) for tracklet in tracklets for path in tracklet.frames]
    text, ends = b"".join(paths), np.cumsum([0, *map(len, paths)])
    last = accumulate(len(tracklet.frames) for tracklet in tracklets)
    return [
        Tracklet(_Frames(text, ends, end - len(frames), end), identity, camera)
        for end, (frames, identity, camera) in zip(last, tracklets, strict=True)
    ]
