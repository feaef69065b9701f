"""A search end to end: the real command, real Ray, real Ax, real MLflow."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from miniatures import write_miniature
from running import Search, command, metric_points, mlflow_runs, results_of

pytestmark = pytest.mark.e2e


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
    assert document["counts"] == {"pending": 0, "running": 0, "paused": 0, "completed": 6, "stopped": 0, "failed": 0}
    values = {trial["trial"]: trial["metrics"]["mAP"] for trial in document["trials"]}
    assert document["best"]["value"] == max(values.values())
    assert values[document["best"]["trial"]] == document["best"]["value"]


def test_points_come_from_the_space_then_from_sobol_then_from_ax(finished: Search) -> None:
    assert [trial["source"] for trial in finished.status()["trials"]] == ["start", *["sobol"] * 4, "ax"]


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


def test_a_finished_search_is_extended_by_a_trial_that_pauses_confirmed_and_its_journal_sent_again(
    finished: Search, tmp_path: Path
) -> None:
    copy = Search(tmp_path / "storage", "finished")
    shutil.copytree(finished.folder, copy.folder)
    before = copy.status()
    at = ("--storage", str(copy.storage))
    settings = ("--set", "replicates={seeds: 3, leaders: 1}", "--set", "stopping.rule=promote")
    extended = command("extend", "finished", "--trials", "+1", *settings, *at)
    assert extended.stdout.startswith("budget.trials 6 -> 7\n"), extended.stderr
    assert copy.status()["state"] == "interrupted"
    copy.resume()
    assert copy.wait() == 0, copy.log.read_text()
    after = copy.status()
    assert after["counts"]["completed"] == 7
    assert after["repeats"]["completed"] == after["best"]["seeds"] == 3
    assert after["best"]["confirmed"]
    repeats = [trial["trial"] for trial in after["trials"][7:]]
    assert repeats == [f"{after['best']['trial']}-r{number}" for number in (1, 2, 3)], "after the new configuration"
    last_lines = copy.log.read_text()
    assert f"best mAP {100 * after['best']['mean']:.1f} ± " in last_lines
    assert [{**trial, "mlflow_run_id": ""} for trial in after["trials"][:6]] == [
        {**trial, "mlflow_run_id": ""} for trial in before["trials"]
    ]
    lines = command("logs", "finished/t0006", *at).stdout
    assert "suggested by=ax" in lines
    assert [line for line in ("attempt 1 paused", "attempt 2 completed") if line not in lines] == []
    assert "paused after epoch=1" in lines and "continues" in lines
    assert [result["epoch"] for result in results_of(copy.folder, "t0006")] == [1, 2, 3]
    other = tmp_path / "other"
    other.mkdir()
    synced = command("sync", "finished", *at, "--tracking-uri", f"sqlite:///{other / 'mlflow.db'}")
    assert synced.returncode == 0, synced.stderr
    runs = mlflow_runs(other)
    assert {trial: len(found) for trial, found in runs.items()} == {
        "-": 1,
        **{f"t{n:04d}": 1 for n in range(7)},
        **dict.fromkeys(repeats, 1),
    }


def test_the_test_set_is_opened_once_and_a_killed_finalization_goes_on(finished: Search, tmp_path: Path) -> None:
    copy = Search(tmp_path / "storage", "finished")
    shutil.copytree(finished.folder, copy.folder)
    copy.start("finalize", "finished", "--top", "1", "--seeds", "2", "--concurrent", "1")
    copy.until(lambda document: any(trial["test"] for trial in document["finals"]))
    copy.kill()
    tested = {trial["trial"]: trial["test"] for trial in copy.status()["finals"] if trial["test"]}
    copy.start("finalize", "finished", "--concurrent", "1")
    assert copy.wait() == 0, copy.log.read_text()
    document = copy.status()
    best = finished.status()["best"]["trial"]
    assert document["state"] == "finished"
    assert [trial["trial"] for trial in document["finals"]] == [f"{best}-f1", f"{best}-f2"]
    assert all(trial["status"] == "completed" and trial["test"] for trial in document["finals"])
    assert tested.items() <= {trial["trial"]: trial["test"] for trial in document["finals"]}.items()
    assert len(document["finalizations"]) == 1
    assert document["best"] == finished.status()["best"], "the choice does not know of the test set"
    refused = command("finalize", "finished", "--storage", str(copy.storage))
    assert refused.returncode == 3
    assert "the test set was opened" in refused.stderr
    write_miniature("tracklets", tmp_path / "own")
    judged = command("finalize", "finished", "--storage", str(copy.storage), "--data", str(tmp_path / "own"))
    assert judged.returncode == 0, judged.stderr
    assert "trained on mini-mars, tested on tracklets" in judged.stdout
    finals = copy.status()["finals"]
    assert len(finals) == 2, "nothing is trained"
    assert all(len(trial["other_tests"]) == 1 for trial in finals)


def test_no_token_is_readable_by_others_and_the_search_folder_is_private(finished: Search) -> None:
    token = Path("~/.ray/auth_token").expanduser()
    assert token.stat().st_mode & 0o077 == 0
    assert finished.folder.stat().st_mode & 0o077 == 0
