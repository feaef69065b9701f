"""What the orchestrator costs beside the training, against bare Ray Tune that calls the same trainer.

    python -m benchmarks.bench_overhead [--trials 12] [--rounds 3] [--data FOLDER --only reidsearch]

Trials of the `smoke` space with random points, two at a time, one core each. The rivals take turns; each run is a
process of its own on a Ray of its own:

- `reidsearch`: `reidsearch launch`, with journal and MLflow.
- `bare Tune`: a function trainable that imports the trainer and calls `fit`, reporting every epoch; no tracking. Tune
  starts a process for every trial.
- `bare Tune, reused actors`: the same with `reuse_actors=True`: one process trains many trials, without isolation.
- `bare Tune + MLflow`: bare Tune with Ray's own `MLflowLoggerCallback` on SQLite.

A slot is idle from the last epoch of one trial to the beginning of the first epoch of the next, by the times that the
trainer itself noted; what `fit` does before its first epoch (reading the lists, building the network) is in it for all.
With `--data` the data set in that folder takes the place of the generated one (`reidsearch` only), as MARS at its full
size, which `python tests/helpers/full_mars.py FOLDER TABLES` makes; trials train one epoch.
"""

from __future__ import annotations

import argparse
import heapq
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from benchmarks.measuring import say
from orchestrator.algorithms.points import random_points
from orchestrator.cluster.ray import connect, disconnect
from orchestrator.space.search_space import SearchSpace
from trainer.result import EpochResult, read_results

SLOTS = 2
POLL_S = 0.05
# Of trials on `--data`: few tracklets to evaluate, two clips of each.
ONE_EPOCH = ("optim.epochs=1", "data.validation.share=0.01", "evaluation.sampling=even")
RIVALS = ("reidsearch", "bare Tune", "bare Tune, reused actors", "bare Tune + MLflow")


class Run(NamedTuple):
    """One search of one rival."""

    idle_s: list[float]
    """Seconds that a slot stood idle before each trial but the first of a slot."""
    first_s: float
    """Seconds from the command to the first epoch's beginning."""
    driver_cpu_s: float
    """Processor seconds of the driver per trial, without Ray's other processes and the trials."""
    wall_s: float
    """Seconds of the whole command."""


def main() -> None:
    """Measures everything and prints one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=RIVALS, nargs="+", default=list(RIVALS))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--as-rival", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.data is not None and asked.only != ["reidsearch"]:
        parser.error("--data needs --only reidsearch")
    if asked.as_rival is not None:
        _bare_tune(asked.as_rival, asked.out, asked.trials)
        return
    runs: dict[str, list[Run]] = {name: [] for name in asked.only}
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        for turn in range(asked.rounds):
            for name in asked.only:
                out = Path(folder) / f"{turn}-{asked.only.index(name)}"
                runs[name].append(_run(name, out, asked.trials, asked.data))
                print(f"round {turn + 1}, {name}: {_figures(runs[name][-1:])}", file=sys.stderr, flush=True)
    say(
        benchmark="overhead",
        unit="seconds, medians over all trials of all rounds",
        trials=asked.trials,
        data=None if asked.data is None else asked.data.name,
        rounds=asked.rounds,
        slots=SLOTS,
        rivals={name: _figures(found) for name, found in runs.items()},
    )


def _figures(runs: list[Run]) -> dict[str, float]:
    idle = sorted(seconds for run in runs for seconds in run.idle_s)
    figures = {
        "idle": statistics.median(idle),
        "longest_idle": idle[-1],
        "first_trial": statistics.median(run.first_s for run in runs),
        "driver_cpu_per_trial": statistics.median(run.driver_cpu_s for run in runs),
        "command": statistics.median(run.wall_s for run in runs),
    }
    return {name: round(value, 2) for name, value in figures.items()}


def _run(rival: str, out: Path, trials: int, data: Path | None) -> Run:
    """One search in a process of its own."""
    out.mkdir(parents=True)
    command = [sys.executable, "-m", "benchmarks.bench_overhead", "--trials", str(trials), "--out", str(out)]
    command += ["--as-rival", rival]
    if rival == "reidsearch":
        command = [sys.executable, "-m", "orchestrator", "launch", "--space", "smoke.yaml", "--name", "search"]
        command += ["--storage", str(out), "--trials", str(trials), "--set", "algorithm.name=random"]
        command += ["--concurrent", str(SLOTS)]
    if data is not None:
        command += ["--data", str(data), *(f"--set={each}" for each in ONE_EPOCH)]
    began, cpu = time.time(), 0.0
    with (out / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        driver = psutil.Process(process.pid)
        while process.poll() is None:
            times = driver.cpu_times()
            # 0 in the moment between its end and our asking for its exit code.
            cpu = max(cpu, times.user + times.system)
            time.sleep(POLL_S)
    wall = time.time() - began
    if process.returncode:
        raise SystemExit(f"{rival} failed:\n{(out / 'log').read_text()}")
    results = [read_results(path) for path in sorted(out.rglob("results.jsonl"))]
    if len(results) != trials:
        raise SystemExit(f"{rival}: {len(results)} trials, not {trials}:\n{(out / 'log').read_text()}")
    spans = sorted((epochs[0].time - epochs[0].seconds, epochs[-1].time) for epochs in results)
    return Run(_idle(spans), spans[0][0] - began, cpu / trials, wall)


def _idle(spans: Iterable[tuple[float, float]]) -> list[float]:
    """Seconds that slots stood idle, from the begin and end of each trial in the order of their begin."""
    free: list[float] = []
    idle = []
    for begin, end in spans:
        if len(free) == SLOTS:
            idle.append(begin - heapq.heappop(free))
        heapq.heappush(free, end)
    return idle


def _bare_tune(rival: str, out: Path, trials: int) -> None:
    """What one would write without us: a function that imports the trainer, trains, and reports."""
    connect(None)
    from ray import tune

    space = SearchSpace.load("smoke.yaml", overrides=["trainer.data.root=" + str(_data(out))])
    points = random_points(space, 0, 0)
    configs = [space.config(next(points), seed=0).model_dump_json() for _ in range(trials)]
    callbacks: list[tune.Callback] = []
    if rival == "bare Tune + MLflow":
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        callbacks = [MLflowLoggerCallback(tracking_uri=f"sqlite:///{out / 'mlflow.db'}", experiment_name="bare")]
    tune.Tuner(
        tune.with_resources(_trainable, {"cpu": 1}),
        param_space={"trial": tune.grid_search(list(range(trials))), "configs": configs, "out": str(out)},
        tune_config=tune.TuneConfig(max_concurrent_trials=SLOTS, reuse_actors=rival.endswith("reused actors")),
        run_config=tune.RunConfig(name="bare", storage_path=str(out / "tune"), verbose=0, callbacks=callbacks),
    ).fit()
    disconnect()


def _trainable(settings: dict[str, Any]) -> None:
    from ray import tune

    from trainer.compute import prepare_process
    from trainer.config import TrialConfig
    from trainer.training.fit import fit

    os.environ["OMP_NUM_THREADS"] = "1"
    prepare_process()

    def report(result: EpochResult) -> None:
        tune.report(result.metrics())

    config = TrialConfig.model_validate_json(settings["configs"][settings["trial"]])
    fit(config, report, out=Path(settings["out"]) / str(settings["trial"]))


def _data(out: Path) -> Path:
    from trainer.data.synthetic.dataset import write_synthetic

    write_synthetic(out / "data", size="tiny", seed=0)
    return out / "data"


if __name__ == "__main__":
    main()
