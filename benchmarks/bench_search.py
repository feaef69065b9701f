"""Search algorithms and stopping rules against random search, Optuna and Ax's defaults, counted in epochs.

Counted are the epochs spent over all trials until the search's best trial is worth 95 % of what is attainable: the
trial that the search itself would call best, which is the one with the best value seen among those trained to their
end, has a true merit of at least 0.95 (`benchmarks.search_problems`: 0 is the median of random points, 1 the optimum).
Noise that flatters a trial therefore does not count. A search that does not get there within the epochs of the
problem's number of whole trials, or within `--most` trials, counts as more than that.

All searches see the same curves: the noise depends on the seed and the trial's number only. Several slots run in
virtual time, in which every epoch takes as long.

    nice python -m benchmarks.bench_search --seeds 10 --out runs/bench_search.jsonl

Every finished search is a line of the file, and is not run again; Optuna (benchmarks/peers.txt) has to be importable.
"""

from __future__ import annotations

import argparse
import heapq
import json
import logging
import math
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.measuring import say
from benchmarks.search_contestants import NAMES, Search, contestant
from benchmarks.search_problems import PROBLEMS, Problem

GOAL = 0.95
MOST = 300


class Job(NamedTuple):
    """A search to be run: what tells its line in the file from the others."""

    problem: str
    search: str
    slots: int
    seed: int


class Run(NamedTuple):
    """One search, until it reached the goal or spent its epochs."""

    epochs: int | None
    """Spent until the goal; None where it was not reached."""
    best: float
    """True merit of the trial that the search would call best at its end."""
    tried: int
    stopped: int
    improvements: list[tuple[int, float]]
    """Epochs spent and true merit each time another trial became the best."""
    suggesting_s: float
    """Wall time of all suggestions together."""
    cpu_s: float
    """Processor time of everything."""


# --- one search ------------------------------------------------------------------------------------------------------


class _Running:
    """A trial in a slot."""

    def __init__(self, trial: int, point: list[float], shown: list[float]) -> None:
        self.trial, self.point, self.shown = trial, point, shown
        self.epoch = 0


class _Counting:
    """A search under way: a clock, the slots and the epochs spent."""

    def __init__(self, search: Search, problem: Problem, seed: int, most: int) -> None:
        self._search, self._problem, self._seed, self._most = search, problem, seed, most
        self._spent, self._tried, self._stopped, self._suggesting = 0, 0, 0, 0.0
        self._seen, self._merit = -math.inf, -math.inf
        self._improvements: list[tuple[int, float]] = []

    def run(self, slots: int) -> Run:
        start, budget = time.process_time(), self._problem.trials * self._problem.epochs
        running = [(1, slot, self._next()) for slot in range(slots)]
        while running and self._spent < budget and self._merit < GOAL:
            now, slot, trial = heapq.heappop(running)
            if not self._advance(trial):
                heapq.heappush(running, (now + 1, slot, trial))
            elif self._tried < self._most:
                heapq.heappush(running, (now + 1, slot, self._next()))
        reached = self._spent if self._merit >= GOAL else None
        return Run(
            *(reached, round(self._merit, 4), self._tried, self._stopped, self._improvements),
            *(round(self._suggesting, 2), round(time.process_time() - start, 2)),
        )

    def _next(self) -> _Running:
        trial, start = self._tried, time.perf_counter()
        point = self._search.propose(trial)
        self._suggesting += time.perf_counter() - start
        self._tried += 1
        noise = np.random.default_rng([self._seed, trial])
        return _Running(trial, point, self._problem.curve(point, noise))

    def _advance(self, running: _Running) -> bool:
        """One epoch of a trial; whether it is over."""
        running.epoch += 1
        self._spent += 1
        values = running.shown[: running.epoch]
        if running.epoch == self._problem.epochs:
            self._search.end(running.trial, values, stopped=False)
            self._complete(running)
            return True
        if self._search.stops(running.trial, values):
            self._search.end(running.trial, values, stopped=True)
            self._stopped += 1
            return True
        return False

    def _complete(self, running: _Running) -> None:
        if running.shown[-1] > self._seen:
            self._seen, self._merit = running.shown[-1], self._problem.merit(running.point)
            self._improvements.append((self._spent, round(self._merit, 4)))


