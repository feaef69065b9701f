"""The report of a search: what is in it, that it needs nothing else, and that nothing in a search can break it."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from events import epoch_result, evaluation
from plotly.offline import get_plotlyjs
from searches import POINT, a_pausing_search, a_search, completed, write_search
from summaries import summary_of

from orchestrator.__main__ import run
from orchestrator.show.report.charts import MOST_FANS, curves_chart
from orchestrator.show.report.formats import FORMATS, json_text, markdown_text
from orchestrator.show.report.model import Card, ModelView
from orchestrator.show.report.page import html_text
from orchestrator.show.report.report_data import Curve, ReportData, learning_curves, read_report, thinned
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import SearchFolder
from orchestrator.study.description import read_description, write_description
from orchestrator.study.events import (
    AttemptFailed,
    Event,
    FinalizationStarted,
    Forecast,
    SessionEnded,
    SessionStarted,
    TrialCompleted,
    TrialFailed,
    TrialReported,
    TrialStarted,
    TrialStopped,
    TrialSuggested,
    TrialTested,
)
from orchestrator.study.lease import Lease
from orchestrator.study.study import TrialStatus, fold

HOSTILE = "<script>alert(1)</script> \"'&</script><b>|`x`"
ENDING = SessionEnded(state="finished", reason="enough")
IMPORTANCE = {"optim.learning_rate": 0.7, "clips.identities": -0.2, "model.attention_gate": 0.1}
CARDS = ModelView(
    [
        Card("importance", ["mAP"], {"names": list(IMPORTANCE), "values": list(IMPORTANCE.values())}, ""),
        Card("fit", ["mAP"], {"observed": [0.4, 0.6], "predicted": [0.45, 0.5], "margin": [0.1, 0.1], "r2": 0.2}, ""),
        Card("slice", ["optim.learning_rate"], {"x": [1e-4, 1e-2], "mean": [0.4, 0.5], "sem": [0.1, 0.1]}, ""),
        Card(
            "slice", ["model.attention_gate"], {"x": ["softmax", "sigmoid"], "mean": [0.4, 0.5], "sem": [0.1, 0.1]}, ""
        ),
        Card(
            "contour",
            ["optim.learning_rate", "clips.identities"],
            {"x": [1e-4, 1e-2], "y": [2, 4], "mean": [[0.4, 0.5], [0.3, 0.2]]},
            "",
        ),
        Card("slice", ["clips.identities"], {}, "ValueError: <i>nothing</i>"),
    ],
    "",
)


def smoke(*overrides: str) -> SearchSpace:
    return SearchSpace.load("smoke.yaml", overrides=["budget.trials=9", *overrides])


def report_of(folder: SearchFolder, model: ModelView = CARDS) -> ReportData:
    return replace(read_report(folder, model=False, images=False), model=model)


def suggested(index: int, **fields: object) -> TrialSuggested:
    given = {
        "trial": f"t{index:04d}",
        "index": index,
        "params": POINT,
        "source": "sobol",
        "seed": 0,
        "epochs": 3,
        **fields,
    }
    return TrialSuggested.model_validate(given)


def cut_off(index: int, *curve: float) -> list[Event]:
    """A trial that ASHA stopped after these values."""
    key = f"t{index:04d}"
    epochs = [TrialReported(trial=key, result=epoch_result(epoch, value)) for epoch, value in enumerate(curve, 1)]
    stop = TrialStopped(trial=key, rule="asha", epoch=len(curve), reason="behind")
    return [suggested(index), TrialStarted(trial=key, attempt=1), *epochs, stop]


def failed(index: int, reason: str = "boom") -> list[Event]:
    key = f"t{index:04d}"
    return [
        suggested(index),
        TrialStarted(trial=key, attempt=1),
        AttemptFailed(trial=key, attempt=1, failure="error", reason=reason),
        TrialFailed(trial=key, failure="error", reason=reason),
    ]


@pytest.fixture
def folder(tmp_path: Path) -> SearchFolder:
    """A search with a trial of every kind, whose texts are hostile."""
    events = [
        *completed(0, 0.4),
        *completed(1, 0.6, **{"clips.identities": 4}),
        *cut_off(2, 0.1, 0.2),
        *failed(3, HOSTILE),
        suggested(4, note=HOSTILE),
    ]
    return write_search(tmp_path / "first", smoke(), [*events, ENDING])


def page_without_plotly(folder: SearchFolder, model: ModelView = CARDS) -> str:
    text = html_text(report_of(folder, model))
    library = get_plotlyjs()
    assert text.count(library) == 1, "the library is embedded exactly once"
    return text.replace(library, "")


def test_the_page_is_one_file_that_refers_to_nothing_outside(folder: SearchFolder) -> None:
    text = page_without_plotly(folder)
    assert "http:" not in text
    assert "https:" not in text
    references = re.findall(r"""\b(?:src|href)\s*=\s*["']?([^"'\s>]*)""", text)
    assert references
    assert all(each.startswith(("#", "data:")) for each in references), references
    assert not re.search(r"@import|url\(|<link|<iframe|<object|<base|fetch\(|XMLHttp|import\(", text)
    assert "default-src &#39;none&#39;" in text


def test_nothing_that_a_search_says_becomes_markup(folder: SearchFolder) -> None:
    text = page_without_plotly(folder)
    assert "alert(1)" in text
    assert "<script>alert" not in text
    assert "<i>nothing" not in text
    assert "<b>|" not in text
    for data in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL):
        json.loads(data)
        assert "<" not in data


