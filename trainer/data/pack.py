"""Packed data sets: the frames of all partitions in a few large files, and an index of them, checked and read.

A packed frame is an address (`trainer.data.frames`) that stands wherever the path of a frame does: it ends in the
frame's base name, so that a packed data set has the fingerprint of the one it was made from. Nothing is taken from an
index that was not checked. N tracklets, F frames.
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt8
from pydantic import Field, ValidationError

from trainer.data.dataset import Pair, Splits, Tracklet, dataset_fingerprint, named, read_bounded
from trainer.data.frames import MAX_BYTES, bytes_address, pixels_address
from trainer.data.images import MAX_PIXELS
from trainer.errors import DataError
from trainer.settings import FrozenConfig

HEADER, TABLE = "index.json", "index.npz"
MAX_INDEX_BYTES = 2**31  # MARS has 30 MB
DIGEST = r"^[0-9a-f]{64}$"
# What a frame may be called: no folder, no line break, nothing that a terminal obeys.
NAMES = re.compile(r"(?:(?!\.{1,2}\n)[^/\\\x00-\x1f\x7f-\x9f]{1,255}\n)*+")
AGAIN = "pack the data set again"
BLOCK = 2**20

OnProgress = Callable[[int, int], None]
"""Called with the amount done and the total."""


class PackedFile(FrozenConfig):
    """One file of frames."""

    name: str = Field(pattern=r"^frames-[0-9]{3,6}\.pack$")
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=DIGEST)


class PackedFold(FrozenConfig):
    """A partition of the data set: indices of tracklets, by part."""

    fingerprint: str = Field(pattern=DIGEST)
    """`dataset_fingerprint` of the partition."""
    train: tuple[int, ...]
    query: tuple[int, ...]
    gallery: tuple[int, ...]


class PackHeader(FrozenConfig):
    """What index.json holds."""

    version: Literal[1] = 1
    data_set: str = Field(pattern=r"^[a-z0-9_]{1,40}$")
    """Key of `READERS`."""
    size: tuple[int, int] | None
    """Height and width of decoded frames; None where the image files' own bytes are packed."""
    files: tuple[PackedFile, ...] = Field(min_length=1)
    folds: tuple[PackedFold, ...] = Field(min_length=1)
    pairs: tuple[tuple[int, int, int], ...] = ()
    """The data set's list of pairs: indices of both tracklets, and of the fold."""
    table_sha256: str = Field(pattern=DIGEST)
    """Digest of index.npz."""
    identities: dict[int, str] = Field(default_factory=dict)
    """Texts by which the data set knows its identities, by number; empty where it numbers them itself."""
    cameras: dict[int, str] = Field(default_factory=dict)
    """The same of its cameras."""


class FrameTable(NamedTuple):
    """What index.npz holds; the frames of a tracklet follow each other, tracklets too."""

    identity: Int64[np.ndarray, " N"]
    camera: Int64[np.ndarray, " N"]
    frames: Int64[np.ndarray, " N"]
    """Frames of each tracklet, at least one."""
    pack: Int64[np.ndarray, " F"]
    """Which of the header's files holds the frame."""
    offset: Int64[np.ndarray, " F"]
    length: Int64[np.ndarray, " F"]
    """Bytes; 0 for an empty image file, and for a frame that could not be decoded."""
    names: UInt8[np.ndarray, " characters"]
    """Base names of the frames in UTF-8, each ended by a line break."""

    def name_list(self) -> list[str]:
        """The base names of the frames."""
        return self.names.tobytes().decode().split("\n")[:-1]


# Names of the arrays in index.npz; identities have been called persons there since 0.1.0.
ARRAYS = ("person", *FrameTable._fields[1:])


def packed_data_set(root: Path) -> str | None:
    """Name of the data set that is packed in the folder, maybe unknown; None if it is no packed data set.

    Raises:
        DataError: the folder is a packed data set, but its index is damaged.
    """
    if not (root / HEADER).is_file() or not ((root / TABLE).is_file() or any(root.glob("frames-*.pack"))):
        return None
    return read_header(root).data_set


