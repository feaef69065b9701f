"""The paper's tables with our results: what stands in a cell, and what does not."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
import statistics
from pathlib import Path

import pytest
from events import epoch_result, evaluation
from searches import completed, write_search

from orchestrator.show.published import TABLES, PublishedTable
from orchestrator.show.tables import FORMATS, Line, tables_of
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.events import (
    Event,
    FinalizationStarted,
    SessionEnded,
    TrialCompleted,
    TrialOpenedTestSet,
    TrialReported,
    TrialSuggested,
    TrialTested,
)
from orchestrator.summary import Summary, read_summary

TEST = [0.80, 0.82, 0.84]
MARS = {"train": 8298, "query": 1980, "gallery": 9330}


def finals(number: int, leader: str, values: list[float], first: int = 1) -> list[Event]:
    events: list[Event] = [
        FinalizationStarted(finalization=number, leaders=[leader, "t0000"], seeds=len(values), epochs=None, by="a@b")
    ]
    for seed, value in enumerate(values, first):
        key = f"{leader}-f{seed}"
        events += [
            TrialSuggested(
                trial=key,
                index=1,
                params={},
                source="finalize",
                seed=seed,
                epochs=3,
                repeats=leader,
                finalization=number,
            ),
            TrialReported(trial=key, result=epoch_result(3)),
            TrialTested(trial=key, evaluation=evaluation(value)),
            TrialCompleted(trial=key),
        ]
    return events


def a_search(folder: Path, row: str, *more: Event, tracklets: dict[str, int] | None = None) -> Summary:
    space = SearchSpace.load("smoke.yaml", overrides=[f"name={row}"])
    events = [*completed(0, 0.4), *completed(1, 0.6), SessionEnded(state="finished", reason=""), *more]
    return read_summary(write_search(folder, space, events, tracklets=tracklets))


@pytest.fixture
def tested(tmp_path: Path) -> Summary:
    return a_search(tmp_path / "ours", "attn_cl", *finals(1, "t0001", TEST), tracklets=MARS)


def own(search: Summary) -> Line:
    (table,) = tables_of([search])
    (line,) = [line for line in table.lines if line.source != "published"]
    return line


def test_a_cell_is_the_mean_over_seeds_on_the_test_set_and_never_the_validation_figure(tested: Summary) -> None:
    cell = own(tested).metrics["mAP"]
    assert cell.value == pytest.approx(statistics.fmean(TEST))
    assert cell.standard_deviation == pytest.approx(statistics.stdev(TEST))
    assert own(tested).seeds == 3


def test_published_rows_without_a_search_of_ours_stay_and_ours_are_not_invented(tested: Summary) -> None:
    (table,) = tables_of([tested])
    assert [line.row for line in table.lines if line.source == "published"] == [
        row.row for row in TABLES[0].rows.values()
    ]
    assert [line.source for line in table.lines][-1] == "ours/t0001"
    assert len(table.lines) == len(TABLES[0].rows) + 1


def test_a_search_whose_test_set_was_never_opened_has_empty_cells_and_says_so(tmp_path: Path) -> None:
    blind = a_search(tmp_path / "blind", "b_bot")
    assert own(blind).metrics == {}
    assert "test set not opened" in own(blind).note
    (row,) = [text for text in FORMATS["md"](tables_of([blind])).splitlines() if "| blind" in text]
    assert all(not cell.strip() for cell in row.split("|")[3:11])
    assert "`" in row and "\\`" not in row, "the command can be copied"


def test_a_test_set_that_was_opened_again_shows_the_first_figures_and_how_often(tmp_path: Path) -> None:
    again = a_search(
        tmp_path / "ours", "attn_cl", *finals(1, "t0001", TEST), *finals(2, "t0001", [0.99, 0.99], first=4)
    )
    line = own(again)
    assert line.metrics["mAP"].value == pytest.approx(statistics.fmean(TEST))
    assert "opened 2 times" in line.note


def test_generated_data_is_marked_in_every_format(tmp_path: Path) -> None:
    generated = a_search(tmp_path / "ours", "attn_cl", *finals(1, "t0001", TEST))
    for form, write in FORMATS.items():
        assert "SYNTHETIC" in write(tables_of([generated])), form


def test_own_data_with_the_published_counts_never_stands_beside_published_rows(tmp_path: Path) -> None:
    search = a_search(tmp_path / "ours", "attn_cl", *finals(1, "t0001", TEST), tracklets=MARS)
    space = search.space.model_copy(update={"trainer": {**search.space.trainer, "data": {"name": "tracklets"}}})
    description = search.description.model_copy(update={"synthetic": False, "space": space})
    mine = dataclasses.replace(search, description=description)
    assert [(found.title, len(found.lines)) for found in tables_of([mine])] == [("Other searches", 1)]
    for form, write in FORMATS.items():
        assert "own data" in write(tables_of([mine])), form


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.title)
@pytest.mark.parametrize("part", ["train", "query", "gallery"])
def test_a_search_on_a_data_set_with_other_counts_never_stands_beside_published_rows(
    table: PublishedTable, part: str, tmp_path: Path
) -> None:
    row = next(iter(table.rows))
    for number, data in enumerate(({**table.data, part: table.data[part] - 1}, None)):
        search = a_search(tmp_path / f"s{number}", row, *finals(1, "t0001", TEST), tracklets=data)
        assert [(found.title, len(found.lines)) for found in tables_of([search])] == [("Other searches", 1)]
    same = a_search(tmp_path / "same", row, *finals(1, "t0001", TEST), tracklets=dict(table.data))
    assert [found.title for found in tables_of([same, search])] == [table.title, "Other searches"]
    assert [line.source for line in tables_of([same, search])[0].lines].count("same/t0001") == 1


def test_every_line_says_which_frames_were_looked_at(tested: Summary) -> None:
    for form, write in FORMATS.items():
        text = write(tables_of([tested]))
        assert "even, 2 clips" in text and "dense, at most 41 clips" in text, form


def test_a_look_at_the_test_set_with_one_trial_is_noted_beside_the_figures(tmp_path: Path) -> None:
    use = TrialOpenedTestSet(trial="t0000", use="evaluate", weights="trials/t0000/checkpoint/best.pt", by="a@b")
    assert "also used 2 times by hand, for t0000" in own(a_search(tmp_path / "x", "attn_cl", use, use)).note


def test_every_format_says_protocol_and_dropped_queries(tested: Summary) -> None:
    rows = list(csv.DictReader(io.StringIO(FORMATS["csv"](tables_of([tested])))))
    ours = next(row for row in rows if row["source"] == "ours/t0001")
    assert (ours["protocol"], ours["queries"], ours["dropped"], ours["seeds"]) == ("mars", "10", "0", "3")
    published = next(row for row in rows if row["row"] == "Attn-CL" and row["source"] == "published")
    assert (published["mAP"], published["reranked/mAP"], published["dropped"]) == ("0.829000", "0.878000", "140")


def test_every_line_of_a_markdown_table_has_as_many_cells_as_its_heading(tested: Summary) -> None:
    lines = [line for line in FORMATS["md"](tables_of([tested])).splitlines() if line.startswith("|")]
    assert len({len(re.split(r"(?<!\\)\|", line)) for line in lines}) == 1


def test_latex_escapes_what_means_something_there(tmp_path: Path) -> None:
    printed = FORMATS["latex"](tables_of([a_search(tmp_path / "a_b", "my_row", *finals(1, "t0001", TEST))]))
    assert r"my\_row & a\_b/t0001" in printed
    body = printed[printed.index(r"\midrule") : printed.index(r"\bottomrule")]
    assert body.count(r"\\") == 1
    assert printed.count("&") == 2 * (len(printed[printed.index(r"\toprule") :].splitlines()[1].split("&")) - 1)


def test_a_space_of_ones_own_stands_in_a_table_of_its_own(tmp_path: Path, tested: Summary) -> None:
    other = a_search(tmp_path / "x", "mine", *finals(1, "t0001", TEST))
    assert [table.title for table in tables_of([tested, other])] == ["Table 1: MARS", "Other searches"]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.title)
def test_published_figures_ascend_with_the_rank_and_belong_to_shipped_spaces(table: object) -> None:
    for name, row in table.rows.items():  # type: ignore[attr-defined]
        ranks = [row.metrics[rank] for rank in ("rank1", "rank5", "rank20")]
        assert ranks == sorted(ranks) and 0 < ranks[0] <= ranks[-1] <= 1
        assert SearchSpace.load(f"{name}.yaml").name == name
