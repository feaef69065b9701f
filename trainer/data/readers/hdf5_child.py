"""The process that reads one matrix of an HDF5 file; see `trainer.data.readers.matlab`.

It receives [path, name] and sends {"shape": [rows, columns], "values": [...]}, row by row, or {"error": "what is
wrong"}. It limits itself before it opens the file.
"""

from __future__ import annotations

import resource
import sys

import h5py  # noqa: TID251 - a child with limits, which nothing depends on
import numpy as np

from trainer.child import Parent

MAX_MEMORY = 2 * 2**30  # bytes of address space; Python, numpy and h5py take 0.3 GB of it
MAX_SECONDS = 20  # of processor time; the real file takes 0.01
MAX_VALUES = 2**20  # the real matrix holds 3,504
MAX_WRITTEN = 2**16  # bytes of a file: room for what it prints
EXACT = 2.0**53  # integers up to here are exact as doubles


def main(parent: Parent) -> None:
    """Answers one request; a file that h5py refuses is an answer, too."""
    path, name = parent.receive()
    limit()
    try:
        answer = read(path, name)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, MemoryError) as error:
        answer = {"error": f"cannot be read as HDF5 ({type(error).__name__})"}
    parent.send(answer)


def limit() -> None:
    """Bounds what reading can take; a file that needs more ends the process."""
    limits = [(resource.RLIMIT_CPU, MAX_SECONDS), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, MAX_WRITTEN)]
    if sys.platform == "linux":  # macOS refuses a limit on address space
        limits.append((resource.RLIMIT_AS, MAX_MEMORY))
    for kind, most in limits:
        resource.setrlimit(kind, (most, most))


def read(path: str, name: str) -> dict[str, object]:
    """The answer; raises what h5py does."""
    with h5py.File(path, "r", locking=False) as file:
        if name not in file:
            return {"error": f"has no variable {name}"}
        # Links and storage elsewhere would make the file read other files.
        found = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
        if not isinstance(found, h5py.Dataset) or found.is_virtual or found.external:
            return {"error": f"{name} is not a matrix stored in the file"}
        shape, kind = found.shape, found.dtype.kind
        if kind not in "fiu" or found.dtype.itemsize > 8:
            return {"error": f"{name} is not a matrix of numbers"}
        if shape is None or len(shape) != 2 or found.size > MAX_VALUES:
            return {"error": f"{name} has shape {shape}, a matrix of at most {MAX_VALUES} numbers is expected"}
        doubles = found[()].astype(np.float64).ravel()
    if not np.all((np.abs(doubles) < EXACT) & (np.trunc(doubles) == doubles)):
        return {"error": f"{name} holds values that are not integers"}
    return {"shape": list(shape), "values": [int(value) for value in doubles]}
