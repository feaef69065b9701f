"""What MLflow keeps of a search, and its deletion."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit

from orchestrator.base.errors import EnvironmentProblem
from orchestrator.base.uris import database_path, file_path, file_uri, without_passwords
from orchestrator.tracking.database import EXPERIMENT, is_database, missing_database, prepare_database
from orchestrator.tracking.store import CLIENT_ENVIRONMENT, RUNS_PER_PAGE, SEARCH_TAG
from trainer.formatting import first_line, one_line

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

LOCK_PATIENCE_S = 10.0
# As MLflow makes them.
RUN_ID = re.compile(r"[0-9a-f]{32}")
# What `_hard_delete_run` leaves of a run's data sets, in the schema of MLflow 3.17.
OUR_INPUTS = "SELECT input_uuid FROM inputs WHERE destination_type = 'RUN' AND destination_id = ?"
OUR_DATASETS = (
    "SELECT source_id FROM inputs WHERE source_type = 'DATASET' AND destination_type = 'RUN' AND destination_id = ?"
)
OTHERS_DATASETS = "SELECT source_id FROM inputs WHERE source_type = 'DATASET'"


class MlflowCopies(NamedTuple):
    """What is there of one search."""

    uri: str
    runs: tuple[str, ...] = ()
    """Ids, of runs that were deleted in MLflow's own way, too: they are only marked then."""
    folders: tuple[Path, ...] = ()
    """Of the runs' files in the storage, one a run."""
    served: tuple[str, ...] = ()
    """Addresses of the runs' files at the tracking server, which deletes them itself, one a run."""
    versions: tuple[str, ...] = ()
    """Registered versions whose files lie in one of the runs, as `model version 3`."""
    not_ours: tuple[str, ...] = ()
    """What a run is said to have elsewhere, in words: a database may name any place."""

    @property
    def places(self) -> list[str]:
        """Where the files that will be deleted lie, each in the folder of its run below."""
        return sorted({*map(file_uri, {folder.parent for folder in self.folders}), *map(_above_run, self.served)})

    @property
    def shown_uri(self) -> str:
        """Without a password."""
        return without_passwords(self.uri)

    @property
    def is_local(self) -> bool:
        """Whether the rows can be deleted from here, not only marked."""
        return is_database(self.uri)


def find_copies(uri: str, uid: str, artifacts: Path) -> MlflowCopies:
    """Looks for the runs of the search with this uid.

    Args:
        uri: where MLflow keeps runs.
        uid: of the search.
        artifacts: the storage's folder for files of runs, the only one of this machine in which files are deleted.

    Raises:
        EnvironmentProblem: MLflow does not answer.
    """
    if missing_database(uri) is not None:
        return MlflowCopies(uri)
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        prepare_database(uri, artifacts)  # a database server that is away is noticed at once
        client = _client(uri)
        places = {str(run.info.run_id): str(run.info.artifact_uri) for run in _runs(client, uid)}
        runs = tuple(run for run in places if RUN_ID.fullmatch(run))
        folders = tuple(artifacts / run for run in runs if is_own_folder(artifacts) and is_own_folder(artifacts / run))
        served = tuple(places[run] for run in runs if not is_database(uri) and _is_served(places[run], run))
        not_ours = tuple(_not_ours(places, artifacts, folders, served))
        return MlflowCopies(uri, runs, folders, served, tuple(_versions(client, runs)), not_ours)
    except (MlflowException, SQLAlchemyError) as error:
        raise EnvironmentProblem(
            f"{without_passwords(uri)}: MLflow cannot be asked ({_told(error)}); start it, or keep its copies "
            "with --keep-mlflow"
        ) from error


def delete_copies(copies: MlflowCopies) -> list[str]:
    """Deletes all of it; returns what remains, in words.

    Raises:
        EnvironmentProblem: MLflow does not answer any more; what is deleted by then is found deleted the next time.
    """
    if not copies.runs:
        return []
    from mlflow.exceptions import MlflowException

    try:
        client = _client(copies.uri)
        for folder in copies.folders:
            if is_own_folder(folder.parent) and is_own_folder(folder):
                shutil.rmtree(folder)  # it follows no link, not even one that is put there meanwhile
        _delete_served(copies)
        for run in copies.runs:
            if client.get_run(run).info.lifecycle_stage != "deleted":
                client.delete_run(run)
        if not copies.is_local:
            where = without_passwords(copies.uri)
            return [
                f"{where}: marked its {len(copies.runs)} runs deleted; `mlflow gc` on the server deletes their rows"
            ]
        return _delete_rows(copies)
    except (MlflowException, ImportError) as error:  # the place of the files may need a package of its own
        raise EnvironmentProblem(f"{without_passwords(copies.uri)}: MLflow did not delete: {_told(error)}") from error


