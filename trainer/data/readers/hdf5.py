"""Integer matrices out of HDF5 files, which is what MATLAB v7.3 files are, read by a process of their own.

The HDF5 library is not hardened: a damaged file can crash the process that opens it, or make it wait or grow for
ever. So a child with limits opens it (`trainer.data.readers.hdf5_child`) and only its answer, checked, comes back.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64
from pydantic import Field, ValidationError

from trainer.child import BadReply, Child, ChildEnded, ChildTimeout, child_command
from trainer.errors import DataError
from trainer.formatting import one_line, shortened
from trainer.settings import FrozenConfig

CHILD = child_command("trainer.data.readers.hdf5_child")
MAX_BYTES = 64 * 2**20  # of a file; that of LS-VID has well below one
MAX_SECONDS = 60.0  # by the clock, a slow start included; the child limits its processor time more closely
# One thread: each of numpy's would reserve address space. No filters from plugins: a file would name code to load.
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "HDF5_PLUGIN_PRELOAD": "::"}


class _Answer(FrozenConfig):
    """The child's reply."""

    error: str | None = None
    shape: tuple[int, int] = (0, 0)
    values: tuple[int, ...] = Field((), repr=False)


def read_hdf5_matrix(
    path: Path, name: str, *, timeout: float = MAX_SECONDS, command: Sequence[str] = CHILD
) -> Int64[np.ndarray, "rows columns"]:
    """The matrix of whole numbers called `name`, with rows and columns as HDF5 has them: MATLAB's are its columns.

    Takes about half a second, which is the start of the child.

    Args:
        path: the file.
        name: of the matrix.
        timeout: seconds after which reading is given up.
        command: starts the child.

    Raises:
        DataError: the file is missing, too large, damaged or no HDF5 file, or lacks such a matrix.
    """
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise DataError(f"{path}: is not a file; copy it again")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if size > MAX_BYTES:
        raise DataError(f"{path}: more than {MAX_BYTES} bytes, this is not the file meant; copy it again")
    answer = _ask_child(path, name, timeout, command)
    if answer.error is not None:
        raise DataError(f"{path}: {one_line(shortened(answer.error, 200))}; copy the file again")
    return np.array(answer.values, dtype=np.int64).reshape(answer.shape)


def _ask_child(path: Path, name: str, timeout: float, command: Sequence[str]) -> _Answer:
    with Child(command, name="the process that read it", environment=os.environ | ENVIRONMENT) as child:
        child.send([os.fspath(path), name])
        try:
            answer = _Answer.model_validate(child.receive(timeout))
        except ChildTimeout as error:
            raise DataError(f"{path}: reading took more than {timeout:g} s; copy the file again") from error
        except (BadReply, ValidationError):
            return _Answer(error="damaged, the process that read it gave no answer")
        except ChildEnded as error:
            return _Answer(error=f"damaged, {error}")
    if math.prod(answer.shape) != len(answer.values):
        return _Answer(error=f"damaged, shape {answer.shape} and {len(answer.values)} values")
    return answer
