"""Reads the evaluation folder of a trial's best epoch, as far as it exists."""

from __future__ import annotations

import base64
import io
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from orchestrator.stores.base import SearchFolder
from trainer.errors import DataError
from trainer.files import loads_checked, read_regular
from trainer.formatting import first_line, one_line

FOLDER = "evaluation"
PICTURES = {"ranking": "ranking.png", "attention": "attention.png"}
"""Pictures of people."""
MAX_BYTES = 64 * 2**20  # of a file that is read; those of this program take a few MB
WIDTH = 1400  # pixels of a picture in the page
QUALITY = 82


class CameraTable(NamedTuple):
    """mAP of the queries of each camera in the gallery of each camera."""

    cameras: list[str]
    """Names, or numbers where they have none."""
    mean_ap: list[list[float | None]]
    """Rows are cameras of queries; None where no query has a match."""
    queries: list[list[int]]


class EvaluationView(NamedTuple):
    """An evaluation as the page shows it."""

    trial: str
    metrics: dict[str, Any]
    """The content of `evaluation.json`."""
    cmc: list[float]
    """Shares at ranks 1, 2, ...; empty if the file has no curve."""
    precisions: list[float]
    """Average precision of each valid query."""
    cameras: CameraTable | None
    pictures: dict[str, str]
    """Data URIs by name; empty if pictures of people are not to be shown."""
    problems: list[str]
    """What could not be read."""


def read_evaluation(folder: SearchFolder, trial: str, *, pictures: bool) -> EvaluationView | None:
    """The trial's evaluation; None if it has no folder. Files that cannot be read are listed among the problems.

    Args:
        folder: of the search.
        trial: its key.
        pictures: whether pictures of people are read.
    """
    folder.store.pull_trial(folder, trial, f"{FOLDER}/*")
    place = folder.trial(trial) / FOLDER
    if not place.is_dir():
        return None
    problems: list[str] = []
    metrics = _metrics(place / "evaluation.json", problems)
    precisions, cameras = _queries(place, metrics.get("cameras"), problems)
    files = PICTURES if pictures else {}
    shown = {name: uri for name, file in files.items() if (uri := _picture(place / file, problems))}
    return EvaluationView(trial, metrics, _curve(metrics), precisions, cameras, shown, problems)


def full_curve(folder: SearchFolder, trial: str) -> list[float]:
    """The CMC curve at ranks 1, 2, ... of the network that a trial keeps; empty if its folder has none."""
    folder.store.pull_trial(folder, trial, f"{FOLDER}/*")
    return _curve(_metrics(folder.trial(trial) / FOLDER / "evaluation.json", []))


def _metrics(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        data = loads_checked(read_regular(path, MAX_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"{path.name}: {_described(error)}")
        return {}
    if not isinstance(data, dict):
        problems.append(f"{path.name}: is no object")
        return {}
    return data


def _curve(metrics: dict[str, Any]) -> list[float]:
    """The CMC curve of the embeddings, without re-ranking."""
    curves = metrics.get("cmc")
    values = curves.get("embeddings") if isinstance(curves, dict) else None
    if not isinstance(values, list) or not all(_is_share(value) for value in values):
        return []
    return [float(value) for value in values]


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _queries(place: Path, names: object, problems: list[str]) -> tuple[list[float], CameraTable | None]:
    # Both import torch, which takes seconds, and are needed only where there is something to read.
    from trainer.evaluation.analysis import CameraPrecision, camera_matrix
    from trainer.evaluation.query_metrics import FILE, read_query_metrics

    if not (place / FILE).is_file():
        return [], None
    try:
        found = read_query_metrics(place)
    except DataError as error:
        problems.append(f"{FILE}: {_described(error)}")
        return [], None
    seen = CameraPrecision(tuple(found.gallery_cameras.tolist()), found.by_camera)
    matrix = camera_matrix(seen, found.camera.tolist())
    known = names if isinstance(names, dict) else {}
    cameras = [one_line(str(known.get(str(camera), camera))) for camera in matrix.cameras]
    table = CameraTable(cameras, _without_nan(matrix.mean_ap), matrix.queries.tolist())
    return found.average_precision[found.valid].tolist(), table if matrix.queries.any() else None


def _without_nan(values: np.ndarray) -> list[list[float | None]]:
    return [[None if math.isnan(value) else value for value in row] for row in values.tolist()]


def _picture(path: Path, problems: list[str]) -> str | None:
    content = webp(path, problems)
    return None if content is None else "data:image/webp;base64," + base64.b64encode(content).decode()


def webp(path: Path, problems: list[str]) -> bytes | None:
    """The picture, made narrower and compressed; None where there is none, or a problem."""
    if not path.is_file():
        return None
    from PIL import Image

    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError("too large")
        with Image.open(path, formats=["PNG"]) as opened:  # noqa: TID251 - with formats=
            picture = opened.convert("RGB")
        if picture.width > WIDTH:
            picture = picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", quality=QUALITY)
    except (OSError, ValueError, Image.DecompressionBombError, SyntaxError) as error:
        problems.append(f"{path.name}: {_described(error)}")
        return None
    return buffer.getvalue()


def _described(error: Exception) -> str:
    """The error without the folder, which may say whose machine this is."""
    if isinstance(error, OSError):
        return error.strerror or "cannot be read"
    return first_line(error).rpartition(f"{FOLDER}/")[2]