def test_every_part_that_is_asked_for_is_on_the_page(folder: SearchFolder) -> None:
    text = page_without_plotly(folder)
    drawn = set(re.findall(r'class="chart" id="([^"]+)"', text))
    assert {"trace", "curve-0", "curve-1", "importance-0", "slice-0", "slice-1", "contour-0", "parallel"} <= drawn
    assert {"fit-0", "cmc", "entropy", "cost"} <= drawn
    assert len(drawn) == len(re.findall(r'json" data-figure="', text)), "every figure has its place and its data"
    assert "SYNTHETIC" in text
    assert "not confirmed" in text
    assert "Slice along clips.identities: ValueError" in text, "a card that failed is reported"
    assert text.count("<tr") > 5


def test_stopped_and_failed_trials_are_marked_in_the_trace(folder: SearchFolder) -> None:
    (data,) = re.findall(r'data-figure="trace">(.*?)</script>', page_without_plotly(folder))
    by_name = {trace["name"]: trace for trace in json.loads(data)["data"]}
    assert by_name["stopped early"]["x"] == [2]
    assert by_name["stopped early"]["y"] == [20]
    assert by_name["failed"]["x"] == [3]
    assert by_name["best so far"]["y"] == [40, 60, 60, 60, 60]
    assert by_name["chosen as best"]["x"] == [1]


def drawn_traces(page: str, chart: str) -> list[dict[str, Any]]:
    (data,) = re.findall(rf'data-figure="{chart}">(.*?)</script>', page)
    traces: list[dict[str, Any]] = json.loads(data)["data"]
    return traces


def test_curves_mark_pauses_and_those_with_a_forecast_end_in_a_fan(tmp_path: Path) -> None:
    page = page_without_plotly(a_pausing_search(tmp_path / "first"))
    curves = drawn_traces(page, "curve-0")
    (pauses,) = (trace for trace in curves if trace.get("name") == "a pause")
    assert (pauses["x"], pauses["y"]) == ([5] * 4, [5, 25, 5, 5])
    fans = [trace for trace in curves if trace.get("fill") == "toself"]
    assert [fan["x"] for fan in fans] == [[7, 20, 20], [5, 20, 20], [5, 20, 20]], (
        "a trial that reached its end has none"
    )
    assert fans[0]["y"] == pytest.approx([7, 78.1 - 1.96 * 2, 78.1 + 1.96 * 2], rel=1e-3)
    assert fans[1]["fillcolor"] != fans[2]["fillcolor"], "of the colour of its curve: paused and stopped"
    ends = [trace["text"][0] for trace in curves if trace.get("name") == "forecast, 95 %" and "text" in trace]
    assert sorted(ends) == [
        "t0000 ends at 50.0 ± 4.0",
        "t0002 ends at 78.1 ± 2.0",
        "t0003 ends at 50.0 ± 4.0",
    ]
    assert sum(bool(trace["showlegend"]) for trace in curves if trace.get("name") == "forecast, 95 %") == 1
    assert not [trace for trace in drawn_traces(page, "curve-1") if trace.get("fill")], "none of the loss"
    assert "<p>4 trials paused, 2 continued; 30 epochs not trained.</p>" in page
    assert "2.0 of 4 trainings, 1 stopped, 1 paused, 1 pending" in page
    assert "4 whole trainings" in page
    assert "epochs not trained" in page and ">paused</span>" in page


