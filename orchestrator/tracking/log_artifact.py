"""A report as an artifact of the search's own run in MLflow."""

from __future__ import annotations

from pathlib import Path

from orchestrator.base.errors import EnvironmentProblem, SearchError
from orchestrator.base.hints import hint
from orchestrator.base.uris import without_passwords
from orchestrator.stores.base import SearchFolder
from orchestrator.study.description import read_description
from orchestrator.tracking.database import missing_database
from orchestrator.tracking.projection import SEARCH_RUN
from orchestrator.tracking.store import SEARCH_TAG, TRIAL_TAG, mlflow_client
from orchestrator.tracking.sync import trusted_tracking_uri
from trainer.formatting import first_line


def log_report(folder: SearchFolder, report: Path, *, tracking: str | None = None) -> str:
    """Logs the file to the search's run, where it replaces an earlier one of its name; returns where it is, in words.

    Args:
        folder: of the search.
        report: the file.
        tracking: where MLflow keeps runs; None is where the search was launched with.

    Raises:
        SearchError: MLflow has no run of the search, or only the search's own files say where it is.
        EnvironmentProblem: MLflow is not there or refuses.
    """
    description = read_description(folder.description)
    uri = trusted_tracking_uri(folder, description, tracking)
    shown = without_passwords(uri)
    sync = hint("sync", folder.name, storage=folder.storage)
    if missing_database(uri) is not None:
        raise EnvironmentProblem(f"{shown}: no such database; `{sync}` makes it")
    from mlflow.exceptions import MlflowException

    client = mlflow_client(uri)
    try:
        experiment = client.get_experiment_by_name(description.options.experiment)
        ours = f"tags.`{SEARCH_TAG}` = '{description.uid}' and tags.`{TRIAL_TAG}` = '{SEARCH_RUN}'"
        runs = [] if experiment is None else client.search_runs([experiment.experiment_id], ours)
        if not runs:
            raise SearchError(f"{shown}: has no run of {folder.name}; `{sync}` makes it")
        client.log_artifact(runs[0].info.run_id, str(report))
    except MlflowException as error:
        raise EnvironmentProblem(f"{shown}: did not take the report ({first_line(error)})") from error
    return f"{shown}: {report.name} of run {folder.name}"
