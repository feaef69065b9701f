"""Whole searches whose processes are killed at random moments, and what must hold of them in the end."""

from __future__ import annotations

import contextlib
import math
import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil
from running import Search, is_attempt, is_attempt_server, metric_points, mlflow_runs
from waiting import PATIENCE_S

from orchestrator.algorithms.budget import trainings_taken
from orchestrator.runner.replay import replayed_decisions
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.events import (
    Event,
    TrialCompleted,
    TrialContinued,
    TrialPaused,
    TrialReported,
    TrialStarted,
    TrialStopped,
    TrialSuggested,
)
from orchestrator.study.journal import Record, read_journal
from orchestrator.study.study import fold_records

VICTIMS = ("driver", "attempt", "raylet", "GCS")


def _runs(script: str) -> Callable[[psutil.Process], bool]:
    return lambda process: any(script in word for word in process.cmdline())


def _is_worker(process: psutil.Process) -> bool:
    return process.name().startswith("ray::") and any(map(is_attempt_server, process.children()))


# Every process of a search on one machine, by what it is called in docs/reliability.md.
KINDS: Mapping[str, Callable[[psutil.Process], bool]] = {
    "attempt": is_attempt,
    "attempt server": lambda process: is_attempt_server(process) and not is_attempt_server(process.parent()),
    "worker": _is_worker,
    "Ax": _runs("orchestrator.algorithms.ax_worker"),
    "raylet": lambda process: process.name() == "raylet",
    "GCS": lambda process: process.name() == "gcs_server",
    "dashboard": _runs("ray/dashboard/dashboard.py"),
    "dashboard agent": lambda process: (
        _runs("ray/dashboard/agent.py")(process) or _runs("ray::DashboardAgent")(process)
    ),
    "agent of runtime environments": _runs("ray/_private/runtime_env/agent/main.py"),
    "log monitor": _runs("ray/_private/log_monitor.py"),
    "monitor": _runs("ray/autoscaler/_private/monitor.py"),
}

EPOCHS = 30
# Whole trainings, over which about three times as many trials share their epochs.
TRIALS = 6
# Epochs of about a fifth of a second: there is always something in the act.
SLOW = ("--set", f"optim.epochs={EPOCHS}", "--set", "clips.frames=4", "--set", "model.height=64")
PAUSING = ("--set", "stopping.rule=promote", "--set", "stopping.first=0.1")
# A driver is also killed while it starts.
LONGEST_LIFE_S = 25.0
# After others have been found, this long at most passes before one of them is killed.
LONGEST_WAIT_S = 6.0
# A driver whose Ray died ends by itself, or is wedged.
WEDGED_AFTER_S = 120.0


def batter_searches(folder: Path, kills: int, seed: int, victims: Sequence[str]) -> int:
    """Kills as often as asked over as many searches as that takes; prints the toll; 1 when anything was lost."""
    os.environ["PYTHONPATH"] = str(Path(__file__).with_name("evidence"))
    chance, toll, problems, searches = random.Random(seed), Counter[str](), list[str](), 0
    began = time.monotonic()
    while toll.total() < kills:
        storage = folder / str(searches)
        search = Battering(Search(storage, "battered"), chance, victims)
        try:
            search.until_finished(kills - toll.total())
        finally:
            search.leave_nothing_running()
        found = violations(search.search)
        print(f"{storage}: {dict(search.toll)}, {len(found)} violations", flush=True)
        toll += search.toll
        problems += search.problems + [f"{storage}: {problem}" for problem in found]
        searches += 1
    counts = ", ".join(f"{count} of a {victim}" for victim, count in sorted(toll.items()))
    print(
        f"{toll.total()} kills ({counts}) over {searches} searches of {TRIALS} trainings in "
        f"{time.monotonic() - began:.0f} s: {len(problems)} violations"
    )
    print("".join(f"  {problem}\n" for problem in problems), end="")
    return 1 if problems else 0


