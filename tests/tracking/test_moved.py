"""A storage that was moved: MLflow finds the files of its runs, and the search goes on."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from pathlib import Path

import pytest
from mlflow import MlflowClient
from running import Search, metric_points, mlflow_runs, results_of

from orchestrator.base.uris import database_uri
from orchestrator.study.description import EXPERIMENT
from orchestrator.tracking.database import follow_move, prepare_database

EPOCHS = 20


def test_addresses_of_files_follow_the_folder_that_lies_beside_the_database(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after it's 100%_?a%41#é moved"
    artifacts = before / "mlartifacts"
    artifacts.mkdir(parents=True)
    prepare_database(database_uri(before / "mlflow.db"), artifacts)
    client = MlflowClient(tracking_uri=database_uri(before / "mlflow.db"))
    experiment = client.create_experiment(EXPERIMENT, artifact_location=artifacts.as_uri())
    run = client.create_run(experiment)
    client.log_text(run.info.run_id, "text", "file.txt")
    before.rename(after)
    uri = database_uri(after / "mlflow.db")
    prepare_database(uri, after / "mlartifacts")
    moved = MlflowClient(tracking_uri=uri)
    assert [file.path for file in moved.list_artifacts(run.info.run_id)] == ["file.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [after.name], "a folder of the quoted name"
    assert moved.get_experiment(experiment).artifact_location == (after / "mlartifacts").as_uri()


@pytest.mark.parametrize(
    "address", ["s3://bucket/mlartifacts", "file:///elsewhere/files", "file:///storage/mlartifacts"]
)
def test_addresses_that_are_somebody_elses_stay(tmp_path: Path, address: str) -> None:
    database, artifacts = tmp_path / "mlflow.db", tmp_path / "mlartifacts"
    (tmp_path / "other").mkdir()
    artifacts.mkdir()
    with sqlite3.connect(database) as opened:
        opened.execute("CREATE TABLE experiments (name TEXT, artifact_location TEXT)")
        opened.execute("INSERT INTO experiments VALUES (?, ?)", (EXPERIMENT, address))
        opened.execute("INSERT INTO experiments VALUES ('other', 'file:///storage/mlartifacts2/1')")
    if address == "file:///storage/mlartifacts":
        # Not beside the database: another storage keeps its runs here, too.
        follow_move(database, tmp_path / "other" / "mlartifacts", EXPERIMENT)
    else:
        follow_move(database, artifacts, EXPERIMENT)
    with sqlite3.connect(database) as opened:
        found = dict(opened.execute("SELECT name, artifact_location FROM experiments").fetchall())
    assert found == {EXPERIMENT: address, "other": "file:///storage/mlartifacts2/1"}


@pytest.mark.e2e
@pytest.mark.long
def test_a_search_is_copied_elsewhere_and_goes_on_there_with_its_mlflow_history(tmp_path: Path) -> None:
    slow = ("--set", f"optim.epochs={EPOCHS}", "--set", "clips.frames=4", "--set", "model.height=64")
    search = Search(tmp_path / "here" / "runs", "moving")
    search.launch(*slow)
    search.until(lambda document: any(trial["epoch"] > 5 for trial in document["trials"]))
    assert search.process is not None
    search.process.send_signal(signal.SIGTERM)
    assert search.wait() == 75
    runs = mlflow_runs(search.storage)
    there = tmp_path / "there" / "storage"
    shutil.copytree(search.storage, there)
    shutil.rmtree(tmp_path / "here")
    moved = Search(there, "moving")
    moved.resume()
    assert moved.wait() == os.EX_OK, moved.log.read_text()
    document = moved.status()
    assert [trial["status"] for trial in document["trials"]] == ["completed"] * 4
    after = mlflow_runs(there)
    assert {trial: len(found) for trial, found in after.items()} == dict.fromkeys(after, 1)
    for trial, (run,) in runs.items():
        assert after[trial][0].info.run_id == run.info.run_id
    for trial in document["trials"]:
        key = trial["trial"]
        assert [line["epoch"] for line in results_of(moved.folder, key)] == list(range(1, EPOCHS + 1))
        steps = [step for step, _, _ in metric_points(there, after[key][0].info.run_id, "mAP")]
        assert steps == list(range(1, EPOCHS + 1))
    client = MlflowClient(tracking_uri=database_uri(there / "mlflow.db"))
    assert client.list_artifacts(after["-"][0].info.run_id)
