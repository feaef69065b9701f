"""What MLflow gets besides events: functions of the journal and of files alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from events import completed, epoch_result, reported, suggested
from PIL import Image
from searches import POINT, pausing_events
from summaries import summary_of

from orchestrator.base.uris import without_passwords
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.local import local_search
from orchestrator.study.description import Options, SearchDescription
from orchestrator.study.events import Event, TrialCompleted, TrialStopped, TrialSuggested, TrialTested
from orchestrator.study.study import Study, fold
from orchestrator.summary import summarise
from orchestrator.tracking.content import Artifact, Content, about, evaluation_content, search_content
from orchestrator.tracking.projection import Plan, Writes
from orchestrator.tracking.uploads import staged
from trainer.result import kept_epoch

SPACE = SearchSpace.load("smoke.yaml")


def description(**changes: object) -> SearchDescription:
    fields = {
        **{"search": "s", "uid": "u", "created": "2026-11-22T00:00:00+00:00", "seed": 0, "synthetic": True},
        **{"data_fingerprint": "f" * 64, "options": Options(), "command": [], "host": "h", "commit": "c"},
        **{"versions": {"torch": "2"}, "space": SPACE},
    }
    return SearchDescription.model_validate({**fields, **changes})


def study(*values: float) -> Study:
    """Completed trials of the space with these values."""
    events: list[Event] = []
    for index, value in enumerate(values):
        first, *rest = completed(index, value)
        assert isinstance(first, TrialSuggested)
        events += [first.model_copy(update={"params": POINT}), *rest]
    return fold(events)


def writes(*events: Event, told: bool = True) -> Writes:
    plan = Plan(local_search(Path("s")), about(description(), lambda _: pytest.fail("not yet")) if told else None)
    for moment, event in enumerate(events, 1):
        plan.add(event, float(moment))
    (found,) = plan.next(100.0, 9)
    return found


# --- trials


def test_the_best_metrics_are_those_of_the_highest_map_earliest_first() -> None:
    best = kept_epoch(epoch_result(n, value) for n, value in enumerate((None, 0.2, 0.5, 0.5, 0.4), 1))
    assert best is not None and best.epoch == 3
    assert kept_epoch([epoch_result(1)]) is None


@pytest.mark.parametrize(
    "ending", [TrialCompleted(trial="t0000"), TrialStopped(trial="t0000", rule="asha", epoch=2, reason="")]
)
def test_a_trial_that_ends_gets_its_best_metrics_at_step_0(ending: Event) -> None:
    found = writes(suggested(0), reported(0, 1, 0.5), reported(0, 2, 0.4), ending)
    best = {point.metric: (point.value, point.step) for point in found.points if point.metric.startswith("best/")}
    assert best["best/mAP"] == (0.5, 0)
    assert best["best/epoch"] == (1, 0)
    assert (found.evaluation is not None) == isinstance(ending, TrialCompleted)


def test_the_test_set_has_metrics_of_its_own() -> None:
    evaluation = epoch_result(1, 0.3).validation
    assert evaluation is not None
    found = writes(suggested(0), TrialTested(trial="t0000", evaluation=evaluation))
    assert ("test/mAP", 0.3) in [(point.metric, point.value) for point in found.points]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["training", "validation"]),
        ({"repeats": "t0000", "fold": 2}, ["training", "validation"]),
        ({"finalization": 1}, ["training", "test"]),
    ],
)
def test_a_trial_names_the_data_that_it_learns_from_and_is_judged_on(
    changes: dict[str, object], expected: list[str]
) -> None:
    found = writes(suggested(0).model_copy(update=changes))
    assert [each.context for each in found.data_sets] == expected
    split = found.data_sets[1].split
    assert split == (None if "finalization" in changes else local_search(Path("s")).split_of(changes.get("fold")))  # type: ignore[arg-type]
    assert not writes(suggested(0), told=False).data_sets


def test_of_an_evaluation_that_is_missing_or_damaged_nothing_comes(tmp_path: Path) -> None:
    for text in (None, "{", '{"cmc": 3}', "[]"):
        if text is not None:
            (tmp_path / "evaluation.json").write_text(text)
        found = evaluation_content(tmp_path, "u/t0000", 0, people=True)
        assert not found.points and not found.tags


def test_pictures_have_the_same_names_when_they_are_sent_again_and_other_ones_for_other_trials(tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text("{}")
    Image.new("RGB", (9, 9)).save(tmp_path / "ranking.png")
    places = [
        [each.place for each in evaluation_content(tmp_path, identity, 7, people=True).artifacts if each.is_image]
        for identity in ("u/t0000", "u/t0000", "u/t0001")
    ]
    assert places[0] == places[1] != places[2]
    assert places[0][0].startswith("images/ranking+step+0+timestamp+7+")


# --- the search


def told(description: SearchDescription, study: Study) -> Content:
    return search_content(summarise(local_search(Path("s")), description, study, is_driven=True), 9)


def test_a_session_is_told_by_a_table_a_note_and_the_best_so_far() -> None:
    found = told(description(), study(0.3, 0.2, 0.6))
    table = json.loads(str(next(each.source for each in found.artifacts if each.place == "trials.json")))
    assert len(table["data"]) == 3
    assert table["data"][2][table["columns"].index("mAP")] == 0.6
    assert set(POINT) < set(table["columns"])
    note = found.tags["mlflow.note.content"]
    assert "`t0002`, mAP 0.600 with one seed, not confirmed" in note
    assert "SYNTHETIC" in note
    so_far = [(point.step, point.value) for point in found.points if point.metric == "best_so_far/mAP"]
    assert so_far == [(1, 0.3), (2, 0.3), (3, 0.6)]
    assert ("best/mAP", 0.6, 9, 0) in [(p.metric, p.value, p.time, p.step) for p in found.points]


def test_the_table_of_a_search_that_pauses_has_states_and_forecasts() -> None:
    told = search_content(summary_of(fold(pausing_events()), is_driven=True), 9000)
    table = json.loads(str(told.artifacts[0].source))
    rows = {row[0]: dict(zip(table["columns"], row, strict=True)) for row in table["data"]}
    assert (rows["t0000"]["status"], rows["t0000"]["forecast"], rows["t0000"]["forecast_error"]) == (
        "paused",
        0.5,
        0.04,
    )
    assert rows["t0001"]["forecast"] is None, "it has reached its end"
    assert "1 paused" in told.tags["mlflow.note.content"]


def test_a_search_without_a_completed_trial_is_told_too() -> None:
    found = told(description(synthetic=False), fold([suggested(0)]))
    assert not found.points
    assert "SYNTHETIC" not in found.tags["mlflow.note.content"]


# --- files


def test_passwords_of_addresses_are_taken_out_and_nothing_else() -> None:
    assert without_passwords("a://me:x%40y@h/p b@c d://h:1/e@f") == "a://***@h/p b@c d://h:1/e@f"


def test_what_is_gone_is_not_staged_and_images_come_with_a_small_copy(tmp_path: Path) -> None:
    Image.new("RGB", (3000, 500)).save(tmp_path / "sheet.png")
    artifacts = [
        Artifact("a/gone.png", tmp_path / "gone.png"),
        Artifact("images/x+1.png", tmp_path / "sheet.png", is_image=True),
        Artifact("note.txt", "text"),
    ]
    with staged(artifacts) as folder:
        names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        assert names == ["images/x+1+compressed.webp", "images/x+1.png", "note.txt"]
        with Image.open(folder / names[0]) as small:
            assert small.size == (1024, 171)
    assert not folder.exists()
