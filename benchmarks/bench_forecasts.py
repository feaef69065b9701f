"""Are forecasts of unfinished trials as good as they say? Their errors divided by the standard deviations told.

    OMP_NUM_THREADS=1 nice python -m benchmarks.bench_forecasts --seeds 0:8 --tables FOLDER

Searches of `bench_search` (`ax+promote`) tell before every decision where their unfinished trials end, as `status`
does; the problem knows where they do end. Each trial counts once for each epoch at which it waited. A row per problem:
the root mean square of z = (end - forecast) / error, 1 if the errors are honest, and the share of ends within 2 errors.
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.bench_search import add_problem_options, chosen_problems, problem_of
from benchmarks.search.contestants import LOWEST, RANGE, Ours
from benchmarks.search.engine import Continue, Start, run
from benchmarks.search.problems import Problem
from orchestrator.algorithms.freeze_thaw import forecasts
from orchestrator.study.events import Forecast


class Forecasting(Ours):
    """Our search, which keeps what it expects of its unfinished trials."""

    def __init__(self, problem: Problem, seed: int) -> None:
        super().__init__(problem, {"name": "ax"}, {"rule": "promote"}, seed)
        self.points: dict[str, list[float]] = {}
        self.told: dict[tuple[str, int], Forecast] = {}

    def started(self, trial: int, point: list[float]) -> None:
        """Keeps the point, too."""
        super().started(trial, point)
        self.points[f"t{trial:04d}"] = point

    def decide(self) -> Start | Continue | None:
        """Tells what it expects before it decides."""
        for key, forecast in forecasts(self.study, self.space).items():
            self.told[key, self.study.trials[key].epoch] = forecast
        return super().decide()


def z_values(name: str, seed: int, tables: Path | None) -> list[float]:
    """The standardised errors of one search's forecasts, without those of trials that diverge later."""
    problem = problem_of(name, seed, tables)
    search = Forecasting(problem, seed)
    run(search, problem, seed)
    found = []
    for (key, _), forecast in search.told.items():
        end = problem.curve(search.points[key], np.random.default_rng([seed, int(key[1:])]))[-1]
        if np.isfinite(end):
            found.append(((float(end) - LOWEST) / RANGE - forecast.value) / forecast.error)
    return found


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_problem_options(parser)
    asked = parser.parse_args()
    names = chosen_problems(asked.problems, asked.tables)
    os.environ["OMP_NUM_THREADS"] = "1"
    print("| problem | forecasts | rms z | within 2 errors |\n|---|---|---|---|")
    with ProcessPoolExecutor(asked.processes) as pool:
        pending = {name: [pool.submit(z_values, name, seed, asked.tables) for seed in asked.seeds] for name in names}
        every = [_row(name, np.concatenate([each.result() for each in found])) for name, found in pending.items()]
    _row("all", np.concatenate(every))
    return 0


def _row(name: str, z: np.ndarray) -> np.ndarray:
    """Prints a row, and returns its values."""
    print(f"| {name} | {len(z)} | {np.sqrt(np.mean(z**2)):.2f} | {100 * np.mean(abs(z) < 2):.0f} % |", flush=True)
    return z


if __name__ == "__main__":
    sys.exit(main())