def run(job: Job, most: int = MOST) -> Run:
    """Runs a search."""
    problem = PROBLEMS[job.problem]
    search = contestant(job.search).make(problem, job.seed)
    return _Counting(search, problem, job.seed, most).run(job.slots)


# --- many ------------------------------------------------------------------------------------------------------------


def _prepare() -> None:
    """Of a worker process."""
    import torch

    torch.set_num_threads(1)
    logging.disable(logging.INFO)  # Ax tells of every trial that it is told of


def run_missing(jobs: Sequence[Job], out: Path, processes: int, most: int) -> None:
    """Runs the searches that the file lacks and appends each as it is done."""
    done = read_runs(out)
    missing = [job for job in jobs if job not in done]
    out.parent.mkdir(parents=True, exist_ok=True)
    # Set before the workers load torch: a second thread would only wait for the other process.
    os.environ["OMP_NUM_THREADS"] = "1"
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=spawn, initializer=_prepare) as pool:
        futures = {pool.submit(run, job, most): job for job in missing}
        for future in as_completed(futures):
            job, found = futures[future], future.result()
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**job._asdict(), **found._asdict()}) + "\n")
            print(*job, found.epochs, found.best, f"{found.cpu_s:.0f} s", file=sys.stderr, flush=True)


def read_runs(out: Path) -> dict[Job, Run]:
    """The searches in a file."""
    if not out.is_file():
        return {}
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    return {
        Job(*(line[field] for field in Job._fields)): Run(*(line[field] for field in Run._fields)) for line in lines
    }


def summary(runs: Sequence[Run], cap: int) -> dict[str, Any]:
    """Median over the seeds; a goal that was not reached counts as beyond the cap."""
    reached = sorted(math.inf if one.epochs is None else one.epochs for one in runs)
    middle = statistics.median(reached)
    return {
        "seeds": len(runs),
        "cap": cap,
        "epochs": None if math.isinf(middle) else middle,
        "reached": sum(one.epochs is not None for one in runs),
        "best": round(statistics.median(one.best for one in runs), 3),
        "trials": statistics.median(one.tried for one in runs),
        "suggestion_s": round(sum(one.suggesting_s for one in runs) / sum(one.tried for one in runs), 3),
        "cpu_s": round(sum(one.cpu_s for one in runs), 1),
    }


def main() -> int:
    """Runs what is missing and prints a line of JSON for each problem, number of slots and search."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=10, metavar="N")
    parser.add_argument("--slots", type=int, nargs="+", default=[1], metavar="N", help="trials at once")
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument(
        "--searches", nargs="+", metavar="NAME", default=list(NAMES), help="such as " + ", ".join(NAMES)
    )
    parser.add_argument("--most", type=int, default=MOST, metavar="N", help="trials that one search may start")
    parser.add_argument("--processes", type=int, default=2, metavar="N")
    parser.add_argument("--out", type=Path, default=Path("runs/bench_search.jsonl"))
    parser.add_argument("--only-print", action="store_true", help="run nothing, print what the file holds")
    asked = parser.parse_args()
    # Seed by seed, so that what is there of a long run is there for all searches.
    jobs = [
        Job(problem, contestant(search).name, slots, seed)
        for seed in range(asked.seeds)
        for slots in asked.slots
        for problem in asked.problems
        for search in asked.searches
    ]
    if not asked.only_print:
        run_missing(jobs, asked.out, asked.processes, asked.most)
    runs = read_runs(asked.out)
    for problem, search, slots in dict.fromkeys((job.problem, job.search, job.slots) for job in jobs):
        found = [runs[job] for job in jobs if job[:3] == (problem, search, slots) and job in runs]
        if found:
            cap = PROBLEMS[problem].trials * PROBLEMS[problem].epochs
            say(benchmark="search", problem=problem, search=search, slots=slots, **summary(found, cap))
    return 0


if __name__ == "__main__":
    sys.exit(main())
