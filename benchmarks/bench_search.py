"""Search algorithms and stopping rules on the test functions of `benchmarks.search_problems`, counted in epochs.

Counted are the epochs spent over all trials until one that was trained to its end has a merit of at least 0.95, by its
true merit, not by what noise made of it. Searches that do not get there within the epochs of `--trials` whole trials
count as more than that.

    .venv/bin/python -m benchmarks.bench_search --seeds 10 --trials 40 --searches random random+asha sobol+asha
    PYTHONPATH=<folder with optuna> .venv/bin/python -m benchmarks.bench_search --with-optuna
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from benchmarks.measuring import say
from benchmarks.search_problems import EPOCHS, NOISE, PROBLEMS, Problem, curve
from orchestrator.ahead import Ahead
from orchestrator.algorithms import ALGORITHMS
from orchestrator.ax_process import AxProcess
from orchestrator.early_stopping import StoppingConfig, verdict
from orchestrator.events import TrialCompleted, TrialReported, TrialStarted, TrialStopped, TrialSuggested
from orchestrator.space import SearchSpace
from orchestrator.study import Study
from orchestrator.suggest import Question, Suggestion
from trainer.result import EpochResult, Evaluation

GOAL = 0.95
POLL_PERIOD_S = 0.02

# Settings of the trainer that stand for the coordinates: any that are numbers with room between their bounds.
PATHS = (
    *("clips.flip", "clips.erase", "loss.label_smoothing", "loss.osm_alpha", "loss.osm_sigma", "loss.osm_balance"),
    *("loss.center_learning_rate", "optim.learning_rate", "optim.weight_decay", "loss.triplet_margin"),
)
LOW, HIGH = 0.1, 0.9


# --- searches --------------------------------------------------------------------------------------------------------


class Search(Protocol):
    """Proposes points and hears how they do."""

    def propose(self) -> list[float]:
        """The next point."""

    def stops(self, values: list[float]) -> bool:
        """Whether the trial is stopped after its latest epoch, which is not its last."""

    def end(self, values: list[float]) -> None:
        """The trial is over, whole or stopped."""


class Ours:
    """An algorithm and a stopping rule of this project, through the code that a search runs."""

    def __init__(self, problem: Problem, algorithm: str, rule: str, seed: int, trials: int, log: Path) -> None:
        self._space = _space(problem, trials)
        self._algorithm, self._seed = ALGORITHMS[algorithm], seed
        self._stopping = StoppingConfig.model_validate({"rule": rule})
        self._study = Study(seed=seed)
        self._model = AxProcess(log)
        self._ahead = Ahead(self._model, self._space, stale=False)
        self._curves: list[list[float]] = []

    def propose(self) -> list[float]:
        """As the searcher asks, one trial at a time."""
        suggestion = self._suggestion()
        index = len(self._curves)
        self._key = f"t{index:04d}"
        params, source = suggestion.params, suggestion.source
        self._study.apply(TrialSuggested(trial=self._key, index=index, params=params, source=source, seed=0))
        self._study.apply(TrialStarted(trial=self._key, attempt=1))
        return [(float(params[path]) - LOW) / (HIGH - LOW) for path in self._space.parameters]

    def _suggestion(self) -> Suggestion:
        step = self._algorithm(self._space, self._seed, self._study)
        found = self._ahead.take(step, self._study) if isinstance(step, Question) else step
        while found is None:
            time.sleep(POLL_PERIOD_S)
            assert isinstance(step, Question)
            found = self._ahead.take(step, self._study)
        assert isinstance(found, Suggestion), "a space of real numbers has no end"
        return found

    def stops(self, values: list[float]) -> bool:
        """As `decide` does."""
        return verdict(values, self._curves, self._stopping) is not None

    def end(self, values: list[float]) -> None:
        """Only the last value counts for the objective."""
        self._curves.append(values)
        self._study.apply(TrialReported(trial=self._key, result=_result(len(values), values[-1])))
        if len(values) == EPOCHS:
            self._study.apply(TrialCompleted(trial=self._key))
            return
        assert self._stopping.rule != "none"
        rule = self._stopping.rule
        self._study.apply(TrialStopped(trial=self._key, rule=rule, epoch=len(values), reason=""))

    def close(self) -> None:
        """Ends the model's process."""
        self._model.close()


def _space(problem: Problem, trials: int) -> SearchSpace:
    bounds = {"type": "float", "low": LOW, "high": HIGH}
    parameters = dict.fromkeys(PATHS[: problem.dimensions], bounds)
    fixed = {"loss": {"osm_share": 0.5, "center_weight": 0.1}}
    data = {"version": 1, "name": problem.name, "budget": {"trials": trials}, "parameters": parameters}
    return SearchSpace.model_validate({**data, "trainer": fixed})


def _result(epoch: int, value: float) -> EpochResult:
    figures = dict.fromkeys(("mINP", "rank1", "rank5", "rank10", "rank20", "attention_entropy"), 0.0)
    evaluation = Evaluation(
        mAP=value, mAP_standard_error=NOISE, protocol="none", queries=1, dropped_queries=0, **figures
    )
    times = {"images_per_second": 1.0, "data_wait_share": 0.0, "seconds": 1.0, "time": 0.0}
    return EpochResult(epoch=epoch, losses={}, learning_rate=1.0, validation=evaluation, **times)


