"""Matrices of whole numbers out of MATLAB files, of version 5 and of version 7.3, which is HDF5.

Neither library for them is hardened. scipy's reader of version 5 crashes natively on single changed bytes (scipy
issues 25349, 25829; 14 such bytes in two small files with scipy 1.17), which no `except` can catch: plain matrices need
little of the format, so it is read here, and every length is checked before use (MathWorks, "MAT-File Format", chapter
"Level 5 MAT-File Format"). The HDF5 library can crash, wait or grow for ever: a child with limits opens the file
(`trainer.data.readers.hdf5_child`), and only its answer, checked, comes back.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64
from pydantic import Field, ValidationError

from trainer.child import BadReply, Child, ChildEnded, ChildTimeout, child_command
from trainer.data.dataset import read_bounded
from trainer.errors import DataError
from trainer.formatting import one_line, shortened
from trainer.settings import FrozenConfig

MAX_BYTES = 64 * 2**20  # of a file, and of what is compressed in it; the largest file of MARS has 48 KB
EXACT = 2.0**53  # integers up to here are exact as doubles
# Version 5
HEADER = 128  # bytes: description, version, byte order
PLAIN_CLASSES = range(6, 16)  # double to uint64; others are cells, structures, objects, text, sparse matrices
COMPLEX = 0x0800
INT8, INT32, UINT32, MATRIX, COMPRESSED = 1, 5, 6, 14, 15
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
# Version 7.3
HDF5_SIGNATURE, USER_BLOCK = b"\x89HDF\r\n\x1a\n", 512  # MATLAB's header stands before the signature
HDF5_CHILD = child_command("trainer.data.readers.hdf5_child")
HDF5_TIMEOUT_S = 60.0  # by the clock, a slow start included; the child limits its processor time more closely
# One thread: each of numpy's would reserve address space. No filters from plugins: a file would name code to load.
HDF5_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "HDF5_PLUGIN_PRELOAD": "::"}


class _Element(NamedTuple):
    kind: int
    body: bytes


class _DamageError(ValueError):
    """What is wrong with the file, without its name."""


def read_matrix(
    path: Path, name: str, *, timeout: float = HDF5_TIMEOUT_S, hdf5_child: Sequence[str] = HDF5_CHILD
) -> Int64[np.ndarray, "rows columns"]:
    """The matrix of whole numbers called `name`, whatever number type it is stored as.

    From a file of version 7.3 it takes about half a second, which is the start of the child.

    Args:
        path: the file.
        name: of the matrix.
        timeout: seconds after which reading a file of version 7.3 is given up.
        hdf5_child: starts the child that reads it.

    Raises:
        DataError: the file is missing, too large, damaged or no MATLAB file, or lacks such a matrix.
    """
    data = read_bounded(path, MAX_BYTES, "the file meant")
    try:
        if any(data.startswith(HDF5_SIGNATURE, at) for at in (0, USER_BLOCK)):
            return _read_hdf5(path, name, timeout, hdf5_child)
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
    mark = data[HEADER - 4 : HEADER]
    if mark not in (b"\x00\x01IM", b"\x01\x00MI"):
        raise _DamageError("not a MATLAB file of version 5 or 7.3")
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


class _Answer(FrozenConfig):
    """The reply of the child that reads HDF5."""

    error: str | None = None
    shape: tuple[int, int] = (0, 0)
    """As HDF5 has it: columns and rows of the matrix in MATLAB."""
    values: tuple[int, ...] = Field((), repr=False)


def _read_hdf5(path: Path, name: str, timeout: float, command: Sequence[str]) -> Int64[np.ndarray, "rows columns"]:
    with Child(command, name="the process that read it", environment=os.environ | HDF5_ENVIRONMENT) as child:
        child.send([os.fspath(path), name])
        try:
            answer = _Answer.model_validate(child.receive(timeout))
        except ChildTimeout as error:
            raise _DamageError(f"reading took more than {timeout:g} s") from error
        except (BadReply, ValidationError) as error:
            raise _DamageError("damaged, the process that read it gave no answer") from error
        except ChildEnded as error:
            raise _DamageError(f"damaged, {error}") from error
    if answer.error is not None:
        raise _DamageError(one_line(shortened(answer.error, 200)))
    if math.prod(answer.shape) != len(answer.values):
        raise _DamageError(f"damaged, shape {answer.shape} and {len(answer.values)} values")
    return np.array(answer.values, dtype=np.int64).reshape(answer.shape).T
