"""The searcher: what it tells the journal, what it hands out, and that nothing escapes from it into Tune."""

from __future__ import annotations

import copy
import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench import ANOTHER, ANSWER, TWO_POINTS, Bench, FakeAx
from events import completed, suggested
from ray.tune.search import Searcher

from orchestrator.algorithms.ax_process import AxFailed
from orchestrator.algorithms.health import WHOLE, CircuitBroken, DiskFull
from orchestrator.base.errors import JournalError
from orchestrator.runner.searcher import StopWith
from orchestrator.runner.session import tell_of_whole_trials, warn_of_random_points
from orchestrator.runner.trial_spec import AttemptResult
from orchestrator.study.events import AttemptFailed, TrialStarted, TrialSuggested
from orchestrator.study.journal import Journal, read_journal
from orchestrator.study.recorder import Recorder
from trainer.errors import DataError


@pytest.fixture
def bench(tmp_path: Path) -> Callable[..., Bench]:
    return lambda *arguments, **settings: Bench(tmp_path / "s", *arguments, **settings)


def test_a_suggestion_is_in_the_journal_before_it_is_handed_out(bench: Callable[..., Bench]) -> None:
    b = bench()
    spec = b.searcher.suggest("x1")
    events = [record.event for record in read_journal(b.folder.journal)]
    assert [type(event) for event in events[-2:]] == [TrialSuggested, TrialStarted]
    assert spec["trial"] == "t0000"
    config = json.loads((b.folder.trial("t0000") / "config.json").read_text())
    assert config["optim"]["learning_rate"] == events[-2].params["optim.learning_rate"]


def test_no_more_trials_run_at_once_than_asked_for(bench: Callable[..., Bench]) -> None:
    b = bench(concurrent=2)
    assert b.searcher.suggest("x1") and b.searcher.suggest("x2")
    assert b.searcher.suggest("x3") is None
    b.complete("x1", 0.3)
    assert b.searcher.suggest("x3")["trial"] == "t0002"


def test_the_model_is_asked_without_waiting_and_its_point_is_tried(bench: Callable[..., Bench]) -> None:
    b = bench(FakeAx(ANSWER, delay=3), trials=7, concurrent=1)
    for number in range(5):
        b.searcher.suggest(f"x{number}")
        b.complete(f"x{number}", 0.1 * number)
    assert [b.searcher.suggest("x5") for _ in range(3)] == [None] * 3
    assert b.next("x5")["trial"] == "t0005"
    assert b.recorder.study.trials["t0005"].source == "ax"
    point = {"optim.learning_rate": 10**-2.8, "clips.identities": 3, "model.attention_gate": "sigmoid"}
    assert b.recorder.study.trials["t0005"].params == pytest.approx(point)
    assert len(b.ax.questions) == 1


@pytest.mark.parametrize(
    "answer", [AxFailed("StopIteration: "), {"nonsense": 1}, {**ANSWER, "clips.identities": "many"}]
)
def test_a_model_that_fails_or_talks_nonsense_is_replaced_by_a_random_point(
    bench: Callable[..., Bench], answer: dict[str, Any] | Exception
) -> None:
    b = bench(FakeAx(*[answer] * 4), trials=7, concurrent=1)
    for number in range(5):
        b.searcher.suggest(f"x{number}")
        b.complete(f"x{number}", 0.1 * number)
    assert b.searcher.suggest("x5") is None
    assert b.next("x5")["trial"] == "t0005"
    assert b.recorder.study.trials["t0005"].source == "random"
    assert b.recorder.study.trials["t0005"].note.startswith("Ax: ")
    assert b.searcher.failure is None


