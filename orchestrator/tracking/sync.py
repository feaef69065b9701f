"""Where MLflow keeps the runs of a search, and what brings it up to the journal."""

from __future__ import annotations

from typing import NamedTuple

from orchestrator.base.uris import database_uri
from orchestrator.cluster.trusted_servers import TRACKING, require_trusted, trust
from orchestrator.stores.base import SearchFolder
from orchestrator.stores.push import open_recorder
from orchestrator.study.description import Options, SearchDescription, current_space, read_description
from orchestrator.study.events import TrialTracked
from orchestrator.study.recorder import Recorder
from orchestrator.tracking.content import Content, about, search_content
from orchestrator.tracking.database import ARTIFACTS, DATABASE
from orchestrator.tracking.tracker import Tracker


def tracking_uri(folder: SearchFolder, options: Options) -> str:
    """Where MLflow keeps the runs of a search: a database in its storage unless the options say otherwise."""
    return options.tracking_uri or database_uri(folder.path.parent / DATABASE)


def trusted_tracking_uri(folder: SearchFolder, description: SearchDescription, given: str | None = None) -> str:
    """Where MLflow keeps the runs of a search, for those who send something there.

    Args:
        folder: the search.
        description: of the search, which may come from somebody else.
        given: what the user names instead; None is where the search was launched with.

    Raises:
        SearchError: only the description names that place, and the user has not given it.
    """
    storage = folder.path.parent
    if given is not None:
        trust(storage, TRACKING, given)
        return given
    require_trusted(storage, folder.name, TRACKING, description.options.tracking_uri)
    return tracking_uri(folder, description.options)


def tracker_of(folder: SearchFolder, description: SearchDescription, uri: str, recorder: Recorder) -> Tracker:
    """What keeps MLflow equal to the recorder: it begins with all that has happened so far."""

    def remember(trial: str, run: str) -> None:
        if recorder.study.all_trials[trial].mlflow_run_id != run:
            recorder.record(TrialTracked(trial=trial, mlflow_run_id=run))

    def tell(moment: int) -> Content:
        with recorder.lock:
            objective = current_space(description, recorder.study).objective
            return search_content(description, objective, recorder.study, moment)

    tracker = Tracker(
        uri,
        folder,
        uid=description.uid,
        artifacts=folder.path.parent / ARTIFACTS,
        tags={
            "search": description.search,
            "space": description.space.name,
            "row": description.space.name,
            "synthetic": str(description.synthetic).lower(),
            "data_fingerprint": description.data_fingerprint,
            "data_manifest": description.data_manifest or "none",
        },
        on_run=remember,
        about=about(description, tell),
    )
    for record in recorder.history:
        tracker.put(record)
    recorder.subscribe(tracker.put)
    return tracker


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
        SearchError: only the search's own files name the place, and the user has not given it.
    """
    description = read_description(folder.description)
    uri = trusted_tracking_uri(folder, description, tracking)
    with open_recorder(folder) as recorder:
        tracker = tracker_of(folder, description, uri, recorder)
        tracker.start(resend=True)
        unsent = tracker.close(patience)
    return Synced(len(recorder.history), unsent, uri, tracker.problem)