def _client(uri: str) -> MlflowClient:
    os.environ.update({key: os.environ.get(key, value) for key, value in CLIENT_ENVIRONMENT.items()})
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _runs(client: MlflowClient, uid: str) -> Iterator[Run]:
    from mlflow.entities import ViewType

    experiment = client.get_experiment_by_name(EXPERIMENT)
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


def _is_served(place: str, run: str) -> bool:
    """Whether the tracking server keeps the files itself: its address has no host of its own."""
    parts = urlsplit(place)
    return parts.scheme == "mlflow-artifacts" and not parts.netloc and _ends_with_run(parts.path, run)


def _ends_with_run(path: str, run: str) -> bool:
    parts = PurePosixPath(unquote(path)).parts
    return parts[-2:] == (run, "artifacts") and ".." not in parts


def _above_run(place: str) -> str:
    return place.rsplit("/", 2)[0]


def _not_ours(
    places: Mapping[str, str], artifacts: Path, folders: Sequence[Path], served: Sequence[str]
) -> Iterator[str]:
    for run, place in places.items():
        if not RUN_ID.fullmatch(run):
            yield f"run {one_line(run)} of MLflow: has no id that MLflow gives"
            continue
        folder = artifacts / run
        if place in served or (folder in folders and file_path(place) == folder / "artifacts"):
            continue
        if file_path(place) == folder / "artifacts" and not os.path.lexists(folder):
            continue  # the run never had a file
        yield f"{without_passwords(one_line(place))}: what run {one_line(run)} of MLflow calls its files"


def _delete_served(copies: MlflowCopies) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    for place in copies.served:
        get_artifact_repository(place, tracking_uri=copies.uri).delete_artifacts()  # type: ignore[no-untyped-call]


def _delete_rows(copies: MlflowCopies) -> list[str]:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store: Any = SqlAlchemyStore(copies.uri, "unused")  # type: ignore[no-untyped-call]
    try:
        for run in copies.runs:
            # MLflow has no public way but `mlflow gc`, which also empties whatever else is marked deleted.
            store._hard_delete_run(run)
    finally:
        store.engine.dispose()
    path = database_path(copies.uri)
    if path is None:
        return [f"{without_passwords(copies.uri)}: names and digests of data sets; the database's own backups and logs"]
    return list(_clean_database(path, copies.runs))


def _clean_database(path: Path, runs: Sequence[str]) -> Iterator[str]:
    """Deletes what the runs said of data sets, and overwrites what was freed: SQLite only marks pages as free."""
    with closing(sqlite3.connect(path, timeout=LOCK_PATIENCE_S, isolation_level=None)) as database:
        try:
            database.execute("BEGIN IMMEDIATE")
            for run in runs:
                _delete_inputs(database, run)
            database.execute("COMMIT")
            database.execute("VACUUM")
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.OperationalError as error:
            yield f"{path}: freed pages were not overwritten ({error}); close what uses it and run VACUUM"


def _delete_inputs(database: sqlite3.Connection, run: str) -> None:
    datasets = [row[0] for row in database.execute(OUR_DATASETS, (run,))]
    database.execute(f"DELETE FROM input_tags WHERE input_uuid IN ({OUR_INPUTS})", (run,))
    database.execute("DELETE FROM inputs WHERE destination_type = 'RUN' AND destination_id = ?", (run,))
    for dataset in datasets:
        database.execute(
            f"DELETE FROM datasets WHERE dataset_uuid = ? AND ? NOT IN ({OTHERS_DATASETS})", (dataset,) * 2
        )


def _told(error: Exception) -> str:
    """What MLflow says went wrong; it repeats addresses with their passwords."""
    return without_passwords(first_line(error))