class Battering:
    """One search that is killed and resumed until it is finished."""

    def __init__(self, search: Search, chance: random.Random, victims: Sequence[str]) -> None:
        self.search = search
        self._victims = victims
        self.toll: Counter[str] = Counter()
        self.problems: list[str] = []
        self._chance = chance

    def until_finished(self, kills: int) -> None:
        """Kills at most so often."""
        self._launch()
        while self._is_unfinished():
            if self._driver.poll() is not None:
                self._resume()
            elif self.toll.total() < kills:
                self._kill(self._chance.choice(self._victims))
            else:
                self._wait(PATIENCE_S)
        self._wait(PATIENCE_S)
        self._expect_no_survivors()

    def leave_nothing_running(self) -> None:
        """Ends the driver if it still runs, as after an error or a signal to us."""
        if self.search.process is not None and self.search.process.poll() is None:
            self.search.kill()

    @property
    def _driver(self) -> subprocess.Popen[str]:
        assert self.search.process is not None
        return self.search.process

    def _is_unfinished(self) -> bool:
        return not (self.search.folder / "journal.jsonl").exists() or self.search.status()["state"] != "finished"

    def _resume(self) -> None:
        if (self.search.folder / "journal.jsonl").exists():
            self.search.resume()
        else:  # it died before there was anything to resume
            self._launch()

    def _launch(self) -> None:
        self.search.launch("--trials", str(TRIALS), *SLOW, *PAUSING)

    def _kill(self, victim: str) -> None:
        if victim == "driver":
            self._wait(self._chance.uniform(0, LONGEST_LIFE_S))
        else:
            # Not while Ray starts: it takes a minute to notice that its raylet is gone, and says so.
            self._await_attempt()
            self._wait(self._chance.uniform(0, LONGEST_WAIT_S))
        self.search.remember_family()
        target = self._driver.pid if victim == "driver" else next(iter(self._processes(victim)), None)
        if self._driver.poll() is not None or target is None:
            return
        os.kill(target, 9)
        self.toll[victim] += 1
        if victim != "attempt":
            self._wait(WEDGED_AFTER_S)
            self._expect_no_survivors()

    def _wait(self, seconds: float) -> None:
        """Until the driver ends, for a while; one that hangs after its Ray died is a violation, and is ended."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._driver.poll() is None:
            self.search.remember_family()
            time.sleep(0.05)
        if seconds >= WEDGED_AFTER_S and self._driver.poll() is None:
            self.problems.append(f"the driver still ran {seconds:.0f} s after it should have ended")
            self.search.kill()

    def _await_attempt(self) -> None:
        end = time.monotonic() + WEDGED_AFTER_S
        while time.monotonic() < end and self._driver.poll() is None and not self._processes("attempt"):
            time.sleep(0.1)

    def _processes(self, victim: str) -> list[int]:
        """Numbers of the processes of this kind below the driver."""
        return processes_of(self._driver.pid, victim)

    def _expect_no_survivors(self) -> None:
        survivors = self.search.survivors()
        if survivors:
            self.problems.append(f"{survivors} live on 30 s after their driver")
            for process in survivors:
                process.kill()


def processes_of(driver: int, kind: str) -> list[int]:
    """Numbers of the processes of a kind below a driver."""
    found: list[int] = []
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(driver).children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it has ended
                if KINDS[kind](process):
                    found.append(process.pid)
    return found


def violations(search: Search) -> list[str]:
    """What is not as it should be, comparing what attempts noted themselves, the journal and MLflow."""
    records = read_journal(search.folder / "journal.jsonl")
    trials = [record.event.trial for record in records if isinstance(record.event, TrialSuggested)]
    reported = _reported(records)
    found = [f"{trial} was suggested {count} times" for trial, count in Counter(trials).items() if count > 1]
    found += _of_decisions(records)
    for trial in trials:
        found += [f"{trial}: {problem}" for problem in _of_trial(search, records, trial, reported.get(trial, []))]
    return found + _in_mlflow(search, reported)


def _of_decisions(records: list[Record]) -> list[str]:
    """Pausing was at work, spent no more than the budget, and is decided again from the journal alone."""
    study = fold_records(records)
    settings = [setting for setting in (*SLOW, *PAUSING) if setting != "--set"]
    space = SearchSpace.load("smoke.yaml", overrides=[*settings, f"budget.trials={TRIALS}"])
    taken = trainings_taken(study, space)
    found = [f"{float(taken):.2f} trainings were spent, not {TRIALS} at most"] if taken > TRIALS else []
    if len(study.trials) <= TRIALS:
        found.append(f"there are {len(study.trials)} trials: none was paused for others")
    if not any(isinstance(record.event, TrialContinued) for record in records):
        found.append("no trial was continued")
    return found + replayed_decisions(records, space).differences


def _reported(records: list[Record]) -> dict[str, list[tuple[int, float]]]:
    """Epochs and their times by trial, as the journal has them."""
    found: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        if isinstance(record.event, TrialReported):
            result = record.event.result
            found.setdefault(record.event.trial, []).append((result.epoch, result.time))
    return found


def _of_trial(search: Search, records: list[Record], trial: str, reported: list[tuple[int, float]]) -> list[str]:
    lines = (search.folder / "trials" / trial / "evidence").read_text().splitlines()
    evidence = [(what, int(epoch), float(moment)) for what, epoch, moment, _ in map(str.split, lines)]
    saved = [(epoch, moment) for what, epoch, moment in evidence if what == "saving"]
    finished = [(epoch, moment) for what, epoch, moment in evidence if what == "finished"]
    own = [record for record in records if getattr(record.event, "trial", None) == trial]
    ends = [record for record in own if isinstance(record.event, TrialCompleted | TrialStopped)]
    if len(ends) != 1:
        return [f"ended {len(ends)} times"]
    found = _of_pauses([record.event for record in own])
    last = EPOCHS if isinstance(ends[0].event, TrialCompleted) else max(_pauses(own), default=0)
    if [epoch for epoch, _ in reported] != list(range(1, last + 1)):
        found.append(f"the journal has the epochs {[epoch for epoch, _ in reported]}")
    if missing := set(reported) - set(saved):
        found.append(f"the journal has epochs that no attempt trained: {sorted(missing)}")
    if lost := set(finished) - set(reported):
        found.append(f"finished epochs were lost or trained again: {sorted(lost)}")
    if again := [epoch for epoch, count in Counter(epoch for epoch, _ in finished).items() if count > 1]:
        found.append(f"epochs were finished more than once: {again}")
    for since, until in _idle_times(own):
        if any(since < moment < until for _, moment in saved):
            found.append("trained on after its pause or its end was known")
    return found


def _pauses(own: list[Record]) -> list[int]:
    """Epochs after which a trial paused."""
    return [record.event.epoch for record in own if isinstance(record.event, TrialPaused)]


def _of_pauses(own: list[Event]) -> list[str]:
    """Every pause is where it was to be, and only a continuation ends it."""
    found, until, rests = list[str](), None, False
    for event in own:
        if isinstance(event, TrialSuggested | TrialContinued):
            if isinstance(event, TrialContinued) and not rests:
                found.append("continued, but not paused")
            until, rests = event.until, False
        elif isinstance(event, TrialPaused):
            found += [f"paused after {event.epoch}, not after {until}"] if event.epoch != until or rests else []
            rests = True
        elif isinstance(event, TrialStarted | TrialReported | TrialCompleted) and rests:
            found.append(f"{event.kind} while it was paused, or after its end")
        elif isinstance(event, TrialCompleted | TrialStopped):
            rests = True
    return found


def _idle_times(own: list[Record]) -> Iterator[tuple[float, float]]:
    """From when to when no attempt of a trial may train: since a pause until it is continued, and since its end."""
    since = math.inf
    for record in own:
        if isinstance(record.event, TrialPaused | TrialCompleted | TrialStopped):
            since = min(since, record.time)
        elif isinstance(record.event, TrialContinued):
            yield since, record.time
            since = math.inf
    yield since, math.inf


def _in_mlflow(search: Search, reported: dict[str, list[tuple[int, float]]]) -> list[str]:
    runs = mlflow_runs(search.storage)
    found = [] if len(runs["-"]) == 1 else [f"MLflow has {len(runs['-'])} runs of the search"]
    for trial, epochs in reported.items():
        if len(runs.get(trial, [])) != 1:
            found.append(f"{trial}: MLflow has {len(runs.get(trial, []))} runs")
            continue
        points = metric_points(search.storage, runs[trial][0].info.run_id, "loss/total")
        if [(step, moment) for step, _, moment in points] != [(epoch, round(1000 * time)) for epoch, time in epochs]:
            found.append(f"{trial}: MLflow has other points than the journal: {points}")
    return found
