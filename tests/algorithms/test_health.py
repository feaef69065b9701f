"""Random points in place of the model's: counted, and shown in every view."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from events import completed, suggested
from hypothesis import given
from hypothesis import strategies as st
from searches import write_search
from strategies import quick

from orchestrator.algorithms.health import WHOLE, proposals
from orchestrator.base.errors import Exit
from orchestrator.cli.run_search import exit_code
from orchestrator.show.report.formats import markdown_text
from orchestrator.show.report.page import html_text
from orchestrator.show.report.report_data import read_report
from orchestrator.show.status import show_search, status_document
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import SearchFolder
from orchestrator.stores.local import LocalStore
from orchestrator.study.events import Event, FinalizationStarted, SessionEnded
from orchestrator.study.study import Study, fold
from orchestrator.summary import read_summary

DESIGN = [("start", ""), ("sobol", ""), ("sobol", "")]
MODEL, DEAD, SLOW = ("ax", ""), ("random", "Ax: Ax's process ended [/b]"), ("random", "Ax: no answer within 180 s")


def events_of(proposed: list[tuple[str, str]]) -> list[Event]:
    """A finished search of so many completed trials."""
    events: list[Event] = []
    for index, (source, note) in enumerate(proposed):
        params = {"optim.learning_rate": 1e-4 * (index + 1), "clips.identities": 2, "model.attention_gate": "softmax"}
        first = suggested(index, **params)  # type: ignore[arg-type]
        events += [first.model_copy(update={"source": source, "note": note}), *completed(index, 0.1 + index / 100)[1:]]
    return [*events, SessionEnded(state="finished", reason=f"{len(proposed)} trials")]


def study_of(*proposed: tuple[str, str]) -> Study:
    return fold(events_of([*DESIGN, *proposed]))


def a_failing_search(folder: Path) -> SearchFolder:
    space = SearchSpace.load("smoke.yaml", overrides=["budget.trials=8"])
    return write_search(folder, space, events_of([*DESIGN, MODEL, DEAD, DEAD, DEAD, SLOW]))


def test_points_of_the_initial_design_are_no_proposals_of_the_model() -> None:
    found = proposals(study_of())
    assert (found.by_model, found.random, found.fails) == (0, 0, False)


def test_random_points_without_a_failure_of_the_model_are_none_of_its_proposals() -> None:
    found = proposals(study_of(("random", ""), ("random", "the Sobol sequence brought no new point"), ("grid", "")))
    assert (found.by_model, found.random, found.fails) == (0, 0, False)


def test_what_stood_in_is_counted_with_the_most_frequent_reason() -> None:
    found = proposals(study_of(MODEL, SLOW, DEAD, DEAD, DEAD, MODEL))
    assert str(found) == "Ax proposed 2 of 6; 4 random points stood in: Ax's process ended [/b]"
    assert (found.longest, found.in_a_row, found.fails) == (4, 0, True)


def test_a_single_random_point_among_proposals_of_the_model_is_no_failure_and_one_alone_is() -> None:
    assert not proposals(study_of(MODEL, SLOW, SLOW, MODEL, SLOW)).fails
    assert proposals(study_of(SLOW)).fails
    assert str(proposals(study_of(SLOW))) == "Ax proposed 0 of 1; 1 random point stood in: no answer within 180 s"


@given(proposed=st.lists(st.sampled_from([*DESIGN, MODEL, DEAD, SLOW]), max_size=12))
@quick
def test_every_proposal_is_the_models_or_a_random_points(proposed: list[tuple[str, str]]) -> None:
    found = proposals(study_of(*proposed))
    assert found.by_model == proposed.count(MODEL)
    assert found.random == proposed.count(DEAD) + proposed.count(SLOW)
    flags = "".join("r" if each in (DEAD, SLOW) else "m" for each in proposed if each in (MODEL, DEAD, SLOW))
    assert (found.longest, found.in_a_row) == (max(map(len, flags.split("m"))), len(flags) - len(flags.rstrip("r")))


def test_a_note_of_a_trial_that_runs_whole_is_no_random_point() -> None:
    found = proposals(study_of(MODEL, (MODEL[0], f"{WHOLE}, because values say nothing"), MODEL))
    assert (found.by_model, found.random) == (3, 0)


def test_status_says_it_to_people_and_to_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = a_failing_search(tmp_path / "s")
    text = "Ax proposed 1 of 5; 4 random points stood in: Ax's process ended [/b]"
    assert status_document(read_summary(folder))["proposals"] == {
        "by_model": 1,
        "random": 4,
        "reason": "Ax's process ended [/b]",
        "fails": True,
        "text": text,
    }
    show_search(LocalStore(tmp_path), "s", as_json=False, watch=False)
    assert f"model     {text}" in capsys.readouterr().out


def test_the_head_of_a_report_and_its_warnings_say_it(tmp_path: Path) -> None:
    report = read_report(a_failing_search(tmp_path / "s"), model=False, images=False)
    said = "Ax proposed 1 of 5; 4 random points stood in"
    assert [each.level for each in report.warnings if said in each.text] == ["warning"]
    head = markdown_text(report).partition("Best configuration")[0]
    assert said in head
    assert html_text(report).count(said) == 2


def test_nothing_is_said_where_the_model_proposed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = SearchSpace.load("smoke.yaml", overrides=["budget.trials=4"])
    folder = write_search(tmp_path / "s", space, events_of([*DESIGN, MODEL]))
    assert status_document(read_summary(folder))["proposals"]["text"] is None
    show_search(LocalStore(tmp_path), "s", as_json=False, watch=False)
    assert "random point" not in capsys.readouterr().out
    assert "random point" not in html_text(read_report(folder, model=False, images=False))


def test_strict_makes_failed_trials_and_a_failed_model_exit_1_and_changes_nothing_else() -> None:
    opened = FinalizationStarted(finalization=1, leaders=["t0000"], seeds=1, epochs=None, by="me")
    cases: list[tuple[list[tuple[str, str]], Exit, list[Any], Exit]] = [
        ([*DESIGN, MODEL], Exit.OK, [], Exit.OK),
        ([*DESIGN, MODEL], Exit.SOME_TRIALS_FAILED, [], Exit.SEARCH_FAILED),
        ([*DESIGN, DEAD, DEAD, DEAD], Exit.OK, [], Exit.SEARCH_FAILED),
        ([*DESIGN, DEAD, DEAD, DEAD], Exit.INTERRUPTED, [], Exit.INTERRUPTED),
        # By then the search is over; its trainings for the test set are asked about.
        ([*DESIGN, DEAD, DEAD, DEAD], Exit.OK, [opened], Exit.OK),
    ]
    for proposed, code, more, strict in cases:
        study = fold([*events_of(proposed), *more])
        assert exit_code(code, study, strict=True) == strict
        assert exit_code(code, study, strict=False) == code
