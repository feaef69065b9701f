"""A search end to end: the real command, real Ray, real Ax, real MLflow."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from running import Search, command, metric_points, mlflow_runs, processes_mentioning, results_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

# Long enough that a search can be caught in the act.
SLOW = ("--set", "optim.epochs=12", "--set", "clips.frames=4", "--set", "model.height=64", "--set", "model.width=32")


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="module")
def finished(storage: Path) -> Search:
    """A smoke search with enough trials for Ax's model to propose some."""
    search = Search(storage, "finished")
    search.launch("--trials", "6")
    assert search.wait() == 0, search.log.read_text()
    return search


def test_every_trial_of_a_search_completes_and_the_best_one_is_named(finished: Search) -> None:
    document = finished.status()
    assert document["state"] == "finished"
    assert document["counts"] == {"pending": 0, "running": 0, "completed": 6, "stopped": 0, "failed": 0}
    values = {trial["trial"]: trial["metrics"]["mAP"] for trial in document["trials"]}
    assert document["best"]["value"] == max(values.values())
    assert values[document["best"]["trial"]] == document["best"]["value"]


def test_points_come_from_the_space_then_from_sobol_then_from_ax(finished: Search) -> None:
    assert [trial["source"] for trial in finished.status()["trials"]] == ["start", *["sobol"] * 3, *["ax"] * 2]


def test_status_prints_the_documented_keys(finished: Search) -> None:
    printed = command("status", "finished", "--storage", str(finished.storage), "--json")
    assert printed.returncode == 0
    document = json.loads(printed.stdout)
    assert {"search", "state", "synthetic", "storage", "objective", "counts", "best", "trials"} <= document.keys()
    assert {"trial", "value", "metrics", "params"} <= document["best"].keys()
    keys = {"trial", "status", "attempts", "epoch", "metrics", "params", "ax_index", "mlflow_run_id", "reason"}
    assert all(keys <= trial.keys() for trial in document["trials"])
    assert document["synthetic"] is True
    assert [trial["ax_index"] for trial in document["trials"]] == list(range(6))


def test_mlflow_holds_one_run_per_trial_with_each_point_once(finished: Search) -> None:
    runs = mlflow_runs(finished.storage)
    document = finished.status()
    assert {trial: len(found) for trial, found in runs.items() if trial != "-"} == {
        trial["trial"]: 1 for trial in document["trials"]
    }
    (parent,) = [run for run in runs["-"] if run.data.tags["search"] == "finished"]
    assert parent.info.status == "FINISHED"
    for trial in document["trials"]:
        (run,) = runs[trial["trial"]]
        assert run.info.run_id == trial["mlflow_run_id"]
        assert run.info.status == "FINISHED"
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.tags["synthetic"] == "true"
        assert run.data.params == {path: str(value) for path, value in trial["params"].items()}
        results = results_of(finished.folder, trial["trial"])
        expected = [(r["epoch"], r["validation"]["mAP"], round(r["time"] * 1000)) for r in results]
        assert metric_points(finished.storage, run.info.run_id, "mAP") == expected


def test_a_trial_of_the_search_can_be_trained_and_evaluated_alone(finished: Search, tmp_path: Path) -> None:
    trial = finished.folder / "trials/t0000"
    split = ["--split", str(finished.folder / "split.json"), "--part", "validation", "--json"]
    printed = command("evaluate", str(trial / "config.json"), "--checkpoint", str(trial / "checkpoint/best.pt"), *split)
    assert printed.returncode == 0, printed.stderr
    best = max(result["validation"]["mAP"] for result in results_of(finished.folder, "t0000"))
    assert json.loads(printed.stdout)["mAP"] == pytest.approx(best)
    trained = command("train", str(trial / "config.json"), "--out", str(tmp_path / "again"), "--set", "optim.epochs=1")
    assert trained.returncode == 0, trained.stderr
    assert (tmp_path / "again/checkpoint/best.pt").is_file()


def test_a_name_that_is_taken_is_refused_and_nothing_is_touched(finished: Search) -> None:
    before = (finished.folder / "journal.jsonl").read_bytes()
    refused = command("launch", "--space", "smoke.yaml", "--name", "finished", "--storage", str(finished.storage))
    assert refused.returncode == 3
    assert "already a search of this name" in refused.stderr
    assert "reidsearch resume finished" in refused.stderr
    assert (finished.folder / "journal.jsonl").read_bytes() == before


def test_resuming_a_finished_search_changes_nothing(finished: Search) -> None:
    before = finished.status()
    resumed = command("resume", "finished", "--storage", str(finished.storage))
    assert resumed.returncode == 0, resumed.stderr
    assert finished.status() == before
    assert all(len(found) == 1 for trial, found in mlflow_runs(finished.storage).items() if trial != "-")


def test_no_token_is_readable_by_others_and_the_search_folder_is_private(finished: Search) -> None:
    token = Path("~/.ray/auth_token").expanduser()
    assert token.stat().st_mode & 0o077 == 0
    assert finished.folder.stat().st_mode & 0o077 == 0