def test_of_many_forecasts_the_most_promising_have_a_band_and_all_a_line() -> None:
    curves = [Curve(f"t{n:04d}", TrialStatus.PAUSED, [1, 5], [0.1, 0.2], [(5, 0.2)], 20) for n in range(30)]
    forecasts = {f"t{n:04d}": Forecast(value=0.9 - n / 100, error=0.1) for n in range(30)}
    drawn = curves_chart(curves, "mAP", None, title="", forecasts=forecasts).data
    bands = [trace for trace in drawn if trace.fill == "toself"]
    assert len(bands) == MOST_FANS
    assert max(bands[0].y) == 100, "a share ends at 100 %"
    (lines,) = (trace for trace in drawn if trace.line.dash == "dot")
    assert len([epoch for epoch in lines.x if epoch == 20]) == 30


def test_tables_of_a_search_that_pauses_have_forecasts_pauses_and_saved_epochs(tmp_path: Path) -> None:
    report = report_of(a_pausing_search(tmp_path / "first"))
    paused, finished, *_ = csv.DictReader(io.StringIO(FORMATS["csv"](report)))
    assert (paused["status"], paused["epoch"], paused["epochs"]) == ("paused", "5", "20")
    assert (paused["forecast"], paused["forecast_error"], paused["pauses"], paused["epochs_saved"]) == (
        *("0.5", "0.04", "5", "15"),
    )
    assert (finished["forecast"], finished["epochs_saved"]) == ("", "0")
    text = markdown_text(report)
    assert "| trials that paused | 4, of which 2 continued |" in text
    assert "| epochs not trained | 30 |" in text
    found = json.loads(json_text(report))
    assert list(found["forecasts"]) == ["t0002", "t0000", "t0003"], "the most promising first"
    assert found["curves"]["mAP"][0]["pauses"] == [[5, 0.05]]
    assert (found["cost"]["paused"], found["cost"]["continued"], found["cost"]["epochs_saved"]) == (4, 2, 30)


def test_where_fresh_seeds_choose_another_configuration_than_the_best_value_the_report_says_why(tmp_path: Path) -> None:
    def again(key: str, number: int, value: float) -> list[Event]:
        repeat = f"{key}-r{number}"
        return [
            suggested(int(key[1:]), trial=repeat, source="repeat", repeats=key, seed=number),
            TrialStarted(trial=repeat, attempt=1),
            TrialReported(trial=repeat, result=epoch_result(3, value)),
            TrialCompleted(trial=repeat),
        ]

    events = [*completed(0, 0.6), *completed(1, 0.5)]
    for number in (1, 2, 3):
        events += [*again("t0000", number, 0.3), *again("t0001", number, 0.48)]
    text = page_without_plotly(write_search(tmp_path / "lucky", smoke(), [*events, ENDING]))
    assert (
        "t0000 has the best value here, which is of one seed; t0001 is chosen, because its mean over 3 fresh seeds is "
        "the best: 48.0 %." in text
    )
    same = page_without_plotly(write_search(tmp_path / "same", smoke(), [*completed(0, 0.6), *again("t0000", 1, 0.5)]))
    assert "is chosen, because" not in same


def test_the_table_of_all_trials_gives_times_that_can_be_read(folder: SearchFolder) -> None:
    text = page_without_plotly(folder)
    assert ">1 s<" in text[text.index('id="all-trials"') :]
    assert "0.0002778" not in text


