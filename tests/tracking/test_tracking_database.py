"""The database behind MLflow is whole, or not there."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from orchestrator.base.uris import database_uri
from orchestrator.tracking.database import prepare_database

PREPARE = "import sys; from pathlib import Path; from orchestrator.tracking.database import *; "
PREPARE += "prepare_database(sys.argv[1], Path(sys.argv[2]))"


@pytest.mark.e2e
def test_a_database_whose_making_was_killed_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    uri = database_uri(path)
    with subprocess.Popen([sys.executable, "-c", PREPARE, uri, str(tmp_path)]) as child:
        unfinished = tmp_path / "mlflow.db.new"
        while not (unfinished.exists() and unfinished.stat().st_size > 100_000):
            assert child.poll() is None
            time.sleep(0.01)
        child.kill()
    assert not path.exists()
    prepare_database(uri, tmp_path)
    assert MlflowClient(tracking_uri=uri).create_experiment("first")
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["mlflow.db", "mlflow.db.lock"]


def test_a_database_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_bytes(b"whatever")
    prepare_database(database_uri(path), tmp_path)
    assert path.read_bytes() == b"whatever"


def test_a_server_is_no_database_to_prepare(tmp_path: Path) -> None:
    prepare_database("http://127.0.0.1:9", tmp_path)
    assert not list(tmp_path.iterdir())
