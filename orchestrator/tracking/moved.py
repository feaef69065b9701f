"""A storage that was moved or copied: MLflow's database says of every run where its files are, in full."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path

from orchestrator.base.uris import file_uri
from trainer.formatting import first_line

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
