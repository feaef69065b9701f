"""The way of a frame from its file into a batch, against Pillow and torchvision frame by frame.

    python -m benchmarks.bench_loader

Frames per second of one core, by processor time: read, decode, resize, augment, collate; from files, from a pack of
their bytes and from a pack of pixels that were resized once. Files are JPEGs of 256 x 128 as in MARS, drawn at random
in a temporary folder. `benchmarks.bench_decoders` measures the steps that this stands on.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torchvision import transforms

from benchmarks.measuring import measure, say
from trainer.compute import prepare_process
from trainer.data import Tracklet
from trainer.data.frames import bytes_address, pixels_address, read_clip
from trainer.data.pack_file import write_pack_file
from trainer.input.augment import ENLARGEMENT, IMAGENET_MEAN, IMAGENET_STD, normalised
from trainer.input.clips import ClipConfig, Window
from trainer.input.loader import EvaluationClips, TrainingClips, to_device, training_loader
from trainer.input.sampler import IdentityBatches

FILE_SIZE = (256, 128)
SIZES = {"256x128": (256, 128), "224x112": (224, 112)}
JPEG_QUALITY = 90  # gives 8-9 kB a frame
TRACKLETS, FRAMES = 16, 8
RUNS = 7
PAD = 10
CPU = torch.device("cpu")
CONFIG = ClipConfig(identities=8, tracklets=2, second_erase=0.0)
BATCH_FRAMES = CONFIG.identities * CONFIG.tracklets * CONFIG.frames
# Frames per second that a step consumes in the measurement of waiting; an H100 takes 4-6k (ResNet-50, 256 x 128, bf16).
CONSUMED = (1000, 4000)
WAITING_IDENTITIES, WAITING_RUNS = 128, 5

Candidate = Callable[[], object]


def main() -> None:
    """Measures everything and prints one JSON line."""
    prepare_process()  # as every training does
    torch.set_num_threads(1)
    random.seed(0)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        tracklets = draw_tracklets(Path(folder))
        paths = [path for tracklet in tracklets for path in tracklet.frames]
        say(
            benchmark="loader",
            unit="frames per second of processor time, one thread; median of runs",
            runs=RUNS,
            file_bytes=round(sum(Path(path).stat().st_size for path in paths) / len(paths)),
            frames_per_second={name: _speeds(tracklets, size, Path(folder)) for name, size in SIZES.items()},
            waiting={
                "step": f"{BATCH_FRAMES} frames; sleeps, as the host does while a GPU computes",
                "share": [_waiting(tracklets, workers, speed) for workers in (1, 2) for speed in CONSUMED],
            },
        )


def draw_tracklets(folder: Path) -> list[Tracklet]:
    """Tracklets of smooth noise with some texture, each an identity of its own."""
    draws = np.random.default_rng(0)
    tracklets = []
    for identity in range(TRACKLETS):
        paths = [folder / f"{identity}-{frame}.jpg" for frame in range(FRAMES)]
        for path in paths:
            coarse, fine = (gaussian_filter(draws.normal(size=(*FILE_SIZE, 3)), (s, s, 0)) for s in (6, 1))
            pixels = 128 + 45 * coarse / coarse.std() + 5 * fine / fine.std()
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=JPEG_QUALITY)
        tracklets.append(Tracklet(tuple(map(str, paths)), identity, 1))
    return tracklets


def sources(tracklets: Sequence[Tracklet], folder: Path) -> dict[str, Callable[[tuple[int, int]], list[Tracklet]]]:
    """The tracklets as files, and packed; pixels are packed at the size they are asked for at."""
    return {
        "files": lambda size: [*tracklets],
        "packed bytes": lambda size: _packed(tracklets, folder / f"bytes-{size[0]}", None),
        "packed pixels": lambda size: _packed(tracklets, folder / f"pixels-{size[0]}", size),
    }


def _packed(tracklets: Sequence[Tracklet], folder: Path, size: tuple[int, int] | None) -> list[Tracklet]:
    frames = [frame for tracklet in tracklets for frame in tracklet.frames]
    folder.mkdir(exist_ok=True)
    file = os.fspath(folder / "frames-000.pack")
    lengths = write_pack_file(Path(file), frames, size, lambda number, damaged: None).lengths
    addresses = [
        bytes_address(file, at, length, "frame.jpg") if size is None else pixels_address(file, at, size, "frame.jpg")
        for at, length in zip(accumulate(lengths, initial=0), lengths, strict=False)
    ]
    return [
        tracklet._replace(frames=tuple(addresses[FRAMES * place : FRAMES * (place + 1)]))
        for place, tracklet in enumerate(tracklets)
    ]


def _speeds(tracklets: Sequence[Tracklet], size: tuple[int, int], folder: Path) -> dict[str, dict[str, float]]:
    """By source and step: the loader's ways, and the usual ones on Pillow."""
    candidates: dict[tuple[str, str], Candidate] = {}
    for source, stored in sources(tracklets, folder).items():
        candidates |= {(source, name): each for name, each in _ours(stored(size), size).items()}
    paths = [path for tracklet in tracklets for path in tracklet.frames]
    candidates |= {("Pillow", name): _pillow(paths, make(size)) for name, make in PILLOW.items()}
    taken = measure({"/".join(key): each for key, each in candidates.items()}, runs=RUNS)
    speeds: dict[str, dict[str, float]] = {}
    for source, name in candidates:
        speeds.setdefault(source, {})[name] = round(BATCH_FRAMES / taken[f"{source}/{name}"].cpu_s)
    return speeds


