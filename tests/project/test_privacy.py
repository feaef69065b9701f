"""What a search writes of people, of the environment and of passwords: nothing, unless it is asked to.

Canaries are planted in a search on data that counts as real, and everything below its storage is read.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from canaries import SECRETS, telling
from current_folder import plant
from running import Search

from trainer.data.dataset import TRUTH

pytestmark = pytest.mark.e2e

SECRET = "canary-in-the-environment-7b1f"
FRAME = re.compile(rb"(?:\d{4}|00-1)C\dT\d{4}F\d{3}\.jpg")
"""The name of a frame of MARS tells identity, camera and tracklet."""
PICTURES = (b"\xff\xd8\xff", b"\x89PNG\r\n")
# Charts without people.
CHARTS = {"cmc.png", "distances.png", "cameras.png", "roc.png"}
# Lists frames on purpose, so that evaluations can be compared query by query; it stays in the trial's own folder.
PER_QUERY = "per_query.npz"


@pytest.fixture(scope="module")
def data(mini_mars: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set in the layout of MARS that nothing marks as generated."""
    root = tmp_path_factory.mktemp("canary") / "mars"
    shutil.copytree(mini_mars, root)
    (root / "info" / TRUTH).unlink()
    return root


@pytest.fixture(scope="module")
def current(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the commands run in, full of modules which leave a trace where they are run."""
    folder = tmp_path_factory.mktemp("current")
    plant(folder)
    return folder


@pytest.fixture(scope="module")
def searched(data: Path, current: Path, tmp_path_factory: pytest.TempPathFactory) -> Search:
    """A finished search on it, with its evaluations and a report."""
    search = Search(tmp_path_factory.mktemp("storage"), "private")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        patch.chdir(current)
        search.command = [str(Path(sys.executable).with_name("reidsearch"))]
        search.launch("--data", str(data), "--trials", "6", "--set", "evaluation.folder=true")
        assert search.wait() == 0, search.log.read_text()
        search.start("report", "private", "--without-model")
        assert search.wait() == 0, search.log.read_text()
    return search


def files(search: Search) -> Iterator[Path]:
    """All that the search left, data and networks apart."""
    for path in search.storage.rglob("*"):
        if path.is_file() and path.suffix != ".pt":
            yield path


def pictures_of(paths: Iterable[Path]) -> set[str]:
    """Names of the files that are pictures, whatever they are called."""
    return {path.name for path in paths if path.read_bytes()[:8].startswith(PICTURES)}


def test_the_data_of_this_test_counts_as_real(searched: Search) -> None:
    assert searched.status()["synthetic"] is False
    assert not (searched.folder / "trials/t0000/evaluation/ranking.png").exists()


def test_no_variable_of_the_environment_is_written(searched: Search) -> None:
    found, names = telling(files(searched))
    assert {"journal.jsonl", "search.yaml", "mlflow.db", "report.html", "attempts.log", "ax.log"} <= names
    assert found == []


def test_no_process_of_a_search_imports_from_the_current_folder(searched: Search, current: Path) -> None:
    assert not (current / "executed").exists()


def test_no_name_of_a_frame_is_written_outside_of_the_figures_per_query(searched: Search) -> None:
    telling = {path.name for path in files(searched) if FRAME.search(path.read_bytes())}
    assert telling <= {PER_QUERY}
    database = sqlite3.connect(searched.storage / "mlflow.db")
    assert not any(FRAME.search(str(row).encode()) for row in database.iterdump())


def test_no_figures_per_query_and_no_picture_but_charts_reach_mlflow(searched: Search) -> None:
    tracked = [path for path in (searched.storage / "mlartifacts").rglob("*") if path.is_file()]
    assert tracked
    assert [path for path in tracked if path.name == PER_QUERY] == []
    assert pictures_of(tracked) <= CHARTS


def test_no_picture_of_an_identity_is_in_the_folder_or_in_the_report(searched: Search) -> None:
    assert pictures_of(files(searched)) <= CHARTS
    assert b"data:image/jpeg" not in (searched.folder / "report.html").read_bytes()


@pytest.mark.long
def test_a_password_for_mlflow_is_in_no_file(data: Path, tmp_path: Path) -> None:
    search = Search(tmp_path / "storage", "guarded")
    search.environment = {**os.environ, "MLFLOW_TRACKING_USERNAME": "lab", "MLFLOW_TRACKING_PASSWORD": SECRET}
    search.launch("--data", str(data), "--trials", "1", "--tracking-uri", "http://127.0.0.1:9")
    assert search.wait() == 0, search.log.read_text()
    assert {path.name for path in files(search) if SECRET.encode() in path.read_bytes()} == set()
