"""What the paper's ideas do on the generated demo data: networks trained over seeds, one table of figures.

    python -m benchmarks.ablation [--seeds 0 1 2] [--only NAME ...] [--epochs 40] [--processes 2] [--out DIR]

The first group changes how frames become a clip, all else equal; the second is the rows of the paper's Table 1 at
their published points, shrunk to the demo's network. Figures are of the validation split after the last epoch. The
data are drawn, so the figures say nothing about people; they only show whether a mechanism works. A run that is there
already (in --out) is not trained again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measuring import say
from orchestrator.space.search_space import SearchSpace
from trainer.data.synthetic.dataset import write_synthetic
from trainer.result import EpochResult, read_results

# The demo's network with identity and triplet loss alone: what the first group varies. Everything that the demo's space
# may change one day is stated.
PLAIN = {
    "clips.crop": "translate",
    "clips.pad": 3,
    "model.pooling": "attention",
    "model.attention_score_relu": True,
    "optim.learning_rate": 2e-3,
    "optim.gamma": 0.3,
    "optim.weight_decay": 5e-4,
    "optim.warmup": 0.1,
    "evaluation.distance": "euclidean",
    "loss.osm_share": 0.0,
    "loss.triplet_margin": 0.3,
    "loss.attention_weight": 0.0,
    "loss.center_weight": 0.0,
    "loss.osm_class_vectors": "classifier",
}
LIVING = {"model.attention_score_relu": False}
VARIANTS: dict[str, dict[str, Any]] = {
    "mean pooling": {"model.pooling": "mean"},
    "max pooling": {"model.pooling": "max"},
    "attention, both ReLUs": {},
    "attention, both ReLUs, loss on scores": {"loss.attention_weight": 1.0, "loss.attention_on": "scores"},
    "attention, both ReLUs, loss on weights": {"loss.attention_weight": 1.0},
    "attention, one ReLU": LIVING,
    "attention, one ReLU, loss on weights": {**LIVING, "loss.attention_weight": 1.0},
    "attention, one ReLU, loss on weights, per clip": {
        **LIVING,
        "loss.attention_weight": 1.0,
        "clips.geometry_per": "clip",
    },
}
ROWS = ("baseline", "b_bot", "b_bot_osm", "b_bot_osm_cl", "attn_cl")
# What makes a row of the paper fit the demo's data and network.
SHRUNK = {
    "clips.identities": 8,
    "clips.tracklets": 4,
    "clips.pad": 3,
    "model.backbone": "tiny",
    "model.weights": "none",
    "model.height": 64,
    "model.width": 32,
    "data.validation.share": 0.33,
    "optim.learning_rate": 2e-3,
    "evaluation.every": 10,
}
COLUMNS = ("mAP", "rank1", "entropy", "dead scores", "erased weight")


def main() -> None:
    """Trains what is missing, `--processes` at a time, and prints the table and one JSON line."""
    asked = _arguments()
    data = asked.out / "mini-mars-demo"
    if not data.is_dir():
        write_synthetic(data, size="demo", seed=0)
    names = [name for name in (*VARIANTS, *ROWS) if not asked.only or name in asked.only]
    jobs = [_job(asked.out, name, seed, _settings(name, asked.epochs, data)) for name in names for seed in asked.seeds]
    _train([job for job in jobs if not _finished(job, asked.epochs)], asked.processes)
    runs = {name: [_last(asked.out, name, seed) for seed in asked.seeds] for name in names}
    print(_table(runs))
    say(benchmark="ablation", seeds=asked.seeds, epochs=asked.epochs, metrics={n: _figures(r) for n, r in runs.items()})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="names of variants or rows")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    return parser.parse_args()


def _settings(name: str, epochs: int, data: Path) -> dict[str, Any]:
    """Overrides of a space, as the trainer's settings at its first known point."""
    common = {"data.root": str(data), "data.name": "mars", "optim.epochs": epochs, "data.validation.seed": 0}
    space = SearchSpace.load("demo.yaml" if name in VARIANTS else f"{name}.yaml")
    changes = {**PLAIN, **VARIANTS[name]} if name in VARIANTS else SHRUNK
    tree = space.config(space.start[0]).model_dump(mode="json")
    for path, value in {**common, **changes}.items():
        *groups, last = path.split(".")
        branch = tree
        for group in groups:
            branch = branch[group]
        branch[last] = value
    return tree


def _job(out: Path, name: str, seed: int, settings: dict[str, Any]) -> Path:
    folder = _folder(out, name, seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trial.json").write_text(json.dumps({**settings, "seed": seed}), encoding="utf-8")
    return folder


def _folder(out: Path, name: str, seed: int) -> Path:
    return out / name.replace(",", "").replace(" ", "-") / f"seed-{seed}"


def _finished(folder: Path, epochs: int) -> bool:
    return len(read_results(folder / "run" / "results.jsonl")) >= epochs


def _train(folders: Sequence[Path], processes: int) -> None:
    """One process of the trainer with one thread per run."""
    running: list[subprocess.Popen[bytes]] = []
    for done, process in enumerate(_started(folders)):
        running.append(process)
        while len(running) >= processes:
            time.sleep(0.5)
            running = [each for each in running if not _ended(each)]
        print(f"{done + 1}/{len(folders)} started", file=sys.stderr, flush=True)
    for process in running:
        process.wait()
        _ended(process)


def _started(folders: Sequence[Path]) -> Iterator[subprocess.Popen[bytes]]:
    for folder in folders:
        script = "import sys, torch; torch.set_num_threads(1); from trainer.__main__ import main; main()"
        command = [sys.executable, "-c", script, "fit", str(folder / "trial.json"), "--out", str(folder / "run")]
        if (folder / "run/checkpoint/last.pt").is_file():
            command.append("--resume")
        with (folder / "log.txt").open("wb") as log:
            yield subprocess.Popen(command, stdout=log, stderr=log)


def _ended(process: subprocess.Popen[bytes]) -> bool:
    code = process.poll()
    if code:
        raise SystemExit(f"{process.args!r} failed with {code}; see log.txt beside it")
    return code is not None


def _last(out: Path, name: str, seed: int) -> EpochResult:
    return read_results(_folder(out, name, seed) / "run" / "results.jsonl")[-1]


def _figures(results: Sequence[EpochResult]) -> dict[str, list[float]]:
    """Each column over the seeds; columns that a network does not have are absent."""
    found: dict[str, list[float]] = {}
    for result in results:
        assert result.validation is not None, "the last epoch is always evaluated"
        row = {"mAP": 100 * result.validation.mAP, "rank1": 100 * result.validation.rank1}
        row |= {name.replace("_", " "): value for name, value in result.attention.items()}
        for name, value in row.items():
            found.setdefault(name, []).append(round(value, 3))
    return found


def _table(runs: dict[str, list[EpochResult]]) -> str:
    lines = ["| network | " + " | ".join(COLUMNS) + " | mAP by seed |", "|---" * (len(COLUMNS) + 2) + "|"]
    for name, results in runs.items():
        figures = _figures(results)
        cells = [_mean_and_spread(figures.get(column, [])) for column in COLUMNS]
        lines.append(f"| {name} | " + " | ".join(cells) + " | " + " ".join(f"{v:.1f}" for v in figures["mAP"]) + " |")
    return "\n".join(lines)


def _mean_and_spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    digits = 1 if max(values) > 2 else 2
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


if __name__ == "__main__":
    main()
