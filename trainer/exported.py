"""A network that `export` wrote, used from its folder alone: embeddings of tracklets, and who is like whom.

N tracklets, Q queries, G gallery tracklets, D embedding.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from pydantic import ValidationError
from torch import Tensor

from trainer.checkpoint import load_checkpoint
from trainer.compute import ComputeConfig
from trainer.config import TrialConfig
from trainer.data import Tracklet
from trainer.data.dataset import NO_CAMERA, NamedNumber
from trainer.data.folder import find_data, recognised
from trainer.data.importing.folders import read_folders
from trainer.data.readers.tracklet_table import IMAGES
from trainer.data.synthetic.dataset import is_synthetic
from trainer.errors import CheckpointError, ConfigError, DataError
from trainer.evaluation.embed import ClipEmbeddings, embed, embed_clips
from trainer.evaluation.evaluate import restored_network
from trainer.evaluation.metrics import pairwise_distance
from trainer.export import CONFIG_FILE, FILE_NAMES
from trainer.files import read_regular, replacing, write_atomically
from trainer.formatting import first_line, located
from trainer.plots.sheets import RankedItem, RankedQuery, ranking_sheet
from trainer.result import DistanceThreshold, Progress, no_progress

Runtime: TypeAlias = Literal["torch", "onnx"]
Embed: TypeAlias = Callable[[Sequence[Tracklet], Progress], Float[Tensor, "N D"]]

THRESHOLD_FILE = "threshold.json"
PARQUET, NPZ = ".parquet", ".npz"
SHEET_QUERIES = 20  # rows of a sheet


class ExportedModel(NamedTuple):
    """A network in a folder that `export` wrote."""

    folder: Path
    config: TrialConfig
    threshold: DistanceThreshold | None
    """None where the folder holds none."""
    embed: Embed
    """Embeddings of tracklets, on the CPU."""


class SourceTracklet(NamedTuple):
    """A tracklet of a data set, or in a folder."""

    tracklet: Tracklet
    part: str
    """train, query or gallery of a data set; empty in a folder."""
    identity: str
    """Empty where the source does not say."""
    camera: str
    """Empty where the source does not say."""
    name: str
    """The folder of its frames, below the source; of a data set its first frame, below the source unless packed."""

    def described(self) -> dict[str, object]:
        """What a document says of it."""
        return {"tracklet": self.name, "identity": self.identity or None, "camera": self.camera or None}


def open_exported(folder: Path, runtime: Runtime = "torch") -> ExportedModel:
    """The network in the folder, computed by torch or by ONNX Runtime; both in float32, on the GPU if torch has one.

    Raises:
        CheckpointError: the folder was not written by `export`, or lacks the file for the runtime, or is damaged.
        ConfigError: ONNX Runtime is not installed.
    """
    config = _read(folder / CONFIG_FILE, TrialConfig)
    if config is None:
        raise CheckpointError(f"{folder}: is no folder that `reidsearch export` wrote, it holds no {CONFIG_FILE}")
    # As the graph computes, and without processes that a few tracklets do not need.
    clips = config.clips.model_copy(update={"workers": 0})
    config = config.model_copy(
        update={"compute": ComputeConfig(precision="fp32", tf32=False, channels_last=False), "clips": clips}
    )
    threshold = _read(folder / THRESHOLD_FILE, DistanceThreshold)
    embed_by = _by_torch(folder, config) if runtime == "torch" else _by_onnx(folder / FILE_NAMES["onnx"], config)
    return ExportedModel(folder, config, threshold, embed_by)


def _read(path: Path, model: type[Any]) -> Any:
    try:
        return model.model_validate_json(read_regular(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError as error:
        fault = error.errors()[0]
        what = "is no JSON" if fault["type"] == "json_invalid" else located(fault)
        raise CheckpointError(f"{path}: {what}; export the network again") from error


def _by_torch(folder: Path, config: TrialConfig) -> Embed:
    file = next((path for kind in ("checkpoint", "safetensors") if (path := folder / FILE_NAMES[kind]).is_file()), None)
    if file is None:
        raise CheckpointError(
            f"{folder}: holds neither {FILE_NAMES['checkpoint']} nor {FILE_NAMES['safetensors']}; "
            "use --runtime onnx, or export it --to checkpoint"
        )
    weights = load_checkpoint(file)["model"] if file.suffix == ".pt" else _safetensors(file)
    model = restored_network(config.model, file, weights).to("cuda" if torch.cuda.is_available() else "cpu")

    def embed_by(tracklets: Sequence[Tracklet], progress: Progress) -> Float[Tensor, "N D"]:
        return embed(model, tracklets, config, progress=progress).vectors.cpu()

    return embed_by


def _safetensors(file: Path) -> dict[str, Tensor]:
    if importlib.util.find_spec("safetensors") is None:
        raise ConfigError(f"{file}: needs safetensors: pip install 'reidsearch[export]'")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except SafetensorError as error:
        raise CheckpointError(f"{file}: is damaged ({first_line(error)})") from error


def _by_onnx(file: Path, config: TrialConfig) -> Embed:
    if not file.is_file():
        raise CheckpointError(f"{file}: is missing; use --runtime torch, or export the network --to onnx")
    if importlib.util.find_spec("onnxruntime") is None:
        raise ConfigError("--runtime onnx needs onnxruntime: pip install 'reidsearch[export]'")
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = InferenceSession(file, options, providers=["CPUExecutionProvider"])
        dimension = int(session.get_outputs()[0].shape[1])
    except Exception as error:  # of many kinds, none of them documented
        raise CheckpointError(f"{file}: is no graph that ONNX Runtime can run ({first_line(error)})") from error

    def embedded(frames: Tensor) -> ClipEmbeddings:
        vectors, weights = session.run(["embedding", "weights"], {"clips": frames.numpy()})
        return ClipEmbeddings(torch.from_numpy(vectors), torch.from_numpy(weights))

    def embed_by(tracklets: Sequence[Tracklet], progress: Progress) -> Float[Tensor, "N D"]:
        cpu = torch.device("cpu")
        return embed_clips(embedded, dimension, cpu, tracklets, config, progress=progress).vectors

    return embed_by


def read_source(source: Path, part: Literal["query", "gallery"] | None = None) -> list[SourceTracklet]:
    """The tracklets of a data set, packed or not, or of a folder of them; frames are not opened.

    Args:
        source: a data set that is recognised, or folders `identity/camera/tracklet/frames`, `identity/tracklet/frames`
            or `tracklet/frames`.
        part: of a data set; None is all parts.

    Raises:
        DataError: there is no tracklet, or what is there cannot be read.
    """
    if not source.is_dir():
        raise DataError(f"{source}: no such folder; name a data set or a folder of tracklets")
    found = list(_of_data_set(source, part) if recognised(source) else _of_folders(source))
    if not found:
        raise DataError(f"{source}: holds no tracklet" + (f" of the {part} part" if part else ""))
    return found


def _of_data_set(source: Path, only: str | None) -> Iterator[SourceTracklet]:
    for part, tracklets in find_data(source).read()._asdict().items():
        if only in (None, part):
            for each in tracklets:
                camera = "" if each.camera == NO_CAMERA else str(each.camera)
                yield SourceTracklet(each, part, str(each.identity), camera, _below(source, Path(each.frames[0])))


def _below(source: Path, frame: Path) -> str:
    return frame.relative_to(source).as_posix() if frame.is_relative_to(source) else frame.name


def _of_folders(source: Path) -> Iterator[SourceTracklet]:
    flat = _holds_tracklets(source)
    plan = read_folders(source, ("identity",) if flat else None)
    identities: dict[str, int] = {}
    cameras: dict[str, int] = {}
    for planned in plan.tracklets:
        frames = tuple(str(frame) for frame in planned.frames)
        identity = NamedNumber(identities.setdefault(planned.identity, len(identities) + 1), planned.identity)
        camera = NO_CAMERA
        if planned.camera is not None:
            camera = NamedNumber(cameras.setdefault(planned.camera, len(cameras) + 1), planned.camera)
        name = Path(frames[0]).parent.relative_to(source).as_posix()
        known = "" if flat else planned.identity
        yield SourceTracklet(Tracklet(frames, identity, camera), "", known, planned.camera or "", name)


def _holds_tracklets(source: Path) -> bool:
    """Whether the folders in it hold frames themselves, so that nothing says whom they show."""
    first = next((path for path in sorted(source.iterdir()) if path.is_dir() and not path.name.startswith(".")), None)
    return first is not None and any(path.suffix.lower() in IMAGES for path in first.iterdir())


def write_embeddings(
    model: ExportedModel, source: Path, out: Path, *, progress: Progress = no_progress
) -> tuple[int, int]:
    """Writes the embeddings of all tracklets of the source to a file; returns their number N and their length D.

    Columns of Parquet, arrays of .npz: `embedding` [N D] float32, `part`, `identity`, `camera` and `tracklet` (text),
    `frames` (their number).

    Raises:
        ConfigError: `out` ends with neither .parquet nor .npz.
        DataError: the source cannot be read.
    """
    if out.suffix not in (PARQUET, NPZ):
        raise ConfigError(f"{out}: embeddings are written to a file that ends with {PARQUET} or {NPZ}")
    found = read_source(source)
    vectors = model.embed([each.tracklet for each in found], progress).numpy()
    columns = {
        "part": np.array([each.part for each in found]),
        "identity": np.array([each.identity for each in found]),
        "camera": np.array([each.camera for each in found]),
        "tracklet": np.array([each.name for each in found]),
        "frames": np.array([len(each.tracklet.frames) for each in found]),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as file:
        if out.suffix == NPZ:
            np.savez(file, embedding=vectors, **columns)  # type: ignore[arg-type]
        else:
            _write_parquet(file, vectors, columns)
    return len(found), vectors.shape[1]


def _write_parquet(file: Any, vectors: Any, columns: dict[str, Any]) -> None:
    import pyarrow
    from pyarrow import parquet

    flat = pyarrow.array(vectors.reshape(-1), pyarrow.float32())
    embedding = pyarrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    parquet.write_table(
        pyarrow.table({**{name: list(each) for name, each in columns.items()}, "embedding": embedding}), file
    )


class Found(NamedTuple):
    """A gallery tracklet in the ranking of a query."""

    tracklet: SourceTracklet
    rank: int
    """From 1."""
    distance: float
    same: bool | None
    """Whether the distance is at most the threshold; None without one."""


class Match(NamedTuple):
    """A query and the nearest of the gallery, nearest first."""

    query: SourceTracklet
    found: tuple[Found, ...]


def match(
    model: ExportedModel, query: Path, gallery: Path, *, top: int, progress: Progress = no_progress
) -> list[Match]:
    """The `top` nearest gallery tracklets of each query, ties in the order of the gallery.

    A tracklet is not found by itself: what has the same frames is left out. Of a data set the query part is searched
    in the gallery part; of a folder all tracklets are taken.

    Raises:
        DataError: a source cannot be read.
    """
    queries, searched = read_source(query, "query"), read_source(gallery, "gallery")
    vectors = model.embed([each.tracklet for each in (*queries, *searched)], progress)
    distances = pairwise_distance(vectors[: len(queries)], vectors[len(queries) :], model.config.evaluation.distance)
    return [_match(each, row, searched, model.threshold, top) for each, row in zip(queries, distances, strict=True)]


def _match(
    query: SourceTracklet,
    distances: Float[Tensor, " G"],
    gallery: Sequence[SourceTracklet],
    threshold: DistanceThreshold | None,
    top: int,
) -> Match:
    order = torch.argsort(distances, stable=True).tolist()
    others = (place for place in order if gallery[place].tracklet.frames != query.tracklet.frames)
    found = []
    for rank, (place, _) in enumerate(zip(others, range(top), strict=False), start=1):
        distance = float(distances[place])
        same = None if threshold is None else distance <= threshold.distance
        found.append(Found(gallery[place], rank, distance, same))
    return Match(query, tuple(found))


def match_document(model: ExportedModel, matches: Sequence[Match]) -> dict[str, object]:
    """The matches as a JSON document."""
    return {
        "model": str(model.folder),
        "distance": model.config.evaluation.distance,
        "threshold": None if model.threshold is None else model.threshold.model_dump(),
        "queries": [
            {
                **each.query.described(),
                "found": [
                    {"rank": one.rank, **one.tracklet.described(), "distance": one.distance, "same": one.same}
                    for one in each.found
                ],
            }
            for each in matches
        ],
    }


def write_matches(model: ExportedModel, matches: Sequence[Match], out: Path) -> None:
    """Writes the document to a file."""
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, json.dumps(match_document(model, matches), indent=2) + "\n")


def draw_matches(matches: Sequence[Match], out: Path, *, synthetic: bool) -> None:
    """Draws the first queries, and what each found, as a sheet of pictures.

    Raises:
        DataError: a frame is missing or damaged, or the picture cannot be written.
    """
    rows = [
        RankedQuery(each.query.tracklet, None, tuple(map(_ranked_item, each.found)), ())
        for each in matches[:SHEET_QUERIES]
    ]
    ranking_sheet(rows, out, synthetic=synthetic)


def _ranked_item(found: Found) -> RankedItem:
    verdict: Literal["found", "same", "other"] = "found" if found.same is None else "same" if found.same else "other"
    return RankedItem(found.tracklet.tracklet, found.rank, found.distance, verdict)


def shows_drawings(query: Path, gallery: Path) -> bool:
    """Whether all people in both sources are drawn."""
    return is_synthetic(query) and is_synthetic(gallery)
