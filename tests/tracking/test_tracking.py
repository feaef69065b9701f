"""MLflow as a projection: complete, without duplicates, and never in the way."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from events import completed, epoch_result, reported, started, suggested
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import UNAUTHENTICATED
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from PIL import Image
from running import metric_points, mlflow_runs
from waiting import PATIENCE_S, wait_until

from orchestrator.stores.base import SearchFolder
from orchestrator.stores.local import local_search
from orchestrator.study.events import (
    Event,
    Forecast,
    SearchCreated,
    SessionEnded,
    SessionStarted,
    TrialContinued,
    TrialFailed,
    TrialPaused,
    TrialReported,
    TrialStopped,
)
from orchestrator.study.journal import Record
from orchestrator.tracking import projection, tracker
from orchestrator.tracking.content import About, Artifact, Content, Point
from orchestrator.tracking.database import prepare_database
from orchestrator.tracking.tracker import Tracker

EVENTS: list[Event] = [
    SearchCreated(search="s", space="0", seed=0),
    SessionStarted(session=1, host="h", pid=1),
    *completed(0, 0.2, 0.4),
    suggested(1),
    started(1),
    reported(1, 1, 0.1),
    TrialFailed(trial="t0001", failure="diverged", reason="loss is nan"),
    SessionEnded(state="finished", reason=""),
]
MEANWHILE = 4
"""Events after which the first session of a cut-off search ends: a trial has started."""
WRITES = ("create_run", "log_batch", "set_terminated", "update_run", "delete_run", "set_tag")


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow needs seconds to make one."""
    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    prepare_database(f"sqlite:///{path}", path.parent / "artifacts")
    return path


@pytest.fixture
def folder(tmp_path: Path, empty_database: Path) -> SearchFolder:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    folder = local_search(tmp_path / "s")
    for key in ("t0000", "t0001"):
        folder.trial(key).mkdir(parents=True)
        (folder.trial(key) / "config.json").write_text("{}")
    folder.description.write_text("search: s\n")
    return folder


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(projection, "FIRST_DELAY_S", 0.01)


def tracker_of(folder: SearchFolder, uri: str | None = None, about: About | None = None) -> Tracker:
    return Tracker(
        uri or f"sqlite:///{folder.path.parent / 'mlflow.db'}",
        folder,
        uid="s-1",
        artifacts=folder.path.parent / "artifacts",
        tags={"search": "s", "synthetic": "true"},
        on_run=lambda trial, run: None,
        about=about,
    )


def tracked(
    folder: SearchFolder,
    events: list[Event],
    uri: str | None = None,
    patience: float = PATIENCE_S,
    resend: bool = False,
    about: About | None = None,
) -> tuple[int, Tracker]:
    tracker = tracker_of(folder, uri, about)
    for number, event in enumerate(events, 1):
        tracker.put(Record(number, 1e9 + number, event))
    tracker.start(resend=resend)
    return tracker.close(patience), tracker


def assert_all_there_once(folder: SearchFolder) -> None:
    runs = mlflow_runs(folder.path.parent)
    assert {trial: len(found) for trial, found in runs.items()} == {"-": 1, "t0000": 1, "t0001": 1}
    (first,), (second,), (parent,) = runs["t0000"], runs["t0001"], runs["-"]
    assert metric_points(folder.path.parent, first.info.run_id, "mAP") == [
        (1, 0.2, 1_000_000_001_000),
        (2, 0.4, 1_000_000_002_000),
    ]
    assert (first.info.status, second.info.status, parent.info.status) == ("FINISHED", "FAILED", "FINISHED")
    assert [run.info.end_time for run in (first, second, parent)] == [1_000_000_000_000 + 1000 * n for n in (7, 11, 12)]
    assert second.data.tags["reason"] == "loss is nan"
    assert second.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert first.data.params == {"a": "0.5"}
    assert first.info.run_name == "s/t0000"
    for run, file in ((first, "config.json"), (second, "config.json"), (parent, "search.yaml")):
        assert [path.name for path in Path(run.info.artifact_uri.removeprefix("file://")).iterdir()] == [file]


