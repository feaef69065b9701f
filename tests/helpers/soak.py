"""A search of many trials of milliseconds: `python tests/helpers/soak.py --trials 300`.

Everything is real but Tune and the training: searcher, journal, Ax in its process, MLflow on SQLite.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import psutil
from events import epoch_result
from ray.tune.search import Searcher

from orchestrator.algorithms.async_suggester import AsyncSuggester
from orchestrator.algorithms.ax_process import AxProcess
from orchestrator.algorithms.scoring import score
from orchestrator.runner.searcher import TuneSearcher
from orchestrator.runner.stop_request import StopRequest
from orchestrator.runner.trial_runner import AttemptSettings, TrialRunner
from orchestrator.runner.trial_spec import AttemptResult, WorkerMessage
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import SearchFolder
from orchestrator.stores.local import local_search
from orchestrator.study.events import SearchCreated, SessionStarted
from orchestrator.study.journal import Journal
from orchestrator.study.recorder import Recorder
from orchestrator.tracking.tracker import Tracker

# Once so many trials are over, everything has been imported and every cache has been filled.
WARM_AFTER = 50
SLOTS = 2
EPOCHS = 3
# How often Tune asks while it waits.
POLL_S = 0.02


class Findings(NamedTuple):
    """What a long search costs."""

    memory: list[int]
    """Bytes of the driver after each trial."""
    waits: list[float]
    """Seconds that a free slot waited for each trial."""
    reload_s: float
    """Seconds to read the journal and fold it."""
    summary_s: float
    """Seconds to say which trial is best, which is what `status` does after reading."""

    @property
    def slow_wait(self) -> float:
        """95th percentile of the time that a slot waited for a trial."""
        return statistics.quantiles(self.waits, n=20)[-1]

    @property
    def warm(self) -> int:
        """Trials after which the driver should not grow any more."""
        return min(WARM_AFTER, len(self.memory) // 2)

    @property
    def growth(self) -> float:
        """MB that the driver grew after those."""
        return (max(self.memory[self.warm :]) - self.memory[self.warm]) / 1e6

    def __str__(self) -> str:
        return (
            f"{len(self.waits)} trials: driver {self.memory[-1] / 1e6:.0f} MB, {self.growth:+.0f} MB after the "
            f"first {self.warm}; a slot waited {statistics.median(self.waits):.2f} s (p95 {self.slow_wait:.2f}, worst "
            f"{max(self.waits):.2f}); reload {self.reload_s:.2f} s, status {self.summary_s:.2f} s"
        )


def main() -> int:
    """Prints the findings; 1 when they break a promise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=300)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        findings = soak(Path(folder) / "s", parser.parse_args().trials)
    print(findings)
    kept = findings.growth <= 100 and findings.slow_wait <= 5
    return 0 if kept and findings.reload_s + findings.summary_s <= 2 else 1


def soak(folder: Path, trials: int) -> Findings:
    """Runs the search in a folder that does not exist yet."""
    folder.mkdir()
    search = local_search(folder)
    search.description.write_text("search: s\n")
    space = SearchSpace.load("smoke.yaml", overrides=[f"budget.trials={trials}"])
    recorder = Recorder(Journal(search.journal))
    tracker = Tracker(
        f"sqlite:///{folder.parent / 'mlflow.db'}",
        search,
        uid="s",
        artifacts=folder / "artifacts",
        tags={},
        on_run=lambda trial, run: None,
    )
    recorder.subscribe(tracker.put)
    tracker.start()
    recorder.record(SearchCreated(search="s", space=space.fingerprint(), seed=0))
    recorder.record(SessionStarted(session=1, host="h", pid=1))
    ax = AxProcess(folder / "ax.log")
    try:
        stop, suggester = StopRequest(), AsyncSuggester(ax, space, stale=1)
        runner = TrialRunner(recorder, space, search, stop, suggester, AttemptSettings(threads=1))
        searcher = TuneSearcher(runner, stop, lambda: SLOTS)
        memory, waits = _run_all(searcher, recorder, trials)
        assert searcher.failure is None, searcher.failure
    finally:
        ax.close()
    unsent = tracker.close(120)
    assert unsent == 0, f"MLflow has not got {unsent} events: {tracker.problem}"
    return Findings(memory, waits, *_time_reload(search, space))


def _run_all(searcher: TuneSearcher, recorder: Recorder, trials: int) -> tuple[list[int], list[float]]:
    """Two slots in turn, so that one trial is pending when the other slot asks."""
    this = psutil.Process()
    memory: list[int] = []
    waits: list[float] = []
    running: list[tuple[str, str]] = []
    for number in range(trials + 1):
        began = time.monotonic()
        while (spec := searcher.suggest(f"x{number}")) is None:
            searcher.ends_now()
            time.sleep(POLL_S)
            if len(running) == SLOTS or (number >= trials and running):
                _finish(searcher, recorder, *running.pop(0))
                began = time.monotonic()
        if spec == Searcher.FINISHED:
            break
        waits.append(time.monotonic() - began)
        running.append((f"x{number}", spec["trial"]))
        memory.append(this.memory_info().rss)
    return memory, waits


def _finish(searcher: TuneSearcher, recorder: Recorder, trial_id: str, key: str) -> None:
    params = recorder.study.trials[key].params
    quality = 1 / (1 + abs(float(params["optim.learning_rate"]) - 2e-3) * 500) * float(params["clips.identities"]) / 4
    for epoch in range(1, EPOCHS + 1):
        message = WorkerMessage(epoch_result=epoch_result(epoch, quality * epoch / EPOCHS))
        searcher.on_trial_result(trial_id, {"message": message.model_dump_json()})
    ended = WorkerMessage(attempt_result=AttemptResult(state="completed"))
    searcher.on_trial_complete(trial_id, {"message": ended.model_dump_json()})


def _time_reload(search: SearchFolder, space: SearchSpace) -> tuple[float, float]:
    began = time.monotonic()
    study = Recorder(Journal(search.journal)).study
    loaded = time.monotonic()
    for trial in study.trials.values():
        score(trial, space.objective)
    return loaded - began, time.monotonic() - loaded


if __name__ == "__main__":
    sys.exit(main())
