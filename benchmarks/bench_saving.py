"""What saving costs a training: the same steps without it, with the training waiting for it, and going on meanwhile.

    python -m benchmarks.bench_saving [--clips 4] [--steps 4] [--precision fp32] [--folder .]

An epoch is a few steps of the paper's network, losses and Adam on 77 million parameters, on a batch in memory.
Before it the whole state is saved as `last.pt`: at once, or by a thread while the epoch trains. Rivals take turns.
`stands_still_s` is how long the training itself waits for a save.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.bench_step import IDENTITIES, in_memory_batch
from benchmarks.measuring import LEAST_RUNS, measure, say
from trainer.checkpoint import CheckpointWriter, save_checkpoint
from trainer.compute import prepare_process, synchronize
from trainer.config import TrialConfig
from trainer.training.learner import Learner


def main() -> None:
    """Measures and prints one JSON line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_saving", description=__doc__)
    parser.add_argument("--clips", type=int, default=4, help="clips per batch, 4 frames each  [default: 4]")
    parser.add_argument("--steps", type=int, default=4, help="steps of an epoch  [default: 4]")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--runs", type=int, default=LEAST_RUNS)
    parser.add_argument("--folder", type=Path, help="on the disk to save to  [default: that of temporary files]")
    asked = parser.parse_args()
    prepare_process()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = TrialConfig.model_validate(
        {
            "clips": {"identities": asked.clips // 2, "tracklets": 2, "frames": 4},
            "model": {"weights": "none", "height": 224, "width": 112},
            "loss": {"osm_share": 0.5, "center_weight": 5e-4, "attention_weight": 1.0},
            "compute": {"precision": asked.precision},
        }
    )
    learner, batch = Learner(config, IDENTITIES, device, own_weights=True), in_memory_batch(config, device)
    learner.begin_epoch(0)
    waits: dict[str, list[float]] = {"at_once": [], "in_background": []}

    def epoch() -> None:
        for _ in range(asked.steps):
            learner.step([batch], lambda *_: None)
        synchronize(device)

    def saved_by(name: str, save: Callable[[], None]) -> Callable[[], None]:
        def save_and_train() -> None:
            began = time.perf_counter()
            save()
            waits[name].append(time.perf_counter() - began)
            epoch()

        return save_and_train

    def state() -> dict[str, object]:
        return {"model": learner.weights(), "learner": learner.state()}

    with tempfile.TemporaryDirectory(dir=asked.folder) as folder, CheckpointWriter(device) as writer:
        last = Path(folder) / "last.pt"
        begin_and_train = saved_by("in_background", lambda: writer.begin({last: state()}))

        def in_background() -> None:
            begin_and_train()
            writer.wait()

        rivals = {
            "no_save": epoch,
            "at_once": saved_by("at_once", lambda: save_checkpoint(last, state())),
            "in_background": in_background,
        }
        found = measure(rivals, runs=asked.runs)
        size = last.stat().st_size
    alone = found["no_save"]
    say(
        benchmark="saving",
        parameters=sum(parameter.numel() for parameter in learner.model.parameters()),
        file_gb=round(size / 1e9, 3),
        steps=asked.steps,
        images_per_step=asked.clips * 4,
        precision=asked.precision,
        step_s=round(alone.wall_s / asked.steps, 4),
        **{name: each.as_dict(3) for name, each in found.items()},
        stands_still_s={name: round(statistics.median(times[1:]), 3) for name, times in waits.items()},
        lost_per_step_s={name: round((found[name].wall_s - alone.wall_s) / asked.steps, 4) for name in waits},
        lost_cpu_per_step_s={name: round((found[name].cpu_s - alone.cpu_s) / asked.steps, 4) for name in waits},
    )


if __name__ == "__main__":
    main()
