"""The index of a packed data set: which bytes of which file are which frame, and which tracklets they form.

N tracklets, F frames. Whoever wrote an index, nothing is taken from it that was not checked.
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt8
from pydantic import Field, ValidationError

from trainer.data.frames import MAX_BYTES, MAX_PIXELS
from trainer.errors import DataError
from trainer.frozen import FrozenConfig

HEADER, TABLE = "index.json", "index.npz"
MAX_INDEX_BYTES = 2**31  # MARS has 30 MB
DIGEST = r"^[0-9a-f]{64}$"
# What a frame may be called: no folder, no line break, nothing that a terminal obeys.
NAMES = re.compile(r"(?:(?!\.{1,2}\n)[^/\\\x00-\x1f\x7f-\x9f]{1,255}\n)*+")
AGAIN = "pack the data set again"


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
    table_sha256: str = Field(pattern=DIGEST)
    """Digest of index.npz."""


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


def is_frame_size(size: tuple[int, int]) -> bool:
    """Whether a frame may have this height and width."""
    return min(size) > 0 and size[0] * size[1] <= MAX_PIXELS


def write_table(folder: Path, table: FrameTable) -> str:
    """Writes index.npz; returns its digest, which belongs into the header.

    Raises:
        DataError: a frame has a name that a pack does not take.
    """
    fault = _name_fault(table)
    if fault:
        raise DataError(f"{folder}: {fault}; rename it")
    buffer = io.BytesIO()
    np.savez(buffer, **table._asdict())
    (folder / TABLE).write_bytes(buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def write_header(folder: Path, header: PackHeader) -> None:
    """Writes index.json, the last file of a pack."""
    (folder / HEADER).write_bytes(header.model_dump_json().encode() + b"\n")


def read_header(root: Path) -> PackHeader:
    """The checked index.json of the pack in `root`; all files that it names are there at their sizes.

    Raises:
        DataError: a file is missing, damaged, or of another size.
    """
    path = root / HEADER
    try:
        header = PackHeader.model_validate_json(_bounded(path), strict=True)
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
    data = _bounded(path)
    if hashlib.sha256(data).hexdigest() != header.table_sha256:
        raise DataError(f"{path}: does not belong to {HEADER} or was damaged; copy the packed data set again")
    table = _parsed(path, data)
    fault = _shape_fault(table) or _extent_fault(table, header) or _name_fault(table) or _fold_fault(table, header)
    if fault:
        raise DataError(f"{path}: {fault}; {AGAIN}")
    return table


def _bounded(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_INDEX_BYTES:
            raise DataError(f"{path}: more than {MAX_INDEX_BYTES} bytes; this is not the index of a packed data set")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); a packed data set has an index") from error


def _parsed(path: Path, data: bytes) -> FrameTable:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(member.file_size for member in archive.infolist()) > len(data):
                raise DataError(f"{path}: compressed; {AGAIN}")  # as we never write it: it could be a bomb
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            table = FrameTable(*(arrays[name] for name in FrameTable._fields))
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


def _name_fault(table: FrameTable) -> str | None:
    try:
        text = table.names.tobytes().decode()
    except UnicodeDecodeError:
        return "the names are not UTF-8"
    good = NAMES.match(text)
    assert good is not None, "the pattern matches nothing at all, too"
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
    return None
