"""Deletes the runs of a search through MLflow's public API, which marks them; `mlflow gc` erases what is marked."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.base.errors import EnvironmentProblem
from orchestrator.base.uris import file_path, file_uri, without_passwords
from orchestrator.study.description import EXPERIMENT
from orchestrator.tracking.database import is_database, missing_database, prepare_database
from orchestrator.tracking.store import RUNS_PER_PAGE, SEARCH_TAG, mlflow_client
from trainer.formatting import counted, first_line, one_line

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

# The form of MLflow's run ids. A run id becomes part of a path that is deleted.
RUN_ID = re.compile(r"[0-9a-f]{32}")


class MlflowCopies(NamedTuple):
    """The runs of one search in MLflow, and their files in the storage."""

    uri: str
    runs: tuple[str, ...] = ()
    """Run ids, those already marked deleted included."""
    folders: tuple[Path, ...] = ()
    """Folders of the runs' files in the storage, at most one per run."""
    versions: tuple[str, ...] = ()
    """Registered model versions whose files are in one of the runs, as `model version 3`."""
    not_ours: tuple[str, ...] = ()
    """Files outside the storage that a run claims, as text. They are never deleted: a database may name any path."""

    @property
    def places(self) -> list[str]:
        """Addresses of the folders that hold the files which are deleted."""
        return sorted({file_uri(folder.parent) for folder in self.folders})

    @property
    def shown_uri(self) -> str:
        """The tracking URI without a password."""
        return without_passwords(self.uri)


def find_copies(uri: str, uid: str, artifacts: Path, experiment: str = EXPERIMENT) -> MlflowCopies:
    """Finds the runs of the search with this uid.

    Args:
        uri: tracking URI.
        uid: uid of the search.
        artifacts: the storage's artifact folder, the only local folder in which files are deleted.
        experiment: name of the experiment that holds them.

    Raises:
        EnvironmentProblem: MLflow does not answer.
    """
    if missing_database(uri) is not None:
        return MlflowCopies(uri)
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        prepare_database(uri, artifacts, experiment)  # fails at once where a database server is down
        client = mlflow_client(uri)
        places = {str(run.info.run_id): str(run.info.artifact_uri) for run in _runs(client, uid, experiment)}
        runs = tuple(run for run in places if RUN_ID.fullmatch(run))
        folders = tuple(artifacts / run for run in runs if is_own_folder(artifacts) and is_own_folder(artifacts / run))
        return MlflowCopies(uri, runs, folders, tuple(_versions(client, runs)), tuple(_not_ours(places, artifacts)))
    except (MlflowException, SQLAlchemyError) as error:
        raise EnvironmentProblem(
            f"{without_passwords(uri)}: MLflow cannot be asked ({_first_line(error)}); start it, or keep its runs "
            "with --keep-mlflow"
        ) from error


def delete_copies(copies: MlflowCopies) -> list[str]:
    """Deletes the files in the storage and marks the runs deleted; returns what remains, one line each.

    Raises:
        EnvironmentProblem: MLflow stopped answering. The call can be repeated.
    """
    if not copies.runs:
        return []
    from mlflow.exceptions import MlflowException

    try:
        client = mlflow_client(copies.uri)
        for folder in copies.folders:
            if is_own_folder(folder.parent) and is_own_folder(folder):
                shutil.rmtree(folder)  # follows no link
        for run in copies.runs:
            if client.get_run(run).info.lifecycle_stage != "deleted":
                client.delete_run(run)
    except MlflowException as error:
        raise EnvironmentProblem(f"{copies.shown_uri}: MLflow did not delete: {_first_line(error)}") from error
    return [f"{copies.shown_uri}: {counted(len(copies.runs), 'run', 'runs')}, marked deleted; {_erasure(copies)}"]


def _erasure(copies: MlflowCopies) -> str:
    if not is_database(copies.uri):
        return "`mlflow gc` on the server erases their rows and files"
    command = f"`mlflow gc --backend-store-uri {copies.shown_uri} --tracking-uri {copies.shown_uri}`"
    files = " and the files that they claim outside the storage" if copies.not_ours else ""
    return f"{command} erases all rows that are marked deleted{files}"


def _runs(client: MlflowClient, uid: str, name: str) -> Iterator[Run]:
    from mlflow.entities import ViewType

    experiment = client.get_experiment_by_name(name)
    token = None
    while experiment is not None:
        page = client.search_runs(
            [experiment.experiment_id],
            f"tags.`{SEARCH_TAG}` = '{uid}'",
            run_view_type=ViewType.ALL,
            max_results=RUNS_PER_PAGE,
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return


def _versions(client: MlflowClient, runs: Sequence[str]) -> Iterator[str]:
    for run in runs:
        for version in client.search_model_versions(f"run_id = '{run}'"):
            yield f"{version.name} version {version.version}"


def is_own_folder(path: Path) -> bool:
    """Whether it is a folder that lies there itself, and not a link to one elsewhere."""
    return path.is_dir() and not path.is_symlink()


def _not_ours(places: Mapping[str, str], artifacts: Path) -> Iterator[str]:
    for run, place in places.items():
        if not RUN_ID.fullmatch(run):
            yield f"run {one_line(run)} of MLflow: its id is not one that MLflow gives"
        elif file_path(place) != artifacts / run / "artifacts":
            yield f"{without_passwords(one_line(place))}: the artifact location of run {run} of MLflow"


def _first_line(error: Exception) -> str:
    """MLflow's message, without the passwords of addresses."""
    return without_passwords(first_line(error))