def read_packed(root: Path, name: str, fold: int = 0) -> Splits:
    """Partition `fold` of the data set `name` that is packed in the folder; only the frames' paths differ.

    Raises:
        DataError: the index is damaged, files are missing or truncated, or another data set is packed there.
    """
    header = read_header(root)
    if header.data_set != name:
        raise DataError(f"{root}: holds the packed data set {header.data_set}, not {name}; set data.name")
    if fold >= len(header.folds):
        raise DataError(f"{root / HEADER}: has {len(header.folds)} partitions; there is no data.fold {fold}")
    return _checked_splits(root, header, read_table(root, header), header.folds[fold])


def read_packed_pairs(root: Path) -> tuple[Pair, ...]:
    """The list of pairs of the data set that is packed in the folder; empty where it has none.

    Raises:
        DataError: the index is damaged, or files are missing or truncated.
    """
    header = read_header(root)
    tracklet = _tracklets(root, header, read_table(root, header))
    return tuple([Pair(tracklet(first), tracklet(second), fold) for first, second, fold in header.pairs])


def check_pack(root: Path, progress: OnProgress = lambda done, total: None) -> None:
    """Compares every byte of the pack with what was written, by SHA-256; `progress` is called with bytes.

    Raises:
        DataError: a file is missing, truncated or changed; names the first one.
    """
    header = read_header(root)
    table = read_table(root, header)
    for fold in header.folds:
        _checked_splits(root, header, table, fold)
    total, done = sum(file.bytes for file in header.files), 0
    for file in header.files:
        digest = hashlib.sha256()
        for block in _blocks(root / file.name):
            digest.update(block)
            done += len(block)
            progress(done, total)
        if digest.hexdigest() != file.sha256:
            raise DataError(f"{root / file.name}: changed since it was packed; copy the packed data set again")


def _blocks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                yield block
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def _checked_splits(root: Path, header: PackHeader, table: FrameTable, fold: PackedFold) -> Splits:
    tracklet = _tracklets(root, header, table)
    parts = (fold.train, fold.query, fold.gallery)
    splits = Splits(*(tuple([tracklet(index) for index in part]) for part in parts))
    if dataset_fingerprint(splits) != fold.fingerprint:
        raise DataError(f"{root / HEADER}: does not list the tracklets that were packed; pack the data set again")
    return splits


def _tracklets(root: Path, header: PackHeader, table: FrameTable) -> Callable[[int], Tracklet]:
    """Makes the tracklet of an index."""
    last = table.frames.cumsum()
    first = (last - table.frames).tolist()
    names = table.name_list()
    packs = [f"{root / file.name}" for file in header.files]

    def tracklet(index: int) -> Tracklet:
        span = slice(first[index], int(last[index]))
        places = zip(
            *(row[span].tolist() for row in (table.pack, table.offset, table.length)), names[span], strict=True
        )
        addresses = tuple([_address(packs[file], at, length, name, header.size) for file, at, length, name in places])
        return Tracklet(
            addresses,
            named(int(table.identity[index]), header.identities),
            named(int(table.camera[index]), header.cameras),
        )

    return tracklet


def _address(pack: str, offset: int, length: int, name: str, size: tuple[int, int] | None) -> str:
    if size is None:
        return bytes_address(pack, offset, length, name)
    return pixels_address(pack, offset, size if length else (0, 0), name)


def is_frame_size(size: tuple[int, int]) -> bool:
    """Whether a frame may have this height and width."""
    return min(size) > 0 and size[0] * size[1] <= MAX_PIXELS


def read_header(root: Path) -> PackHeader:
    """The checked index.json of the pack in `root`; all files that it names are there at their sizes.

    Raises:
        DataError: a file is missing, damaged, or of another size.
    """
    path = root / HEADER
    try:
        header = PackHeader.model_validate_json(
            read_bounded(path, MAX_INDEX_BYTES, "the index of a packed data set"), strict=True
        )
    except ValidationError as error:
        raise DataError(f"{path}: not the index of a packed data set ({_first(error)}); {AGAIN}") from error
    names = [file.name for file in header.files]
    if len(set(names)) != len(names):
        raise DataError(f"{path}: names a file twice; {AGAIN}")
    if header.size is not None and not is_frame_size(header.size):
        raise DataError(f"{path}: size {list(header.size)} is no size of a frame; {AGAIN}")
    for file in header.files:
        _check_file(root / file.name, file.bytes)
    return header


def _check_file(path: Path, size: int) -> None:
    try:
        there = path.stat().st_size if path.is_file() else None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if there is None:
        raise DataError(f"{path}: no such file; copy the packed data set again")
    if there != size:
        raise DataError(f"{path}: {there} bytes instead of {size}; copy the packed data set again")


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"])) or "its text"
    return f"{place[:60]!r}: {first['msg'].splitlines()[0][:100]}"


