"""The runs of one search in MLflow: found, created, written to, and duplicates removed.

Every write can be repeated without effect: a point carries its original time, so that it is the same point. Creation is
the exception: one whose reply was lost may have made a run, or may make it later. The run is looked for before another
one is created, and duplicates are removed when the trial and when the session ends.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.base.uris import database_path, file_uri, without_passwords
from orchestrator.tracking.database import is_database, prepare_database
from orchestrator.tracking.projection import PAUSED, RUNNING, SEARCH_RUN, Creation, Run, Writes, leave_out
from orchestrator.tracking.uploads import Source, upload_steps
from trainer.formatting import first_line

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

# Retries are the tracker's: MLflow's client retries 7 times over 4 minutes per call, and a creation that it repeats
# after a lost reply makes a second run.
CLIENT_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Standard output belongs to the search.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
LOGIN_REFUSED = ("UNAUTHENTICATED", "PERMISSION_DENIED")  # MLflow's codes for HTTP's 401 and 403
PARENT_TAG = "mlflow.parentRunId"
SEARCH_TAG = "reidsearch.search"
TRIAL_TAG = "reidsearch.trial"
# Calls overlap where MLflow is a server: each waits for its disk and the network.
CALLS_AT_ONCE = 4
# A page holds runs with all their metrics and has to arrive within the client's timeout.
RUNS_PER_PAGE = 100

log = logging.getLogger(__name__)


def set_client_environment() -> None:
    """Sets what MLflow's client reads, unless the user has set it."""
    os.environ.update({key: os.environ.get(key, value) for key, value in CLIENT_ENVIRONMENT.items()})


def mlflow_client(uri: str) -> MlflowClient:
    """A client that does not retry by itself and prints nothing; importing it takes seconds."""
    set_client_environment()
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


class RefusedError(Exception):
    """MLflow answers and refuses a write."""


def reason(error: Exception) -> str:
    """Why MLflow cannot be reached, in one line without passwords."""
    if (code := getattr(error, "error_code", "")) in LOGIN_REFUSED:
        return f"{code}: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to a user who may write there"
    return without_passwords(first_line(error))


