"""Stops trials before their last epoch: by request, for the budget, or with the whole search."""

from __future__ import annotations

import time
from collections.abc import Collection

from orchestrator.runner.checkpoints import drop_checkpoint
from orchestrator.runner.control import STOPPED_BY_USER, WHOLE_SEARCH, Requests
from orchestrator.runner.next_step import stops_for_budget
from orchestrator.runner.stop_request import StopRequest
from orchestrator.runner.trial_spec import STOP_FILE
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import SearchFolder
from orchestrator.study.events import TrialStopped
from orchestrator.study.recorder import Recorder
from orchestrator.study.study import TrialStatus

LOOK_PERIOD_S = 0.5


class Supervisor:
    """Records that a trial stops, and then tells its running attempt by a file."""

    def __init__(self, recorder: Recorder, space: SearchSpace, folder: SearchFolder, stop: StopRequest) -> None:
        self._recorder = recorder
        self._space = space
        self._folder = folder
        self._stop = stop
        self._requests = Requests(folder)
        self._looked = float("-inf")
        self._told: set[str] = set()

    def look(self, live: Collection[str]) -> bool:
        """Stops what has to stop; False, with nothing done, within `LOOK_PERIOD_S` of the last time.

        Args:
            live: keys of the trials whose attempts run.
        """
        if time.monotonic() - self._looked < LOOK_PERIOD_S:
            return False
        self._looked = time.monotonic()
        self._answer_requests(live)
        for event in stops_for_budget(self._recorder.study, self._space, time.time()):
            self._stop_trial(event, live)
        if self._stop.requested:
            for key in live:
                self._tell(key)
        return True

    def started(self, key: str) -> None:
        """Removes what told the trial's last attempt to stop; to be called before the next one starts."""
        self._told.discard(key)
        (self._folder.trial(key) / STOP_FILE).unlink(missing_ok=True)

    def _answer_requests(self, live: Collection[str]) -> None:
        for request in self._requests.pending():
            trial = self._recorder.study.all_trials.get(request)
            if request == WHOLE_SEARCH:
                self._stop.request("reidsearch stop")
            elif trial is not None and not trial.is_over:
                stopped = TrialStopped(trial=request, rule="user", epoch=trial.epoch, reason=STOPPED_BY_USER)
                self._stop_trial(stopped, live)
            self._requests.done(request)

    def _stop_trial(self, event: TrialStopped, live: Collection[str]) -> None:
        was_paused = self._recorder.study.all_trials[event.trial].status == TrialStatus.PAUSED
        self._recorder.record(event)
        if event.trial in live:
            self._tell(event.trial)
        elif was_paused:
            drop_checkpoint(self._folder, event.trial)

    def _tell(self, key: str) -> None:
        """Lets the running attempt end after its next step."""
        if key not in self._told:
            self._told.add(key)
            (self._folder.trial(key) / STOP_FILE).touch()
            self._recorder.stop_attempt(key)
