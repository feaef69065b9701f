"""One evaluation from the data set's lists to re-ranked figures: seconds of each stage.

    python -m benchmarks.bench_evaluation [--size full] [--backbone tiny]

Draws the generated data set in a temporary folder, packs it as pixels of the network's size, and evaluates an untrained
network on the test part: from files and from the pack, with two clips per tracklet and with every frame. One run each.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measuring import say
from trainer.compute import prepare_process
from trainer.config import TrialConfig
from trainer.data.packing import pack_data_set
from trainer.data.synthetic.dataset import write_synthetic
from trainer.evaluation.evaluate import evaluate

SIZES = {"tiny": (64, 32), "resnet18": (224, 112), "resnet50": (224, 112)}


def main() -> None:
    """Measures everything and prints one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=["tiny", "demo", "full"], default="full")
    parser.add_argument("--backbone", choices=list(SIZES), default="tiny")
    asked = parser.parse_args()
    prepare_process()
    with tempfile.TemporaryDirectory() as folder:
        files, pack = Path(folder) / "files", Path(folder) / "pack"
        drawn = write_synthetic(files, size=asked.size, seed=0)
        packed = pack_data_set("mars", files, pack, size=SIZES[asked.backbone])
        say(
            benchmark="evaluation",
            unit="seconds of wall time, one run each",
            network=f"{asked.backbone}, {SIZES[asked.backbone]} pixels, 4 frames per clip",
            data=f"generated {asked.size}: {drawn.tracklets} tracklets, {drawn.frames} frames",
            drawing_s=round(drawn.seconds, 1),
            packing_s=round(packed.seconds, 1),
            stages={
                f"{form}, {sampling}": _stages(root, sampling, asked.backbone)
                for sampling in ("even", "dense")
                for form, root in (("files", files), ("packed pixels", pack))
            },
        )


def _stages(root: Path, sampling: str, backbone: str) -> dict[str, Any]:
    height, width = SIZES[backbone]
    config = TrialConfig.model_validate(
        {
            "data": {"root": root},
            "model": {"backbone": backbone, "weights": "none", "height": height, "width": width},
            "evaluation": {"sampling": sampling},
            "compute": {"precision": "fp32"},
        }
    )
    found = evaluate(config, None, part="test")
    return {
        "queries": len(found.data.query),
        "gallery": len(found.data.gallery),
        **{stage: round(taken, 3) for stage, taken in found.seconds.items()},
    }


if __name__ == "__main__":
    main()