def test_three_proposals_in_a_row_that_had_to_be_random_are_said_at_once(bench: Callable[..., Bench]) -> None:
    b = bench(FakeAx(*[AxFailed("no answer within 180 s")] * 5), trials=9, concurrent=1)
    said: list[tuple[str, str]] = []
    warn_of_random_points(b.recorder, lambda label, text: said.append((label, text)))
    for number in range(9):
        b.next(f"x{number}")
        assert len(said) == (number >= 7)
        b.complete(f"x{number}", 0.1 * number)
    ((label, text),) = said
    assert label == "model"
    assert "Ax proposed 0 of 3; 3 random points stood in: no answer within 180 s" in text


def test_that_trials_run_whole_is_said_once(bench: Callable[..., Bench]) -> None:
    b, said = bench(), []
    tell_of_whole_trials(b.recorder, lambda label, text: said.append((label, text)))
    b.next("x0")
    first = b.recorder.study.trials["t0000"]
    for index in (1, 2):
        note = f"{WHOLE}, because"
        event = TrialSuggested(
            trial=f"t000{index}", index=index, params=first.params, source="ax", seed=0, epochs=first.epochs, note=note
        )
        b.recorder.record(event)
    assert said == [("model", f"{WHOLE}, because")]


def test_finished_is_only_said_when_nothing_runs_that_might_fail(bench: Callable[..., Bench]) -> None:
    b = bench(trials=2)
    b.searcher.suggest("x1")
    b.searcher.suggest("x2")
    b.complete("x1", 0.3)
    assert b.searcher.suggest("x3") is None
    b.end("x2", None, error=True)
    assert b.searcher.suggest("x3")["attempt"] == 2
    b.complete("x3", 0.4)
    assert b.searcher.suggest("x4") == Searcher.FINISHED


def test_a_lost_worker_is_replaced_with_the_same_trial_and_parameters(bench: Callable[..., Bench]) -> None:
    b = bench(concurrent=1)
    first = b.searcher.suggest("x1")
    params = dict(b.recorder.study.trials["t0000"].params)
    b.epoch("x1", 1, 0.2)
    b.end("x1", None, error=True)
    second = b.searcher.suggest("x2")
    assert (second["trial"], second["attempt"]) == (first["trial"], 2)
    assert b.recorder.study.trials["t0000"].params == params
    assert b.recorder.study.trials["t0000"].epoch == 1


def test_a_worker_that_is_lost_again_and_again_fails_its_trial(bench: Callable[..., Bench]) -> None:
    b = bench(concurrent=1)
    for number in range(4):
        assert b.searcher.suggest(f"x{number}")["trial"] == "t0000"
        b.end(f"x{number}", None, error=True)
    assert b.status() == {"t0000": "failed"}
    assert b.searcher.suggest("x9")["trial"] == "t0001"


def test_a_diverged_trial_fails_at_once_and_the_search_goes_on(bench: Callable[..., Bench]) -> None:
    b = bench(concurrent=1)
    b.searcher.suggest("x1")
    b.end("x1", AttemptResult(state="failed", failure="diverged", reason="DivergedError: loss/osm is nan in epoch 2"))
    trial = b.recorder.study.trials["t0000"]
    assert (trial.status, trial.attempts) == ("failed", 1)
    assert trial.reason == "DivergedError: loss/osm is nan in epoch 2"
    assert not b.stop.requested


def test_damaged_data_stops_the_search_because_every_trial_reads_it(bench: Callable[..., Bench]) -> None:
    b = bench(concurrent=1)
    b.searcher.suggest("x1")
    b.end("x1", AttemptResult(state="failed", failure="bad_data", reason="DataError: frame.jpg: is empty"))
    assert b.stop.requested
    assert isinstance(b.searcher.failure, DataError)
    assert b.searcher.suggest("x2") is None


def test_a_full_disk_stops_the_search_and_loses_no_trial(bench: Callable[..., Bench]) -> None:
    b = bench(concurrent=1)
    for attempt in ("x1", "x2"):
        b.searcher.suggest(attempt)
        b.end(
            attempt,
            AttemptResult(state="failed", failure="disk_full", reason="/runs/a/last.pt: No space left on device"),
        )
        assert b.stop.requested
        assert isinstance(b.searcher.failure, DiskFull)
        assert re.search(
            "last.pt: No space .* make room there, then `.*reidsearch resume s --storage ", str(b.searcher.failure)
        )
        assert b.status() == {"t0000": "pending"}
        b = bench(concurrent=1)