def test_real_data_carries_no_mark(folder: SearchFolder) -> None:
    described = read_description(folder.description)
    write_description(folder.description, described.model_copy(update={"synthetic": False}))
    assert "SYNTHETIC" not in page_without_plotly(folder)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_search_without_any_result_has_a_report(tmp_path: Path, kind: str) -> None:
    empty = write_search(tmp_path / "empty", smoke(), [SessionStarted(session=1, host="h", pid=1), suggested(0)])
    assert "t0000" in FORMATS[kind](report_of(empty, ModelView([], "the model needs 3 completed trials at least")))


@pytest.mark.parametrize("kind", FORMATS)
def test_a_search_without_any_trial_has_a_report(tmp_path: Path, kind: str) -> None:
    assert FORMATS[kind](report_of(write_search(tmp_path / "empty", smoke(), []), ModelView([], "nothing")))


def test_a_running_search_has_a_report_that_says_so(tmp_path: Path) -> None:
    events = [SessionStarted(session=1, host="h", pid=1), *completed(0, 0.4), suggested(1)]
    running = write_search(tmp_path / "running", smoke(), [*events, TrialStarted(trial="t0001", attempt=1)])
    with Lease(running.lease):
        text = page_without_plotly(running)
    assert 'class="state running">running' in text
    assert "still running" in text


def test_a_trial_that_was_running_when_its_driver_was_killed_waits(tmp_path: Path) -> None:
    events = [SessionStarted(session=1, host="h", pid=1), *completed(0, 0.4), suggested(1)]
    killed = write_search(tmp_path / "killed", smoke(), [*events, TrialStarted(trial="t0001", attempt=1)])
    report = report_of(killed)
    assert report.summary.state == "interrupted"
    assert [point.status for point in report.summary.trace] == ["completed", "pending"]


def test_an_opened_test_set_is_shown_with_who_opened_it_and_what_it_said(tmp_path: Path) -> None:
    key = "t0000-f1"
    opened = FinalizationStarted(finalization=1, leaders=["t0000"], seeds=1, epochs=5, by="someone on h")
    final = suggested(0, trial=key, source="finalize", repeats="t0000", finalization=1, epochs=5)
    tested = TrialTested(trial=key, evaluation=evaluation(0.321))
    events = [*completed(0, 0.4), opened, final, TrialStarted(trial=key, attempt=1), tested, TrialCompleted(trial=key)]
    text = page_without_plotly(write_search(tmp_path / "first", smoke(), [*events, ENDING]), ModelView([], "nothing"))
    assert "Test set, opened 1 time<" in text
    assert "by someone on h" in text
    assert '<td class="number">32.1</td>' in text


def test_several_objectives_have_a_pareto_front(tmp_path: Path) -> None:
    space = smoke("objective.metric=mAP, -hours")
    two = write_search(tmp_path / "two", space, [*completed(0, 0.4), *completed(1, 0.6), ENDING])
    text = page_without_plotly(two, ModelView([], "nothing"))
    assert 'id="front"' in text
    assert "Pareto front" in text


def test_markdown_has_tables_that_hostile_texts_cannot_break(folder: SearchFolder) -> None:
    text = markdown_text(report_of(folder))
    assert "<script>" not in text
    tables = [line for line in text.splitlines() if line.startswith("| t000")]
    assert len(tables) >= 5
    trials = [line for line in tables if "/3 |" in line]
    cells = {len(re.findall(r"(?<!\\)\|", line)) for line in trials}
    assert len(trials) == 5
    assert len(cells) == 1, "as many columns in every row"
    assert "| optim.learning\\_rate | 70 % | raises |" in text
    assert "| clips.identities | 20 % | lowers |" in text
    assert "| model.attention\\_gate | 10 % | - |" in text, "a choice without an order has no direction"


