"""Integer matrices out of HDF5 files, which is what MATLAB v7.3 files are, read by a process of their own.

The HDF5 library is not hardened: a damaged file can crash the process that opens it, or make it wait or grow for
ever. So a child with limits opens it (`trainer/data/readers/hdf5_child.py`) and only its answer, checked, comes back.
"""

from __future__ import annotations

import math
import os
import subprocess
from pathlib import Path

import numpy as np
from jaxtyping import Int64
from pydantic import Field, ValidationError

from trainer.child_process import python_command, start_child
from trainer.errors import DataError
from trainer.formatting import one_line, shortened
from trainer.frozen import FrozenConfig

MAX_BYTES = 64 * 2**20  # of a file; that of LS-VID has well below one
MAX_SECONDS = 60.0  # by the clock, a slow start included; the child limits its processor time more closely
# One thread: each of numpy's would reserve address space. No filters from plugins: a file would name code to load.
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "HDF5_PLUGIN_PRELOAD": "::"}


class _Answer(FrozenConfig):
    """What the child prints."""

    error: str | None = None
    shape: tuple[int, int] = (0, 0)
    values: tuple[int, ...] = Field((), repr=False)


def read_hdf5_matrix(path: Path, name: str) -> Int64[np.ndarray, "rows columns"]:
    """The matrix of whole numbers called `name`, with rows and columns as HDF5 has them: MATLAB's are its columns.

    Takes about half a second, which is the start of the child.

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
    answer = _answer_of_child(path, name)
    if answer.error is not None:
        raise DataError(f"{path}: {one_line(shortened(answer.error, 200))}; copy the file again")
    return np.array(answer.values, dtype=np.int64).reshape(answer.shape)


def _answer_of_child(path: Path, name: str) -> _Answer:
    script = os.fspath(Path(__file__).with_name("hdf5_child.py"))
    command, pipe = python_command(script, os.fspath(path), name), subprocess.PIPE
    with start_child(command, os.environ | ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe) as child:
        try:
            printed, _ = child.communicate(timeout=MAX_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise DataError(f"{path}: reading took more than {MAX_SECONDS:g} s; copy the file again") from error
        finally:
            child.kill()
    if child.returncode:
        return _Answer(error=f"damaged, it ended the process that read it (exit status {child.returncode})")
    try:
        answer = _Answer.model_validate_json(printed)
    except ValidationError:
        return _Answer(error="damaged, the process that read it gave no answer")
    if math.prod(answer.shape) != len(answer.values):
        return _Answer(error=f"damaged, shape {answer.shape} and {len(answer.values)} values")
    return answer