def caught_in_the_act(document: dict[str, Any]) -> bool:
    """At least one trial is completed, and a running one has checkpoints to lose."""
    running = [trial for trial in document["trials"] if trial["status"] == "running"]
    return document["counts"]["completed"] >= 1 and any(2 <= trial["epoch"] <= 9 for trial in running)


def assert_nothing_lost_and_nothing_twice(search: Search, before: dict[str, Any], kept: dict[str, bytes]) -> None:
    document = search.status()
    assert document["state"] == "finished"
    assert document["counts"]["completed"] == len(document["trials"])
    earlier = {trial["trial"]: trial for trial in before["trials"]}
    for trial in document["trials"]:
        results = results_of(search.folder, trial["trial"])
        assert [result["epoch"] for result in results] == list(range(1, 13))
        known = earlier.get(trial["trial"])
        if known is not None:
            assert trial["params"] == known["params"]
        if known is not None and known["status"] == "completed":
            assert trial == known, "a completed trial was run again"
            assert (search.folder / "trials" / trial["trial"] / "results.jsonl").read_bytes() == kept[trial["trial"]]
        runs = [run for run in mlflow_runs(search.storage)[trial["trial"]] if run.data.tags["search"] == search.name]
        assert [run.info.run_id for run in runs] == [trial["mlflow_run_id"]]
        points = metric_points(search.storage, trial["mlflow_run_id"], "loss/total")
        assert points == [(r["epoch"], r["losses"]["total"], round(r["time"] * 1000)) for r in results]


def results_files(search: Search) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in search.folder.glob("trials/*/results.jsonl")}


def test_a_killed_driver_loses_nothing_and_repeats_nothing(storage: Path) -> None:
    search = Search(storage, "killed")
    search.launch("--trials", "5", *SLOW)
    search.until(caught_in_the_act)
    search.kill()
    before, kept = search.status(), results_files(search)
    assert before["state"] == "interrupted"
    assert before["counts"]["running"] == 0
    search.resume()
    assert search.wait() == 0, search.log.read_text()
    assert_nothing_lost_and_nothing_twice(search, before, kept)
    # What the unfinished trials had on disk was continued, not trained anew: those very lines are still there.
    for trial in before["trials"]:
        if trial["status"] == "pending" and trial["epoch"]:
            now = results_files(search)[trial["trial"]]
            assert now.startswith(b"".join(kept[trial["trial"]].splitlines(keepends=True)[: trial["epoch"]]))
            assert search.status()["trials"][trial["ax_index"]]["attempts"] == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_ends_the_search_so_that_it_can_be_resumed(storage: Path, number: signal.Signals, code: int) -> None:
    search = Search(storage, f"signal-{number.name.lower()}")
    search.launch("--trials", "3", *SLOW)
    search.until(caught_in_the_act)
    assert search.process is not None
    # As the terminal does for Ctrl-C: to the whole process group.
    psutil.Process(search.process.pid).send_signal(number) if number == signal.SIGTERM else _to_group(search, number)
    assert search.wait() == code, search.log.read_text()
    before, kept = search.status(), results_files(search)
    assert before["state"] == "interrupted"
    assert "reidsearch resume" in search.log.read_text() or "resume" in search.log.read_text()
    assert _ends_soon(str(search.folder)), processes_mentioning(str(search.folder))
    search.resume()
    assert search.wait() == 0, search.log.read_text()
    assert_nothing_lost_and_nothing_twice(search, before, kept)


def _to_group(search: Search, number: signal.Signals) -> None:
    import os

    assert search.process is not None
    os.killpg(search.process.pid, number)


def _ends_soon(text: str) -> bool:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if not processes_mentioning(text):
            return True
        time.sleep(0.2)
    return False


def test_a_killed_attempt_is_tried_again_from_its_checkpoint(storage: Path) -> None:
    search = Search(storage, "attempt")
    search.launch("--trials", "2", "--concurrent", "1", *SLOW)
    search.until(lambda document: any(2 <= t["epoch"] <= 9 and t["status"] == "running" for t in document["trials"]))
    victims = [
        child
        for child in psutil.Process(search.process.pid).children(recursive=True)  # type: ignore[union-attr]
        if child.cmdline()[-1:] == ["orchestrator.attempt_server"]
        and any("orchestrator.attempt_server" in parent.cmdline() for parent in child.parents())
    ]
    assert len(victims) == 1
    victims[0].kill()
    assert search.wait() == 0, search.log.read_text()
    attempts = [trial["attempts"] for trial in search.status()["trials"]]
    assert sorted(attempts) == [1, 2]
    assert "failed=worker_lost" in search.log.read_text()
    for trial in search.status()["trials"]:
        assert [result["epoch"] for result in results_of(search.folder, trial["trial"])] == list(range(1, 13))
