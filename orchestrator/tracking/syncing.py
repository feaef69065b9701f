"""MLflow brought up to the journal, without running anything."""

from __future__ import annotations

from typing import NamedTuple

from orchestrator.study.description import read_description
from orchestrator.study.folder import SearchFolder
from orchestrator.study.recorder import owned_ledger
from orchestrator.tracking.tracked import tracker_of, trusted_tracking_uri


class Synced(NamedTuple):
    """What came of it."""

    events: int
    """Events of the journal."""
    unsent: int
    """Those that MLflow did not take in time."""
    uri: str
    problem: str | None
    """Why not."""


def sync(folder: SearchFolder, *, tracking: str | None, patience: float) -> Synced:
    """Sends the whole journal to MLflow; what is there already stays as it is, what is missing is made anew.

    Args:
        folder: a search that no process drives.
        tracking: where MLflow keeps runs; None is where the search was launched with.
        patience: seconds after which it gives up.

    Raises:
        LeaseError: a process drives the search, and sends what happens itself.
        SearchError: only the search's own files name the place, and the user does not confirm it.
    """
    description = read_description(folder.description)
    uri = trusted_tracking_uri(folder, description, tracking)
    with owned_ledger(folder) as ledger:
        tracker = tracker_of(folder, description, uri, ledger)
        tracker.start(resend=True)
        unsent = tracker.close(patience)
    return Synced(len(ledger.history), unsent, uri, tracker.problem)
