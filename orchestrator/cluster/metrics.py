"""Gauges of a running search and its trials, which Ray serves to Prometheus.

Ray's process on the driver's node serves the values. It drops one that has not been set for 20 s, and a driver hands
over each value once (measured with Ray 2.60). So all gauges are set again every few seconds, and a series ends when it
is no longer set. Only trials that run, or reported a moment ago, have
series: their number is bounded by that of the slots.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple, get_args

from orchestrator.algorithms.scoring import feasible
from orchestrator.cluster.names import leading_parameters
from orchestrator.space.objective import Objective
from orchestrator.study.events import FailureKind, TrialReported, TrialStarted
from orchestrator.study.journal import Record
from orchestrator.study.recorder import Recorder
from orchestrator.study.study import Study, Trial, TrialStatus

log = logging.getLogger(__name__)

PREFIX = "reidsearch_"
# A quarter of the time after which Ray drops a value, so that one round may be late.
SET_PERIOD_S = 5.0
# How long a trial that has ended keeps its series: its last values have to be handed over (10 s) and fetched (15 s).
LINGER_S = 60.0
# Of more trials at once, only those that started last have series.
MOST_TRIALS = 500
LONGEST_LABEL = 120
OF_SEARCH = ("search", "data")
OF_TRIAL = (*OF_SEARCH, "trial")


class Kind(NamedTuple):
    """A gauge: its name, its meaning, and the labels that tell its series apart."""

    name: str
    meaning: str
    labels: tuple[str, ...]


def _of_trial(name: str, meaning: str, *labels: str) -> Kind:
    return Kind(f"{PREFIX}trial_{name}", meaning, (*OF_TRIAL, *labels))


def _of_search(name: str, meaning: str, *labels: str) -> Kind:
    return Kind(f"{PREFIX}search_{name}", meaning, (*OF_SEARCH, *labels))


INFO = _of_trial("info", "1; the labels say where the trial runs and with which parameters", "node", "parameters")
EPOCHS = _of_trial("epochs", "Epochs finished")
MEAN_AP = _of_trial("map_ratio", "mAP on the validation split, at its latest evaluation, in [0, 1]")
BEST_MEAN_AP = _of_trial("best_map_ratio", "The highest mAP of the trial so far, in [0, 1]")
IMAGES = _of_trial("images_per_second", "Frames trained on per second of training, in the latest epoch")
DATA_WAIT = _of_trial("data_wait_ratio", "Share of the training time spent waiting for frames, in [0, 1]")
EPOCH_SECONDS = _of_trial("epoch_duration_seconds", "Duration of the latest epoch, evaluation included")
GPU_MEMORY = _of_trial("gpu_memory_bytes", "The most its tensors took of its GPUs in the latest epoch; 0 without one")
REPORTED = _of_trial("last_report_timestamp_seconds", "When its latest epoch ended, in seconds since 1970 UTC")

TRIALS = _of_search(
    "trials",
    "Trials, repeats among them, in each state; `pending` wait for a slot, `paused` may never get one",
    "state",
)
BUDGET = _of_search("budget_trials", "Configurations that the search may try; whole trainings where they pause")
BEST = _of_search("best", "The best value of the first objective, by one seed, constraints kept", "metric")
FAILED_ATTEMPTS = _of_search("failed_attempts", "Attempts that failed; a reopened trial starts at 0 again", "failure")
UNSENT = _of_search("unsent_events", "Events that MLflow has not taken yet")
SESSION = _of_search("session", "1 for the launch, one more for each resume")
RUN_SECONDS = _of_search("run_seconds", "Wall time of all sessions up to the latest event")
GPU_SECONDS = _of_search("gpu_seconds", "The same, times the GPUs that trials held")

TRIAL_KINDS = (INFO, EPOCHS, MEAN_AP, BEST_MEAN_AP, IMAGES, DATA_WAIT, EPOCH_SECONDS, GPU_MEMORY, REPORTED)
SEARCH_KINDS = (TRIALS, BUDGET, BEST, FAILED_ATTEMPTS, UNSENT, SESSION, RUN_SECONDS, GPU_SECONDS)
KINDS = (*SEARCH_KINDS, *TRIAL_KINDS)


class Reading(NamedTuple):
    """The value of one series."""

    kind: Kind
    value: float
    labels: dict[str, str]


# --- from the state of a search to values


def trial_readings(trial: Trial, of_search: Mapping[str, str]) -> Iterator[Reading]:
    """The values of a trial, as far as it has reported them.

    Args:
        trial: one that runs, or ran a moment ago.
        of_search: the labels that all series of the search have.
    """
    labels = {**of_search, "trial": trial.key}
    node = "" if trial.load is None else trial.load.node
    yield Reading(INFO, 1.0, labels | {"node": label(node), "parameters": label(leading_parameters(trial.params))})
    yield Reading(EPOCHS, trial.epoch, labels)
    evaluated = [result.validation.mAP for result in trial.results if result.validation is not None]
    if evaluated:
        yield Reading(MEAN_AP, evaluated[-1], labels)
        yield Reading(BEST_MEAN_AP, max(evaluated), labels)
    if trial.results:
        latest = trial.results[-1]
        yield Reading(IMAGES, latest.images_per_second, labels)
        yield Reading(DATA_WAIT, latest.data_wait_share, labels)
        yield Reading(EPOCH_SECONDS, latest.seconds, labels)
        yield Reading(REPORTED, latest.time, labels)
    memory = 0.0 if trial.gpus == 0 else None if trial.load is None else trial.load.gpu_memory_peak_bytes
    if memory is not None:
        yield Reading(GPU_MEMORY, memory, labels)


def search_readings(
    study: Study, of_search: Mapping[str, str], *, budget: int, best: tuple[str, float] | None, unsent: int
) -> Iterator[Reading]:
    """The values of a search as a whole.

    Args:
        study: the search.
        of_search: the labels that all its series have.
        budget: configurations that it may try.
        best: metric and value of the best configuration, or None.
        unsent: events that MLflow has not accepted.
    """
    every = [*study.trials.values(), *study.replicates.values(), *study.finals.values()]
    states = Counter(trial.status for trial in every)
    failures = sum((trial.failures for trial in every if trial.failures), Counter[FailureKind]())
    for state in TrialStatus:
        yield Reading(TRIALS, states[state], {**of_search, "state": state})
    for failure in get_args(FailureKind):
        yield Reading(FAILED_ATTEMPTS, failures[failure], {**of_search, "failure": failure})
    labels = dict(of_search)
    yield Reading(BUDGET, budget, labels)
    yield Reading(UNSENT, unsent, labels)
    yield Reading(SESSION, study.sessions, labels)
    yield Reading(RUN_SECONDS, study.gpu_hours.seconds, labels)
    yield Reading(GPU_SECONDS, study.gpu_hours.gpu_seconds, labels)
    if best is not None:
        yield Reading(BEST, best[1], {**labels, "metric": best[0]})


def search_labels(search: str, data: str) -> dict[str, str]:
    """The labels of all series of a search; the name of generated data is marked as such, see `marked`."""
    return {"search": label(search), "data": label(data)}


def label(text: str) -> str:
    """The text as the value of a label: printable ASCII, of a bounded length."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text)[:LONGEST_LABEL]


