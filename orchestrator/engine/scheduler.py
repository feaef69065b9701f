"""The scheduler that Ray Tune asks whether a trial goes on: the searcher answers, from the journal."""

from __future__ import annotations

from typing import Any, Protocol

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler


class EpochListener(Protocol):
    """Who hears of epochs and decides about the trial."""

    def on_epoch(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Records the epoch; whether the trial is to stop after it. Must not raise: Tune would end the search."""


class JournalScheduler(FIFOScheduler):
    """Starts trials in Tune's order and stops those that the searcher says.

    It holds no state of its own. Tune loses a scheduler's state when a search is restored, and pickles its schedulers;
    a copy of this one asks the same searcher, which is never copied.
    """

    def __init__(self, listener: EpochListener) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._listener = listener

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Tells the searcher first: Tune does not pass it the result after which a trial is stopped."""
        stops = self._listener.on_epoch(trial.trial_id, result)
        return TrialScheduler.STOP if stops else TrialScheduler.CONTINUE

    def debug_string(self) -> str:
        """What Tune prints where it prints at all."""
        return "trials are stopped by the journal"
