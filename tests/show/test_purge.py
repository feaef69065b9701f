"""A search deleted, and what is said to remain."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from searches import a_search, completed, write_search

from orchestrator.__main__ import cli, run
from orchestrator.show import purge
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.events import Observation, ObservationsAttached


def test_the_folder_and_the_drafts_of_killed_launches_go_and_other_searches_stay(tmp_path: Path) -> None:
    folder = a_search(tmp_path / "first")
    (folder.trial("t0000") / "checkpoint").mkdir(parents=True)
    (folder.trial("t0000") / "checkpoint/best.pt").write_bytes(b"weights")
    (tmp_path / "link").symlink_to(folder.path)
    other = a_search(tmp_path / "first-2")
    (tmp_path / ".first.4711").mkdir()
    (tmp_path / ".first-2.4711").mkdir()
    copies = purge.find(folder)
    assert copies.files == 4  # search.yaml, journal, its reserve, weights
    assert copies.bytes > 7
    purge.purge(copies)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".first-2.4711", "first-2", "link"]
    assert other.journal.is_file()


def test_what_a_link_in_the_folder_points_to_stays(tmp_path: Path) -> None:
    folder = a_search(tmp_path / "runs/first")
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    folder.trial("t0000").parent.mkdir()
    folder.trial("t0000").symlink_to(precious)
    (folder.path / "data").symlink_to(precious)
    purge.purge(purge.find(folder))
    assert (precious / "file").is_file()


def test_a_purge_that_was_cut_short_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = a_search(tmp_path / "first")
    (folder.path / "trials").mkdir()
    copies = purge.find(folder)

    def cut_short(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", cut_short)
        with pytest.raises(KeyboardInterrupt):
            purge.purge(copies)
    purge.purge(purge.find(folder))
    assert not folder.path.exists()


def test_searches_that_have_learned_from_it_are_named(tmp_path: Path) -> None:
    folder = a_search(tmp_path / "first")
    known = Observation(trial="t0000", params={}, value=0.5, standard_error=None)
    attached = ObservationsAttached(search="first", observations=[known, known])
    space = SearchSpace.load("smoke.yaml")
    warm = write_search(tmp_path / "warm", space, [attached, *completed(0, 0.5)])
    weights = SearchSpace.load("smoke.yaml", overrides=[f"model.weights={folder.trial('t0001')}/checkpoint/best.pt"])
    started = write_search(tmp_path / "started", weights, completed(0, 0.5))
    damaged = a_search(tmp_path / "damaged")
    damaged.journal.write_text("garbage\n" + damaged.journal.read_text())
    remains = purge.purge(purge.find(folder))
    assert f"{warm.path}: settings and scores of 2 of its trials, from a warm start" in remains
    assert f"{started.path}: its networks were started from weights of this search" in remains
    assert f"{damaged.path}: cannot be read; it may have been started from this search" in remains


def test_without_yes_the_name_has_to_be_typed(tmp_path: Path) -> None:
    folder = a_search(tmp_path / "first")
    command = ["purge", "first", "--storage", str(tmp_path)]
    refused = CliRunner().invoke(cli, command, input="yes\n", standalone_mode=False)
    assert "nothing was deleted" in refused.output
    assert refused.return_value == 2
    assert folder.journal.is_file()
    done = CliRunner().invoke(cli, command, input="first\n", standalone_mode=False)
    assert "deleted   first" in done.output
    assert not folder.path.exists()


@pytest.mark.parametrize("stdin", ["empty", "none"])
def test_without_standard_input_nothing_is_deleted_and_the_answer_names_the_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, stdin: str
) -> None:
    folder = a_search(tmp_path / "first")
    monkeypatch.setattr("sys.stdin", io.StringIO("") if stdin == "empty" else None)
    assert run(["purge", "first", "--storage", str(tmp_path)]) == 2
    assert "--yes" in capsys.readouterr().err
    assert folder.journal.is_file()


def test_a_search_folder_that_is_a_link_is_refused_and_nothing_behind_it_is_touched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = a_search(tmp_path / "elsewhere/first")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/first").symlink_to(elsewhere.path)
    before = tree(tmp_path)
    assert run(["purge", "first", "--yes", "--storage", str(tmp_path / "runs")]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert f"is a link to {elsewhere.path}" in line
    assert tree(tmp_path) == before


def tree(folder: Path) -> dict[str, Any]:
    """Every file below the folder with its content and time, every link with its target."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        facts = path.lstat()
        content = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(folder))] = (facts.st_mode, facts.st_mtime_ns, content)
    return found