class RunStore:
    """Writes to MLflow. Every call can be repeated after any failure.

    After `connect`, several threads may call `ensure` and `write`, each for one run. `ensure` for the search's own run
    comes first.
    """

    def __init__(self, uri: str, source: Source, *, experiment: str, artifacts: Path, tags: Mapping[str, str]) -> None:
        """Connects at the first use.

        Args:
            uri: tracking URI.
            source: the search, and what is read from it for its runs.
            experiment: name of the experiment that holds the runs; made if missing.
            artifacts: its artifact folder then.
            tags: tags of every run.
        """
        self._uri = uri
        self._source = source
        self._experiment_name = experiment
        self._artifacts = artifacts
        self._tags = dict(tags)
        self.trusts_what_is_there = True
        """Whether to leave out what a run that is found seems to have."""
        self._connection: tuple[MlflowClient, str] | None = None
        self._runs: dict[str, Run] = {}
        self._may_have_duplicates: set[str] = set()

    @property
    def is_connected(self) -> bool:
        """Whether MLflow has answered in this session."""
        return self._connection is not None

    def answers(self) -> bool:
        """Whether MLflow can be reached now."""
        try:
            self._client.get_experiment(self._experiment)
        except Exception:  # noqa: BLE001  # any failure is a no; the caller reports its own error
            return False
        return True

    @property
    def calls_at_once(self) -> int:
        """How many threads may call `ensure` and `write`: SQLite takes one write at a time."""
        return 1 if self._uri.startswith("sqlite:") else CALLS_AT_ONCE

    def ensure(self, writes: Writes) -> str:
        """The id of the run, which is created if there is none.

        Raises:
            RefusedError: MLflow refuses to create it.
            Exception: MLflow cannot be reached.
        """
        try:
            return self._ensure(writes)
        except Exception as error:
            if not self.answers():
                raise
            raise RefusedError(without_passwords(first_line(error))) from error

    def write(self, writes: Writes) -> None:
        """Writes to an existing run. What MLflow accepted is removed from the writes, also on failure.

        Raises:
            RefusedError: MLflow refused a part; the rest is written.
            Exception: MLflow cannot be reached.
        """
        run = self._runs.get(writes.key)
        if run is None:
            raise RefusedError(f"trial {writes.key} has no run")
        leave_out(writes, run)
        self._source.fill_in(writes, run)
        # What the run held before this write is outdated now.
        self._runs[writes.key] = Run(run.id, run.artifacts)
        refusals: list[Exception] = []
        for step in (*upload_steps(self._client, self._uri), self._set_status):
            try:
                step(run, writes)
            except Exception as error:
                if not self.answers():
                    raise
                refusals.append(error)
        if refusals:
            raise RefusedError(without_passwords(first_line(refusals[0]))) from refusals[0]

    def can_return(self, error: Exception) -> bool:
        """Whether MLflow may answer later: a server may come back, a missing SQLite file or a wrong login does not."""
        if (code := getattr(error, "error_code", "")) == "INVALID_PARAMETER_VALUE" or code in LOGIN_REFUSED:
            return False
        return database_path(self._uri) is None or "locked" in str(error)

    # --- the connection ----------------------------------------------------------------------------------------------

    @property
    def _client(self) -> MlflowClient:
        return self.connect()[0]

    @property
    def _experiment(self) -> str:
        return self.connect()[1]

    def connect(self) -> tuple[MlflowClient, str]:
        """The client and the experiment; the first call creates the database and finds the runs of earlier sessions.

        Raises:
            Exception: MLflow cannot be reached.
        """
        if self._connection is None:
            set_client_environment()
            import mlflow  # noqa: F401 - sets the level of its loggers

            # Errors arrive as exceptions and are reported once, by the tracker.
            logging.getLogger("mlflow").setLevel(logging.CRITICAL)
            prepare_database(self._uri, self._artifacts, self._experiment_name)
            client = mlflow_client(self._uri)
            experiment = self._ensure_experiment(client)
            self._adopt(client, experiment)
            self._connection = client, experiment
        return self._connection

    def _ensure_experiment(self, client: MlflowClient) -> str:
        found = client.get_experiment_by_name(self._experiment_name)
        if found is not None:
            if found.lifecycle_stage == "deleted":
                # A deleted experiment takes no runs and keeps its name reserved.
                client.restore_experiment(found.experiment_id)
                log.warning("MLflow: the experiment %s was deleted there; it is restored", self._experiment_name)
            return str(found.experiment_id)
        # A server has its own artifact location; with a database MLflow would default to the current folder.
        location = file_uri(self._artifacts) if is_database(self._uri) else None
        return str(client.create_experiment(self._experiment_name, artifact_location=location))

    # --- runs and duplicates -----------------------------------------------------------------------------------------

    def _adopt(self, client: MlflowClient, experiment: str) -> None:
        """Takes over the runs of earlier sessions, with one request for all."""
        found = sorted(self._search(client, experiment), key=lambda run: (-len(run.last), run.id))
        for run in found:
            self._runs.setdefault(run.tags[TRIAL_TAG], run)
        self._delete_duplicates(client, found)
        if not self.trusts_what_is_there:
            self._runs = {key: Run(run.id, run.artifacts) for key, run in self._runs.items()}

    def _ensure(self, writes: Writes) -> str:
        key, creation = writes.key, writes.creation
        if creation is not None:
            tags = self._tags | {SEARCH_TAG: self._source.uid, TRIAL_TAG: key} | creation.tags
            if key != SEARCH_RUN:
                if creation.parent not in self._runs:
                    raise RefusedError("the run that it belongs under is not there yet")
                tags[PARENT_TAG] = self._runs[creation.parent].id
            if key not in self._runs:
                self._runs[key] = self._find(key) or self._create(key, creation, tags)
            # A run that was found may lack tags, or be the child of a duplicate of the search's run.
            writes.tags = tags | writes.tags
        return self._runs[key].id

    def _find(self, key: str) -> Run | None:
        """The run of a creation whose reply was lost."""
        if key not in self._may_have_duplicates:
            return None
        return min(self._search(self._client, self._experiment, key), key=lambda run: run.id, default=None)

    def _create(self, key: str, creation: Creation, tags: dict[str, str]) -> Run:
        is_first = key not in self._may_have_duplicates
        self._may_have_duplicates.add(key)
        run = self._client.create_run(self._experiment, start_time=creation.start, tags=tags, run_name=creation.name)
        if is_first:
            self._may_have_duplicates.remove(key)
        return _run(run)

    def _delete_duplicates_of(self, key: str) -> None:
        """Deletes the duplicates of a trial whose creation failed; at the end of a session, all duplicates.

        A duplicate is never written to, so its status stays RUNNING.
        """
        if key == SEARCH_RUN or key in self._may_have_duplicates:
            trial = None if key == SEARCH_RUN else key
            self._delete_duplicates(self._client, self._search(self._client, self._experiment, trial, status=RUNNING))

    def _delete_duplicates(self, client: MlflowClient, found: Iterable[Run]) -> None:
        for run in found:
            original = self._runs.get(run.tags[TRIAL_TAG])
            if original is not None and original.id != run.id:
                client.delete_run(run.id)

    def _search(
        self, client: MlflowClient, experiment: str, key: str | None = None, *, status: str | None = None
    ) -> list[Run]:
        """The runs of this search, or of one of its trials."""
        condition = f"tags.`{SEARCH_TAG}` = '{self._source.uid}'"
        if key is not None:
            condition += f" and tags.`{TRIAL_TAG}` = '{key}'"
        if status is not None:
            condition += f" and attributes.status = '{status}'"
        found: list[Run] = []
        token = None
        while True:
            page = client.search_runs([experiment], condition, max_results=RUNS_PER_PAGE, page_token=token)
            found += map(_run, page)
            token = page.token
            if not token:
                return found

    def _set_status(self, run: Run, writes: Writes) -> None:
        if writes.status in (RUNNING, PAUSED):
            self._client.update_run(run.id, status=writes.status)
        elif writes.status is not None:
            self._client.set_terminated(run.id, writes.status, end_time=writes.end)
            self._delete_duplicates_of(writes.key)
        writes.status = writes.end = None


def _run(found: MlflowRun) -> Run:
    data = found.data.to_proto()
    return Run(
        id=str(found.info.run_id),
        artifacts=str(found.info.artifact_uri),
        status=str(found.info.status),
        end=found.info.end_time,
        params=frozenset(found.data.params),
        tags=dict(found.data.tags),
        last={metric.key: (metric.step, metric.timestamp) for metric in data.metrics},
        has_data_sets=found.inputs is not None and bool(found.inputs.dataset_inputs),
    )
