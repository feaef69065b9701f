"""The runs of one search in MLflow: found, made, written to, and their copies removed.

Every write can be repeated and changes nothing then: a point carries its original time, so that it is the same point.
Only a creation cannot. One whose reply was lost may have made a run, or may do so later; the run is looked for before
another one is made, and what turns out to be a copy is removed when the trial and when the session ends.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.base.uris import database_path, file_uri, without_passwords
from orchestrator.stores.base import SearchFolder
from orchestrator.stores.remote import StorageProblem
from orchestrator.stores.trial_files import bring_trial
from orchestrator.tracking.content import BEST_PREFIX, About, Content, digest_of, evaluation_content, may_show_people
from orchestrator.tracking.database import EXPERIMENT, is_database, prepare_database
from orchestrator.tracking.files import staged, without_secrets
from orchestrator.tracking.projection import RUNNING, SEARCH_RUN, Creation, Run, Writes, leave_out
from trainer.formatting import first_line

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

# The client's own patience is 7 retries over 4 minutes per call; ours is the queue. A call that the client repeats by
# itself after a lost reply makes a second run; ours looks for the first one before.
CLIENT_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Standard output is for what the search has to say.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
PARENT_TAG = "mlflow.parentRunId"
SEARCH_TAG = "reidsearch.search"
TRIAL_TAG = "reidsearch.trial"
CONTEXT_TAG = "mlflow.data.context"
# A server has its disk and the network to wait for, and gets the next call meanwhile.
CALLS_AT_ONCE = 4
# Runs come with all their figures; a page has to come within the client's patience.
RUNS_PER_PAGE = 100


log = logging.getLogger(__name__)


class RefusedError(Exception):
    """MLflow is there and does not take something."""


class RunStore:
    """Writes to MLflow; every call may fail in any way and can then be made again.

    Once it is connected, `ensure` and `write` may be called from several threads, for one run each; `ensure` for the
    search's own run goes before all others.
    """

    def __init__(
        self,
        uri: str,
        folder: SearchFolder,
        *,
        uid: str,
        artifacts: Path,
        tags: Mapping[str, str],
        about: About | None = None,
    ) -> None:
        """Touches nothing yet.

        Args:
            uri: where MLflow keeps runs.
            folder: the search.
            uid: tells this search from others of the same name.
            artifacts: folder for artifacts of an experiment that does not exist yet.
            tags: flat tags of every run.
            about: what is told of the search itself.
        """
        self._uri = uri
        self._folder = folder
        self._about = about
        self._uid = uid
        self._artifacts = artifacts
        self._tags = dict(tags)
        self.trusts_what_is_there = True
        """Whether to leave out what a run that is found seems to have."""
        self._connection: tuple[MlflowClient, str] | None = None
        self._runs: dict[str, Run] = {}
        self._may_have_copies: set[str] = set()

    @property
    def is_connected(self) -> bool:
        """Whether MLflow has answered in this session."""
        return self._connection is not None

    def answers(self) -> bool:
        """Whether MLflow can be reached now."""
        try:
            self._client.get_experiment(self._experiment)
        except Exception:  # noqa: BLE001  # whatever it is, whoever asks has a better message of his own
            return False
        return True

    @property
    def calls_at_once(self) -> int:
        """For how many runs at a time `ensure` and `write` should be called: SQLite takes one write after the other."""
        return 1 if self._uri.startswith("sqlite:") else CALLS_AT_ONCE

    def connect(self) -> None:
        """Finds the runs that are there already.

        Raises:
            Exception: MLflow cannot be reached.
        """
        self._connect()

    def ensure(self, writes: Writes) -> str:
        """The id of the run that is to be written to; it is made where it is not there.

        Raises:
            RefusedError: MLflow does not make it.
            Exception: it cannot be reached.
        """
        try:
            return self._ensure(writes)
        except Exception as error:
            if not self.answers():
                raise
            raise RefusedError(without_passwords(first_line(error))) from error

    def write(self, writes: Writes) -> None:
        """Writes to a run that is there; what has been taken is gone from the writes then, whatever happens.

        Raises:
            RefusedError: MLflow does not take all of it; what it takes it has.
            Exception: it cannot be reached.
        """
        run = self._runs.get(writes.key)
        if run is None:
            raise RefusedError(f"trial {writes.key} has no run")
        leave_out(writes, run)
        self._fill_in(writes, run)
        # What was found is not what is there any more.
        self._runs[writes.key] = Run(run.id, run.artifacts)
        refusals: list[Exception] = []
        for step in (self._keep_files, self._keep_artifacts, self._log_data_sets, self._log, self._set_status):
            try:
                step(run, writes)
            except Exception as error:
                if not self.answers():
                    raise
                refusals.append(error)
        if refusals:
            raise RefusedError(without_passwords(first_line(refusals[0]))) from refusals[0]

    def can_return(self, error: Exception) -> bool:
        """Whether what could not be reached may answer later by itself; an SQLite file is there, or is not."""
        from mlflow.exceptions import MlflowException
        from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, ErrorCode

        if isinstance(error, MlflowException) and error.error_code == ErrorCode.Name(INVALID_PARAMETER_VALUE):
            return False
        return database_path(self._uri) is None or "locked" in str(error)

    # --- the connection ----------------------------------------------------------------------------------------------

    @property
    def _client(self) -> MlflowClient:
        return self._connect()[0]

    @property
    def _experiment(self) -> str:
        return self._connect()[1]

    def _connect(self) -> tuple[MlflowClient, str]:
        """The client and the experiment; the first touch creates the database before any trial runs."""
        if self._connection is None:
            os.environ.update({key: os.environ.get(key, value) for key, value in CLIENT_ENVIRONMENT.items()})
            from mlflow import MlflowClient

            # What goes wrong comes as an exception, too, and is said once in our own words.
            logging.getLogger("mlflow").setLevel(logging.CRITICAL)
            prepare_database(self._uri, self._artifacts)
            client = MlflowClient(tracking_uri=self._uri)
            experiment = self._ensure_experiment(client)
            self._adopt(client, experiment)
            self._connection = client, experiment
        return self._connection

    def _ensure_experiment(self, client: MlflowClient) -> str:
        found = client.get_experiment_by_name(EXPERIMENT)
        if found is not None:
            if found.lifecycle_stage == "deleted":
                # In MLflow's pages, with all runs: it takes nothing more, and no other can be given its name.
                client.restore_experiment(found.experiment_id)
                log.warning("MLflow: the experiment %s was deleted there; it is restored", EXPERIMENT)
            return str(found.experiment_id)
        # A server has its own place; a database alone would let MLflow put them into the current folder.
        location = file_uri(self._artifacts) if is_database(self._uri) else None
        return str(client.create_experiment(EXPERIMENT, artifact_location=location))

    # --- runs and their copies ---------------------------------------------------------------------------------------

    def _adopt(self, client: MlflowClient, experiment: str) -> None:
        """Takes over what earlier sessions have made: one search for all runs, instead of one for each."""
        found = sorted(self._search(client, experiment), key=lambda run: (-len(run.last), run.id))
        for run in found:
            self._runs.setdefault(run.tags[TRIAL_TAG], run)
        self._delete_copies(client, found)
        if not self.trusts_what_is_there:
            self._runs = {key: Run(run.id, run.artifacts) for key, run in self._runs.items()}

    def _ensure(self, writes: Writes) -> str:
        key, creation = writes.key, writes.creation
        if creation is not None:
            tags = self._tags | {SEARCH_TAG: self._uid, TRIAL_TAG: key} | creation.tags
            if key != SEARCH_RUN:
                if SEARCH_RUN not in self._runs:
                    raise RefusedError("the search itself has no run yet")
                tags[PARENT_TAG] = self._runs[SEARCH_RUN].id
            if key not in self._runs:
                self._runs[key] = self._find(key) or self._create(key, creation, tags)
            # A run that was found may lack some, or belong to a copy of the search's run.
            writes.tags = tags | writes.tags
        return self._runs[key].id

    def _find(self, key: str) -> Run | None:
        """The run of a creation whose reply was lost."""
        if key not in self._may_have_copies:
            return None
        return min(self._search(self._client, self._experiment, key), key=lambda run: run.id, default=None)

    def _create(self, key: str, creation: Creation, tags: dict[str, str]) -> Run:
        is_first = key not in self._may_have_copies
        self._may_have_copies.add(key)
        run = self._client.create_run(self._experiment, start_time=creation.start, tags=tags, run_name=creation.name)
        if is_first:
            self._may_have_copies.remove(key)
        return _run(run)

    def _remove_copies(self, key: str) -> None:
        """Those of a trial whose creation went wrong, or at the end of a session all that can be found.

        A copy is never written to, so it runs for ever.
        """
        if key == SEARCH_RUN or key in self._may_have_copies:
            trial = None if key == SEARCH_RUN else key
            self._delete_copies(self._client, self._search(self._client, self._experiment, trial, status=RUNNING))

    def _delete_copies(self, client: MlflowClient, found: Iterable[Run]) -> None:
        for run in found:
            original = self._runs.get(run.tags[TRIAL_TAG])
            if original is not None and original.id != run.id:
                client.delete_run(run.id)

    def _search(
        self, client: MlflowClient, experiment: str, key: str | None = None, *, status: str | None = None
    ) -> list[Run]:
        """The runs of this search, or of one of its trials."""
        condition = f"tags.`{SEARCH_TAG}` = '{self._uid}'"
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

    # --- what a run gets ---------------------------------------------------------------------------------------------

    def _keep_files(self, run: Run, writes: Writes) -> None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        while writes.files:
            # A trial that has been cleared away by hand has nothing to keep, and must not hold up what comes after it.
            if writes.files[0].exists():
                # Not by the client, which asks again where the files of the run are.
                with without_secrets(writes.files[0]) as file:
                    get_artifact_repository(run.artifacts, tracking_uri=self._uri).log_artifact(str(file))  # type: ignore[no-untyped-call]
            del writes.files[0]

    def _fill_in(self, writes: Writes, run: Run) -> None:
        """What is read from the files of a trial that was completed, or told of a session that ended.

        Best figures that the journal has, too, are not sent with a second time.
        """
        found = Content()
        if writes.evaluation is not None:
            self._bring_evaluation(writes.key)
            out = self._folder.trial(writes.key)
            generated = self._about is not None and self._about.synthetic
            people = generated or may_show_people(out / "config.json")
            identity = f"{self._uid}/{writes.key}"
            found = evaluation_content(out / "evaluation", identity, writes.evaluation, people=people)
            known = {point.metric for point in writes.points if point.metric.startswith(BEST_PREFIX)} | run.last.keys()
            found.points = [point for point in found.points if point.metric not in known]
        elif writes.summary is not None and self._about is not None:
            found = self._about.tell(writes.summary)
        writes.evaluation = writes.summary = None
        writes.artifacts += found.artifacts
        writes.points += found.points
        writes.tags |= found.tags

    def _bring_evaluation(self, trial: str) -> None:
        """From a storage with a URI, where another node has left it; it does not hold up what is known without."""
        try:
            bring_trial(self._folder, trial, "config.json", "evaluation/*")
        except StorageProblem as problem:
            log.warning("MLflow gets no evaluation of trial %s: %s", trial, problem)

    def _keep_artifacts(self, run: Run, writes: Writes) -> None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        if not writes.artifacts:
            return
        with staged(writes.artifacts) as folder:
            get_artifact_repository(run.artifacts, tracking_uri=self._uri).log_artifacts(str(folder))  # type: ignore[no-untyped-call]
        writes.artifacts.clear()

    def _log_data_sets(self, run: Run, writes: Writes) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = []
        for each in writes.data_sets:
            digest = each.digest if each.split is None else digest_of(each.split)
            if digest is not None:
                source = json.dumps({"name": each.name})
                dataset = Dataset(name=each.name, digest=digest, source_type="reidsearch", source=source)
                inputs.append(DatasetInput(dataset, [InputTag(CONTEXT_TAG, each.context)]))
        if inputs:
            self._client.log_inputs(run.id, inputs)
        writes.data_sets.clear()

    def _log(self, run: Run, writes: Writes) -> None:
        """One call, as long as there are no more than MLflow takes at once."""
        from mlflow.entities import Metric, Param, RunTag

        self._client.log_batch(
            run.id,
            metrics=[Metric(point.metric, point.value, point.time, point.step) for point in writes.points],
            params=[Param(name, value) for name, value in writes.params.items()],
            tags=[RunTag(name, value) for name, value in writes.tags.items()],
        )
        writes.points, writes.params, writes.tags = [], {}, {}

    def _set_status(self, run: Run, writes: Writes) -> None:
        if writes.status == RUNNING:
            self._client.update_run(run.id, status=RUNNING)
        elif writes.status is not None:
            self._client.set_terminated(run.id, writes.status, end_time=writes.end)
            self._remove_copies(writes.key)
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