def test_epochs_are_recorded_once_however_often_they_are_reported(bench: Callable[..., Bench]) -> None:
    b = bench()
    b.searcher.suggest("x1")
    for epoch in (1, 2, 2, 1, 3):
        b.epoch("x1", epoch, 0.1 * epoch)
    assert [result.epoch for result in b.recorder.study.trials["t0000"].results] == [1, 2, 3]


def test_unknown_trials_of_tune_are_ignored(bench: Callable[..., Bench]) -> None:
    b = bench()
    b.epoch("never seen", 1, 0.5)
    b.end("never seen", AttemptResult(state="completed"))
    b.end("never seen", None, error=True)
    assert b.searcher.failure is None
    assert b.status() == {}


def test_a_trial_stopped_with_the_search_stays_unfinished(bench: Callable[..., Bench]) -> None:
    b = bench()
    b.searcher.suggest("x1")
    b.epoch("x1", 1, 0.1)
    b.stop.request()
    b.end("x1", None)
    assert b.status() == {"t0000": "running"}
    assert StopWith(b.searcher).stop_all()


def test_an_error_inside_is_kept_stops_the_search_and_never_reaches_tune(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    b = bench()

    def disk_full(event: object) -> None:
        raise JournalError("no space left")

    monkeypatch.setattr(b.recorder, "record", disk_full)
    assert b.searcher.suggest("x1") is None
    assert isinstance(b.searcher.failure, JournalError)
    assert b.stop.requested
    b.epoch("x1", 1, 0.1)
    b.end("x1", None, error=True)


def test_a_resumed_searcher_hands_out_unfinished_trials_first_with_their_next_attempt(tmp_path: Path) -> None:
    first = Bench(tmp_path / "s")
    first.searcher.suggest("x1")
    first.searcher.suggest("x2")
    first.complete("x2", 0.3)
    first.journal.close()
    again = Bench(tmp_path / "s")
    resumed = again.searcher.suggest("y1")
    assert (resumed["trial"], resumed["attempt"]) == ("t0000", 2)
    assert again.searcher.suggest("y2")["trial"] == "t0002"


def test_suggestions_are_the_same_with_and_without_a_restart_in_between(tmp_path: Path) -> None:
    def run(folder: Path, restarts: bool) -> list[dict[str, Any]]:
        b = Bench(folder, FakeAx(ANSWER, ANOTHER), concurrent=1, trials=7)
        for number in range(7):
            if restarts and number:
                b.journal.close()
                b = Bench(folder, b.ax, concurrent=1, trials=7)
            b.next(f"x{number}")
            b.complete(f"x{number}", 0.1 * number)
        questions.append(b.ax.questions)
        return [trial.params for trial in b.recorder.study.trials.values()]

    questions: list[list[dict[str, Any]]] = []
    assert run(tmp_path / "a", False) == run(tmp_path / "b", True)
    assert questions[0] == questions[1]


def test_a_trial_that_falls_behind_is_stopped_and_the_rule_is_journaled(bench: Callable[..., Bench]) -> None:
    b = bench(concurrent=2, overrides=["stopping.rule=asha"])
    b.searcher.suggest("x1")
    b.searcher.suggest("x2")
    assert not b.epoch("x1", 1, 0.5)
    assert b.epoch("x2", 1, 0.1)
    assert b.status() == {"t0000": "running", "t0001": "stopped"}
    reason = b.recorder.study.trials["t0001"].reason
    assert reason is not None
    assert reason.startswith("asha: ")
    assert b.epoch("x2", 2, 0.9), "an epoch that was under way changes nothing"
    b.end("x2", None)
    assert b.recorder.study.trials["t0001"].epoch == 1
    assert b.searcher.suggest("x3")["trial"] == "t0002"


def test_a_stop_decides_the_same_after_the_journal_was_read_again(bench: Callable[..., Bench], tmp_path: Path) -> None:
    b = bench(concurrent=2, overrides=["stopping.rule=asha"])
    b.searcher.suggest("x1")
    b.searcher.suggest("x2")
    b.epoch("x1", 1, 0.5)
    b.journal.close()
    again = bench(concurrent=2, overrides=["stopping.rule=asha"])
    again.searcher.suggest("y1")
    again.searcher.suggest("y2")
    assert not again.epoch("y1", 1, 0.5), "known already"
    assert again.epoch("y2", 1, 0.1)


def test_a_search_whose_target_is_reached_gives_up_the_rest_and_finishes(bench: Callable[..., Bench]) -> None:
    b = bench(concurrent=2, overrides=["budget.target=0.6"])
    b.searcher.suggest("x1")
    b.searcher.suggest("x2")
    b.complete("x1", 0.7)
    assert b.searcher.suggest("x3") is None
    assert not b.searcher.ends_now()
    assert b.status() == {"t0000": "completed", "t0001": "stopped"}
    b.end("x2", AttemptResult(state="stopped", reason="stopped after 1 epochs"))
    assert b.searcher.suggest("x3") == Searcher.FINISHED


def test_a_search_without_improvement_trains_what_runs_to_its_end(bench: Callable[..., Bench]) -> None:
    b = bench(concurrent=2, overrides=["budget.patience=1"])
    for number, value in enumerate((0.5, 0.4)):
        b.searcher.suggest(f"x{number}")
        b.complete(f"x{number}", value)
    assert b.searcher.suggest("x3") == Searcher.FINISHED


def test_a_finite_space_ends_with_its_last_point(bench: Callable[..., Bench]) -> None:
    b = bench(concurrent=1, trials=50, overrides=["algorithm.name=grid", *TWO_POINTS])
    tried = []
    while (spec := b.searcher.suggest(f"x{len(tried)}")) != Searcher.FINISHED:
        tried.append(b.recorder.study.trials[spec["trial"]].params)
        b.complete(f"x{len(tried) - 1}", 0.5)
    assert len(tried) == 2
    assert tried[0] != tried[1]


def test_an_attempt_that_made_no_progress_is_called_a_hang_and_tried_once_more(bench: Callable[..., Bench]) -> None:
    b = bench(concurrent=1)
    for attempt in (1, 2):
        assert b.searcher.suggest(f"x{attempt}")["attempt"] == attempt
        (b.folder.trial("t0000") / "hang.txt").write_text("Timeout (0:30:00)!")
        b.end(f"x{attempt}", None, error=True)
    trial = b.recorder.study.trials["t0000"]
    assert (trial.status, trial.failures["hang"]) == ("failed", 2)
    assert "hang.txt" in str(trial.reason)


def test_the_traces_of_an_earlier_hang_are_not_taken_for_a_new_one(bench: Callable[..., Bench]) -> None:
    b = bench(concurrent=1)
    b.searcher.suggest("x1")
    (b.folder.trial("t0000") / "hang.txt").write_text("Timeout (0:30:00)!")
    b.end("x1", None, error=True)
    b.searcher.suggest("x2")
    b.end("x2", None, error=True)
    assert b.recorder.study.trials["t0000"].failures["worker_lost"] == 1


def test_the_reason_of_a_lost_trial_says_why_its_worker_died(bench: Callable[..., Bench]) -> None:
    b = bench(concurrent=1)
    for attempt in range(1, 5):
        b.searcher.suggest(f"x{attempt}")
        if attempt < 4:
            b.end(f"x{attempt}", AttemptResult(state="failed", reason="the process that runs attempts ended"))
        else:
            b.searcher.on_death(f"x{attempt}", "ModuleNotFoundError: No module named 'trainer'")
            b.end(f"x{attempt}", None, error=True)
    events = [record.event for record in read_journal(b.folder.journal) if isinstance(record.event, AttemptFailed)]
    assert [event.reason for event in events] == ["the process that runs attempts ended"] * 3 + [
        "ModuleNotFoundError: No module named 'trainer'"
    ]
    trial = b.recorder.study.trials["t0000"]
    assert (trial.status, trial.failures["worker_lost"]) == ("failed", 4)
    assert trial.reason is not None and "No module named 'trainer'" in trial.reason


def test_an_attempt_that_somebody_else_told_to_end_is_tried_again(bench: Callable[..., Bench]) -> None:
    b = bench(concurrent=1)
    b.searcher.suggest("x1")
    b.end("x1", AttemptResult(state="stopped", reason="stopped after 2 epochs"))
    assert b.searcher.suggest("x2")["attempt"] == 2


def test_three_equal_failures_in_a_row_end_the_search(bench: Callable[..., Bench]) -> None:
    b = bench(concurrent=1)
    for number in range(3):
        assert not b.stop.requested
        b.searcher.suggest(f"x{number}")
        b.end(f"x{number}", AttemptResult(state="failed", failure="error", reason="KeyError: x"))
    assert b.stop.requested
    assert isinstance(b.searcher.failure, CircuitBroken)
    assert b.searcher.ends_now()


def test_running_attempts_get_time_to_save_before_their_workers_are_taken(bench: Callable[..., Bench]) -> None:
    b = bench(concurrent=1)
    b.searcher.suggest("x1")
    b.stop.request("SIGTERM")
    assert not b.searcher.ends_now()
    assert (b.folder.trial("t0000") / "stop").exists()
    b.end("x1", AttemptResult(state="stopped", reason="stopped after 2 epochs"))
    assert b.searcher.ends_now()
    assert b.status() == {"t0000": "running"}, "a resume continues it"


REPEATS = "replicates={seeds: 2, leaders: 1}"


def test_a_search_repeats_its_leader_before_it_is_finished(bench: Callable[..., Bench]) -> None:
    b = bench(trials=2, overrides=[REPEATS])
    b.searcher.suggest("x1")
    b.searcher.suggest("x2")
    b.complete("x1", 0.3)
    assert b.searcher.suggest("x3") is None, "the second one may yet be the best"
    b.complete("x2", 0.6)
    assert [b.searcher.suggest(each)["trial"] for each in ("x3", "x4")] == ["t0001-r1", "t0001-r2"]
    configs = [json.loads((b.folder.trial(key) / "config.json").read_text()) for key in b.recorder.study.all_trials]
    assert len({config["seed"] for config in configs[1:]}) == 3
    assert all({**config, "seed": 0} == {**configs[1], "seed": 0} for config in configs[2:])
    b.complete("x3", 0.5)
    assert b.searcher.suggest("x5") is None
    b.complete("x4", 0.5)
    assert b.searcher.suggest("x5") == Searcher.FINISHED
    assert [trial.repeats for trial in b.recorder.study.replicates.values()] == ["t0001", "t0001"]


def test_repeats_that_were_interrupted_go_on_with_the_same_seeds(tmp_path: Path) -> None:
    def run(folder: Path, restart: bool) -> list[dict[str, Any]]:
        b = Bench(folder, trials=1, concurrent=1, overrides=[REPEATS])
        b.next("x1")
        b.complete("x1", 0.6)
        assert b.next("x2")["trial"] == "t0000-r1"
        b.epoch("x2", 1, 0.2)
        if restart:
            b.journal.close()
            b = Bench(folder, trials=1, concurrent=1, overrides=[REPEATS])
            again = b.next("x2")
            assert (again["trial"], again["attempt"]) == ("t0000-r1", 2)
        b.complete("x2", 0.5)
        assert b.next("x3")["trial"] == "t0000-r2"
        b.complete("x3", 0.5)
        assert b.next("x4") == Searcher.FINISHED
        return [json.loads((b.folder.trial(key) / "config.json").read_text()) for key in b.recorder.study.all_trials]

    assert run(tmp_path / "a", restart=False) == run(tmp_path / "b", restart=True)


def test_a_repeat_whose_worker_is_lost_is_retried_and_one_that_diverges_is_not_made_up_for(
    bench: Callable[..., Bench],
) -> None:
    b = bench(trials=1, concurrent=1, overrides=[REPEATS])
    b.next("x1")
    b.complete("x1", 0.6)
    assert b.next("x2")["trial"] == "t0000-r1"
    b.end("x2", None, error=True)
    retried = b.next("x3")
    assert (retried["trial"], retried["attempt"]) == ("t0000-r1", 2)
    b.end("x3", AttemptResult(state="failed", failure="diverged", reason="DivergedError: loss/osm is nan in epoch 2"))
    assert b.next("x4")["trial"] == "t0000-r2"
    b.complete("x4", 0.5)
    assert b.next("x5") == Searcher.FINISHED
    assert b.status() == {"t0000": "completed"}


def test_a_budget_of_epochs_ends_repeats_and_a_target_does_not(tmp_path: Path) -> None:
    short = Bench(tmp_path / "a", trials=1, overrides=[REPEATS, "budget.epochs=4"])
    short.next("x1")
    short.complete("x1", 0.6)
    assert short.next("x2")["trial"] == "t0000-r1"
    short.epoch("x2", 1, 0.5)
    short.epoch("x2", 2, 0.5)
    short.epoch("x2", 3, 0.5)
    short.searcher.ends_now()
    assert short.recorder.study.replicates["t0000-r1"].status == "stopped"
    short.end("x2", None)
    assert short.next("x3") == Searcher.FINISHED
    reached = Bench(tmp_path / "b", trials=3, overrides=[REPEATS, "budget.target=0.5"])
    reached.next("x1")
    reached.complete("x1", 0.6)
    assert reached.next("x2")["trial"] == "t0000-r1"
    reached.searcher.ends_now()
    assert reached.recorder.study.replicates["t0000-r1"].status == "running"


def test_a_repeat_is_judged_on_another_fold_and_its_attempt_is_told_so(bench: Callable[..., Bench]) -> None:
    b = bench(trials=1, concurrent=1, overrides=[REPEATS, "data.validation.folds=3"])
    assert b.next("x1")["fold"] is None
    b.complete("x1", 0.6)
    for number in (1, 2):
        assert b.next(f"y{number}")["fold"] == number
        config = json.loads((b.folder.trial(f"t0000-r{number}") / "config.json").read_text())
        assert config["data"]["validation"]["fold"] == number
        b.complete(f"y{number}", 0.5)


def test_the_model_is_asked_ahead_while_trials_run(bench: Callable[..., Bench]) -> None:
    b = bench(FakeAx(ANSWER, ANOTHER), trials=7, concurrent=2)
    for number in range(5):
        b.searcher.suggest(f"x{number}")
        if number:
            b.complete(f"x{number}", 0.1 * number)
    assert b.ax.questions == []
    b.searcher.ends_now()
    assert len(b.ax.questions) == 1


def test_tune_may_copy_and_pickle_the_searcher_without_making_another(bench: Callable[..., Bench]) -> None:
    searcher = bench().searcher
    assert copy.deepcopy(searcher) is searcher
    assert pickle.loads(pickle.dumps(searcher)) is searcher  # noqa: S301  # our own object, in this process


def test_events_of_a_study_can_be_replayed_into_a_recorder(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    recorder = Recorder(journal)
    heard: list[int] = []
    recorder.subscribe(lambda record: heard.append(record.number))
    for event in [*completed(0, 0.5), suggested(1)]:
        recorder.record(event)
    journal.close()
    assert heard == [1, 2, 3, 4, 5]
    assert Recorder(Journal(tmp_path / "journal.jsonl")).study == recorder.study
