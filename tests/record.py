"""Records what a change of structure must not change, and compares two records.

    python tests/record.py make before.json
    python tests/record.py compare before.json after.json [--renamed names.json]

A record holds every number that a user can meet: the demo search (8 trainings and 6 repeats, one at a time, so that
what Ax is told never depends on timing), its journal, `status --json`, its report's data, its runs in MLflow, a
comparison, an export, a training and an evaluation without a search, and the files rendered for clusters. Times, paths,
processes and random identifiers are left out. Numbers are equal to the last bit or they differ: make both records on
one machine.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from mlflow import MlflowClient

# Keys of JSON documents whose values differ from run to run.
VOLATILE = re.compile(
    r"^(time|times|date|seconds|.*_seconds|seconds_.*|hours|.*_hours|gpu_hours|images_per_second|data_wait_share|host|pid|uid|"
    r"mlflow_run_id|run_id|run|load|written|created|began|ended|started|moment|duration|waiting|idle.*|speed.*|memory.*|"
    r"code|commit|machine|versions?|environment|node|crc)$"
)
# In MLflow: what measures the machine.
MEASURED = re.compile(r"^(system/|time/|speed/|images_per_second|data_wait_share|seconds|evaluation_seconds)")
IDENTIFIER = re.compile(r"\b[0-9a-f]{32}\b|\b[0-9a-f]{8}-[0-9a-f-]{27}\b")

TRIAL = {
    "data": {"root": "tiny", "validation": {"share": 0.4}},
    "clips": {"identities": 4, "tracklets": 2, "frames": 2, "pad": 2},
    "model": {"backbone": "tiny", "weights": "none", "height": 32, "width": 16},
    "loss": {"osm_share": 0.5, "center_weight": 5e-4, "attention_weight": 0.1},
    "optim": {"epochs": 4, "learning_rate": 2e-3},
    "evaluation": {"every": 1},
}
NODES = (
    "--nodes",
    "2",
    "--gpus-per-node",
    "4",
    "--cpus-per-node",
    "32",
    "--storage",
    "/shared/runs",
    "--data",
    "/shared/mars",
)


class Recorder:
    """Runs commands in one folder and collects what they leave."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.found: dict[str, object] = {}

    def run(self, name: str, *words: str, module: str = "orchestrator") -> str:
        """Standard output of a command, which must succeed.

        Raises:
            RuntimeError: it failed.
        """
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        command = [sys.executable, "-m", module, *words]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        print(f"{name}: exit {done.returncode}", file=sys.stderr, flush=True)
        if done.returncode not in (0, 4):
            raise RuntimeError(f"{' '.join(words)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
        self.found[f"{name}/exit"] = done.returncode
        return done.stdout

    def document(self, name: str, value: object) -> None:
        """Adds every leaf of a JSON document."""
        self.found.update({f"{name}/{path}": leaf for path, leaf in leaves(self._same_everywhere(value))})

    def text(self, name: str, text: str) -> None:
        """Adds a text line by line."""
        for number, line in enumerate(self._same_everywhere(text).splitlines()):
            self.found[f"{name}/{number:05d}"] = line

    def network(self, name: str, path: Path) -> None:
        """Adds a digest of each tensor of a checkpoint's network."""
        state = torch.load(path, weights_only=True)["model"]
        for key, tensor in state.items():
            self.found[f"{name}/{key}"] = hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()

    def _same_everywhere(self, value: Any) -> Any:
        if isinstance(value, str):
            return IDENTIFIER.sub("ID", value.replace(str(self.folder), "HERE"))
        if isinstance(value, Mapping):
            return {key: self._same_everywhere(each) for key, each in value.items()}
        return [self._same_everywhere(each) for each in value] if isinstance(value, list) else value


def leaves(value: object, at: str = "") -> Iterator[tuple[str, object]]:
    """Path and value of each leaf of a JSON document, except for what differs from run to run."""
    if isinstance(value, dict):
        for key, each in value.items():
            if not VOLATILE.match(str(key)):
                yield from leaves(each, f"{at}/{key}" if at else str(key))
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from leaves(each, f"{at}/{number}")
    else:
        yield at, value


def record(folder: Path) -> dict[str, object]:
    """Runs everything; some five minutes on two cores."""
    recorder = Recorder(folder)
    _trainer(recorder)
    _demo(recorder)
    _rendered(recorder)
    return recorder.found


def _trainer(recorder: Recorder) -> None:
    recorder.run("synth", "data", "synth", "tiny", "--size", "tiny", "--seed", "1")
    (recorder.folder / "trial.json").write_text(json.dumps(TRIAL))
    recorder.run("fit", "fit", "trial.json", "--out", "alone", module="trainer")
    out = recorder.folder / "alone"
    recorder.document("alone/results", _lines(out / "results.jsonl"))
    recorder.document("alone/config", json.loads((out / "config.json").read_text()))
    recorder.network("alone/best", out / "checkpoint/best.pt")
    judged = ("evaluate", "trial.json", "--checkpoint", "alone/checkpoint/best.pt", "--split", "alone/split.json")
    printed = recorder.run("evaluate", *judged, "--part", "validation", "--set", "evaluation.reranking=true", "--json")
    recorder.document("evaluate", json.loads(printed))


def _demo(recorder: Recorder) -> None:
    at = ("--storage", "runs")
    recorder.run("launch", "launch", "--space", "demo.yaml", "--name", "demo", "--concurrent", "1", *at)
    search = recorder.folder / "runs/demo"
    # When MLflow has made a trial's run depends on the machine.
    events = [line for line in _lines(search / "journal.jsonl") if "trial_tracked" not in json.dumps(line)]
    recorder.document("journal", [{**line, "number": None} for line in events])
    recorder.document("split", json.loads((search / "split.json").read_text()))
    for trial in sorted((search / "trials").iterdir()):
        recorder.document(f"trials/{trial.name}/config", json.loads((trial / "config.json").read_text()))
        recorder.document(f"trials/{trial.name}/results", _lines(trial / "results.jsonl"))
        recorder.network(f"trials/{trial.name}/best", trial / "checkpoint/best.pt")
    recorder.document("status", json.loads(recorder.run("status", "status", "demo", "--json", *at)))
    recorder.document("report", json.loads(recorder.run("report", "report", "demo", "--format", "json", *at)))
    rows = csv.DictReader(io.StringIO(recorder.run("csv", "report", "demo", "--format", "csv", *at)))
    recorder.document("trials.csv", list(rows))
    compared = recorder.run("compare", "compare", "demo/t0000", "demo/best", "--json", *at)
    recorder.document("compare", json.loads(compared))
    recorder.run("export", "export", "demo/best", "--out", "exported", *at)
    exported = recorder.folder / "exported"
    recorder.document("exported/files", sorted(path.name for path in exported.rglob("*") if path.is_file()))
    for path in exported.glob("*.md"):
        kept = [line for line in path.read_text().splitlines() if not line.startswith("- launched ")]
        recorder.text(f"exported/{path.name}", "\n".join(kept))
    _mlflow(recorder)


def _mlflow(recorder: Recorder) -> None:
    client = MlflowClient(f"sqlite:///{recorder.folder}/runs/mlflow.db")
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id], max_results=1000):
            name = f"mlflow/{run.data.tags.get('reidsearch.trial')}"
            recorder.document(f"{name}/params", run.data.params)
            recorder.document(f"{name}/status", run.info.status)
            for metric in sorted(run.data.metrics):
                if not MEASURED.match(metric):
                    points = client.get_metric_history(run.info.run_id, metric)
                    recorder.document(f"{name}/metrics/{metric}", sorted([point.step, point.value] for point in points))


