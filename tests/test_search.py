"""A search end to end: the real command, real Ray, real Ax, real MLflow."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from running import Search, command, is_attempt, metric_points, mlflow_runs, results_of

pytestmark = pytest.mark.e2e

# Long enough that a search can be caught in the act: epochs of a fifth of a second.
EPOCHS = 40
SLOW = ("--set", f"optim.epochs={EPOCHS}", "--set", "clips.frames=4", "--set", "model.height=64")


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


def test_a_finished_search_is_extended_confirmed_and_its_journal_sent_again(finished: Search, tmp_path: Path) -> None:
    copy = Search(tmp_path / "storage", "finished")
    shutil.copytree(finished.folder, copy.folder)
    before = copy.status()
    at = ("--storage", str(copy.storage))
    extended = command("extend", "finished", "--trials", "+1", "--set", "replicates={seeds: 3, leaders: 1}", *at)
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
    assert "attempt 1 completed" in lines
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


def test_a_running_search_is_stopped_from_another_process_and_gives_up_the_trials_it_is_told_to(
    tmp_path: Path,
) -> None:
    search = Search(tmp_path / "storage", "stopped")
    search.launch("--trials", "3", *SLOW)
    at = ("--storage", str(search.storage))
    search.until(in_the_middle)
    given_up = next(trial["trial"] for trial in search.status()["trials"] if trial["status"] == "running")
    stopped = command("stop", f"stopped/{given_up}", *at)
    assert (stopped.returncode, stopped.stdout) == (0, f"stopped/{given_up}: stopped\n"), stopped.stderr
    search.until(lambda document: document["counts"]["stopped"] == 1)
    whole = command("stop", "stopped", *at)
    assert (whole.returncode, search.wait()) == (0, 130), whole.stderr
    document = search.status()
    assert (document["state"], document["reason"]) == ("interrupted", "reidsearch stop")
    assert command("stop", "stopped", *at).stdout == "stopped: no process drives it, so there is nothing to stop\n"
    logs = command("logs", f"stopped/{given_up}", *at).stdout
    assert "stopped by=user" in logs
    assert "--resume continues from there" in logs, "the attempt saved its state after its last step"


def test_no_token_is_readable_by_others_and_the_search_folder_is_private(finished: Search) -> None:
    token = Path("~/.ray/auth_token").expanduser()
    assert token.stat().st_mode & 0o077 == 0
    assert finished.folder.stat().st_mode & 0o077 == 0


def in_the_middle(document: dict[str, Any]) -> bool:
    """A running trial has checkpoints to lose."""
    return any(2 <= trial["epoch"] <= EPOCHS // 2 for trial in document["trials"] if trial["status"] == "running")


def goes_on_after(before: Snapshot) -> Callable[[dict[str, Any]], bool]:
    """A running trial has finished an epoch that was not even on disk before, and is not at its end."""
    known = {trial: len(lines.splitlines()) for trial, lines in before.results.items()}

    def condition(document: dict[str, Any]) -> bool:
        running = [trial for trial in document["trials"] if trial["status"] == "running"]
        return any(known.get(trial["trial"], 1) < trial["epoch"] <= 3 * EPOCHS // 4 for trial in running)

    return condition


def one_completed_one_in_the_middle(document: dict[str, Any]) -> bool:
    return document["counts"]["completed"] >= 1 and in_the_middle(document)


class Snapshot(NamedTuple):
    """A search after something happened to it."""

    code: int | None
    status: dict[str, Any]
    results: dict[str, bytes]
    """The trials' own results files."""


@dataclass
class Battered:
    """A search that was wounded, stopped twice, and resumed each time until it finished.

    One whose driver is killed is in `test_chaos`.
    """

    search: Search
    after: dict[str, Snapshot]

    def note(self, what: str, code: int | None) -> None:
        files = {path.parent.name: path.read_bytes() for path in self.search.folder.glob("trials/*/results.jsonl")}
        self.after[what] = Snapshot(code, self.search.status(), files)


@pytest.fixture(scope="module")
def battered(storage: Path) -> Battered:
    search = Search(storage, "battered")
    battered = Battered(search, {})
    search.launch("--trials", "6", *SLOW)
    search.until(one_completed_one_in_the_middle)
    _kill_an_attempt(search)
    search.until(lambda document: any(trial["reason"] for trial in document["trials"]))
    battered.note("wound", None)
    search.until(goes_on_after(battered.after["wound"]))
    _signal(search, signal.SIGTERM)
    battered.note("SIGTERM", search.wait())
    search.resume()
    search.until(goes_on_after(battered.after["SIGTERM"]))
    _signal(search, signal.SIGINT)
    battered.note("SIGINT", search.wait())
    search.resume()
    battered.note("end", search.wait())
    return battered


