"""Where MLflow keeps the runs of a search, and what brings it up to the journal."""

from __future__ import annotations

from typing import NamedTuple

from orchestrator.base.uris import database_uri
from orchestrator.cluster.trusted_servers import TRACKING, require_trusted, trust
from orchestrator.stores.base import SearchFolder
from orchestrator.study.description import Options, SearchDescription, read_description
from orchestrator.study.events import TrialTracked
from orchestrator.study.recorder import Recorder
from orchestrator.summary import summarise
from orchestrator.tracking.content import Content, about, search_content
from orchestrator.tracking.database import ARTIFACTS, DATABASE
from orchestrator.tracking.tracker import Tracker


def tracking_uri(folder: SearchFolder, options: Options) -> str:
    """The tracking URI of a search: a database in its storage, unless the options name another."""
    return options.tracking_uri or database_uri(folder.path.parent / DATABASE)


def trusted_tracking_uri(folder: SearchFolder, description: SearchDescription, given: str | None = None) -> str:
    """The tracking URI of a search, checked before anything is sent to it.

    Args:
        folder: the search.
        description: of the search. A received search may name a server that the user does not trust.
        given: URI that the user names; None takes the search's own.

    Raises:
        SearchError: only the description names that server, and the user has not given it.
    """
    if given is not None:
        trust(folder.store, TRACKING, given)
        return given
    require_trusted(folder.store, folder.name, TRACKING, description.options.tracking_uri)
    return tracking_uri(folder, description.options)


def tracker_of(folder: SearchFolder, description: SearchDescription, uri: str, recorder: Recorder) -> Tracker:
    """A tracker that keeps MLflow equal to the recorder, starting with all events so far."""

    def remember(trial: str, run: str) -> None:
        if recorder.study.all_trials[trial].mlflow_run_id != run:
            recorder.record(TrialTracked(trial=trial, mlflow_run_id=run))

    def tell(moment: int) -> Content:
        with recorder.lock:
            summary = summarise(folder, description, recorder.study, is_driven=True)
        return search_content(summary, moment)

    tracker = Tracker(
        uri,
        folder,
        uid=description.uid,
        artifacts=folder.path.parent / ARTIFACTS,
        experiment=description.options.experiment,
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
    """Result of `sync`."""

    events: int
    """Number of events in the journal."""
    unsent: int
    """Number of events that MLflow did not accept in time."""
    uri: str
    problem: str | None
    """Why they were not sent."""


def sync(folder: SearchFolder, *, tracking: str | None, patience: float) -> Synced:
    """Sends the whole journal to MLflow. Existing runs stay as they are; missing ones are created.

    Args:
        folder: a search that is not running.
        tracking: tracking URI; None takes the search's own.
        patience: seconds to wait for MLflow.

    Raises:
        LeaseError: the search is running; its driver sends its events.
        SearchError: only the search's own files name the server, and the user has not given it.
    """
    description = read_description(folder.description)
    uri = trusted_tracking_uri(folder, description, tracking)
    with folder.store.record(folder) as recorder:
        tracker = tracker_of(folder, description, uri, recorder)
        tracker.start(resend=True)
        unsent = tracker.close(patience)
    return Synced(len(recorder.history), unsent, uri, tracker.problem)
