"""A report among the files of a search's run in MLflow."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient
from searches import a_search
from waiting import PATIENCE_S

from orchestrator.base.errors import EnvironmentProblem, SearchError
from orchestrator.stores.base import SearchFolder
from orchestrator.tracking.database import prepare_database
from orchestrator.tracking.log_artifact import log_report
from orchestrator.tracking.sync import sync


@pytest.fixture
def search(tmp_path: Path) -> SearchFolder:
    return a_search(tmp_path / "runs" / "first")


def test_the_report_lies_under_the_searchs_own_run_and_a_later_one_takes_its_place(search: SearchFolder) -> None:
    assert sync(search, tracking=None, patience=PATIENCE_S).unsent == 0
    report = search.path / "report.html"
    for text in ("first", "second"):
        report.write_text(text)
        assert log_report(search, report).endswith("report.html of run first")
    client = MlflowClient(tracking_uri=f"sqlite:///{search.path.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("reidsearch")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], "tags.`reidsearch.trial` = '-'")
    assert "report.html" in [file.path for file in client.list_artifacts(run.info.run_id)]
    assert Path(client.download_artifacts(run.info.run_id, "report.html")).read_text() == "second"


def test_a_search_that_mlflow_does_not_know_is_named_with_what_to_do(search: SearchFolder) -> None:
    with pytest.raises(EnvironmentProblem, match=r"no such database; `.*reidsearch sync first --storage .*` makes it"):
        log_report(search, search.path / "report.html")
    database = search.path.parent / "mlflow.db"
    prepare_database(f"sqlite:///{database}", database.parent / "mlartifacts")
    with pytest.raises(SearchError, match=r"has no run of first; `.*reidsearch sync first --storage .*` makes it"):
        log_report(search, search.path / "report.html")
