"""The database behind MLflow: created before MLflow opens it, and corrected after its storage has moved."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path

from orchestrator.base.process import exclusive
from orchestrator.base.uris import database_path, database_uri, file_uri
from orchestrator.study.description import EXPERIMENT
from trainer.files import sync_folder
from trainer.formatting import first_line

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


def prepare_database(uri: str, artifacts: Path, experiment: str = EXPERIMENT) -> None:
    """Makes an SQLite database that is not there yet, or lets it follow a move; touches a database server.

    Args:
        uri: where MLflow keeps runs.
        artifacts: folder for the artifacts of the new database's default experiment.
        experiment: name of the one whose address tells where the artifacts lay.

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
        follow_move(path, artifacts, experiment)


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


log = logging.getLogger(__name__)

# Where MLflow keeps addresses of files; tables and columns that a version of it does not have are left out.
ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
BUSY_S = 30.0


def follow_move(database: Path, artifacts: Path, experiment: str) -> None:
    """Lets the addresses of files in a database follow the folder of artifacts that lies beside it.

    Nothing is done where the folder does not lie beside the database, or is not there, or the addresses are right.
    A database that cannot be read is left for MLflow to complain about.

    Args:
        database: SQLite file.
        artifacts: the folder, as it lies now.
        experiment: name of the experiment whose address tells where the folder lay.
    """
    if database.absolute().parent != artifacts.absolute().parent or not artifacts.is_dir():
        return
    now = file_uri(artifacts)
    try:
        with closing(sqlite3.connect(database, timeout=BUSY_S)) as opened, opened:
            found = opened.execute("SELECT artifact_location FROM experiments WHERE name = ?", (experiment,)).fetchone()
            before = None if found is None else str(found[0])
            if before in (None, now) or not before.startswith("file:") or not before.endswith(f"/{artifacts.name}"):
                return
            for table, column in ADDRESSES:
                if column in {row[1] for row in opened.execute(f"PRAGMA table_info({table})")}:
                    _replace(opened, table, column, before, now)
    except sqlite3.Error as error:
        log.warning("%s: addresses of files were not brought up to date (%s)", database, first_line(error))


def _replace(opened: sqlite3.Connection, table: str, column: str, before: str, now: str) -> None:
    """Puts the new beginning in place of the old one, where an address is that folder or lies in it."""
    opened.execute(
        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # both names are ours
        f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
        (now, len(before) + 1, before, len(before) + 1, before + "/"),
    )