def _ours(tracklets: Sequence[Tracklet], size: tuple[int, int]) -> dict[str, Candidate]:
    paths = [path for tracklet in tracklets for path in tracklet.frames][:BATCH_FRAMES]
    return {
        "read, decode, resize": lambda: [read_clip(paths[i : i + 4], *size) for i in range(0, BATCH_FRAMES, 4)],
        "evaluation": _evaluation(tracklets, size),
        "pad, worker": _training(tracklets, size, CONFIG),
        "pad, worker, normalised": _training(tracklets, size, CONFIG, normalise=True),
        "translate, worker": _training(tracklets, size, _with(crop="translate")),
        "translate, worker, normalised": _training(tracklets, size, _with(crop="translate"), normalise=True),
        "pad, device cpu": _training(tracklets, size, _with(augment_on="device")),
        "translate, device cpu": _training(tracklets, size, _with(crop="translate", augment_on="device")),
        "loader's part of augment_on device": _loading(tracklets, size, _with(augment_on="device")),
    }


def _with(**settings: object) -> ClipConfig:
    return CONFIG.model_copy(update=settings)


def _training(
    tracklets: Sequence[Tracklet], size: tuple[int, int], config: ClipConfig, *, normalise: bool = False
) -> Candidate:
    """One batch of the real loader, augmented."""
    load = _loading(tracklets, size, config)

    def run() -> object:
        batch = to_device(load(), CPU, config)
        return normalised(batch.frames) if normalise else batch

    return run


def _loading(tracklets: Sequence[Tracklet], size: tuple[int, int], config: ClipConfig) -> Callable[[], Any]:
    loader = loader_of([*tracklets], config, size, workers=0)
    return lambda: next(iter(loader))


def loader_of(
    tracklets: Sequence[Tracklet],
    config: ClipConfig,
    size: tuple[int, int],
    *,
    workers: int,
    device: torch.device = CPU,
) -> Any:
    """The real loader, with each tracklet an identity of its own."""
    labels = list(range(len(tracklets)))
    clips = TrainingClips(tracklets, labels, config, size=size, seed=0)
    return training_loader(clips, IdentityBatches(labels, config, 0), workers=workers, device=device)


def _evaluation(tracklets: Sequence[Tracklet], size: tuple[int, int]) -> Candidate:
    windows = [Window(tracklet, (0, 1, 2, 3)) for tracklet in range(BATCH_FRAMES // 4)]
    clips = EvaluationClips(tracklets, windows, size=size)
    return lambda: [clips[index] for index in range(len(windows))]


class Random2DTranslation:
    """The paper's, as paper-spec.md C.3 describes it."""

    def __init__(self, size: tuple[int, int]) -> None:
        self._size = size

    def __call__(self, image: Image.Image) -> Image.Image:
        height, width = self._size
        if random.random() < 0.5:
            return image.resize((width, height), Image.Resampling.BILINEAR)
        high, wide = round(height * ENLARGEMENT), round(width * ENLARGEMENT)
        top, left = round(random.uniform(0, high - height)), round(random.uniform(0, wide - width))
        large = image.resize((wide, high), Image.Resampling.BILINEAR)
        return large.crop((left, top, left + width, top + height))


def papers_transforms(size: tuple[int, int]) -> Any:
    """The list of paper-spec.md C.3."""
    return transforms.Compose(
        [
            transforms.Resize(size, transforms.InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(),
            transforms.Pad(PAD),
            Random2DTranslation(size),
            *_to_normalised_tensor(),
            transforms.RandomErasing(scale=(0.02, 0.4), ratio=(0.3, 1 / 0.3), value=IMAGENET_MEAN),
        ]
    )


def common_transforms(size: tuple[int, int]) -> Any:
    """What bag-of-tricks baselines use."""
    return transforms.Compose(
        [
            transforms.Resize(size, transforms.InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(),
            transforms.Pad(PAD),
            transforms.RandomCrop(size),
            *_to_normalised_tensor(),
            transforms.RandomErasing(scale=(0.02, 0.4), ratio=(0.3, 1 / 0.3), value=IMAGENET_MEAN),
        ]
    )


def plain_transforms(size: tuple[int, int]) -> Any:
    """torchreid's default."""
    return transforms.Compose([transforms.Resize(size), transforms.RandomHorizontalFlip(), *_to_normalised_tensor()])


def _to_normalised_tensor() -> list[Any]:
    return [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]


PILLOW: dict[str, Callable[[tuple[int, int]], Any]] = {
    "the paper's transforms": papers_transforms,
    "resize + flip + pad-crop + erase": common_transforms,
    "resize + flip": plain_transforms,
}


def _pillow(paths: Sequence[str], transform: Any) -> Candidate:
    def frame(path: str) -> torch.Tensor:
        with Image.open(path) as image:
            return transform(image.convert("RGB"))

    return lambda: torch.stack([frame(path) for path in paths[:BATCH_FRAMES]])


def _waiting(tracklets: Sequence[Tracklet], workers: int, speed: int) -> dict[str, float]:
    """Share of an epoch spent waiting for batches by a loop whose steps consume `speed` frames a second."""
    many = [*tracklets] * (WAITING_IDENTITIES // len(tracklets))
    loader = loader_of(many, CONFIG, FILE_SIZE, workers=workers)
    list(loader)  # workers start
    shares = [_waited_share(loader, BATCH_FRAMES / speed) for _ in range(WAITING_RUNS)]
    return {"workers": workers, "consumed_per_second": speed, "waiting": round(median(shares), 3)}


def _waited_share(loader: Any, step_s: float) -> float:
    started = asked = time.perf_counter()
    waited = 0.0
    for _ in loader:
        waited += time.perf_counter() - asked
        time.sleep(step_s)
        asked = time.perf_counter()
    return waited / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
