"""Whole searches by real trainings on generated data: what the confirmed winner of each is worth.

    OMP_NUM_THREADS=1 nice python -m benchmarks.bench_trainings --seeds 0:8 --contestants ax,tpe,random

Every search trains networks for as many epochs, on a validation split of 518 queries. Its winner, the completed trial
with the best mAP, is then trained again with seeds that no search has seen; their mean is what counts. The spaces are
two of the project on data and a network that fit a processor: that of the demo, and that of row 5 of the paper's
Table 1. The first contestant is compared with each of the others, seed by seed, with 95 % bootstrap intervals over
seeds. Every finished search is a line of the file and is not run again.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence, Set
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.measuring import say
from benchmarks.search.contestants import contestant
from benchmarks.search.engine import run
from benchmarks.search.problems import Point, Vector
from orchestrator.space.search_space import SearchSpace

SPACES = ("demo", "attn_cl")
EPOCHS, EVALUATIONS, TRIALS, CONFIRMING = 16, 8, 12, 3
# A processor's data and network under the space's own parameters.
SHRUNK = (
    "trainer.data.name=mars",
    "trainer.data.validation.share=0.68",
    "trainer.data.validation.distractors=0.0",
    "trainer.clips.identities=16",
    "trainer.clips.tracklets=4",
    "trainer.clips.frames=2",
    "trainer.clips.pad=2",
    "trainer.model.backbone=tiny",
    "trainer.model.weights=none",
    "trainer.model.height=32",
    "trainer.model.width=16",
    f"trainer.optim.epochs={EPOCHS}",
    f"trainer.evaluation.every={EPOCHS // EVALUATIONS}",
    "trainer.evaluation.clips=1",
    "trainer.evaluation.folder=false",
    "trainer.compute.precision=fp32",
    f"trainer.checkpoint.every={EPOCHS}",
    # A tiny network from random weights takes larger steps than a pretrained ResNet-50, in both spaces.
    "parameters.optim.learning_rate.low=5e-4",
    "parameters.optim.learning_rate.high=2e-2",
    "start=[]",
)


class Job(NamedTuple):
    """A search to run."""

    space: str
    contestant: str
    seed: int


class Trainings:
    """A space of the project as a problem of `benchmarks.search`.

    An epoch of the problem is the time between two evaluations. A curve is trained as a whole, also where the search
    pauses it: what a search spends are the epochs that it saw.
    """

    epochs, trials = EVALUATIONS, TRIALS

    def __init__(self, name: str, data: Path) -> None:
        """`data` is a folder in the layout of MARS."""
        synthetic = ["synthetic=null"] if name == "demo" else []
        self._space = SearchSpace.load(f"{name}.yaml", [*SHRUNK, *synthetic, f"trainer.data.root={data}"])
        self.name, self.dimensions = name, len(self._space.parameters)

    def place(self, point: Point, taken: Set[tuple[float, ...]]) -> list[float]:
        """See `Problem`."""
        return list(point)

    def merit(self, point: Point) -> float:
        """Unknown while a search runs: it ends with its epochs."""
        return 0.0

    def curve(self, point: Point, noise: np.random.Generator) -> Vector:
        """The mAP of each evaluation; NaN from where the training diverges."""
        from trainer import DivergedError, fit

        sample = self._space.sample(list(point))
        assert sample is not None, "a space without constraints"
        values: list[float] = []
        folder = Path(tempfile.mkdtemp())
        try:
            history = fit(self._space.config(sample, seed=int(noise.integers(2**31))), out=folder).history
            values = [result.validation.mAP for result in history if result.validation is not None]
        except DivergedError:
            pass
        finally:
            shutil.rmtree(folder)
        return np.array([*values, *[np.nan] * (EVALUATIONS - len(values))])

    def standard_error(self, point: Point) -> float:
        """Not told: all trials share the validation queries."""
        return 0.0


def run_job(job: Job, data: Path) -> dict[str, Any]:
    """One line of the file."""
    problem = Trainings(job.space, data)
    found = run(contestant(job.contestant).make(problem, job.seed), problem, job.seed)
    generator = np.random.default_rng([job.seed, 2**31])  # no search draws from it
    fresh = [float(problem.curve(found.point, generator)[-1]) for _ in range(CONFIRMING)]
    counts = {"trials": found.trials, "completed": found.completed, "cpu_s": round(found.cpu_s)}
    return {**job._asdict(), "mAP": round(statistics.fmean(fresh), 5), "fresh": fresh, "point": found.point, **counts}


def _prepare() -> None:
    import torch

    torch.set_num_threads(1)
    logging.disable(logging.WARNING)


def run_missing(jobs: Sequence[Job], data: Path, out: Path, processes: int) -> None:
    """Runs the searches that the file lacks, and appends each when it is done."""
    done = {job for job, _ in read(out)}
    missing = [job for job in jobs if job not in done]
    os.environ["OMP_NUM_THREADS"] = "1"  # before the workers load torch
    out.parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _prepare) as pool:
        futures = [pool.submit(run_job, job, data) for job in missing]
        for number, future in enumerate(as_completed(futures), 1):
            line = future.result()
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            told = (line[key] for key in ("space", "contestant", "seed", "mAP", "cpu_s"))
            print(f"{number}/{len(missing)}", *told, file=sys.stderr, flush=True)


def read(out: Path) -> Iterator[tuple[Job, float]]:
    """The mAP of each search in a file."""
    for text in out.read_text(encoding="utf-8").splitlines() if out.is_file() else ():
        line = json.loads(text)
        yield Job(line["space"], line["contestant"], line["seed"]), line["mAP"]


def verdict(found: dict[Job, float], space: str, names: Sequence[str]) -> dict[str, Any]:
    """Mean mAP of each contestant's winners and, after the first, the first one's lead over it, low, high."""
    ours = {job.seed: value for job, value in found.items() if (job.space, job.contestant) == (space, names[0])}
    told: dict[str, Any] = {}
    for name in names:
        theirs = {job.seed: value for job, value in found.items() if (job.space, job.contestant) == (space, name)}
        lead = np.array([ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())])
        drawn = np.random.default_rng(0).choice(lead, (4000, len(lead))).mean(1)
        ends = [float(lead.mean()), *map(float, np.quantile(drawn, (0.025, 0.975)))]
        told[name] = {"mAP": round(statistics.fmean(theirs.values()), 4), "searches": len(theirs)}
        told[name] |= {} if name == names[0] else {"lead": [round(end, 4) for end in ends]}
    return told


def main() -> int:
    """Runs what is missing and prints the verdict."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", default="0:8", metavar="A:B")
    parser.add_argument("--spaces", default=",".join(SPACES))
    parser.add_argument("--contestants", default="ax,tpe,random", help="as in benchmarks.bench_search")
    parser.add_argument("--data", type=Path, default=Path("runs/synthetic-full"), help="made where there is none")
    parser.add_argument("--processes", type=int, default=2, metavar="N")
    parser.add_argument("--out", type=Path, default=Path("runs/bench_trainings.jsonl"), metavar="FILE.jsonl")
    asked = parser.parse_args()
    from trainer.data.synthetic.dataset import write_synthetic

    write_synthetic(asked.data, size="full", seed=0)
    names, spaces = asked.contestants.split(","), asked.spaces.split(",")
    first, _, last = asked.seeds.rpartition(":")
    seeds = range(int(first or 0), int(last))
    # Seed by seed, so that an unfinished file holds whole pairs.
    jobs = [Job(space, name, seed) for seed in seeds for space in spaces for name in names]
    run_missing(jobs, asked.data, asked.out, asked.processes)
    found = dict(read(asked.out))
    say(benchmark="trainings", metrics={space: verdict(found, space, names) for space in spaces})
    return 0


if __name__ == "__main__":
    sys.exit(main())
