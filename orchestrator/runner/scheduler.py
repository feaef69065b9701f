"""The scheduler that Ray Tune asks whether a trial goes on: the searcher answers, from the journal."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Protocol

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from trainer.child import last_line

# The last line of a traceback.
EXCEPTION = re.compile(r"[\w.]+(?:Error|Exception|Exit)\b")


class EpochListener(Protocol):
    """Who hears of epochs and decides about the trial."""

    def on_epoch(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Records the epoch; whether the trial is to stop after it. Must not raise: Tune would end the search."""

    def on_death(self, trial_id: str, reason: str) -> None:
        """Hears why the trial's worker died, before Tune says that the trial is over. Must not raise."""


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

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Tells the searcher why: Tune keeps it in a file."""
        file = trial.error_file
        self._listener.on_death(trial.trial_id, "" if file is None else _reason(Path(file)))

    def debug_string(self) -> str:
        """What Tune prints where it prints at all."""
        return "trials are stopped by the journal"


def _reason(file: Path) -> str:
    """The exception at the end of what Tune wrote about a failure, otherwise the first line after its date."""
    try:
        lines = [line for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    except OSError:
        return ""
    dates = [number for number, line in enumerate(lines) if line.startswith("Failure # ")]
    of_this = lines[dates[-1] + 1 :] if dates else lines
    if not of_this:
        return ""
    last = last_line(of_this[-1])
    return last if EXCEPTION.match(last) else last_line(of_this[0])
