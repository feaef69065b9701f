"""An exported network as a version of a model in MLflow's registry: plain files, nothing pickled, nothing to run."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from orchestrator.base.errors import EnvironmentProblem, SearchError
from orchestrator.base.hints import hint
from orchestrator.base.uris import without_passwords
from orchestrator.study.study import Trial
from orchestrator.summary import Summary
from orchestrator.tracking.database import missing_database
from orchestrator.tracking.store import mlflow_client
from orchestrator.tracking.sync import trusted_tracking_uri
from trainer.formatting import first_line

ARTIFACT_FOLDER = "export"


class Registered(NamedTuple):
    """A version of a model."""

    model: str
    version: str
    uri: str
    """Where MLflow keeps it, without a password."""


def register(
    search: Summary, trial: Trial, folder: Path, card: Path, *, model: str, tracking: str | None = None
) -> Registered:
    """Copies the files of an export into the trial's MLflow run and makes them a new version of `model`.

    They are plain artifacts: MLflow's own loaders, which unpickle, find no model there.

    Args:
        search: that the trial is of.
        trial: the exported one.
        folder: with the exported files.
        card: its model card, the description of the version.
        model: name in the registry, made if it is not there.
        tracking: where MLflow keeps runs; None is where the search was launched with.

    Raises:
        SearchError: the trial has no run, or only the search's own files name the place.
        EnvironmentProblem: MLflow is not there or refuses.
    """
    uri = trusted_tracking_uri(search.folder, search.description, tracking)
    run = trial.mlflow_run_id
    if run is None:
        raise SearchError(
            f"trial {trial.key} has no run in MLflow to hold its files; "
            f"`{hint('sync', search.name, storage=search.folder.storage)}` makes it"
        )
    if missing_database(uri) is not None:
        raise EnvironmentProblem(f"{without_passwords(uri)}: no such database; --tracking-uri names another place")
    from mlflow.exceptions import MlflowException

    try:
        version = _registered(uri, run, search, trial, folder, card.read_text(encoding="utf-8"), model)
    except MlflowException as error:
        raise EnvironmentProblem(f"MLflow did not register {model}: {without_passwords(first_line(error))}") from error
    return Registered(model, version, without_passwords(uri))


def _registered(uri: str, run: str, search: Summary, trial: Trial, folder: Path, card: str, model: str) -> str:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode

    client = mlflow_client(uri)
    source = f"{client.get_run(run).info.artifact_uri}/{ARTIFACT_FOLDER}"
    client.log_artifacts(run, str(folder), ARTIFACT_FOLDER)
    try:
        client.create_registered_model(model)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise
    tags = {
        "search": search.name,
        "trial": trial.key,
        "seed": str(trial.seed),
        "synthetic": str(search.description.synthetic).lower(),
        "data_fingerprint": search.description.data_fingerprint,
    }
    # Nothing is copied in the background; a wait would only print that it waits.
    made = client.create_model_version(model, source, run_id=run, tags=tags, description=card, await_creation_for=0)
    return str(made.version)
