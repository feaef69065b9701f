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

from trainer.data.dataset import Splits, Tracklet, fingerprint
from trainer.data.folder import DataConfig, data_record, read_splits
from trainer.data.frames import frame_file
from trainer.data.pack import HEADER, TABLE, packed_data_set
from trainer.data.readers import find_data_set
from trainer.data.splits import TrainingData, applied_split, cut_validation, read_validation, write_validation
from trainer.data.synthetic.dataset import is_synthetic
from trainer.errors import DataError
from trainer.result import DataRecord


class _Parts(NamedTuple):
    """What a training takes of a data set, and a test of its network."""

    splits: Splits
    fingerprint: str
    """Of the training part."""
    record: DataRecord


class _Kept(NamedTuple):
    """The data set that this process keeps, and of what it was read."""

    place: tuple[str, Path, int]
    digest: str
    parts: _Parts


_kept: _Kept | None = None


def training_data(config: DataConfig, split: Path, *, make: bool) -> tuple[TrainingData, DataRecord]:
    """Reads the data set and applies the validation split in the file `split`, cutting it first if `make`.

    It is not read if it is kept (`keep_training_data`) and has not changed since.

    Returns:
        The tracklets of a trial, and which data set they are of.

    Raises:
        DataError: the data set or the split is missing, damaged, or they do not belong together.
    """
    (train, _, _), known, record = _kept_parts(config) or _read(config)
    if make:
        write_validation(split, cut_validation(train, config.validation), train)
    return applied_split(train, read_validation(split, train, known)), record


def data_with_test_part(config: DataConfig) -> tuple[Splits, DataRecord]:
    """The data set with its test part, and which one it is; read unless it is kept with that part and has not changed.

    Raises:
        DataError: the data set is missing or damaged.
    """
    kept = _kept_parts(config)
    splits, _, record = kept if kept is not None and kept.splits.query else _read(config)
    return splits, record


def keep_training_data(config: DataConfig, *, tests: bool = False) -> bool:
    """Reads the data set for all trainings of this process and of those that it forks; whether it is kept now.

    With `tests` the test part is kept, too, for the evaluations that follow the trainings.

    One is kept at a time. It counts as unchanged while the files that its reader takes (`DataSet.lists`) have the same
    bytes, a pack's frames the same sizes, and the folder of its first frame is there. Not kept is a data set one of
    whose files is missing, and one whose reader looks into folders, unless it is packed.

    Raises:
        DataError: the data set is damaged.
    """
    global _kept
    kept = _kept_parts(config)
    if kept is None or (tests and not kept.splits.query):
        _kept = None  # first, as memory may not hold two
        if (digest := _digest(config)) is not None:
            splits, known, record = _read(config)
            compact = Splits(*(tuple(_compact(part)) for part in (splits if tests else (splits.train, (), ()))))
            _kept = _Kept(_place(config), digest, _Parts(compact, known, record))
    return _kept is not None


def _read(config: DataConfig) -> _Parts:
    splits = read_splits(config)
    return _Parts(splits, fingerprint(splits.train), data_record(config, splits))


def _place(config: DataConfig) -> tuple[str, Path, int]:
    return config.name, config.root, config.fold


def _kept_parts(config: DataConfig) -> _Parts | None:
    """What is kept of the data set; None if nothing is, or of another state of it."""
    if _kept is None or _kept.place != _place(config) or _kept.digest != _digest(config):
        return None
    first = Path(frame_file(_kept.parts.splits.train[0].frames[0]))
    return _kept.parts if first.parent.is_dir() else None


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