class OptunaSearch:
    """Optuna's TPE and one of its pruners, each with its defaults."""

    def __init__(self, problem: Problem, pruner: str, seed: int) -> None:
        import optuna  # type: ignore[import-not-found]

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._dimensions = problem.dimensions
        self._pruned = optuna.trial.TrialState.PRUNED
        self._study = optuna.create_study(
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=seed),
            pruner=getattr(optuna.pruners, pruner)(),
        )

    def propose(self) -> list[float]:
        """Asks."""
        self._trial = self._study.ask()
        return [self._trial.suggest_float(f"x{index}", 0.0, 1.0) for index in range(self._dimensions)]

    def stops(self, values: list[float]) -> bool:
        """Reports, and asks the pruner."""
        self._trial.report(values[-1], len(values))
        return bool(self._trial.should_prune())

    def end(self, values: list[float]) -> None:
        """Tells."""
        whole = len(values) == EPOCHS
        self._study.tell(self._trial, values[-1] if whole else None, state=None if whole else self._pruned)


class AxDefaults:
    """Ax's client as its documentation uses it: no settings, no stopping."""

    def __init__(self, problem: Problem, seed: int) -> None:
        from ax.api.client import Client
        from ax.api.configs import RangeParameterConfig

        self._client = Client(random_seed=seed)
        self._client.configure_experiment(
            [
                RangeParameterConfig(name=f"x{index}", parameter_type="float", bounds=(0.0, 1.0))
                for index in range(problem.dimensions)
            ]
        )
        self._client.configure_optimization("merit")

    def propose(self) -> list[float]:
        """Asks."""
        ((self._index, params),) = self._client.get_next_trials(max_trials=1).items()
        return [float(value) for value in params.values()]

    def stops(self, values: list[float]) -> bool:
        """Never."""
        return False

    def end(self, values: list[float]) -> None:
        """Tells."""
        self._client.complete_trial(self._index, raw_data={"merit": values[-1]})


OPTUNA = {"optuna+median": "MedianPruner", "optuna+asha": "SuccessiveHalvingPruner"}
SEARCHES = (
    *("random", "random+asha", "random+percentile", "sobol", "sobol+asha", "sobol+percentile"),
    *("ax", "ax+asha", "ax+percentile", "ax-defaults"),
)


# --- counting --------------------------------------------------------------------------------------------------------


class Run(NamedTuple):
    """One search to the end of its epochs."""

    epochs_to_goal: int | None
    """None where it was not reached."""
    best: float
    """Best merit of a trial that was trained to its end."""
    tried: int
    cpu_s: float


def run(name: str, problem: Problem, seed: int, trials: int, log: Path) -> Run:
    """Searches until the epochs of `trials` whole trials are spent."""
    if name in OPTUNA:
        return _count(OptunaSearch(problem, OPTUNA[name], seed), problem, seed, trials)
    if name == "ax-defaults":
        return _count(AxDefaults(problem, seed), problem, seed, trials)
    algorithm, _, rule = name.partition("+")
    ours = Ours(problem, algorithm, rule or "none", seed, trials, log)
    try:
        return _count(ours, problem, seed, trials)
    finally:
        ours.close()


def _count(search: Search, problem: Problem, seed: int, trials: int) -> Run:
    noise, start = np.random.default_rng(seed), time.process_time()
    spent, tried, best, reached = 0, 0, -math.inf, None
    while spent < trials * EPOCHS:
        point = search.propose()
        shown = curve(problem, point, noise)
        length = next((epoch for epoch in range(1, EPOCHS) if search.stops(shown[:epoch])), EPOCHS)
        search.end(shown[:length])
        spent, tried = spent + length, tried + 1
        if length == EPOCHS:
            best = max(best, problem.merit(point))
        if reached is None and best >= GOAL:
            reached = spent
    return Run(reached, best, tried, time.process_time() - start)


def summary(runs: Sequence[Run], cap: int) -> dict[str, Any]:
    """Medians over the seeds; a goal that was not reached counts as beyond the cap."""
    epochs = statistics.median(cap + 1 if one.epochs_to_goal is None else one.epochs_to_goal for one in runs)
    return {
        "epochs_to_goal": None if epochs > cap else epochs,
        "reached": sum(one.epochs_to_goal is not None for one in runs),
        "best": round(statistics.median(one.best for one in runs), 4),
        "tried": statistics.median(one.tried for one in runs),
    }


def main() -> int:
    """Runs what was asked for and prints a line of JSON for each problem and search, as it is done."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, metavar="N")
    parser.add_argument("--trials", type=int, default=40, metavar="N", help="whole trials whose epochs may be spent")
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--searches", nargs="+", choices=[*SEARCHES, *OPTUNA], default=list(SEARCHES))
    parser.add_argument("--with-optuna", action="store_true", help="Optuna too; it has to be importable")
    asked = parser.parse_args()
    names = list(dict.fromkeys([*asked.searches, *(OPTUNA if asked.with_optuna else ())]))
    with tempfile.TemporaryDirectory() as folder:
        for problem in (PROBLEMS[name] for name in asked.problems):
            for name in names:
                runs = [run(name, problem, seed, asked.trials, Path(folder) / "ax.log") for seed in range(asked.seeds)]
                found = summary(runs, asked.trials * EPOCHS)
                say(
                    benchmark="search",
                    problem=problem.name,
                    search=name,
                    seeds=asked.seeds,
                    cap=asked.trials * EPOCHS,
                    **found,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
