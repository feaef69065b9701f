"""MLflow as a projection of the journal: one parent run per search, one child run per trial, each point once.

A thread reads events in order and sends them. It never raises into the search, and the search waits for it only briefly
before a trial starts. Queued events are merged run by run (`projection`) and written (`store`). What could not be sent
stays queued; what a killed process did not send is sent by the next session, which reads the whole journal again and
leaves out what MLflow already has.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from orchestrator.stores.base import SearchFolder
from orchestrator.study.description import EXPERIMENT
from orchestrator.study.events import TrialSuggested
from orchestrator.study.journal import Record
from orchestrator.tracking.content import About
from orchestrator.tracking.projection import SEARCH_RUN, Plan, Writes
from orchestrator.tracking.store import RefusedError, RunStore, reason
from orchestrator.tracking.uploads import Source

log = logging.getLogger(__name__)
_T = TypeVar("_T")

FIRST_PAUSE_S = 1.0
# Upper bound of the pause between two attempts to reach a server, plus the time of a call.
LONGEST_PAUSE_S = 3.0
# Creating a run takes a fraction of a second once MLflow is connected; only the first may take longer.
USUAL_PATIENCE_S = 1.0
POLL_S = 0.05
# New trials wait for at most this many writes per thread.
RUNS_PER_TURN = 4
# How long a call to a hanging server may outlast `close`.
CLOSE_GRACE_S = 12.0


class Tracker:
    """Sends events to MLflow from a thread of its own."""

    def __init__(
        self,
        uri: str,
        folder: SearchFolder,
        *,
        uid: str,
        artifacts: Path,
        experiment: str = EXPERIMENT,
        tags: Mapping[str, str],
        on_run: Callable[[str, str], None],
        about: About | None = None,
    ) -> None:
        """Sends nothing before `start`.

        Args:
            uri: tracking URI.
            folder: the search.
            uid: tells this search from others of the same name.
            artifacts: artifact folder of the experiment, if that does not exist yet.
            experiment: its name.
            tags: flat tags of every run.
            on_run: called in the tracker's thread with (trial, run id) when a trial has its run.
            about: content besides events; None sends what the events say, and nothing else.
        """
        self._plan = Plan(folder, about)
        self._store = RunStore(uri, Source(folder, uid, about), experiment=experiment, artifacts=artifacts, tags=tags)
        self._on_run = on_run
        self._events: queue.Queue[Record | None] = queue.Queue()
        self._runs: dict[str, threading.Event] = {}
        self._closing = threading.Event()
        self._idle = threading.Condition()
        self._unsent = 0
        self._stuck = 0
        self._is_late = self._gives_up = False
        self._outage: str | None = None
        self._refusal: str | None = None
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)

    @property
    def problem(self) -> str | None:
        """Why something cannot be sent now; None where all is well."""
        return self._outage or self._refusal

    @property
    def unsent(self) -> int:
        """Number of events not yet in MLflow."""
        return self._unsent

    def start(self, *, resend: bool = False) -> None:
        """Starts sending what `put` queues.

        Args:
            resend: send also what MLflow seems to have, and give up on errors that cannot pass by themselves.
        """
        self._gives_up = resend
        self._store.trusts_what_is_there = not resend
        self._thread.start()

    def put(self, record: Record) -> None:
        """Queues an event; returns at once."""
        with self._idle:
            self._unsent += 1
        if isinstance(record.event, TrialSuggested):
            self._runs[record.event.trial] = threading.Event()
        self._events.put(record)

    def wait_for_run(self, trial: str, seconds: float) -> bool:
        """Waits at most so many seconds for the trial's run; returns whether it exists.

        During an outage only the first trial waits.
        """
        if self._store.is_connected:
            seconds = min(seconds, USUAL_PATIENCE_S)
        end = time.monotonic() + (0 if self._is_late else seconds)
        while not self._runs[trial].wait(min(POLL_S, max(0, end - time.monotonic()))):
            if self._outage is not None or time.monotonic() >= end:
                self._is_late = True
                return False
        return True

    def close(self, seconds: float) -> int:
        """Waits at most so many seconds for the queue to drain, stops, and returns the number of events not sent.

        Writes that MLflow refused repeatedly are not waited for.
        """
        with self._idle:
            self._idle.wait_for(lambda: self._unsent <= self._stuck, timeout=seconds)
            unsent = self._unsent
        self._closing.set()
        self._events.put(None)
        self._thread.join(timeout=CLOSE_GRACE_S)
        return unsent

    def _work(self) -> None:
        while not self._closing.is_set():
            self._take_events()
            try:
                self._write(time.monotonic())
            except Exception as error:  # noqa: BLE001  # the search goes on whatever a tracking server does
                problem = reason(error)
                if self._gives_up and not self._store.can_return(error):
                    self._give_up(problem)
                    return
                self._await_return(problem)

    def _take_events(self) -> None:
        """Merges all queued events; waits where there is nothing to do."""
        pause = self._plan.pause(time.monotonic())
        ignored = 0
        try:
            record = self._events.get(block=pause != 0, timeout=pause)
            while True:
                if record is not None:
                    ignored += not self._plan.add(record.event, record.time)
                record = self._events.get_nowait()
        except queue.Empty:
            self._sent(ignored)

    def _write(self, now: float) -> None:
        """Creates new runs, then writes to some."""
        self._store.connect()
        limit = RUNS_PER_TURN * self._store.calls_at_once
        while not self._closing.is_set() and (unmade := self._plan.creations(now, limit)):
            for writes, run in self._together(self._store.ensure, unmade):
                self._plan.made(writes)
                self._announce(writes.key, run)
        for writes, _ in self._together(self._store.write, self._plan.next(now, limit)):
            self._plan.done(writes)
            self._sent(writes.events)

    def _together(self, call: Callable[[Writes], _T], some: list[Writes]) -> list[tuple[Writes, _T]]:
        """Makes the call for each, in several threads; returns those that worked and postpones those that were refused.

        Raises:
            Exception: MLflow cannot be reached. Calls that worked are repeated later without effect.
        """
        waiting = deque(some)
        worked: list[tuple[Writes, _T]] = []
        refused: list[tuple[Writes, RefusedError]] = []
        lost: list[Exception] = []

        def take_turns() -> None:
            while waiting and not lost:
                try:
                    writes = waiting.popleft()
                except IndexError:  # another thread took it
                    return
                try:
                    worked.append((writes, call(writes)))
                except RefusedError as error:
                    refused.append((writes, error))
                except Exception as error:  # noqa: BLE001  # raised below, in the tracker's own thread
                    lost.append(error)

        others = [
            threading.Thread(target=take_turns, name="mlflow", daemon=True)
            for _ in range(min(len(some), self._store.calls_at_once) - 1)
        ]
        for thread in others:
            thread.start()
        take_turns()
        for thread in others:
            thread.join()
        for writes, refusal in refused:
            self._postpone(writes, str(refusal))
        if lost:
            raise lost[0]
        return worked

    def _announce(self, key: str, run: str) -> None:
        if key == SEARCH_RUN:
            return
        try:
            self._on_run(key, run)
        except Exception:
            # The journal cannot be written; the search reports that itself.
            log.exception("the run of trial %s was not noted", key)
        self._runs[key].set()

    def _postpone(self, writes: Writes, refusal: str) -> None:
        self._plan.refused(writes, time.monotonic())
        self._refusal = refusal
        whose = "the search" if writes.key == SEARCH_RUN else f"trial {writes.key}"
        log.warning("MLflow refused a write of %s (attempt %d): %s", whose, writes.attempts, refusal)
        self._sent(0)

    def _sent(self, events: int) -> None:
        with self._idle:
            self._unsent -= events
            self._stuck = self._plan.stuck
            self._refusal = self._refusal if self._unsent else None
            # Reset only once the queue is empty; otherwise each trial would wait for a slow server.
            self._is_late = self._is_late and self._unsent > self._stuck
            self._idle.notify_all()

    def _give_up(self, problem: str) -> None:
        with self._idle:
            self._outage = problem
            self._stuck = self._unsent
            self._idle.notify_all()

    def _await_return(self, problem: str) -> None:
        """Polls MLflow until it answers."""
        self._outage = problem
        log.warning("MLflow: %s; waiting for it", problem)
        pause = FIRST_PAUSE_S
        while not self._closing.wait(pause):
            if self._store.answers():
                log.warning("MLflow answers again")
                self._outage = None
                return
            pause = min(2 * pause, LONGEST_PAUSE_S)