def _kill_an_attempt(search: Search) -> None:
    """SIGKILL to one process that trains: a fork of an attempt server."""
    assert search.process is not None
    attempts = [each for each in psutil.Process(search.process.pid).children(recursive=True) if is_attempt(each)]
    attempts[0].kill()


def _signal(search: Search, number: signal.Signals) -> None:
    """To the whole process group, as a terminal does for Ctrl-C and Slurm for SIGTERM: Ray's servers get it too."""
    assert search.process is not None
    os.killpg(search.process.pid, number)


def test_whatever_happened_the_search_finishes_with_every_trial_completed(battered: Battered) -> None:
    end = battered.after["end"]
    assert end.code == 0, battered.search.log.read_text()
    assert end.status["state"] == "finished"
    assert end.status["counts"]["completed"] == len(end.status["trials"]) == 6


def test_signals_end_a_search_with_their_exit_code_and_a_hint(battered: Battered) -> None:
    assert battered.after["SIGTERM"].code == 75
    assert battered.after["SIGINT"].code == 130
    assert "reidsearch resume" in battered.search.log.read_text()


def test_an_interrupted_search_says_so_and_runs_nothing(battered: Battered) -> None:
    for what in ("SIGTERM", "SIGINT"):
        assert battered.after[what].status["state"] == "interrupted"
        assert battered.after[what].status["counts"]["running"] == 0


def test_a_completed_trial_is_neither_lost_nor_run_again(battered: Battered) -> None:
    end = battered.after["end"]
    for what in ("SIGTERM", "SIGINT"):
        before = battered.after[what]
        for trial in before.status["trials"]:
            if trial["status"] == "completed":
                assert end.status["trials"][trial["ax_index"]] == trial
                assert end.results[trial["trial"]] == before.results[trial["trial"]]
    assert battered.after["SIGTERM"].status["counts"]["completed"] >= 1


def test_an_unfinished_trial_continues_from_its_checkpoint_with_the_same_parameters(battered: Battered) -> None:
    end, continued = battered.after["end"], 0
    for what in ("SIGTERM", "SIGINT"):
        before = battered.after[what]
        for trial in before.status["trials"]:
            now = end.status["trials"][trial["ax_index"]]
            assert now["params"] == trial["params"]
            if trial["status"] == "pending" and trial["epoch"]:
                # The very lines of the epochs that were known, times included: they were not trained anew.
                known = before.results[trial["trial"]].splitlines(keepends=True)[: trial["epoch"]]
                assert end.results[trial["trial"]].startswith(b"".join(known))
                # Unless its attempt lived on to the end while its driver was dying.
                if len(before.results[trial["trial"]].splitlines()) < EPOCHS:
                    assert now["attempts"] > trial["attempts"]
                    continued += 1
    assert continued >= 2


def test_every_epoch_of_every_trial_is_there_once(battered: Battered) -> None:
    for trial in battered.after["end"].status["trials"]:
        results = results_of(battered.search.folder, trial["trial"])
        assert [result["epoch"] for result in results] == list(range(1, EPOCHS + 1))


def test_mlflow_holds_one_run_per_trial_and_each_point_once_after_all_that(battered: Battered) -> None:
    runs = mlflow_runs(battered.search.storage)
    for trial in battered.after["end"].status["trials"]:
        own = [run for run in runs[trial["trial"]] if run.data.tags["search"] == battered.search.name]
        assert [run.info.run_id for run in own] == [trial["mlflow_run_id"]]
        assert own[0].info.status == "FINISHED"
        results = results_of(battered.search.folder, trial["trial"])
        points = metric_points(battered.search.storage, trial["mlflow_run_id"], "loss/total")
        assert points == [(r["epoch"], r["losses"]["total"], round(r["time"] * 1000)) for r in results]


def test_a_killed_attempt_is_noted_and_tried_again(battered: Battered) -> None:
    log = battered.search.log.read_text()
    assert "failed=worker_lost" in log
    assert "for good" not in log


def test_no_process_that_trains_or_proposes_survives_its_driver(battered: Battered) -> None:
    assert len(battered.search.family) >= 9
    assert battered.search.survivors() == []
