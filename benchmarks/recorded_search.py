"""Records the learning curves of random configurations of the demo's space, for `benchmarks.bench_search`.

    nice python -m benchmarks.recorded_search --data runs/mini-mars-demo --count 200

Each configuration is one of the space's scrambled Sobol sequence, trained by the trainer alone in this process, one
thread, and evaluated after every epoch. The demo's network and batches are shrunk further, so that 200 configurations
take minutes. A row holds the configuration, the validation mAP after each epoch and the last one's standard error over
queries. Configurations that the file holds already are not trained again.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.algorithms.points import sobol_points
from orchestrator.space.parameters import Value
from orchestrator.space.search_space import SearchSpace

RECORDED = Path(__file__).parent / "recorded_search.csv"
SPACE = "demo.yaml"
EPOCHS = 9  # two rungs of successive halving by 3 below it
ERROR = "standard_error"

# What makes a training of the demo's space take two seconds.
SHRUNK: Mapping[str, Any] = {
    "data.name": "mars",
    "data.validation.distractors": 0.0,
    "clips.frames": 2,
    "model.height": 32,
    "model.width": 16,
    "optim.epochs": EPOCHS,
    "evaluation.every": 1,
    "evaluation.clips": 1,
    "evaluation.reranking": False,
}


class Recorded(NamedTuple):
    """A configuration and how it went."""

    params: dict[str, float]
    curve: tuple[float, ...]
    """Validation mAP after each epoch."""
    standard_error: float
    """Of the last mAP, over queries."""


def read_recorded(path: Path = RECORDED) -> list[Recorded]:
    """The recorded configurations, in the order of the sequence."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [_read(row) for row in csv.DictReader(file)]


def _read(row: Mapping[str, str]) -> Recorded:
    params = {name: float(value) for name, value in row.items() if "." in name}
    curve = tuple(float(row[str(epoch)]) for epoch in range(1, EPOCHS + 1))
    return Recorded(params, curve, float(row[ERROR]))


def main() -> int:
    """Trains what is missing and appends it to the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the demo's data, drawn if missing")
    parser.add_argument("--count", type=int, default=200, metavar="N")
    asked = parser.parse_args()
    import torch

    from trainer import prepare_process
    from trainer.data.synthetic.dataset import write_synthetic

    torch.set_num_threads(1)
    prepare_process()
    write_synthetic(asked.data, size="demo", seed=0)
    space = SearchSpace.load(SPACE)
    done, start = len(read_recorded()), time.process_time()
    for number, params in enumerate(itertools.islice(sobol_points(space, 0), done, asked.count), done + 1):
        _append(list(space.parameters), _trained(space, params, asked.data))
        print(f"{number}/{asked.count}, {time.process_time() - start:.0f} s of processor time", file=sys.stderr)
    return 0


def _trained(space: SearchSpace, params: Mapping[str, Value], data: Path) -> Recorded:
    from trainer import TrialConfig, fit

    tree = space.config(params).model_dump(mode="json")
    for path, value in {**SHRUNK, "data.root": str(data)}.items():
        *groups, last = path.split(".")
        branch = tree
        for group in groups:
            branch = branch[group]
        branch[last] = value
    with tempfile.TemporaryDirectory() as out:
        history = fit(TrialConfig.model_validate(tree), out=Path(out)).history
    figures = [result.metrics() for result in history]
    curve = tuple(figure["mAP"] for figure in figures)
    return Recorded({path: float(value) for path, value in params.items()}, curve, figures[-1]["mAP_standard_error"])


def _append(paths: list[str], recorded: Recorded) -> None:
    new = not RECORDED.is_file()
    with RECORDED.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow([*paths, *range(1, EPOCHS + 1), ERROR])
        numbers = [f"{recorded.params[path]:.6g}" for path in paths]
        writer.writerow([*numbers, *(f"{value:.5f}" for value in (*recorded.curve, recorded.standard_error))])


if __name__ == "__main__":
    sys.exit(main())