RUN = "0123456789abcdef" * 2
# Where a link may stand in a storage that somebody else has made: R is a run, V the folder that must stay.
LINKS = [
    *("mlartifacts", f"mlartifacts/{RUN}", f"mlartifacts/{RUN}/artifacts", f"mlartifacts/{RUN}/artifacts/file"),
    *("mlflow.db", "mlflow.db.lock", ".first.123", ".first.7", ".set-aside", ".set-aside/first-0123abcd"),
    *("first/trials", "first/trials/t0000", "first/logs", "first/tune", "first/requests", "first/lease.lock"),
    *("first/lease", f"first/lease.{os.getpid()}", "first/reproductions", "first/search.yaml.tmp"),
]
RUN_IDS = st.sampled_from([RUN, "f" * 32, "..", ".", "", "../../victim", "V", "mlartifacts", RUN.upper(), RUN + "\n"])
ADDRESSES = st.sampled_from(
    [
        *("file://V", "V", "file://V/R/artifacts", "V/R/artifacts", "S/mlartifacts/R/artifacts", "S/mlartifacts"),
        *(
            "file://S/mlartifacts/R/artifacts",
            "file://S/mlartifacts/R/../../../victim",
            "file://S/mlartifacts/%2e%2e/V",
        ),
        *("s3://bucket/R/artifacts", "file://host/R/artifacts", "", "/", "file:///", "mlflow-artifacts:/1/R/artifacts"),
        *("mlflow-artifacts://evil/1/R/artifacts", "http://evil/R/artifacts", "file://V?x=S/mlartifacts/R/artifacts"),
    ]
)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with a search of its own and a folder of MLflow's files."""
    storage = tmp_path_factory.mktemp("template")
    a_search(storage / "first")
    (storage / "mlflow.db").touch()
    (storage / "mlartifacts" / RUN / "artifacts").mkdir(parents=True)
    return storage


class FakeClient:
    """MLflow with the given runs."""

    def __init__(self, runs: list[Any]) -> None:
        self._runs = runs

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id="1")

    def search_runs(self, *_: object, **__: object) -> Any:
        class Page(list[Any]):
            token = None

        return Page(self._runs)

    def search_model_versions(self, condition: str) -> list[Any]:
        return []

    def get_run(self, run: str) -> Any:
        return SimpleNamespace(info=SimpleNamespace(lifecycle_stage="active"))

    def delete_run(self, run: str) -> None:
        pass


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    links=st.lists(st.tuples(st.sampled_from(LINKS), st.sampled_from(["V", "V/R", "V/file"])), max_size=6),
    runs=st.dictionaries(RUN_IDS, ADDRESSES, max_size=3),
)
def test_nothing_outside_the_storage_changes_whatever_links_and_addresses_a_search_holds(
    links: list[tuple[str, str]], runs: dict[str, str], template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory() as name:
        outside, storage = Path(name) / "victim", Path(name) / "runs"
        for folder in (outside / RUN / "artifacts", outside / "artifacts", outside / "trials"):
            folder.mkdir(parents=True)
            (folder / "precious").write_text("precious")
        (outside / "file").write_text("precious")
        shutil.copytree(template, storage)

        def meant(text: str) -> str:
            return text.replace("V", str(outside)).replace("S/", f"{storage}/").replace("R", RUN)

        for place, target in links:
            path = storage / place
            if path.parent.is_dir() and path.parent.resolve().is_relative_to(storage.resolve()):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                path.unlink(missing_ok=True)
                path.symlink_to(meant(target))
        found = [
            SimpleNamespace(info=SimpleNamespace(run_id=run, artifact_uri=meant(place))) for run, place in runs.items()
        ]
        monkeypatch.setattr("mlflow.MlflowClient", lambda tracking_uri: FakeClient(found))
        monkeypatch.setattr("orchestrator.tracking.purge.prepare_database", lambda *_: None)
        before = tree(outside)
        run(["purge", "first", "--yes", "--storage", str(storage)])
        assert tree(outside) == before
        if not any(place in ("first/lease.lock", "first/lease") for place, _ in links):
            assert not (storage / "first").exists()