def read_table(root: Path, header: PackHeader) -> FrameTable:
    """The checked index.npz that belongs to the header.

    Raises:
        DataError: the file is missing, damaged, or not the one that the header was written with.
    """
    path = root / TABLE
    data = read_bounded(path, MAX_INDEX_BYTES, "the index of a packed data set")
    if hashlib.sha256(data).hexdigest() != header.table_sha256:
        raise DataError(f"{path}: does not belong to {HEADER} or was damaged; copy the packed data set again")
    table = _parsed(path, data)
    fault = _shape_fault(table) or _extent_fault(table, header) or name_fault(table) or _fold_fault(table, header)
    if fault:
        raise DataError(f"{path}: {fault}; {AGAIN}")
    return table


def _parsed(path: Path, data: bytes) -> FrameTable:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(member.file_size for member in archive.infolist()) > len(data):
                raise DataError(f"{path}: compressed; {AGAIN}")  # as we never write it: it could be a bomb
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:  # noqa: TID251 - without pickles
            table = FrameTable(*(arrays[name] for name in ARRAYS))
    except DataError:
        raise
    except (
        *(ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, OSError, OverflowError),
        *(NotImplementedError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error, struct.error),
        *(SyntaxError, tokenize.TokenError),  # numpy reads the head of an array as Python's literals
    ) as error:
        raise DataError(f"{path}: cannot be parsed ({type(error).__name__}); {AGAIN}") from error
    return table


def _shape_fault(table: FrameTable) -> str | None:
    kinds = {name: np.dtype(np.int64) for name in FrameTable._fields} | {"names": np.dtype(np.uint8)}
    for name, array in table._asdict().items():
        if not isinstance(array, np.ndarray) or array.dtype != kinds[name] or array.ndim != 1:
            return f"{name} is not one row of {kinds[name]} numbers"
    if not len(table.identity) == len(table.camera) == len(table.frames) > 0:
        return "identity, camera and frames are not of as many tracklets"
    if not len(table.pack) == len(table.offset) == len(table.length):
        return "pack, offset and length are not of as many frames"
    if table.frames.min() < 1 or table.frames.max() > len(table.pack) or table.frames.sum() != len(table.pack):
        return f"the frames of all tracklets do not add up to {len(table.pack)}"
    return None


def _extent_fault(table: FrameTable, header: PackHeader) -> str | None:
    """What would be read beyond the end of a file, or as pixels that are not there."""
    if table.pack.min() < 0 or table.pack.max() >= len(header.files):
        return "a frame lies in a file that is not listed"
    sizes = np.array([file.bytes for file in header.files])[table.pack]
    wrong: Bool[np.ndarray, " F"] = (table.length < 0) | (table.length > MAX_BYTES) | (table.offset < 0)
    wrong |= table.offset > sizes - table.length
    if header.size is not None:
        wrong |= (table.length != header.size[0] * header.size[1] * 3) & (table.length != 0)
    if wrong.any():
        return f"frame {int(wrong.argmax()) + 1} lies outside of its file, or is not of the packed size"
    return None


def name_fault(table: FrameTable) -> str | None:
    try:
        text = table.names.tobytes().decode()
    except UnicodeDecodeError:
        return "the names are not UTF-8"
    good = NAMES.match(text)
    assert good is not None  # the pattern also matches the empty text
    if good.end() < len(text):
        number = text.count("\n", 0, good.end()) + 1
        return f"frame {number} is called {text[good.end() :].partition(chr(10))[0][:40]!r}, which is no safe name"
    if text.count("\n") != len(table.pack):
        return f"{text.count(chr(10))} names for {len(table.pack)} frames"
    return None


def _fold_fault(table: FrameTable, header: PackHeader) -> str | None:
    for number, fold in enumerate(header.folds):
        for part in ("train", "query", "gallery"):
            if not all(0 <= index < len(table.identity) for index in getattr(fold, part)):
                return f"partition {number} of {HEADER} has a {part} tracklet that is not there"
    for first, second, of_fold in header.pairs:
        there = range(len(table.identity))
        if first not in there or second not in there or of_fold not in range(len(header.folds)):
            return f"a pair of {HEADER} has a tracklet or a fold that is not there"
    return None
