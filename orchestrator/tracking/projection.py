"""The journal's events as writes to MLflow runs, merged run by run. Pure: MLflow is not imported."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from orchestrator.stores.base import SearchFolder
from orchestrator.study import events
from orchestrator.tracking.content import (
    About,
    Artifact,
    DataSet,
    Point,
    best_points,
    epoch_points,
    forecast_points,
    load_points,
    milliseconds,
    test_points,
)
from trainer.result import EpochResult, better_epoch

SEARCH_RUN: Final = "-"
"""Key of the search's own run, where other runs have the key of their trial."""
LONGEST_TAG = 5000
NODE_TAG = "node"
RUNNING = "RUNNING"
PAUSED = "SCHEDULED"
END_OF_SESSION = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
# A refused write is repeated after 1, 2, 4 ... seconds; `close` waits for so many attempts.
FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 300.0
ATTEMPTS_TO_WAIT_FOR = 3


class Creation(NamedTuple):
    """Name, start time and tags of a new run."""

    name: str
    start: int
    """Milliseconds since 1970 UTC."""
    tags: dict[str, str]
    parent: str = SEARCH_RUN
    """Key of the run that it is shown under; the search's own run has none."""


@dataclass
class Writes:
    """What one run has yet to get, merged from all its events; the last event sets the status."""

    key: str
    """The trial, or `SEARCH_RUN`."""
    creation: Creation | None = None
    """None once the run exists."""
    files: list[Path] = field(default_factory=list)
    data_sets: list[DataSet] = field(default_factory=list)
    evaluation: int | None = None
    """Completion time in milliseconds since 1970 UTC, if the trial's evaluation folder is to be sent."""
    summary: int | None = None
    """End of the session in milliseconds since 1970 UTC, if a summary is to be sent."""
    artifacts: list[Artifact] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    status: str | None = None
    end: int | None = None
    """Milliseconds since 1970 UTC; None while the run is active."""
    events: int = 0
    """Number of merged events."""
    attempts: int = 0
    """Number of refusals."""
    due: float = 0.0
    """Monotonic time of the next attempt."""


