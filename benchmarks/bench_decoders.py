"""What a frame's way into a batch stands on: decoders, and the ways to resize under the paper's translation.

    python -m benchmarks.bench_decoders

Processor time of one thread, for the JPEGs of `benchmarks.bench_loader`. OpenCV is compared where it is installed.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import simplejpeg
import torch
import torchvision
from PIL import Image
from torch.nn import functional

from benchmarks.bench_loader import BATCH_FRAMES, CONFIG, FILE_SIZE, PAD, RUNS, SIZES, Candidate, draw_tracklets
from benchmarks.measuring import measure, say
from trainer.compute import prepare_process
from trainer.data.frames import read_clip


def main() -> None:
    """Measures everything and prints one JSON line."""
    prepare_process()  # as every training does
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        paths = [path for tracklet in draw_tracklets(Path(folder)) for path in tracklet.frames]
        say(
            benchmark="decoders",
            runs=RUNS,
            decoders=_decoders(paths),
            translate_resize=_resizes(paths),
            resized_once_or_twice=_resamplings(paths),
        )


def _decoders(paths: Sequence[str]) -> dict[str, dict[str, float]]:
    """Decoding alone, of files in memory: frames per second, and how far the pixels are from Pillow's."""
    files = [Path(path).read_bytes() for path in paths[:BATCH_FRAMES]]
    expected = np.stack([_pillow_decoded(file) for file in files])
    decoders: dict[str, Callable[[bytes], np.ndarray]] = {
        "simplejpeg": lambda file: simplejpeg.decode_jpeg(file, "RGB"),
        "simplejpeg, scaled to 7/8 while decoding": lambda file: simplejpeg.decode_jpeg(file, "RGB", min_height=224),
        "torchvision.io": _torchvision_decoded,
        "Pillow": _pillow_decoded,
    }
    if importlib.util.find_spec("cv2"):
        decoders["cv2"] = _opencv_decoded()
    taken = measure({name: _each(files, decode) for name, decode in decoders.items()}, runs=RUNS)
    return {
        name: {
            "frames_per_second": round(BATCH_FRAMES / taken[name].cpu_s),
            **_gap_from(expected, np.stack([decode(file) for file in files])),
        }
        for name, decode in decoders.items()
    }


def _each(files: Sequence[bytes], decode: Callable[[bytes], np.ndarray]) -> Candidate:
    return lambda: [decode(file) for file in files]


def _gap_from(expected: np.ndarray, decoded: np.ndarray) -> dict[str, float]:
    if expected.shape != decoded.shape:
        return {}
    return {"mean_grey_levels_from_pillow": round(float(np.abs(expected.astype(int) - decoded).mean()), 4)}


def _pillow_decoded(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


def _torchvision_decoded(file: bytes) -> np.ndarray:
    data = torch.from_numpy(np.frombuffer(file, np.uint8).copy())
    return torchvision.io.decode_jpeg(data, torchvision.io.ImageReadMode.RGB).permute(1, 2, 0).numpy()


def _opencv_decoded() -> Callable[[bytes], np.ndarray]:
    cv2 = importlib.import_module("cv2")
    cv2.setNumThreads(1)
    return lambda file: cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR_RGB)


def _resizes(paths: Sequence[str]) -> dict[str, dict[str, float]]:
    """Cost of the two ways to resize a padded frame under `crop: translate`, and how far they are from Pillow's."""
    size = FILE_SIZE
    padded = np.pad(read_clip(paths[:BATCH_FRAMES], *size), ((0, 0), (PAD, PAD), (PAD, PAD), (0, 0)))
    pillow = np.stack(
        [np.asarray(Image.fromarray(frame).resize(size[::-1], Image.Resampling.BILINEAR)) for frame in padded]
    )
    batch = torch.from_numpy(padded).permute(0, 3, 1, 2)

    def resize(antialias: bool) -> torch.Tensor:
        return functional.interpolate(batch, size, mode="bilinear", antialias=antialias)

    ways = {"antialiased": True, "not antialiased": False}
    taken = measure({name: partial(resize, way) for name, way in ways.items()}, runs=RUNS)
    return {
        name: {
            "us_per_frame": round(1e6 * taken[name].cpu_s / len(padded), 1),
            "mean_grey_levels_from_pillow": round(_gap(resize(way), pillow), 3),
        }
        for name, way in ways.items()
    }


def _resamplings(paths: Sequence[str]) -> dict[str, dict[str, float]]:
    """Resize to the input size and translate, as it is done, against one resampling of the padded file for both.

    One costs less, but its pixels are others: a resampling that is left out does not blur.
    """
    height, width = size = SIZES["224x112"]
    files = read_clip(paths[:BATCH_FRAMES], *FILE_SIZE)
    pads = [round(PAD * file / side) for file, side in zip(FILE_SIZE, size, strict=True)]

    def twice(frames: np.ndarray) -> np.ndarray:
        resized = _interpolated(frames, size, "bicubic")
        return _interpolated(np.pad(resized, ((0, 0), (PAD, PAD), (PAD, PAD), (0, 0))), size, "bilinear")

    def once(frames: np.ndarray) -> np.ndarray:
        down, right = pads
        return _interpolated(np.pad(frames, ((0, 0), (down, down), (right, right), (0, 0))), size, "bilinear")

    ways = {"twice": twice, "once": once}
    clips = [files[start : start + CONFIG.frames] for start in range(0, BATCH_FRAMES, CONFIG.frames)]
    taken = measure(
        {name: partial(lambda way: [way(clip) for clip in clips], way) for name, way in ways.items()}, runs=RUNS
    )
    gap = np.abs(once(files).astype(int) - twice(files)).mean()
    return {
        "us_per_frame": {name: round(1e6 * taken[name].cpu_s / BATCH_FRAMES, 1) for name in ways},
        "mean_grey_levels_between": {f"{height}x{width}": round(float(gap), 2)},
    }


def _interpolated(frames: np.ndarray, size: tuple[int, int], mode: str) -> np.ndarray:
    batch = torch.from_numpy(frames).permute(0, 3, 1, 2)
    return functional.interpolate(batch, size, mode=mode, antialias=True).permute(0, 2, 3, 1).numpy()


def _gap(resized: torch.Tensor, pillow: np.ndarray) -> float:
    return float(np.abs(resized.permute(0, 2, 3, 1).numpy().astype(int) - pillow).mean())


if __name__ == "__main__":
    main()
