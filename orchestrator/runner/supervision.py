"""Stops trials that are not to be trained to their end: by request, for the budget, or with the whole search."""

from __future__ import annotations

import time
from collections.abc import Collection

from orchestrator.algorithms.budget import spent
from orchestrator.runner.attempt import STOP_FILE
from orchestrator.runner.control import STOPPED_BY_USER, WHOLE_SEARCH, Requests
from orchestrator.runner.stop_request import StopRequest
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import SearchFolder
from orchestrator.stores.trial_files import stop_name
from orchestrator.study.events import StopRule, TrialStopped
from orchestrator.study.recorder import Recorder
from orchestrator.study.study import unfinished

LOOK_PERIOD_S = 0.5


class Supervisor:
    """Looks now and then whether a trial has to stop; says so in the journal first, and to the attempt then."""

    def __init__(self, recorder: Recorder, space: SearchSpace, folder: SearchFolder, stop: StopRequest) -> None:
        self._recorder = recorder
        self._space = space
        self._folder = folder
        self._stop = stop
        self._requests = Requests(folder)
        self._looked = float("-inf")
        self._told: set[str] = set()

    def look(self, live: Collection[str]) -> bool:
        """Does what is to be done for the trials that run; False where it was done a moment ago."""
        if time.monotonic() - self._looked < LOOK_PERIOD_S:
            return False
        self._looked = time.monotonic()
        self.answer_requests(live)
        self.keep_budget(live)
        if self._stop.requested:
            for key in live:
                self._tell(key)
        return True

    def answer_requests(self, live: Collection[str]) -> None:
        """Does what other processes ask for."""
        for request in self._requests.pending():
            if request == WHOLE_SEARCH:
                self._stop.request("reidsearch stop")
            elif request in self._recorder.study.all_trials:
                self._give_up(request, "user", STOPPED_BY_USER, live)
            self._requests.done(request)

    def keep_budget(self, live: Collection[str]) -> None:
        """Gives up all unfinished trials where the budget has nothing left for them."""
        end = spent(self._recorder.study, self._space, time.time())
        if end is not None and end.at_once:
            for trial in unfinished(self._recorder.study):
                if end.ends_replicates or not trial.repeats:
                    self._give_up(trial.key, "budget", end.reason, live)

    def started(self, key: str) -> None:
        """A new attempt of the trial is about to start: what its last one was told is forgotten."""
        self._told.discard(key)
        (self._folder.trial(key) / STOP_FILE).unlink(missing_ok=True)

    def _give_up(self, key: str, rule: StopRule, reason: str, live: Collection[str]) -> None:
        trial = self._recorder.study.all_trials[key]
        if not trial.is_over:
            self._recorder.record(TrialStopped(trial=key, rule=rule, epoch=trial.epoch, reason=reason))
            if key in live:
                self._tell(key)

    def _tell(self, key: str) -> None:
        """Lets the running attempt end after its next step."""
        if key not in self._told:
            self._told.add(key)
            (self._folder.trial(key) / STOP_FILE).touch()
            if self._recorder.uplink is not None:
                self._recorder.uplink.put(f"trials/{key}/{stop_name(self._recorder.starts.get(key, 0))}", b"")
