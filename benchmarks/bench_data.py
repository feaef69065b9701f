"""What a data set costs an attempt beside its frames: reading it, or finding it in memory; and an evaluation's clips.

    python tests/helpers/full_mars.py FOLDER TABLES
    python -m benchmarks.bench_data FOLDER

`read` and `kept` are attempts, forked as a search's are: processor seconds until their data are there, and the MiB that
they then have to themselves, after one look at every frame's path and a run of Python's collector. `loop` makes the
clips of all test tracklets one tracklet at a time, `together` makes them at once.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import tempfile
import time
from importlib import import_module
from pathlib import Path
from statistics import median

from benchmarks.measuring import measure, say
from orchestrator.runner.attempt_server import PRELOADED
from trainer.config import TrialConfig
from trainer.data import DataConfig, read_splits
from trainer.data.kept import keep_training_data, training_data
from trainer.evaluation.embed import evaluation_windows
from trainer.input.clips import frame_windows

RUNS = 5


def main() -> None:
    """Measures everything and prints one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    data = DataConfig(root=parser.parse_args().folder)
    for module in PRELOADED:
        import_module(module)
    with tempfile.TemporaryDirectory() as folder:
        split = Path(folder) / "split.json"
        _attempt(data, split, make=True)
        attempts = {"read": [_attempt(data, split) for _ in range(RUNS)]}
        began = time.process_time()
        keep_training_data(data)
        kept_s = time.process_time() - began
        gc.collect()
        gc.freeze()
        attempts["kept"] = [_attempt(data, split) for _ in range(RUNS)]
    say(
        benchmark="data",
        unit="processor seconds and MiB, medians",
        attempts={
            name: [round(median(each), 3) for each in zip(*runs, strict=True)] for name, runs in attempts.items()
        },
        keeping_s=round(kept_s, 3),
        clips=_clips(data),
    )


def _attempt(data: DataConfig, split: Path, *, make: bool = False) -> tuple[float, float]:
    """Processor seconds and private MiB of a forked process that gets its data."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        began = time.process_time()
        found, _ = training_data(data, split, make=make)
        seconds = time.process_time() - began
        sum(len(path) for tracklet in found.train for path in tracklet.frames)
        gc.collect()
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        private = sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
        os.write(writer, json.dumps([seconds, private / 1024]).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        seconds, private = json.load(answer)
    os.wait()
    return seconds, private


def _clips(data: DataConfig) -> dict[str, dict[str, float]]:
    splits, config = read_splits(data), TrialConfig(data=data)
    tracklets = [*splits.query, *splits.gallery]
    dense = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"sampling": "dense"})})
    taken = measure(
        {
            "loop": lambda: [
                (index, tuple(window))
                for index, tracklet in enumerate(tracklets)
                for window in frame_windows("dense", len(tracklet.frames), config.clips.frames).tolist()
            ],
            "together": lambda: evaluation_windows(tracklets, dense),
        },
        runs=RUNS,
    )
    return {name: each.as_dict() for name, each in taken.items()}


if __name__ == "__main__":
    main()
