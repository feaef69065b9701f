"""Search algorithms on problems with learning curves: epochs to a goal, regret, and how sure that is.

    nice python -m benchmarks.bench_search --seeds 0:50 --contestants ours,tpe,random --tables FOLDER --out FILE.csv

Searches of a problem and a seed see the same curves. A search ends when its best trial, by the value that it shows, has
a true merit of 0.95, or when it has spent the epochs of the problem's number of whole trials. Every finished search is
a line of the file and is not run again. The last line of standard output is JSON: the first contestant against each of
the others, with 95 % intervals (`benchmarks.search.statistics`).

Peers (benchmarks/peers.txt) have to be importable where they are named. Held-out problems are run once, on a form that
is fixed in a commit: `--problems held-out`.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.search.contestants import NAMES, contestant
from benchmarks.search.engine import GOALS, Run, run
from benchmarks.search.problems import FAMILIES, Problem
from benchmarks.search.statistics import Comparison, Outcome, Runs, by_problem, compare, mean_ranks
from benchmarks.search.tables import Table

DEVELOPMENT = ("branin", "hartmann6", "levy10", "reid5", "reid8")
HELD_OUT = ("rosenbrock5", "ackley8", "reid8noisy", "reid12")
COLUMNS = (
    *("problem", "contestant", "slots", "seed", "budget", *(f"epochs_{goal}" for goal in GOALS)),
    *("area", "best", "trials", "completed", "decision_s", "cpu_s"),
)


class Job(NamedTuple):
    """A search to run."""

    problem: str
    contestant: str
    slots: int
    seed: int


# --- runs ------------------------------------------------------------------------------------------------------------


def problem_of(name: str, seed: int, tables: Path | None) -> Problem:
    """A problem by name: a function or family, or the stem of a table's file."""
    return FAMILIES[name](seed) if name in FAMILIES else Table((tables or Path()) / f"{name}.npz")


def run_job(job: Job, tables: Path | None) -> dict[str, Any]:
    """One line of the file."""
    problem = problem_of(job.problem, job.seed, tables)
    found: Run = run(contestant(job.contestant).make(problem, job.seed), problem, job.seed, slots=job.slots)
    epochs = {f"epochs_{goal}": found.epochs[goal] for goal in GOALS}
    rounded = {key: round(value, 5) if isinstance(value, float) else value for key, value in found._asdict().items()}
    return {**job._asdict(), "budget": problem.trials * problem.epochs, **epochs, **rounded}


def _prepare() -> None:
    """Prepares a worker process."""
    import torch

    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # Ax and Syne Tune report every trial


def run_missing(jobs: Sequence[Job], out: Path, processes: int, tables: Path | None) -> None:
    """Runs the searches that the file lacks, and appends each when it is done."""
    missing = [job for job in jobs if job not in read_runs(out)]
    # Set before the workers load torch: a second thread would only wait for the other process.
    os.environ["OMP_NUM_THREADS"] = "1"
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=spawn, initializer=_prepare) as pool:
        futures = {pool.submit(run_job, job, tables): job for job in missing}
        for number, future in enumerate(as_completed(futures), 1):
            if future.exception() is not None:  # the searches that wait would run for nothing
                pool.shutdown(wait=False, cancel_futures=True)
            line = future.result()
            append(out, line)
            job = futures[future]
            print(f"{number}/{len(missing)}", *job, line["best"], f"{line['cpu_s']:.0f} s", file=sys.stderr, flush=True)


