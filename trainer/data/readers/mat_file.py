"""Integer matrices out of MATLAB v5 files, without scipy's reader.

That reader is not hardened: single changed bytes make it crash natively (scipy issues 25349, 25829), which no
`except` can catch. Plain matrices need little of the format, and here every length is checked before use.
Format: MathWorks, "MAT-File Format", chapter "Level 5 MAT-File Format".
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from trainer.errors import DataError

MAX_BYTES = 64 * 2**20  # of a file, and of what is compressed in it; the largest file of MARS has 48 KB
HEADER = 128  # bytes: description, version, byte order
PLAIN_CLASSES = range(6, 16)  # double to uint64; others are cells, structures, objects, text, sparse matrices
COMPLEX = 0x0800
INT8, INT32, UINT32, MATRIX, COMPRESSED = 1, 5, 6, 14, 15
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
EXACT = 2.0**53  # integers up to here are exact as doubles


class _Element(NamedTuple):
    kind: int
    body: bytes


class _DamageError(ValueError):
    """What is wrong with the file, without its name."""


def read_matrix(path: Path, name: str) -> Int64[np.ndarray, "rows columns"]:
    """The matrix of whole numbers called `name`, whatever number type it is stored as.

    Raises:
        DataError: the file is missing, too large, damaged or no MATLAB v5 file, or lacks such a matrix.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        return _find_matrix(data, name)
    except (_DamageError, zlib.error) as error:
        raise DataError(f"{path}: {error}; copy the file again") from error


def _find_matrix(data: bytes, name: str) -> Int64[np.ndarray, "rows columns"]:
    order = _byte_order(data)
    for kind, body in _elements(data[HEADER:], order):
        if kind == COMPRESSED:
            inner = next(_elements(_decompressed(body), order), _Element(0, b""))
        else:
            inner = _Element(kind, body)
        if inner.kind != MATRIX:
            raise _DamageError(f"damaged, element of kind {inner.kind} in place of a variable")
        parts = _elements(inner.body, order)
        flags, shape, found = (_numbers(_next(parts), order, wanted) for wanted in (UINT32, INT32, INT8))
        if bytes(found.astype(np.uint8)) == name.encode():
            return _matrix(name, flags.tolist(), shape.tolist(), _next(parts), order)
    raise _DamageError(f"has no variable {name}")


def _byte_order(data: bytes) -> str:
    if len(data) > MAX_BYTES:
        raise _DamageError(f"more than {MAX_BYTES} bytes, this is not the file meant")
    mark = data[HEADER - 4 : HEADER]
    if mark not in (b"\x00\x01IM", b"\x01\x00MI"):
        raise _DamageError("not a MATLAB v5 file")
    return "<" if mark.endswith(b"IM") else ">"


def _elements(data: bytes, order: str) -> Iterator[_Element]:
    """The elements one after another; up to four bytes may stand in the tag itself."""
    at = 0
    while at < len(data):
        if at + 8 > len(data):
            raise _DamageError("truncated within a tag")
        word, size = (int(value) for value in np.frombuffer(data, order + "u4", 2, at))
        small = word >> 16
        kind, size, start = (word & 0xFFFF, small, at + 4) if small else (word, size, at + 8)
        if start + size > len(data) or small > 4:
            raise _DamageError("truncated, or damaged within a tag")
        yield _Element(kind, data[start : start + size])
        padded = size if kind == COMPRESSED else -(-size // 8) * 8
        at = at + 8 if small else start + padded


def _next(parts: Iterator[_Element]) -> _Element:
    element = next(parts, None)
    if element is None:
        raise _DamageError("truncated within a variable")
    return element


def _decompressed(body: bytes) -> bytes:
    stream = zlib.decompressobj()
    data = stream.decompress(body, MAX_BYTES)
    if not stream.eof:
        raise _DamageError(f"a compressed variable is truncated, or has more than {MAX_BYTES} bytes")
    return data


def _numbers(element: _Element, order: str, wanted: int | None = None) -> np.ndarray:
    """The numbers of an element, of the kind wanted if one is."""
    kind, body = element
    if kind not in NUMBERS or kind != (wanted or kind):
        raise _DamageError(f"damaged, element of unexpected kind {kind} in a variable")
    dtype = np.dtype(order + NUMBERS[kind])
    if len(body) % dtype.itemsize:
        raise _DamageError("damaged, numbers of broken length")
    return np.frombuffer(body, dtype)


def _matrix(
    name: str, flags: list[int], shape: list[int], element: _Element, order: str
) -> Int64[np.ndarray, "rows columns"]:
    if len(flags) != 2 or flags[0] & 0xFF not in PLAIN_CLASSES or flags[0] & COMPLEX:
        raise _DamageError(f"{name} is not a matrix of numbers")
    values = _numbers(element, order)
    if len(shape) != 2 or min(shape) < 0:
        raise _DamageError(f"{name} has shape {shape}, a matrix of two dimensions is expected")
    if math.prod(shape) != len(values):
        raise _DamageError(f"damaged, {name} has shape {shape} and {len(values)} values")
    doubles = values.astype(np.float64)
    if not np.all((np.abs(doubles) < EXACT) & (np.trunc(doubles) == doubles)):
        raise _DamageError(f"{name} holds values that are not integers")
    return doubles.astype(np.int64).reshape(shape, order="F")
