"""What a finished trial's evaluation folder costs: with the ranking of its best epoch at hand, and embedded again.

    python -m benchmarks.bench_kept_evaluation runs/demo-24ed/trials/t0000

Takes a completed trial of a search; writes into a temporary folder. One thread, medians of 5 runs.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from benchmarks.measuring import LEAST_RUNS, measure, say
from trainer.config_file import read_trial_config
from trainer.evaluation.evaluate import EvaluationResult, evaluate
from trainer.evaluation.folder import write_evaluation
from trainer.result import read_results


def main() -> None:
    """Prints one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trial", type=Path, help="folder of a completed trial")
    trial: Path = parser.parse_args().trial
    torch.set_num_threads(1)
    config, checkpoint = read_trial_config(trial / "config.json", ()), trial / "checkpoint/best.pt"
    split, device = trial.parent.parent / "split.json", torch.device("cpu")

    def again() -> EvaluationResult:
        return evaluate(config, checkpoint, part="validation", split=split, device=device)

    found = again()
    with tempfile.TemporaryDirectory() as name:
        measured = measure(
            {
                "ranking at hand": lambda: write_evaluation(Path(name), found, "validation", images=False, probes=True),
                "embedded again": lambda: write_evaluation(
                    Path(name), again(), "validation", images=False, probes=True
                ),
            },
            runs=LEAST_RUNS,
        )
        size = sum(path.stat().st_size for path in Path(name).rglob("*") if path.is_file())
    say(
        benchmark="kept evaluation",
        trial_s=round(sum(result.seconds for result in read_results(trial / "results.jsonl")), 1),
        bytes=size,
        **{name: each.as_dict(3) for name, each in measured.items()},
    )


if __name__ == "__main__":
    main()
