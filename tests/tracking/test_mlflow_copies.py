"""MLflow's copies of a search: a network registered there, and everything purged."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from evaluations import save_network
from mlflow import MlflowClient
from mlflow.entities import ViewType
from searches import a_search
from waiting import PATIENCE_S

from orchestrator.__main__ import run
from orchestrator.base.uris import database_uri
from orchestrator.doctor import network
from orchestrator.stores.local import local_search
from orchestrator.study.description import read_description, write_description
from orchestrator.study.lease import Lease
from orchestrator.tracking.purge import MlflowCopies, find_copies
from orchestrator.tracking.sync import sync

CANARY = "canary-of-the-purged-search"


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """Two searches that MLflow knows; the first has a network."""
    for name in ("first", "second"):
        folder = a_search(tmp_path / "runs" / name, "data.root=/data/of/everybody")
        described = read_description(folder.description)
        uid = CANARY if name == "first" else "another"
        write_description(folder.description, described.model_copy(update={"uid": uid}))
        assert sync(folder, tracking=None, patience=PATIENCE_S).unsent == 0
    save_network(local_search(tmp_path / "runs/first"), "t0001")
    return tmp_path / "runs"


def test_a_registered_network_is_plain_files_and_a_purge_leaves_nothing_that_mlflow_gc_does_not_erase(
    storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"sqlite:///{storage / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri)
    options = ["--storage", str(storage)]

    out = ["--out", str(tmp_path / "out")]
    assert run(["export", "first/best", *out, "--register", "--model", "winner", *options]) == 0
    assert "MLflow    winner version 1" in capsys.readouterr().out
    version = client.get_model_version("winner", "1")
    assert version.tags == {
        **{"search": "first", "trial": "t0001", "seed": "0", "synthetic": "true", "data_fingerprint": "0"},
    }
    assert "## Out of scope" in version.description
    files = {file.path for file in client.list_artifacts(version.run_id, "export")}
    expected = ("README.md", "config.json", "model.pt", "model.pt.sha256")
    assert files == {f"export/{name}" for name in expected}, "no MLmodel, no pickle"

    deleted, forged = find_copies(uri, CANARY, storage / "mlartifacts").runs[:2]
    client.delete_run(deleted)
    victim = tmp_path / "victim" / forged / "artifacts"
    victim.mkdir(parents=True)
    (victim / "precious").touch()
    with closing(sqlite3.connect(storage / "mlflow.db")) as database, database:
        database.execute("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", (victim.as_uri(), forged))
    newest, _ = network.schemas()
    assert network.schema_of(storage / "mlflow.db") in newest, "what the examination takes for the newest is"
    artifacts = storage / "mlartifacts"

    assert run(["purge", "first", "--yes", *options]) == 0
    printed = capsys.readouterr().out
    assert f"MLflow    3 runs in {uri}" in printed
    assert f"with their files below {artifacts.as_uri()}" in printed
    assert "remains   MLflow: the entry of winner version 1, without its files" in printed
    assert "remains   /data/of/everybody: the data set" in printed
    assert (
        f"remains   {victim.as_uri()}: the artifact location of run {forged} of MLflow; not ours to delete" in printed
    )
    assert (victim / "precious").is_file()
    assert not (storage / "first").exists()
    assert searches_of(client, ViewType.ACTIVE_ONLY) == {"another"}
    assert not any(deleted in str(path) for path in artifacts.rglob("*"))
    told = re.search(
        rf"{re.escape(uri)}: 3 runs, marked deleted; `mlflow (gc .*)` erases all rows that are marked deleted and",
        printed,
    )
    assert told is not None
    subprocess.run([sys.executable, "-m", "mlflow", *told[1].split()], check=True, capture_output=True)
    assert searches_of(client, ViewType.ALL) == {"another"}


def searches_of(client: MlflowClient, view: int) -> set[str]:
    """The searches that have runs there."""
    experiment = client.get_experiment_by_name("reidsearch")
    assert experiment is not None
    left = client.search_runs([experiment.experiment_id], run_view_type=view)
    return {run.data.tags["reidsearch.search"] for run in left}


def test_without_its_own_database_nothing_of_mlflow_is_looked_for(tmp_path: Path) -> None:
    uri = database_uri(tmp_path / "none.db")
    assert find_copies(uri, "u", tmp_path / "mlartifacts") == MlflowCopies(uri)
    assert list(tmp_path.iterdir()) == []


def test_registering_without_a_run_or_a_database_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = a_search(tmp_path / "first")
    save_network(folder, "t0001")
    command = ["export", "first", "--register", "--storage", str(tmp_path)]
    assert run([*command, "--out", str(tmp_path / "one")]) == 3
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("trial t0001 has no run in MLflow to hold its files; `")
    assert line.endswith(f"reidsearch sync first --storage {tmp_path}` makes it")


def test_a_server_that_does_not_answer_stops_a_purge_before_anything_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    a_search(tmp_path / "first")
    dead = ["--tracking-uri", "http://127.0.0.1:1"]
    assert run(["purge", "first", "--yes", "--storage", str(tmp_path), *dead]) == 5
    printed = capsys.readouterr().err
    assert "MLflow cannot be asked" in printed
    assert "--keep-mlflow" in printed
    assert "secret" not in printed
    assert (tmp_path / "first/journal.jsonl").is_file()
    assert run(["purge", "first", "--yes", "--keep-mlflow", "--storage", str(tmp_path), *dead]) == 0
    assert "remains   MLflow: its runs" in capsys.readouterr().out


def test_a_search_that_is_driven_is_not_purged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = a_search(tmp_path / "first")
    with Lease(folder.lease):
        assert run(["purge", "first", "--yes", "--storage", str(tmp_path)]) == 3
    assert "first: already driven by process" in capsys.readouterr().err
    assert folder.journal.is_file()
