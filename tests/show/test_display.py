"""What people see: lines and tables without noise, and the SYNTHETIC mark where it belongs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from events import completed, epoch_result, node_load, reported, started, suggested
from rich.console import Console
from searches import a_pausing_search, pausing_events, write_search
from summaries import description_of, summary_of

from orchestrator.base.errors import EnvironmentProblem, Exit, SearchError
from orchestrator.base.formatting import number, percent
from orchestrator.runner.session import SessionResult
from orchestrator.show.live import HINT, Display, pages_command
from orchestrator.show.logs import event_line
from orchestrator.show.search_text import attention_line, left_line, progress_line, spark_line, summary_line
from orchestrator.show.status import searches_table, show_search, show_searches, status_document
from orchestrator.show.terminal import LiveView, finals_table, output, trials_table
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import SearchFolder
from orchestrator.stores.local import LocalStore, local_search
from orchestrator.study.description import read_description, write_description
from orchestrator.study.events import (
    AttemptFailed,
    Event,
    SessionEnded,
    SessionStarted,
    TrialFailed,
    TrialReported,
    TrialStopped,
)
from orchestrator.study.journal import Record
from orchestrator.study.study import TrialStatus, fold
from orchestrator.summary import Summary, read_summary
from orchestrator.summary.costs import search_seconds_left, seconds_left, share_done

FAILED = TrialFailed(trial="t0002", failure="diverged", reason="DivergedError: loss/osm is nan in epoch 2")
EVENTS: list[Event] = [
    SessionStarted(session=1, host="h", pid=1),
    *completed(0, 0.2, 0.25),
    *completed(1, 0.3, 0.4567),
    suggested(2),
    started(2),
    AttemptFailed(trial="t0002", attempt=1, failure="diverged", reason=FAILED.reason),
    FAILED,
    suggested(3),
    started(3),
    reported(3, 1, 0.1),
]


def summary(events: list[Event], *, driven: bool = True) -> Summary:
    return summary_of(fold(events), is_driven=driven)


def drawn(table: object, width: int = 100) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(table)
    return console.export_text()


def test_a_table_shows_each_trial_its_figures_in_per_cent_and_why_it_failed() -> None:
    lines = drawn(trials_table(summary(EVENTS), width=100)).splitlines()
    assert lines[0].split() == ["trial", "state", "epoch", "mAP", "rank1", "a"]
    assert lines[1].split() == ["t0000", "completed", "2", "25.0", "25.0", "0.5"]
    assert lines[2].split() == ["t0001", "completed", "2", "45.7", "45.7", "0.5", "best?"]
    assert "loss/osm is nan" in lines[3]
    assert lines[4].split() == [
        "t0003",
        "running",
        "1/3",
        "10.0",
        "10.0",
        "0.5",
        "━━····",
        "2",
        "s",
        "left,",
        "100",
        "img/s",
    ]


def left(events: list[Event], *, driven: bool = True) -> str:
    return left_line(summary(events, driven=driven))


def test_the_time_left_is_that_of_running_and_of_planned_trials_at_the_pace_of_the_others() -> None:
    found, replicates = summary(EVENTS), summary(EVENTS).space.replicates
    trials, repeats = found.space.budget.trials, replicates.planned(found.space.budget.trials)
    # Two epochs of a second each took the completed trials; one runs and has two of three epochs before it.
    assert search_seconds_left(found.study, found.space) == 2.0 + (trials - 4 + repeats) * 2.0
    assert left(EVENTS[:1]) == left(EVENTS, driven=False) == "", "no epoch is trained, or nothing runs"
    first = next(index for index, event in enumerate(EVENTS) if isinstance(event, TrialReported))
    assert left(EVENTS[: first + 1]).startswith("about "), "at the pace of what runs"
    pausing = SearchSpace.load("demo", overrides=["stopping={rule: promote}"])
    assert search_seconds_left(found.study, pausing) is None, "the order of paused trials is not known"


def test_a_terminal_that_is_no_slit_has_a_bar_the_growth_of_the_best_and_the_newest_events() -> None:
    lines = live_lines(summary(EVENTS), 120, 24)
    (at,) = (index for index, line in enumerate(lines) if line.startswith("progress"))
    done, best, event, next_event, last = lines[at:]
    assert done.split()[1:] == ["━━━━━━━━━━··", "12", "min"], "3 1/3 of 4 trials"
    assert best.startswith("best      ▁███ mAP 45.7 (t0001, one seed")
    assert event.split() == ["events", "an", "event"] and next_event.split() == ["an", "event"]
    assert "best mAP" not in last, "is said above"


def test_what_runs_is_a_table_of_epochs_metrics_speed_memory_and_the_time_left() -> None:
    load = node_load(peak=3 * 2**30)
    later = TrialReported(trial="t0003", result=epoch_result(2, 0.05), load=load)
    lines = live_lines(summary([*EVENTS, later]), 120, 24)
    assert lines[0].split() == ["running", "epoch", "loss", "mAP", "best", "images/s", "memory", "left", "a"]
    assert lines[1].split() == ["t0003", "━━━━━━····", "2/3", "0.500", "5.0", "10.0", "100", "3", "GB", "1", "s", "0.5"]


@pytest.mark.parametrize(
    ("values", "line"), [([0.5], "▁"), ([0.5, 0.5], "▁▁"), ([0, 1, 2, 7], "▁▂▃█"), (range(100), "▁▂▄▅▇█")]
)
def test_a_spark_line_has_a_mark_for_each_value_or_as_many_as_fit(values: Sequence[float], line: str) -> None:
    assert spark_line(values, 6) == line


def test_a_search_is_done_as_far_as_its_planned_epochs_are_trained_or_given_up() -> None:
    found = summary(EVENTS)
    planned = found.space.budget.trials + found.space.replicates.planned(found.space.budget.trials)
    assert share_done(found.study, found.space) == pytest.approx((1 + 1 + 1 + 1 / 3) / planned)
    pausing = SearchSpace.load("smoke", overrides=["stopping.rule=freeze_thaw", "replicates=0"])
    # 5 + 20 + 7 + 5 of 4 x 20 epochs: those that the stopped trial left out are for others.
    assert share_done(fold(pausing_events()), pausing) == pytest.approx(37 / 80)


def test_a_running_trial_before_its_first_epoch_has_no_pace() -> None:
    trial = fold([suggested(3), started(3)]).trials["t0003"]
    assert seconds_left(trial) is None and progress_line(trial) == ""


def test_a_paused_trial_shows_its_epoch_and_where_it_is_expected_to_end() -> None:
    found = summary(pausing_events())
    table, finished, training, ended = drawn(trials_table(found, width=120), 120).splitlines()[1:]
    assert table.split()[:5] == ["t0000", "paused", "5/20", "5.0", "5.0"]
    assert table.rstrip().endswith("ends at 50.0 ± 4.0; until epoch 5"), "the latest forecast of the journal"
    assert finished.split()[:3] == ["t0001", "completed", "20"] and "ends at" not in finished
    assert training.split()[:3] == ["t0002", "running", "7/20"] and "ends at 78.1 ± 2.0" in training
    assert ended.split()[:3] == ["t0003", "stopped", "5/20"] and "ends at" not in ended
    assert "1 running, 1 paused, 1 stopped" in summary_line(found)


def test_where_trials_pause_the_budget_is_counted_in_whole_trainings(tmp_path: Path) -> None:
    found = read_summary(a_pausing_search(tmp_path / "first"))
    line = (
        "first: interrupted (asked to stop); 1 trial completed, 2.0/4 trainings, 1 paused, 1 pending, 1 stopped, best"
    )
    assert summary_line(found).startswith(line)
    assert status_document(found)["trainings"] == 2.0, "5 + 20 + 10 + 5 of 4 x 20 epochs"
    assert " 1 " in drawn(searches_table([found])).splitlines()[1]
    assert status_document(summary(EVENTS))["trainings"] == 4


def test_status_says_how_many_trials_paused_and_what_is_not_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a_pausing_search(tmp_path / "first")
    show_search(LocalStore(tmp_path), "first", as_json=False, watch=False)
    assert "pauses    4 trials paused, 2 continued; 30 epochs not trained" in capsys.readouterr().out


def test_the_end_of_watching_leaves_the_state_of_then_on_the_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    a_pausing_search(tmp_path / "first")
    monkeypatch.setattr("orchestrator.show.status._watch", interrupted)
    show_search(LocalStore(tmp_path), "first", as_json=False, watch=True)
    assert "t0003" in capsys.readouterr().out


def test_json_has_forecast_pauses_and_saved_epochs_of_each_trial() -> None:
    document = status_document(summary(pausing_events()))
    paused, finished, training, ended = document["trials"]
    assert (document["counts"]["paused"], document["epochs_saved"]) == (1, 30)
    assert (paused["status"], paused["epoch"], paused["epochs"], paused["until"]) == ("paused", 5, 20, 5)
    assert (paused["forecast"], paused["pauses"]) == ({"value": 0.5, "error": 0.04}, [5])
    assert [trial["epochs_saved"] for trial in (paused, finished, training, ended)] == [15, 0, 0, 15]
    assert (finished["until"], training["until"]) == (None, 10)
    assert all(
        trial["forecast"] is None and trial["pauses"] == [] for trial in status_document(summary(EVENTS))["trials"]
    )


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_table_never_wraps_a_row(width: int) -> None:
    lines = drawn(trials_table(summary(EVENTS), width=width), width).splitlines()
    assert len(lines) == 5


LONG_REASON = "DataError: /data/mars/bbox_train/0001/0001C1T0001F001.jpg cannot be decoded: " + "truncated, " * 40
ATTN_CL = {
    "optim.learning_rate": 0.000312345,
    "optim.weight_decay": 0.000512345,
    "loss.osm_alpha": 1.23456,
    "loss.osm_sigma": 0.81234,
    "loss.triplet_margin": 0.31234,
    "loss.center_weight": 0.000512345,
    "loss.label_smoothing": 0.112345,
    "model.weights": "/data/weights/a_backbone_with_a_long_name.pt",
}


def large_summary(trials: int, running: int, finals: Sequence[TrialStatus] = ()) -> Summary:
    """Of a search with one best trial, failures with a long reason, and trials that run."""
    events: list[Event] = [SessionStarted(session=1, host="h", pid=1)]
    for index in range(trials):
        suggestion = suggested(index).model_copy(update={"params": ATTN_CL})
        is_best, runs = index == trials // 3, index >= trials - running
        ending = [*completed(index, 0.9 if is_best else 0.2)[2:]]
        if not is_best and index % 5 == 1:
            failed = {"trial": f"t{index:04d}", "failure": "error", "reason": LONG_REASON}
            ending = [AttemptFailed(attempt=1, **failed), TrialFailed(**failed)]
        events += [suggestion, started(index), *([] if runs else ending)]
    study = fold(events)
    last = [*study.trials.values()][-1]
    for place, state in enumerate(finals):
        key = f"f{place:04d}"
        study.finals[key] = replace(last, key=key, status=state, finalization=1)
    return summary_of(study, is_driven=True)


def best_key(found: Summary) -> str:
    assert found.best is not None
    return found.best.trial.key


def weighing(index: int, entropy: float) -> list[Event]:
    """A trial whose attention has an entropy."""
    result = epoch_result(1, 0.5).model_copy(update={"attention": {"entropy": entropy}})
    return [suggested(index), started(index), TrialReported(trial=f"t{index:04d}", result=result)]


def live_lines(found: Summary, columns: int, rows: int) -> list[str]:
    console = Console(width=columns, height=rows, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(LiveView(found, ["12 min"], HINT, ["an event"] * 9))
    return console.export_text().split("\n")


@pytest.mark.parametrize("columns", [80, 100, 120, 200])
@pytest.mark.parametrize("rows", [8, 24, 60])
@pytest.mark.parametrize("trials", [4, 66, 300])
def test_a_terminal_of_any_size_shows_what_runs_the_best_trial_a_count_of_the_rest_the_summary_and_the_hint(
    columns: int, rows: int, trials: int
) -> None:
    found = large_summary(trials, running=2)
    lines = live_lines(found, columns, rows)
    assert len(lines) <= rows and all(len(line) <= columns for line in lines)
    heads = {line.split()[0]: line for line in lines if line}
    for trial in found.trials[-2:]:
        assert heads[trial.key].split()[1:3] == ["·" * 10, "0/3"]
    best = best_key(found)
    assert heads[best].rstrip().endswith("best?")
    shown = [name for name in heads if name.startswith("t0")]
    assert len(shown) == trials or f"and {trials - len(shown)} more: " in "\n".join(lines)
    assert len(shown) == trials or len(lines) == rows, "no line is wasted"
    footer = " ".join(" ".join(lines).split())
    for part in ("trials completed", "2 running", "mAP 90.0", "12 min"):
        assert part in footer
    assert HINT in lines[-1]


@pytest.mark.parametrize("rows", [8, 24, 60])
@pytest.mark.parametrize("running", [1, 16, 64])
def test_more_running_trials_than_lines_leave_room_for_the_count_and_the_hint(rows: int, running: int) -> None:
    lines = live_lines(large_summary(66, running), 80, rows)
    assert len(lines) <= rows and all(len(line) <= 80 for line in lines)
    shown = sum(line.startswith("t0") and "·" * 10 in line for line in lines)
    hidden = running - shown
    assert hidden == 0 or f"{hidden} running" in "\n".join(lines)
    assert HINT in lines[-1]


def test_trainings_for_the_test_set_that_run_are_shown_before_trials_that_are_over() -> None:
    found = large_summary(66, running=0, finals=[*["completed"] * 7, *["running"] * 2])
    lines = live_lines(found, 100, 12)
    shown = [line.split()[0] for line in lines]
    assert {"f0007", "f0008", best_key(found)} <= set(shown)
    assert len(lines) <= 12


def test_where_not_all_trials_fit_paused_ones_are_shown_before_stopped_ones() -> None:
    later = TrialStopped(trial="t0004", rule="freeze_thaw", epoch=0, reason="")
    lines = live_lines(summary([*pausing_events(), suggested(4), later]), 100, 8)
    shown = {line.split()[0] for line in lines if line.startswith("t0")}
    assert shown == {"t0002", "t0001", "t0000"}, "it runs, it is the best, it is paused"
    assert "and 2 more: 2 stopped" in "\n".join(lines)


@pytest.mark.parametrize("columns", [80, 100, 120, 200])
def test_a_long_reason_is_shortened_and_squeezes_no_column(columns: int) -> None:
    found = large_summary(66, running=2)
    lines = drawn(trials_table(found, width=columns), columns).splitlines()
    assert len(lines) == 67 and all(len(line) <= columns for line in lines)
    assert lines[0].split()[:5] == ["trial", "state", "epoch", "mAP", "rank1"]
    failed = lines[2]
    assert failed.split()[:5] == ["t0001", "failed", "0/3", "-", "-"]
    assert "DataError: /data/mars" in failed and failed.rstrip().endswith("…")
    assert ("learning_rate" in lines[0]) == (columns >= 100)
    assert all("…" not in line for line in lines if "failed" not in line and "weights" not in lines[0])


@pytest.mark.parametrize("columns", [80, 100])
def test_the_table_of_the_test_set_leaves_out_figures_that_do_not_fit(columns: int) -> None:
    table = finals_table(large_summary(6, running=0, finals=["completed"] * 2), width=columns)
    head = drawn(table, columns).splitlines()[0].split()
    assert head[:2] == ["test", "set"] and head[4] == "mAP"
    assert ("reranked/rank1" in head) == (columns == 100)
    assert not any("…" in name for name in head)


def test_a_long_name_of_a_search_is_folded_and_squeezes_no_column(
    tmp_path: Path,
) -> None:
    name = "a-name-of-64-characters-" + "x" * 40
    found = read_summary(write_search(tmp_path / name, SearchSpace.load("smoke.yaml"), []))
    lines = drawn(searches_table([found]), 80).splitlines()
    assert lines[0].split() == ["search", "state", "completed", "failed", "best", "mAP", "seeds", "trial", "data"]
    assert "".join(line.split(" ")[0] for line in lines[1:]) == name
    assert all(len(line) <= 80 for line in lines)


@pytest.mark.parametrize("as_json", [False, True])
def test_a_search_that_cannot_be_read_hides_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    for name in ("mine", "damaged", "pipe"):
        write_search(tmp_path / name, SearchSpace.load("smoke.yaml"), [])
    (tmp_path / "damaged/journal.jsonl").write_text('{"bad\n', encoding="utf-8")
    (tmp_path / "pipe/journal.jsonl").unlink()
    os.mkfifo(tmp_path / "pipe/journal.jsonl")
    with pytest.raises(EnvironmentProblem) as caught:
        show_searches(LocalStore(tmp_path), as_json=as_json)
    assert "mine" in capsys.readouterr().out
    named = sorted(line.split(":")[0] for line in str(caught.value).splitlines())
    assert named == [str(tmp_path / name / "journal.jsonl") for name in ("damaged", "pipe")]


def test_brackets_in_a_text_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    output().print("[red]a[/red] :smile: [/]")
    assert capsys.readouterr().out == "[red]a[/red] :smile: [/]\n"


def test_the_summary_counts_and_names_the_best() -> None:
    assert summary_line(summary(EVENTS)) == (
        "s: running; 2/4 trials completed, 1 running, 1 failed, best mAP 45.7 (t0001, one seed, not confirmed)"
    )


def test_trials_whose_attention_is_uniform_are_named() -> None:
    found = summary(EVENTS)
    assert attention_line(found) == ""
    of_entropy = (1.0, 0.99, 0.996, 1.0)
    events = [event for index, entropy in enumerate(of_entropy) for event in weighing(index, entropy)]
    assert attention_line(summary(events)).startswith("is uniform (entropy 1.00) in t0000, t0002, t0003:")


def test_the_state_is_what_the_last_session_said_or_what_its_lease_shows() -> None:
    assert summary(EVENTS).state == "running"
    assert summary(EVENTS, driven=False).state == "interrupted"
    assert summary(EVENTS, driven=False).counts["running"] == 0
    for state in ("finished", "interrupted", "failed"):
        ended = [*EVENTS, SessionEnded.model_validate({"state": state, "reason": ""})]
        assert summary(ended, driven=False).state == state


def test_a_search_without_completed_trials_has_no_best() -> None:
    assert status_document(summary(EVENTS[-3:]))["best"] is None


def test_every_event_that_people_care_about_is_one_line() -> None:
    lines = [event_line(Record(number, 0.0, event)) for number, event in enumerate(EVENTS, 1)]
    shown = [line for line in lines if line]
    assert all("\n" not in line and line.startswith("1970-01-01T00:00:00Z ") for line in shown)
    assert any("epoch=2 loss=0.500 mAP=45.7" in line for line in shown)
    assert any("failed=diverged for good" in line for line in shown)


def test_pauses_and_continuations_are_lines_of_the_log() -> None:
    lines = [event_line(Record(number, 0.0, event)) or "" for number, event in enumerate(pausing_events(), 1)]
    assert sum("paused after epoch=5 ends at=0.5±0.04 until epoch 5" in line for line in lines) == 4
    (whole,) = (line for line in lines if "trial=t0001 continues" in line)
    assert whole.endswith("trial=t0001 continues ends at=0.781±0.02 the best")
    assert any("trial=t0002 continues until epoch=10" in line for line in lines)


def first_lines(folder: SearchFolder, session: int) -> str:
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    with folder.store.record(folder) as recorder:
        recorder.record(SessionStarted(session=session, host="h", pid=1))
        Display(folder, console).watch().started(recorder, read_description(folder.description))
    return console.export_text()


def test_a_resumed_search_says_how_many_trials_are_paused(tmp_path: Path) -> None:
    shown = first_lines(a_pausing_search(tmp_path / "first"), session=2)
    assert "2 trials are over, 1 continues where it stopped, 1 is paused" in shown


def test_a_new_search_says_how_many_trials_and_repeats_it_will_train(tmp_path: Path) -> None:
    space = SearchSpace.load("demo.yaml", overrides=["budget.trials=4"])
    assert "4 trials, then 6 repeats with fresh seeds" in first_lines(write_search(tmp_path / "a", space, []), 1)
    assert "budget    4 trials\n" in first_lines(write_search(tmp_path / "b", SearchSpace.load("smoke.yaml"), []), 1)


def test_what_a_terminal_would_obey_is_shown_and_not_obeyed() -> None:
    wild = "\x1b[2J\x07 two\nlines"
    events = [*EVENTS[:-4], AttemptFailed(trial="t0002", attempt=1, failure="worker_lost", reason=wild)]
    events += [FAILED.model_copy(update={"reason": wild}), SessionEnded(state="interrupted", reason=wild)]
    lines = [line for number, event in enumerate(events, 1) if (line := event_line(Record(number, 0.0, event)))]
    found = summary(events, driven=False)
    shown = "".join([*lines, summary_line(found), drawn(trials_table(found, width=200)).replace("\n", "")])
    assert shown.isprintable()
    assert shown.count("two\\nlines") == 4


def test_an_epoch_whose_journal_names_no_total_loss_has_a_line_without_it() -> None:
    result = epoch_result(1, 0.5).model_copy(update={"losses": {}})
    line = event_line(Record(1, 0.0, TrialReported(trial="t0000", result=result)))
    assert line is not None and "epoch=1 mAP=50.0" in line


def test_numbers_are_short_and_missing_shares_are_a_dash() -> None:
    assert [number(value) for value in (0.000123456, 3, "x", True)] == ["0.0001235", "3", "x", "True"]
    assert percent({}, "mAP") == "-"


def test_the_command_that_opens_mlflow_quotes_its_address() -> None:
    folder = local_search(Path("/a b/first"))
    assert pages_command("sqlite:////a b/mlflow.db", folder).endswith("reidsearch ui first --storage '/a b'")
    assert pages_command("http://127.0.0.1:5000", folder) == "open http://127.0.0.1:5000"


@pytest.mark.parametrize(("unsent", "expected"), [(0, "ui"), (7, "sync")])
def test_what_to_do_next_is_to_send_what_mlflow_has_not_taken(
    unsent: int, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = [*EVENTS, SessionEnded(state="finished", reason="4 trials")]
    folder = write_search(tmp_path / "first", SearchSpace.load("smoke.yaml"), events)
    result = SessionResult(fold(events), read_description(folder.description), Exit.OK, unsent)
    Display(folder).ending(result)
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("next "))
    assert f"reidsearch {expected} first --storage {tmp_path}" in line


def test_a_description_is_read_back_equal_and_damage_is_named(tmp_path: Path) -> None:
    description = description_of(SearchSpace.load("smoke.yaml"))
    path = tmp_path / "search.yaml"
    write_description(path, description)
    assert read_description(path) == description
    path.write_text(path.read_text().replace("format: 1", "format: 2"))
    with pytest.raises(SearchError, match=r"search\.yaml: format"):
        read_description(path)
    path.write_text("")
    with pytest.raises(SearchError, match=r"search\.yaml: is empty"):
        read_description(path)


def test_a_search_whose_output_nobody_reads_any_more_goes_on() -> None:
    program = (
        "import sys; from pathlib import Path; from orchestrator.show.live import Display; "
        "from orchestrator.study.events import TrialStarted; from orchestrator.stores.local import local_search; "
        "from orchestrator.study.journal import Record; display = Display(local_search(Path('/runs/s'))); "
        "sys.stdin.readline(); "
        "event = TrialStarted(trial='t0000', attempt=1); "
        "[display.event(Record(1, 1e9, event)) for _ in range(3)]; display.line('a', 'b'); print('went on')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    process.stderr.close()
    process.stdin.write("\n")
    process.stdin.close()
    assert process.stdout.read() == "went on\n"
    assert process.wait() == 0