def _rendered(recorder: Recorder) -> None:
    slurm = ("cluster", "slurm", "attn_cl.yaml", *NODES, "--time", "08:00:00", "--environment", "/shared/venv")
    recorder.text("slurm", recorder.run("slurm", *slurm))
    image = ("--image", "registry.example.org/reidsearch:0.1.0")
    for kind in ("job", "cluster"):
        only = NODES if kind == "job" else NODES[:6] + NODES[6:8]
        recorder.text(
            f"k8s/{kind}", recorder.run(f"k8s {kind}", "cluster", "k8s", "attn_cl.yaml", "--kind", kind, *only, *image)
        )


def _lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def differences(before: Mapping[str, object], after: Mapping[str, object], renamed: Mapping[str, str]) -> list[str]:
    """What differs, a line each; `renamed` gives the new name of each part of a path that has one."""
    moved = {"/".join(renamed.get(part, part) for part in path.split("/")): value for path, value in before.items()}
    lines = [f"gone: {path}" for path in moved.keys() - after.keys()]
    lines += [f"new: {path}" for path in after.keys() - moved.keys()]
    # By representation, so that NaN equals NaN and 1 does not equal 1.0.
    both = moved.keys() & after.keys()
    lines += [f"{path}: {moved[path]!r} -> {after[path]!r}" for path in both if repr(moved[path]) != repr(after[path])]
    return sorted(lines)


def main() -> int:
    """Makes a record or compares two; 1 where they differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    make = verbs.add_parser("make", help="run everything and write a record")
    make.add_argument("out", type=Path)
    compare = verbs.add_parser("compare", help="say what differs")
    compare.add_argument("before", type=Path)
    compare.add_argument("after", type=Path)
    compare.add_argument("--renamed", type=Path, help='JSON: {"old name": "new name"} of parts of paths')
    asked = parser.parse_args()
    if asked.verb == "make":
        with tempfile.TemporaryDirectory(prefix="record-") as folder:
            found = record(Path(folder))
        asked.out.write_text(json.dumps(found, indent=0, sort_keys=True))
        print(f"{len(found):,} values in {asked.out}")
        return 0
    renamed = json.loads(asked.renamed.read_text()) if asked.renamed else {}
    before, after = (json.loads(path.read_text()) for path in (asked.before, asked.after))
    lines = differences(before, after, renamed)
    print("\n".join([*lines, f"{len(before):,} and {len(after):,} values, {len(lines):,} differences"]))
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