def test_csv_has_a_row_for_every_trial_and_no_formula(tmp_path: Path) -> None:
    events = [*completed(0, 0.4), *failed(1, "=HYPERLINK(1)"), ENDING]
    text = FORMATS["csv"](report_of(write_search(tmp_path / "first", smoke(), events)))
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["trial"] for row in rows] == ["t0000", "t0001"]
    assert rows[0]["mAP"] == "0.4"
    assert rows[0]["optim.learning_rate"] == "0.005"
    assert rows[1]["reason"] == "'=HYPERLINK(1)"


def test_json_holds_status_trace_curves_cost_and_cards(folder: SearchFolder) -> None:
    found = json.loads(json_text(report_of(folder)))
    assert found["format"] == 1
    assert found["status"]["best"]["trial"] == "t0001"
    assert found["data"] == {
        "name": "mars",
        "synthetic": True,
        "fingerprint": "0",
        "protocol": "mars",
        "queries": 10,
        "dropped_queries": 0,
    }
    assert [point["trial"] for point in found["trace"]] == [f"t000{index}" for index in range(5)]
    stopped = {
        "trial": "t0002",
        "status": "stopped",
        "epochs": [1, 2],
        "values": [0.1, 0.2],
        "pauses": [],
        "planned": 3,
    }
    assert found["curves"]["mAP"][2] == stopped
    assert found["cost"]["stopped_early"] == 1
    assert {card["kind"] for card in found["model"]["cards"]} == {"importance", "fit", "slice", "contour"}
    assert "not_confirmed" in {each["kind"] for each in found["warnings"]}


def test_the_best_so_far_follows_the_goal_and_completed_trials_only() -> None:
    events = [*completed(0, 0.4), *cut_off(1, 0.1, 0.9), *completed(2, 0.3), *completed(3, 0.5)]
    up = summary_of(fold(events), smoke()).trace
    assert [point.best for point in up] == [0.4, 0.4, 0.4, 0.5]
    down = summary_of(fold(events), smoke("objective.goal=minimize")).trace
    assert [point.best for point in down] == [0.4, 0.4, 0.3, 0.3]


def test_a_constraint_keeps_a_trial_from_being_the_best_so_far() -> None:
    space = smoke('objective.constraints=["rank1 <= 0.5"]')
    points = summary_of(fold([*completed(0, 0.4), *completed(1, 0.6)]), space).trace
    assert [(point.feasible, point.best) for point in points] == [(True, 0.4), (False, 0.4)]


@pytest.mark.parametrize("count", [1, 2, 5, 80, 81, 1000])
def test_a_thinned_curve_keeps_both_ends_and_its_order(count: int) -> None:
    items = list(range(count))
    kept = thinned(items, 5)
    assert len(kept) == min(count, 5)
    assert kept[0] == 0
    assert kept[-1] == count - 1
    assert kept == sorted(set(kept))


def test_a_curve_holds_only_the_epochs_that_were_evaluated() -> None:
    key = "t0000"
    reports: Sequence[Event] = [
        TrialReported(trial=key, result=epoch_result(epoch, 0.1 * epoch if epoch % 2 else None)) for epoch in (1, 2, 3)
    ]
    study = fold([suggested(0), TrialStarted(trial=key, attempt=1), *reports, TrialCompleted(trial=key)])
    (curve,) = learning_curves(study.trials.values(), "mAP")
    assert curve.epochs == [1, 3]
    assert math.isclose(curve.values[1], 0.3)


def test_the_command_writes_the_page_into_the_search_and_prints_other_formats(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = a_search(tmp_path / "first")
    storage = ["--storage", str(tmp_path), "--without-model"]
    assert run(["report", "first", *storage]) == 0
    assert "report.html" in capsys.readouterr().out
    assert (folder.path / "report.html").read_text().startswith("<!doctype html>")
    assert run(["report", "first", "--format", "json", *storage]) == 0
    assert json.loads(capsys.readouterr().out)["status"]["search"] == "first"
    out = tmp_path / "trials.csv"
    assert run(["report", "first", "--format", "csv", "--out", str(out), *storage]) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert str(out) in printed.err
    assert out.read_text().startswith("trial,status,")


def test_a_search_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report", "nothing", "--storage", str(tmp_path)]) == 3
    assert len(capsys.readouterr().err.splitlines()) == 1
