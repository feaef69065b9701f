"""A search that is wounded, signalled and stopped, end to end; one whose driver is killed is in `test_chaos`."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from running import Gates, Search, command, is_attempt, metric_points, mlflow_runs, results_of

pytestmark = pytest.mark.e2e

TRIALS, EPOCHS = 4, 8
SIZE = ("--trials", str(TRIALS), "--concurrent", "2", "--set", f"optim.epochs={EPOCHS}")


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage")


class Snapshot(NamedTuple):
    """A search after something happened to it."""

    code: int | None
    status: dict[str, Any]
    results: dict[str, bytes]
    """The trials' own results files."""


@dataclass
class Battered:
    """A search that was wounded, stopped twice, and resumed each time until it finished."""

    search: Search
    after: dict[str, Snapshot]

    def note(self, what: str, code: int | None) -> None:
        files = {path.parent.name: path.read_bytes() for path in self.search.folder.glob("trials/*/results.jsonl")}
        self.after[what] = Snapshot(code, self.search.status(), files)


@pytest.fixture(scope="module")
def battered(storage: Path) -> Battered:
    search = Search(storage, "battered")
    battered = Battered(search, {})
    # The last two trials run when the first two are over, and stand at the gates.
    gates = Gates(search, ["t0002", "t0003"])
    gates.hold_after(2)
    search.launch(*SIZE)
    search.until(at_epoch(2))
    _kill_an_attempt(search)
    search.until(lambda document: any(trial["reason"] for trial in document["trials"]))
    gates.hold_after(4)
    search.until(at_epoch(4))
    _signal(search, signal.SIGTERM)
    battered.note("SIGTERM", search.wait())
    search.resume()
    gates.hold_after(6)
    search.until(at_epoch(6))
    _signal(search, signal.SIGINT)
    battered.note("SIGINT", search.wait())
    search.resume()
    gates.open()
    battered.note("end", search.wait())
    return battered


def at_epoch(epoch: int) -> Callable[[dict[str, Any]], bool]:
    """Both trials that are held stand at this epoch, and run."""

    def condition(document: dict[str, Any]) -> bool:
        return [trial["epoch"] for trial in document["trials"] if trial["status"] == "running"] == [epoch, epoch]

    return condition


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
    assert end.status["counts"]["completed"] == len(end.status["trials"]) == TRIALS


def test_signals_end_a_search_with_their_exit_code_and_a_hint(battered: Battered) -> None:
    assert battered.after["SIGTERM"].code == 75
    assert battered.after["SIGINT"].code == 130
    assert "reidsearch resume" in battered.search.log.read_text()


def test_signals_are_answered_with_what_is_saved_and_nothing_of_rays_is_on_the_screen(battered: Battered) -> None:
    lines = battered.search.log.read_text().splitlines()
    assert "stopping (SIGTERM): saving 2 trials …" in lines
    assert "stopping: saving 2 trials …  Ctrl-C again ends at once" in lines
    of_ray = re.compile(r"^\[?\d{4}-\d\d-\d\d \d\d:|^[EWIF]\d{4} |raylet|core_worker|\*\*\* SIG|Traceback")
    assert [line for line in lines if of_ray.search(line)] == []


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
    assert battered.after["SIGTERM"].status["counts"]["completed"] == 2


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
                assert now["attempts"] > trial["attempts"]
                continued += 1
    assert continued == 4


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


def test_a_running_search_is_stopped_from_another_process_and_gives_up_the_trials_it_is_told_to(
    tmp_path: Path,
) -> None:
    search = Search(tmp_path / "storage", "stopped")
    Gates(search, ["t0000", "t0001", "t0002"]).hold_after(2)
    search.launch(*SIZE)
    at = ("--storage", str(search.storage))
    search.until(at_epoch(2))
    given_up = "t0001"
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
