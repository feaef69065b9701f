"""`reidsearch embed` and `match` with an exported network, as whole commands: seconds, and images per second.

    OMP_NUM_THREADS=1 python -m benchmarks.bench_embed [--backbone resnet50 --tracklets 16] [--runs 3]

The network has random weights and is exported for both runtimes; tracklets are folders of 8 JPEG files of 256 x 128
pixels, all of which are looked at (two clips of 4). `match` searches a quarter of the tracklets among all. Commands
take turns. Pairs of numbers are the median and the best run. Images per second are over the processor time that a
command takes beyond the same command with one tracklet.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from benchmarks.measuring import say
from trainer.checkpoint import save_checkpoint
from trainer.config import TrialConfig
from trainer.export import export_network
from trainer.model.network import TemporalAttentionResNet

SIZES = {"tiny": (64, 32), "resnet50": (256, 128)}
FRAMES = 8
RUNTIMES = "torch", "onnx"


class Command(NamedTuple):
    """One run of a command."""

    wall_s: float
    cpu_s: float


def main() -> None:
    """Prints one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", choices=list(SIZES), default="tiny")
    parser.add_argument("--tracklets", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = _exported(folder, asked.backbone)
        one, some, every = (
            _tracklets(folder / str(count), count) for count in (1, asked.tracklets // 4, asked.tracklets)
        )
        images = {"embed": FRAMES * (asked.tracklets - 1), "match": FRAMES * (asked.tracklets * 5 // 4 - 2)}
        commands = {
            (what, runtime, size): [
                what,
                str(model),
                *map(str, sources),
                "--out",
                str(folder / out),
                "--runtime",
                runtime,
            ]
            for runtime in RUNTIMES
            for what, out, ends in (
                ("embed", "e.npz", ([one], [every])),
                ("match", "m.json", ([one, one], [some, every])),
            )
            for size, sources in zip(("one", "all"), ends, strict=True)
        }
        taken: dict[tuple[str, str, str], list[Command]] = {key: [] for key in commands}
        for _ in range(asked.runs):
            for key, command in commands.items():
                taken[key].append(_run([sys.executable, "-m", "orchestrator", *command]))
        say(
            benchmark="embed",
            network=f"{asked.backbone}, {SIZES[asked.backbone]} pixels",
            tracklets=asked.tracklets,
            runs=asked.runs,
            commands={
                f"{what}, {runtime}": _summary(taken[what, runtime, "one"], taken[what, runtime, "all"], images[what])
                for what in images
                for runtime in RUNTIMES
            },
        )


def _exported(folder: Path, backbone: str) -> Path:
    height, width = SIZES[backbone]
    model = {"backbone": backbone, "weights": "none", "height": height, "width": width}
    config = TrialConfig.model_validate({"model": model})
    network = TemporalAttentionResNet(config.model, 625)
    state = {"config": config.model_dump(mode="json"), "epoch": 0, "model": network.state_dict()}
    save_checkpoint(folder / "best.pt", state)
    for to in ("checkpoint", "onnx"):
        export_network(folder / "best.pt", folder / "model", to)
    return folder / "model"


def _tracklets(root: Path, count: int) -> Path:
    generator = torch.Generator().manual_seed(0)
    for number in range(count):
        tracklet = root / f"{number:04d}"
        tracklet.mkdir(parents=True)
        for frame in range(FRAMES):
            drawn = torch.randint(256, (32, 16, 3), dtype=torch.uint8, generator=generator).numpy()
            Image.fromarray(drawn).resize((128, 256)).save(tracklet / f"{frame}.jpg")
    return root


def _run(command: Sequence[str]) -> Command:
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Command(time.perf_counter() - began, used.ru_utime + used.ru_stime)


def _summary(one: Sequence[Command], every: Sequence[Command], images: int) -> dict[str, Any]:
    """Pairs of median and best; `images` are those that `every` embeds beyond `one`."""
    start, least_start = (f([each.cpu_s for each in one]) for f in (statistics.median, min))
    cpu, least = (f([each.cpu_s for each in every]) for f in (statistics.median, min))
    wall = [each.wall_s for each in every]
    return {
        "wall_s": [round(statistics.median(wall), 2), round(min(wall), 2)],
        "cpu_s": [round(cpu, 2), round(least, 2)],
        "cpu_s_of_one_tracklet": [round(start, 2), round(least_start, 2)],
        "images_per_cpu_s": [round(images / (cpu - start), 1), round(images / (least - least_start), 1)],
    }


if __name__ == "__main__":
    main()