def calls_of(monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]) -> Counter[str]:
    """Counts the calls of MLflow's client from here on."""
    calls: Counter[str] = Counter()

    def counted(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*positional: Any, **named: Any) -> Any:
            calls[name] += 1
            return original(*positional, **named)

        return call

    for name in names:
        monkeypatch.setattr(MlflowClient, name, counted(name, getattr(MlflowClient, name)))
    return calls


def lose_replies(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, times: int = 1) -> list[str]:
    """The first calls are made and their replies are lost; gives what was lost."""
    lost: list[str] = []
    original = getattr(owner, name)

    def call(*positional: Any, **named: Any) -> Any:
        result = original(*positional, **named)
        if len(lost) < times:
            lost.append(name)
            raise ConnectionError("the reply was lost")
        return result

    monkeypatch.setattr(owner, name, call)
    return lost


def test_the_whole_journal_can_be_sent_again_and_nothing_is_doubled(folder: SearchFolder) -> None:
    for events in (EVENTS[:6], EVENTS, EVENTS):
        assert tracked(folder, events)[0] == 0
    assert_all_there_once(folder)


def test_everything_that_is_queued_goes_out_in_one_call_for_each_kind_of_write(
    folder: SearchFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = calls_of(monkeypatch, (*WRITES, "search_runs"))
    tracked(folder, EVENTS)
    # For the search and its two trials; the search itself has nothing to log.
    assert calls["create_run"] == 3
    assert calls["set_terminated"] == 3
    assert 2 <= calls["log_batch"] <= 3
    # At the beginning, and at the end for copies.
    assert calls["search_runs"] == 2
    assert calls["update_run"] + calls["delete_run"] + calls["set_tag"] == 0


def test_a_session_that_has_nothing_to_add_writes_nothing(
    folder: SearchFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracked(folder, EVENTS)
    calls = calls_of(monkeypatch, (*WRITES, "search_runs"))
    assert tracked(folder, EVENTS)[0] == 0
    calls.pop("log_batch", None)  # called with nothing, it does nothing
    assert calls == {"search_runs": 1}


PAUSES: list[Event] = [
    *EVENTS[:2],
    suggested(0),
    started(0),
    reported(0, 1, 0.1),
    TrialPaused(trial="t0000", epoch=1, reason="until epoch 1", forecast=Forecast(value=0.5, error=0.04)),
    TrialContinued(trial="t0000", until=2, reason="better", forecast=Forecast(value=0.6, error=0.03)),
    started(0, attempt=2),
    reported(0, 2, 0.3),
    TrialPaused(trial="t0000", epoch=2, reason="until epoch 2", forecast=Forecast(value=0.55, error=0.02)),
    TrialStopped(trial="t0000", rule="freeze_thaw", epoch=2, reason="paused for good"),
    SessionEnded(state="finished", reason=""),
]


@pytest.mark.parametrize(("sent", "status"), [(6, "SCHEDULED"), (7, "RUNNING"), (10, "SCHEDULED"), (11, "KILLED")])
def test_a_pausing_trial_has_one_run_whose_state_follows_the_journal_whenever_its_driver_was_killed(
    folder: SearchFolder, sent: int, status: str
) -> None:
    def run() -> Any:
        (found,) = mlflow_runs(folder.path.parent)["t0000"]
        return found

    assert tracked(folder, PAUSES[:sent])[0] == 0
    assert run().info.status == status
    for resend in (False, True):
        assert tracked(folder, PAUSES, resend=resend)[0] == 0
        assert (run().info.status, run().info.end_time) == ("KILLED", 1_000_000_011_000)
        assert (run().data.tags["pauses"], run().data.tags["stopped"]) == ("1, 2", "freeze_thaw")
        points = metric_points(folder.path.parent, run().info.run_id, "forecast/value")
        assert [(step, value) for step, value, _ in points] == [(1, 0.5), (1, 0.6), (2, 0.55)]


def test_repeats_are_shown_under_their_configuration_in_the_experiment_that_was_named(folder: SearchFolder) -> None:
    ours = Tracker(
        uri := f"sqlite:///{folder.path.parent / 'mlflow.db'}",
        folder,
        uid="s-1",
        artifacts=folder.path.parent / "artifacts",
        experiment="my people's",
        tags={"search": "s"},
        on_run=lambda trial, run: None,
    )
    events = [EVENTS[0], suggested(0), suggested(1).model_copy(update={"repeats": "t0000"})]
    for number, event in enumerate(events, 1):
        ours.put(Record(number, 1e9 + number, event))
    ours.start(resend=False)
    assert ours.close(PATIENCE_S) == 0
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("my people's")
    assert experiment is not None
    runs = {run.data.tags["reidsearch.trial"]: run for run in client.search_runs([experiment.experiment_id])}
    parents = {key: run.data.tags.get("mlflow.parentRunId") for key, run in runs.items()}
    assert parents == {"-": None, "t0000": runs["-"].info.run_id, "t0001": runs["t0000"].info.run_id}


def test_what_somebody_took_away_comes_back_when_everything_is_sent_again(folder: SearchFolder) -> None:
    tracked(folder, EVENTS)
    with sqlite3.connect(folder.path.parent / "mlflow.db") as database:
        database.execute("delete from metrics where step = 1")
        database.execute("delete from params")
        database.execute("delete from tags where key in ('reason', 'mlflow.parentRunId')")
        database.execute("update runs set status = 'RUNNING', end_time = null")
    database.close()
    for file in (folder.path.parent / "artifacts").rglob("config.json"):
        file.unlink()
    assert tracked(folder, EVENTS, resend=True)[0] == 0
    assert_all_there_once(folder)


@pytest.mark.parametrize("is_gone", [False, True], ids=["and it answers", "and it is gone for a while"])
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        *((MlflowClient, name) for name in ("create_experiment", "create_run", "log_batch", "set_terminated")),
        (MlflowClient, "search_runs"),
        (LocalArtifactRepository, "log_artifact"),
    ],
)
def test_a_lost_reply_loses_and_doubles_nothing(
    folder: SearchFolder, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, is_gone: bool
) -> None:
    lost = lose_replies(monkeypatch, owner, name, times=2)
    if is_gone:
        lose_replies(monkeypatch, MlflowClient, "get_experiment", times=2)
    assert tracked(folder, EVENTS)[0] == 0
    assert lost
    assert_all_there_once(folder)


