"""MLflow's pages of a search, shown until Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from orchestrator.base.errors import SearchError
from orchestrator.base.uris import database_uri
from orchestrator.study.folder import existing_search
from orchestrator.study.loading import load_search
from orchestrator.tracking.comparison_view import comparison_view, view_of
from orchestrator.tracking.database import ARTIFACTS, DATABASE, missing_database
from orchestrator.tracking.server import mlflow_server
from orchestrator.tracking.tracked import trusted_tracking_uri

LOG = "mlflow-ui.log"


def serve(
    storage: Path, name: str | None, port: int, say: Callable[[str], None], *, tracking: str | None = None
) -> None:
    """Serves MLflow's pages of a storage and says the address of those of the search `name`, until Ctrl-C or SIGTERM.

    A search that is tracked by a server of its own needs none: then only the address is said.

    Raises:
        SearchError: there is no such search, no run was tracked in the storage, or only the search's own files say
            where runs are.
        EnvironmentProblem: the port is taken, or MLflow's server does not start or answer.
    """
    storage = storage.absolute()
    uri, view = database_uri(storage / DATABASE), view_of(None, ())
    if name is not None:
        search = load_search(existing_search(storage, name))
        uri = trusted_tracking_uri(search.folder, search.description, tracking)
        view = view_of(name, list(search.space.parameters))
    elif tracking is not None:
        uri = tracking
    if uri.startswith(("http://", "https://")):
        say(comparison_view(uri, view))
        return
    if (missing := missing_database(uri)) is not None:
        raise SearchError(f"{missing}: no such file, no search was tracked in {storage} yet")
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with mlflow_server(uri, storage / ARTIFACTS, port, storage / LOG) as server:
            say(comparison_view(server, view))
            say("Ctrl-C ends it")
            signal.pause()
    except KeyboardInterrupt:
        return
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