def append(out: Path, line: dict[str, Any]) -> None:
    """Adds a search to the file, which is made where there is none."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow(line)


def read_runs(out: Path) -> dict[Job, Outcome]:
    """The searches in a file, with their epochs to the highest goal."""
    if not out.is_file():
        return {}
    with out.open(encoding="utf-8", newline="") as file:
        return {
            Job(line["problem"], line["contestant"], int(line["slots"]), int(line["seed"])): Outcome(
                epochs=int(line[f"epochs_{GOALS[-1]}"]) if line[f"epochs_{GOALS[-1]}"] else None,
                area=float(line["area"]),
                budget=int(line["budget"]),
            )
            for line in csv.DictReader(file)
        }


# --- results ---------------------------------------------------------------------------------------------------------


def verdict(jobs: Iterable[Job], found: dict[Job, Outcome], names: Sequence[str]) -> dict[str, Any]:
    """The first contestant against the others."""
    runs: dict[str, Runs] = {
        name: {(job.problem, job.seed): found[job] for job in jobs if job.contestant == name and job in found}
        for name in names
    }
    ours, *others = names
    return {
        "against": {name: _told(compare(runs[ours], runs[name])) for name in others},
        "by_problem": {
            name: {problem: _told(each) for problem, each in by_problem(runs[ours], runs[name]).items()}
            for name in others
        },
        "mean_rank": {name: round(rank, 3) for name, rank in mean_ranks(runs).items()},
        "problems": sorted({job.problem for job in jobs}),
        "seeds": len({job.seed for job in jobs}),
        "commit": _commit(),
    }


def _told(comparison: Comparison) -> dict[str, Any]:
    return {
        "epochs_ratio": [round(value, 3) for value in comparison.epochs_ratio],
        "area_difference": [round(value, 4) for value in comparison.area_difference],
        "reached": list(comparison.reached),
    }


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


# --- command ---------------------------------------------------------------------------------------------------------


def seed_range(text: str) -> range:
    """`3:8`, or `8` for the first eight."""
    first, _, last = text.rpartition(":")
    return range(int(first or 0), int(last))


def chosen_problems(text: str, tables: Path | None) -> list[str]:
    """The problems of names and groups separated by commas.

    Raises:
        SystemExit: there is no such problem.
    """
    in_tables = sorted(path.stem for path in tables.glob("*.npz")) if tables else []
    groups = {"development": [*DEVELOPMENT, *in_tables[::2]], "held-out": [*HELD_OUT, *in_tables[1::2]]}
    groups |= {"tables": in_tables, "all": [*FAMILIES, *in_tables]}
    chosen = [name for word in text.split(",") for name in groups.get(word, [word])]
    for name in chosen:
        if name not in FAMILIES and name not in in_tables:
            raise SystemExit(f"{name}: no such problem; known are {', '.join([*groups, *FAMILIES, *in_tables])}")
    return chosen


def add_problem_options(parser: argparse.ArgumentParser) -> None:
    """Which problems and seeds, in how many processes."""
    parser.add_argument("--seeds", type=seed_range, default=range(8), metavar="A:B")
    parser.add_argument("--problems", default="development", help="names or groups, separated by commas")
    parser.add_argument("--tables", type=Path, metavar="FOLDER", help="recorded trainings, one .npz a problem")
    parser.add_argument("--processes", type=int, default=2, metavar="N")


def main() -> int:
    """Runs what is missing and prints the verdict."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_problem_options(parser)
    parser.add_argument("--contestants", default="ours,tpe,random", help=f"separated by commas: {', '.join(NAMES)}")
    parser.add_argument("--slots", type=int, default=1, metavar="N", help="trials at once")
    parser.add_argument("--out", type=Path, default=Path("runs/bench_search.csv"), metavar="FILE.csv")
    parser.add_argument("--only-print", action="store_true", help="run nothing, print what the file holds")
    asked = parser.parse_args()
    names = [contestant(name).name for name in split_names(asked.contestants)]
    problems = chosen_problems(asked.problems, asked.tables)
    # Seed by seed, so that an unfinished file holds whole pairs.
    jobs = [Job(problem, name, asked.slots, seed) for seed in asked.seeds for problem in problems for name in names]
    if not asked.only_print:
        run_missing(jobs, asked.out, asked.processes, asked.tables)
    print(json.dumps(verdict(jobs, read_runs(asked.out), names)))
    return 0


def split_names(text: str) -> list[str]:
    """Names separated by commas, of which those in parentheses separate settings."""
    names, depth = [""], 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            names.append("")
        else:
            names[-1] += letter
    return [name.strip() for name in names]


if __name__ == "__main__":
    sys.exit(main())
