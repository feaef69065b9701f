"""The database behind MLflow, seen to before MLflow touches it."""

from __future__ import annotations

from pathlib import Path

from orchestrator.base.locking import exclusive
from orchestrator.base.uris import database_path, database_uri, file_uri
from orchestrator.tracking.moved import follow_move
from trainer.atomic import sync_folder

EXPERIMENT = "reidsearch"
"""MLflow's name for what holds all runs."""
DATABASE = "mlflow.db"
"""File in a storage that holds its runs, unless they are kept elsewhere."""
ARTIFACTS = "mlartifacts"
"""Folder in a storage that holds the files of its runs."""
# MLflow goes through its whole history of schemas, which takes seconds; on a busy machine many.
CREATION_PATIENCE_S = 120.0


def is_database(uri: str) -> bool:
    """Whether MLflow's runs are kept in a database that its client opens itself, not by a server."""
    return uri.startswith(("sqlite:", "postgresql", "mysql", "mssql"))


def missing_database(uri: str) -> Path | None:
    """The path of an SQLite database that is not there; None where it is, or where the URI is no such database's."""
    path = database_path(uri)
    return None if path is None or path.is_file() else path


def prepare_database(uri: str, artifacts: Path) -> None:
    """Makes an SQLite database that is not there yet, or lets it follow a move; touches a database server.

    Args:
        uri: where MLflow keeps runs.
        artifacts: folder for the artifacts of the new database's default experiment.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: it does not answer or cannot be written.
        TimeoutError: another process makes it and does not end.
    """
    path = database_path(uri)
    if path is not None:
        _create(path, artifacts)
    if is_database(uri):
        _touch(uri)
    if path is not None:
        follow_move(path, artifacts, EXPERIMENT)


def _create(path: Path, artifacts: Path) -> None:
    """Makes the database under another name first: MLflow cannot go on with one whose making was cut short."""
    if path.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    path.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(path.with_name(path.name + ".lock"), CREATION_PATIENCE_S):
        if path.exists():
            return
        unfinished = path.with_name(path.name + ".new")
        for leftover in path.parent.glob(f"{unfinished.name}*"):
            leftover.unlink()
        SqlAlchemyStore(database_uri(unfinished), file_uri(artifacts)).engine.dispose()  # type: ignore[no-untyped-call]
        unfinished.replace(path)
        sync_folder(path.parent)


def _touch(uri: str) -> None:
    """MLflow itself would sleep through a minute and a half before it says that it cannot connect."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(uri)
    try:
        engine.connect().close()
    finally:
        engine.dispose()