class Plan:
    """Pending writes, in the order in which their runs were created."""

    def __init__(self, folder: SearchFolder, about: About | None = None) -> None:
        """Starts empty. Without `about`, runs get what their events say, and nothing else."""
        self._folder = folder
        self._about = about
        self._best: dict[str, EpochResult] = {}
        self._nodes: dict[str, list[str]] = {}
        self._pauses: dict[str, list[int]] = {}
        self._writes: dict[str, Writes] = {}
        self._unmade: dict[str, Writes] = {}
        self._has_refused = False

    def add(self, event: events.Event, time: float) -> bool:
        """Merges an event recorded at `time`, in seconds since 1970 UTC; False if MLflow does not show it."""
        moment = milliseconds(time)
        match event:
            case events.SearchCreated():
                writes = self._begin(SEARCH_RUN, Creation(self._folder.name, moment, {}))
                writes.files.append(self._folder.description)
                if self._about is not None:
                    writes.artifacts += self._about.artifacts
            case events.SessionStarted():
                writes = self._of(SEARCH_RUN)
                writes.status, writes.end, writes.summary = RUNNING, None, None
            case events.TrialSuggested():
                writes = self._suggested(event, moment)
            case events.TrialStarted(attempt=1):
                writes = self._of(event.trial)
                writes.files.append(self._folder.trial(event.trial) / "config.json")
            case events.TrialReported():
                writes = self._reported(event)
            case events.TrialTested():
                writes = self._of(event.trial)
                other = None if event.data is None else event.data.label
                writes.points += test_points(event.evaluation, moment, other)
            case events.TrialOpenedTestSet():
                writes = self._of(event.trial)
                name = "test_set_opened" if event.data is None else f"test_set_opened.{event.data.label}"
                writes.tags[name] = event.by
            case events.TrialCompleted():
                writes = self._ended(event.trial)
                writes.evaluation = moment
                writes.status, writes.end = "FINISHED", moment
            case events.TrialPaused():
                writes = self._paused(event, moment)
            case events.TrialContinued():
                writes = self._continued(event, moment)
            case events.TrialStopped():
                writes = self._ended(event.trial)
                writes.tags |= {"stopped": event.rule, "reason": event.reason[:LONGEST_TAG]}
                writes.status, writes.end = "KILLED", moment
            case events.TrialFailed():
                writes = self._ended(event.trial)
                writes.tags |= {"failure": event.failure, "reason": event.reason[:LONGEST_TAG]}
                writes.status, writes.end = "FAILED", moment
            case events.TrialReopened():
                writes = self._of(event.trial)
                writes.status, writes.end = RUNNING, None
            case events.SessionEnded():
                writes = self._of(SEARCH_RUN)
                writes.status, writes.end = END_OF_SESSION[event.state], moment
                writes.summary = None if self._about is None else moment
            case _:
                return False
        writes.events += 1
        return True

    def _suggested(self, event: events.TrialSuggested, moment: int) -> Writes:
        tags = {"trial": event.trial, "source": event.source, "seed": str(event.seed)}
        tags["configuration"] = event.repeats or event.trial
        tags |= {"repeats": event.repeats} if event.repeats else {}
        tags |= {} if event.fold is None else {"fold": str(event.fold)}
        tags |= {"finalization": str(event.finalization)} if event.finalization else {}
        writes = self._begin(
            event.trial, Creation(f"{self._folder.name}/{event.trial}", moment, tags, event.repeats or SEARCH_RUN)
        )
        writes.params |= {name: str(value) for name, value in event.params.items()}
        if self._about is not None:
            split = None if event.finalization else self._folder.split_of(event.fold)
            writes.data_sets = self._about.data_sets(split)
        return writes

    def _reported(self, event: events.TrialReported) -> Writes:
        writes = self._of(event.trial)
        writes.points += epoch_points(event.result)
        if event.load is not None:
            writes.points += load_points(event.load, event.result)
            writes.tags[NODE_TAG] = self._nodes_of(event.trial, event.load.node)
        best = better_epoch(self._best.get(event.trial), event.result)
        if best is not None:
            self._best[event.trial] = best
        return writes

    def _paused(self, event: events.TrialPaused, moment: int) -> Writes:
        writes = self._of(event.trial)
        pauses = self._pauses.setdefault(event.trial, [])
        pauses.append(event.epoch)
        writes.points += forecast_points(event.forecast, event.epoch, moment)
        writes.tags |= {"pauses": ", ".join(map(str, pauses)), "pause_reason": event.reason[:LONGEST_TAG]}
        writes.status, writes.end = PAUSED, None
        return writes

    def _continued(self, event: events.TrialContinued, moment: int) -> Writes:
        writes = self._of(event.trial)
        writes.points += forecast_points(event.forecast, self._pauses.get(event.trial, [0])[-1], moment)
        writes.tags["continue_reason"] = event.reason[:LONGEST_TAG]
        writes.status, writes.end = RUNNING, None
        return writes

    def creations(self, now: float, limit: int) -> list[Writes]:
        """Runs to create, before anything else, because their trials wait; each after its parent."""
        due = (writes for writes in self._unmade.values() if writes.due <= now and not self._waits(writes))
        return list(islice(due, limit))

    def _waits(self, writes: Writes) -> bool:
        """Whether its run's parent has yet to be created."""
        creation = writes.creation
        return creation is not None and writes.key != SEARCH_RUN and creation.parent in self._unmade

    def next(self, now: float, limit: int) -> list[Writes]:
        """Runs to write to; the search's own run last, because it ends after its trials."""
        due = (writes for writes in self._writes.values() if writes.due <= now and writes.key != SEARCH_RUN)
        own = self._writes.get(SEARCH_RUN)
        return list(islice(due, limit)) or [writes for writes in (own,) if writes is not None and writes.due <= now]

    def pause(self, now: float) -> float | None:
        """Seconds until the next write is due; None if none is pending."""
        if self.next(now, limit=1):
            return 0.0
        return min((writes.due - now for writes in self._writes.values()), default=None)

    def made(self, writes: Writes) -> None:
        """Called when the run exists."""
        writes.creation = None
        del self._unmade[writes.key]

    def done(self, writes: Writes) -> None:
        """Called when everything is written."""
        del self._writes[writes.key]

    def refused(self, writes: Writes, now: float) -> None:
        """Called when MLflow refused a part; other writes go first."""
        writes.due = now + min(FIRST_DELAY_S * 2.0**writes.attempts, LONGEST_DELAY_S)
        writes.attempts += 1
        self._has_refused = True

    @property
    def stuck(self) -> int:
        """Number of events whose writes were refused too often to wait for."""
        if not self._has_refused:
            return 0
        return sum(writes.events for writes in self._writes.values() if writes.attempts >= ATTEMPTS_TO_WAIT_FOR)

    def _begin(self, key: str, creation: Creation) -> Writes:
        writes = self._of(key)
        writes.creation = creation
        self._unmade[key] = writes
        return writes

    def _ended(self, key: str) -> Writes:
        writes = self._of(key)
        if key in self._best:
            writes.points += best_points(self._best[key])
        return writes

    def _nodes_of(self, trial: str, node: str) -> str:
        """The nodes that trained the trial, in order of first use."""
        known = self._nodes.setdefault(trial, [])
        if node not in known:
            known.append(node)
        return ", ".join(known)[:LONGEST_TAG]

    def _of(self, key: str) -> Writes:
        return self._writes.setdefault(key, Writes(key))


@dataclass
class Run:
    """An existing run in MLflow."""

    id: str
    artifacts: str
    """Artifact location."""
    status: str | None = None
    end: int | None = None
    params: frozenset[str] = frozenset()
    tags: dict[str, str] = field(default_factory=dict)
    last: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Step and time of the newest point of each metric."""
    has_data_sets: bool = False


def leave_out(writes: Writes, run: Run) -> None:
    """Removes from the writes what the run already has.

    Relies on the order of writes: files before points, points in order, a batch whole or not at all, the status last.
    """
    writes.params = {name: value for name, value in writes.params.items() if name not in run.params}
    writes.tags = {name: value for name, value in writes.tags.items() if run.tags.get(name) != value}
    writes.points = [point for point in writes.points if (point.step, point.time) > run.last.get(point.metric, (-1, 0))]
    if run.last:
        writes.files.clear()
    if run.has_data_sets:
        writes.data_sets.clear()
    if (writes.status, writes.end) == (run.status, run.end):
        if writes.end is not None:  # a run that was only made has the status of one that runs, and nothing else
            writes.evaluation = writes.summary = None
            writes.artifacts.clear()
        writes.status = writes.end = None
