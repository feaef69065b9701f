"""What MLflow keeps of a search, and its deletion."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit

from orchestrator.errors import EnvironmentProblem
from orchestrator.tracking.content import without_passwords
from orchestrator.tracking.database import EXPERIMENT, SQLITE, is_database, prepare_database
from orchestrator.tracking.store import CLIENT_ENVIRONMENT, RUNS_PER_PAGE, SEARCH_TAG
from trainer.wording import first_line, one_line

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

LOCK_PATIENCE_S = 10.0
# What `_hard_delete_run` leaves of a run's data sets, in the schema of MLflow 3.17.
OUR_INPUTS = "SELECT input_uuid FROM inputs WHERE destination_type = 'RUN' AND destination_id = ?"
OUR_DATASETS = (
    "SELECT source_id FROM inputs WHERE source_type = 'DATASET' AND destination_type = 'RUN' AND destination_id = ?"
)
OTHERS_DATASETS = "SELECT source_id FROM inputs WHERE source_type = 'DATASET'"


class MlflowCopies(NamedTuple):
    """What is there of one search."""

    uri: str
    runs: tuple[str, ...]
    """Ids, of runs that were deleted in MLflow's own way, too: they are only marked then."""
    places: tuple[str, ...]
    """Where each run keeps its files, in a folder of its own below; a storage that was copied names the first one."""
    versions: tuple[str, ...]
    """Registered versions whose files lie in one of the runs, as `model version 3`."""

    @property
    def shown_uri(self) -> str:
        """Without a password."""
        return without_passwords(self.uri)

    @property
    def is_local(self) -> bool:
        """Whether the rows can be deleted from here, not only marked."""
        return is_database(self.uri)


def find_copies(uri: str, uid: str) -> MlflowCopies:
    """Looks for the runs of the search with this uid.

    Raises:
        EnvironmentProblem: MLflow does not answer.
    """
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).is_file():
        return MlflowCopies(uri, (), (), ())
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        prepare_database(uri, Path())  # a database server that is away is noticed at once
        client = _client(uri)
        found = list(_runs(client, uid))
        runs = tuple(str(run.info.run_id) for run in found)
        places = sorted({str(run.info.artifact_uri).partition(f"/{run.info.run_id}")[0] for run in found})
        return MlflowCopies(uri, runs, tuple(places), tuple(_versions(client, runs)))
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
        for run in copies.runs:
            _delete_artifacts(client, run, copies.uri)
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


def _delete_artifacts(client: MlflowClient, run: str, uri: str) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    place = client.get_run(run).info.artifact_uri
    if not is_of_run(place, run):
        raise EnvironmentProblem(
            f"run {run} of MLflow calls {one_line(place)} its artifacts, which no run of ours has; nothing there was "
            "deleted: delete it by hand, or purge with --keep-mlflow"
        )
    get_artifact_repository(place, tracking_uri=uri).delete_artifacts()  # type: ignore[no-untyped-call]
    folder = Path(urlsplit(place).path).parent
    if urlsplit(place).scheme in ("", "file") and folder.name == run and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def is_of_run(place: str, run: str) -> bool:
    """Whether artifacts at that address may be deleted with the run: a database may name any folder there."""
    parts = urlsplit(place)
    if parts.scheme not in ("", "file"):
        return True  # a store's or a server's own rules hold there
    path = Path(unquote(parts.path))
    return path.parts[-2:] == (run, "artifacts") and ".." not in path.parts and not path.is_symlink()


def _delete_rows(copies: MlflowCopies) -> list[str]:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store: Any = SqlAlchemyStore(copies.uri, "unused")  # type: ignore[no-untyped-call]
    try:
        for run in copies.runs:
            # MLflow has no public way but `mlflow gc`, which also empties whatever else is marked deleted.
            store._hard_delete_run(run)
    finally:
        store.engine.dispose()
    if not copies.uri.startswith(SQLITE):
        return [f"{without_passwords(copies.uri)}: names and digests of data sets; the database's own backups and logs"]
    return list(_clean_database(Path(copies.uri.removeprefix(SQLITE)), copies.runs))


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
