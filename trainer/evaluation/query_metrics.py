"""The average precision of every query of an evaluation, kept in a file so that evaluations can be compared.

Q queries, C cameras of the gallery.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped

from trainer.data.dataset import Tracklet
from trainer.errors import DataError
from trainer.evaluation.analysis import CameraPrecision
from trainer.evaluation.metrics import Ranking
from trainer.files import DAMAGED_NPZ, replacing
from trainer.formatting import first_line, one_line

FILE = "per_query.npz"
MAX_BYTES = 256 * 2**20  # of all arrays together; those of MARS take 0.4 MB
KINDS = {
    "average_precision": "f",
    "valid": "b",
    "identity": "i",
    "camera": "i",
    "frames": "i",
    "first_frame": "U",
    "gallery_cameras": "i",
    "by_camera": "f",
}


class QueryMetrics(NamedTuple):
    """The queries of an evaluation, and how well each was answered."""

    average_precision: Float64[np.ndarray, " Q"]
    """NaN where `valid` is false."""
    valid: Bool[np.ndarray, " Q"]
    """Whether the gallery holds a match for the query."""
    identity: Int64[np.ndarray, " Q"]
    camera: Int64[np.ndarray, " Q"]
    frames: Int64[np.ndarray, " Q"]
    """Number of frames."""
    first_frame: Shaped[np.ndarray, " Q"]
    """Base name of the first frame, text."""
    gallery_cameras: Int64[np.ndarray, " C"]
    by_camera: Float64[np.ndarray, "Q C"]
    """Average precision in the gallery of each camera alone; NaN where it holds no match."""


def query_metrics(ranking: Ranking, query: Sequence[Tracklet], by_camera: CameraPrecision) -> QueryMetrics:
    """The queries of a ranking with their metrics."""
    return QueryMetrics(
        average_precision=ranking.average_precision.numpy(),
        valid=ranking.valid.numpy(),
        identity=np.array([tracklet.identity for tracklet in query], dtype=np.int64),
        camera=np.array([tracklet.camera for tracklet in query], dtype=np.int64),
        frames=np.array([len(tracklet.frames) for tracklet in query], dtype=np.int64),
        first_frame=np.array([os.path.basename(tracklet.frames[0]) for tracklet in query]),  # noqa: PTH119 - as elsewhere
        gallery_cameras=np.array(by_camera.cameras, dtype=np.int64),
        by_camera=by_camera.average_precision,
    )


def write_query_metrics(folder: Path, queries: QueryMetrics) -> Path:
    """Writes per_query.npz (numpy's, without pickles) into the folder, whole or not at all, and returns its path.

    Raises:
        DataError: the folder cannot be written.
    """
    path = folder / FILE
    try:
        with replacing(path) as file:
            np.savez(file, **queries._asdict())
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from error
    return path


def read_query_metrics(folder: Path) -> QueryMetrics:
    """What `write_query_metrics` wrote.

    Raises:
        DataError: the file is missing, damaged, or holds something else.
    """
    path = folder / FILE
    if not path.is_file():
        raise DataError(f"{path}: no such file; name a folder that an evaluation was written to")
    try:
        return _checked(_arrays(path))
    except DAMAGED_NPZ as error:
        raise DataError(
            f"{path}: damaged, or not of an evaluation ({one_line(first_line(error))}); evaluate again"
        ) from error


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
    with np.load(path, allow_pickle=False) as file:  # noqa: TID251 - without pickles
        return {name: file[name] for name in KINDS}


def _checked(arrays: dict[str, np.ndarray]) -> QueryMetrics:
    """The arrays, if kinds, shapes and values are those of an evaluation."""
    for name, kind in KINDS.items():
        if not isinstance(arrays[name], np.ndarray) or arrays[name].dtype.kind != kind:
            raise ValueError(f"{name} is of another kind")
    shape = arrays["valid"].size, arrays["gallery_cameras"].size
    wide, lone = {"by_camera": shape}, {"gallery_cameras": shape[1:]}
    expected = dict.fromkeys(KINDS, shape[:1]) | lone | wide
    if wrong := [name for name in KINDS if arrays[name].shape != expected[name]]:
        raise ValueError(f"{wrong[0]} is of another size")
    precision, valid = arrays["average_precision"], arrays["valid"]
    if (np.isnan(precision) == valid).any() or not _shares(precision) or not _shares(arrays["by_camera"]):
        raise ValueError("an average precision is not between 0 and 1")
    wanted = {"f": np.float64, "i": np.int64}
    return QueryMetrics(
        **{name: arrays[name].astype(wanted.get(kind, arrays[name].dtype)) for name, kind in KINDS.items()}
    )


def _shares(values: np.ndarray) -> bool:
    """Are all numbers that are not NaN between 0 and 1?"""
    finite = values[~np.isnan(values)]
    return bool(((finite >= 0) & (finite <= 1 + 1e-9)).all())