@pytest.mark.parametrize("name", ["update_run", "delete_run"])
def test_a_reply_that_is_lost_when_a_search_is_taken_up_again_loses_and_doubles_nothing(
    folder: SearchFolder, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    interrupted = [*EVENTS[:MEANWHILE], SessionEnded(state="interrupted", reason="")]
    tracked(folder, interrupted)
    make_copy(folder, "t0000")
    lost = lose_replies(monkeypatch, MlflowClient, name)
    tracker = tracker_of(folder)
    for number, event in enumerate([*interrupted, EVENTS[1]], 1):
        tracker.put(Record(number, 1e9 + number, event))
    tracker.start()
    wait_until(lambda: lost)
    for number, event in enumerate(EVENTS[MEANWHILE:], MEANWHILE + 1):
        tracker.put(Record(number, 1e9 + number, event))
    assert tracker.close(PATIENCE_S) == 0
    assert lost
    assert_all_there_once(folder)


def make_copy(folder: SearchFolder, trial: str) -> None:
    """A creation arrives whose reply nobody waits for any more."""
    client = MlflowClient(tracking_uri=f"sqlite:///{folder.path.parent / 'mlflow.db'}")
    original = mlflow_runs(folder.path.parent)[trial][0]
    client.create_run(original.info.experiment_id, tags=original.data.tags)


def test_a_creation_that_arrives_late_is_undone_when_the_session_ends(folder: SearchFolder) -> None:
    tracker = tracker_of(folder)
    tracker.start()
    for number, event in enumerate(EVENTS[:-1], 1):
        tracker.put(Record(number, 1e9 + number, event))
    assert tracker.wait_for_run("t0000", PATIENCE_S)
    make_copy(folder, "t0000")
    make_copy(folder, "-")
    tracker.put(Record(len(EVENTS), 1e9 + len(EVENTS), EVENTS[-1]))
    assert tracker.close(PATIENCE_S) == 0
    assert_all_there_once(folder)


def test_the_next_session_removes_the_copies_of_one_that_was_killed(folder: SearchFolder) -> None:
    tracked(folder, EVENTS[:-1])
    make_copy(folder, "t0000")
    make_copy(folder, "-")
    assert tracked(folder, EVENTS)[0] == 0
    assert_all_there_once(folder)


def test_a_run_that_was_deleted_holds_nothing_up_and_sync_makes_it_anew(
    folder: SearchFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = tracker_of(folder)
    tracker.start()
    for number, event in enumerate(EVENTS[:MEANWHILE], 1):
        tracker.put(Record(number, 1e9 + number, event))
    assert tracker.wait_for_run("t0000", PATIENCE_S)
    client = MlflowClient(tracking_uri=f"sqlite:///{folder.path.parent / 'mlflow.db'}")
    client.delete_run(mlflow_runs(folder.path.parent)["t0000"][0].info.run_id)
    for number, event in enumerate(EVENTS[MEANWHILE:], MEANWHILE + 1):
        tracker.put(Record(number, 1e9 + number, event))
    unsent = tracker.close(3600)  # longer than this test may take
    assert 1 <= unsent <= 5, "more than the events of the trial are missing"
    assert tracker.problem is not None
    assert set(mlflow_runs(folder.path.parent)) == {"-", "t0001"}
    assert mlflow_runs(folder.path.parent)["t0001"][0].info.status == "FAILED"
    assert tracked(folder, EVENTS, resend=True)[0] == 0
    assert_all_there_once(folder)


def test_an_experiment_that_was_deleted_in_mlflows_pages_is_restored_with_all_that_it_held(
    folder: SearchFolder, caplog: pytest.LogCaptureFixture
) -> None:
    tracked(folder, EVENTS)
    client = MlflowClient(tracking_uri=f"sqlite:///{folder.path.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("reidsearch")
    assert experiment is not None
    client.delete_experiment(experiment.experiment_id)
    assert tracked(folder, EVENTS, resend=True)[0] == 0
    assert "experiment reidsearch was deleted there; it is restored" in caplog.text
    assert_all_there_once(folder)


def test_sync_does_not_wait_for_a_server_that_refuses_the_login_and_says_what_to_set(
    folder: SearchFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise MlflowException("API request failed with error code 401", error_code=UNAUTHENTICATED)

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", refuse)
    unsent, tracker = tracked(folder, EVENTS, "http://127.0.0.1:1", 3600, resend=True)  # longer than a test may take
    assert unsent
    assert str(tracker.problem).startswith("UNAUTHENTICATED: set MLFLOW_TRACKING_USERNAME and")


@pytest.mark.parametrize("content", [b"no database", None], ids=["not a database", "a folder"])
def test_sync_does_not_wait_for_a_file_that_cannot_become_a_database(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "mlflow.db"
    path.mkdir() if content is None else path.write_bytes(content)
    # Longer than this test may take.
    unsent, tracker = tracked(local_search(tmp_path / "s"), EVENTS, patience=3600, resend=True)
    assert unsent == len(EVENTS)
    assert tracker.problem is not None


def test_a_metric_that_mlflow_refuses_holds_up_nothing_but_its_own_trials_metrics(folder: SearchFolder) -> None:
    result = epoch_result(1, 0.1).model_copy(update={"losses": {"a*b": 1.0}})
    events = [
        TrialReported(trial="t0001", result=result) if event == reported(1, 1, 0.1) else event for event in EVENTS
    ]
    unsent, tracker = tracked(folder, events)
    assert unsent == 4
    assert tracker.problem is not None
    assert "a*b" in tracker.problem
    runs = mlflow_runs(folder.path.parent)
    assert [runs[trial][0].info.status for trial in ("t0000", "t0001", "-")] == ["FINISHED", "FAILED", "FINISHED"]
    assert len(metric_points(folder.path.parent, runs["t0000"][0].info.run_id, "mAP")) == 2


def test_a_server_that_refuses_costs_the_search_no_time_and_is_reported(folder: SearchFolder) -> None:
    unsent, tracker = tracked(folder, EVENTS, "http://127.0.0.1:9", patience=0.5)
    assert unsent == len(EVENTS)
    assert tracker.problem is not None


# --- what is told besides events


@pytest.fixture
def shown(folder: SearchFolder) -> SearchFolder:
    """A search of generated data whose first trial left its evaluation."""
    folder.split.write_text("{}")
    folder.description.write_text("tracking_uri: postgresql://me:secret@host/db\n")
    out = folder.trial("t0000") / "evaluation"
    out.mkdir()
    curves = {"embeddings": [0.2, 0.5, 0.9], "re-ranked": [0.3]}
    (out / "evaluation.json").write_text(json.dumps({"cmc": curves, "reranked": {"mAP": 0.45}}))
    for name in ("cmc", "distances", "cameras", "ranking", "attention"):
        Image.new("RGB", (1500, 40)).save(out / f"{name}.png")
    return folder


def tell(moment: int) -> Content:
    return Content(
        [Artifact("trials.json", "{}")], [Point("best/mAP", 0.4, moment, 0)], {"mlflow.note.content": "note"}
    )


def about(*, synthetic: bool = True) -> About:
    return About("mini-mars", "f" * 64, synthetic, (Artifact("environment.json", "{}"),), tell)


def all_files(run: Any) -> list[str]:
    root = Path(run.info.artifact_uri.removeprefix("file://"))
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def assert_all_is_shown_once(folder: SearchFolder) -> None:
    assert_runs_ended(folder)
    runs = mlflow_runs(folder.path.parent)
    trial, parent = runs["t0000"][0], runs["-"][0]
    ended = 1_000_000_007_000
    points = metric_points(folder.path.parent, trial.info.run_id, "cmc")
    assert points == [(1, 0.2, ended), (2, 0.5, ended), (3, 0.9, ended)]
    assert metric_points(folder.path.parent, trial.info.run_id, "reranked/cmc") == [(1, 0.3, ended)]
    assert metric_points(folder.path.parent, trial.info.run_id, "best/mAP") == [(0, 0.4, 1_000_000_002_000)]
    assert metric_points(folder.path.parent, trial.info.run_id, "best/reranked/mAP") == [(0, 0.45, ended)]
    files = all_files(trial)
    assert [name for name in files if not name.startswith("images/")] == [
        "config.json",
        *(f"evaluation/{name}" for name in ("cameras.png", "cmc.png", "distances.png", "evaluation.json")),
    ]
    images = [name.split("+") for name in files if name.startswith("images/")]
    assert sorted((parts[0], parts[-1].rpartition(".")[2]) for parts in images) == [
        *(("images/attention", "png"), ("images/attention", "webp")),
        *(("images/ranking", "png"), ("images/ranking", "webp")),
    ]
    assert {(parts[2], parts[4]) for parts in images} == {("0", str(ended))}
    assert trial.data.tags["mlflow.loggedImages"] == "True"
    found = {(each.dataset.name, each.tags[0].value) for each in trial.inputs.dataset_inputs}
    assert found == {("mini-mars", "training"), ("mini-mars split", "validation")}
    assert all_files(parent) == ["environment.json", "search.yaml", "trials.json"]
    assert parent.data.tags["mlflow.note.content"] == "note"
    assert metric_points(folder.path.parent, parent.info.run_id, "best/mAP") == [(0, 0.4, 1_000_000_012_000)]


def assert_runs_ended(folder: SearchFolder) -> None:
    runs = mlflow_runs(folder.path.parent)
    assert {key: (len(found), found[0].info.status) for key, found in runs.items()} == {
        "-": (1, "FINISHED"),
        "t0000": (1, "FINISHED"),
        "t0001": (1, "FAILED"),
    }


def test_evaluations_data_sets_and_what_a_session_came_to_are_shown_once_however_often_they_are_sent(
    shown: SearchFolder,
) -> None:
    for events in (EVENTS[:6], EVENTS, EVENTS):
        assert tracked(shown, events, about=about())[0] == 0
    assert_all_is_shown_once(shown)
    assert tracked(shown, EVENTS, about=about(), resend=True)[0] == 0
    assert_all_is_shown_once(shown)


def test_a_search_that_is_tracked_while_it_runs_lacks_nothing(shown: SearchFolder) -> None:
    tracker = tracker_of(shown, about=about())
    tracker.start()
    for number, event in enumerate(EVENTS, 1):
        tracker.put(Record(number, 1e9 + number, event))
        if number == MEANWHILE:
            assert tracker.wait_for_run("t0000", PATIENCE_S)
    assert tracker.close(PATIENCE_S) == 0
    assert_all_is_shown_once(shown)


def test_of_what_is_shown_already_nothing_is_sent_again(shown: SearchFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    tracked(shown, EVENTS, about=about())
    calls = calls_of(monkeypatch, (*WRITES, "log_inputs"))
    monkeypatch.setattr(LocalArtifactRepository, "log_artifacts", lambda *_: pytest.fail("sent again"))
    assert tracked(shown, EVENTS, about=about())[0] == 0
    calls.pop("log_batch", None)  # called with nothing, it does nothing
    assert not calls


@pytest.mark.parametrize(("owner", "name"), [(MlflowClient, "log_inputs"), (LocalArtifactRepository, "log_artifacts")])
def test_a_lost_reply_to_what_is_shown_loses_and_doubles_nothing(
    shown: SearchFolder, monkeypatch: pytest.MonkeyPatch, owner: type, name: str
) -> None:
    lost = lose_replies(monkeypatch, owner, name, times=2)
    assert tracked(shown, EVENTS, about=about())[0] == 0
    assert lost
    assert_all_is_shown_once(shown)


def test_sheets_of_real_people_stay_here_unless_the_trial_says_that_they_may_be_shown(shown: SearchFolder) -> None:
    tracked(shown, EVENTS, about=about(synthetic=False))
    trial = mlflow_runs(shown.path.parent)["t0000"][0]
    assert not [name for name in all_files(trial) if name.startswith("images/")]
    assert "mlflow.loggedImages" not in trial.data.tags
    (shown.trial("t0000") / "config.json").write_text('{"evaluation": {"images": true}}')
    tracked(shown, EVENTS, about=about(synthetic=False), resend=True)
    assert len([name for name in all_files(trial) if name.startswith("images/")]) == 4


def test_no_password_of_an_address_is_sent(shown: SearchFolder) -> None:
    tracked(shown, EVENTS, about=about())
    root = Path(mlflow_runs(shown.path.parent)["-"][0].info.artifact_uri.removeprefix("file://"))
    assert (root / "search.yaml").read_text() == "tracking_uri: postgresql://***@host/db\n"