def shown_trials(running: Collection[str], latest: Mapping[str, float], now: float) -> list[str]:
    """Keys of the trials that have series: those that run, and those with news in the last `LINGER_S` seconds.

    Args:
        running: keys of trials that run.
        latest: when each trial last started or reported, in the order of their starts.
        now: on the same clock, in seconds.
    """
    shown = [key for key, moment in latest.items() if key in running or now - moment <= LINGER_S]
    return shown[-MOST_TRIALS:]


def best_value(study: Study, objective: Objective) -> tuple[str, float] | None:
    """The first objective's metric and its best value among completed configurations that keep the constraints."""
    found = feasible(study, objective)
    return (objective.first.metric, found[0][1].value) if found else None


# --- from values to Ray


class Exporter:
    """Sets the gauges of a search every few seconds in a thread, while its block runs; errors there end only them."""

    def __init__(
        self,
        recorder: Recorder,
        objective: Objective,
        labels: Mapping[str, str],
        *,
        budget: int,
        unsent: Callable[[], int],
    ) -> None:
        """Listens to the recorder from here on.

        Args:
            recorder: of the search.
            objective: what the search improves.
            labels: see `search_labels`.
            budget: configurations that the search may try.
            unsent: number of events that MLflow has not accepted.
        """
        self._recorder, self._labels, self._budget, self._unsent = recorder, labels, budget, unsent
        self._objective = objective
        self._latest: dict[str, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="gauges", daemon=True)
        recorder.subscribe(self._note)

    def readings(self) -> list[Reading]:
        """All current values."""
        now = time.monotonic()
        with self._recorder.lock:
            study = self._recorder.study
            shown = shown_trials(study.gpu_hours.held, self._latest, now)
            self._latest = {key: self._latest[key] for key in shown}
            best = best_value(study, self._objective)
            unsent = self._unsent()
            found = list(search_readings(study, self._labels, budget=self._budget, best=best, unsent=unsent))
            for key in shown:
                found += trial_readings(study.all_trials[key], self._labels)
        return found

    def __enter__(self) -> None:
        """Starts the thread; Ray must be connected."""
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        """Ends the thread; Ray drops the series."""
        self._over.set()
        self._thread.join()

    def _note(self, record: Record) -> None:
        if isinstance(record.event, TrialStarted):
            self._latest.pop(record.event.trial, None)  # so that the order is that of the starts
        if isinstance(record.event, TrialStarted | TrialReported):
            self._latest[record.event.trial] = time.monotonic()

    def _work(self) -> None:
        try:
            gauges = _ray_gauges()
            while True:
                for reading in self.readings():
                    gauges[reading.kind.name].set(float(reading.value), tags=reading.labels)
                if self._over.wait(SET_PERIOD_S):
                    return
        except Exception:
            # A search without gauges is still a search.
            log.exception("gauges are no longer set")


def _ray_gauges() -> dict[str, Any]:
    from ray.util.metrics import Gauge

    return {kind.name: Gauge(kind.name, description=kind.meaning, tag_keys=kind.labels) for kind in KINDS}
