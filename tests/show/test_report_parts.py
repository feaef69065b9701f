"""The report's charts and tables, its model process and what it reads of evaluations."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
from PIL import Image
from searches import a_search, completed, write_search

from orchestrator.show.report.charts import histogram
from orchestrator.show.report.evaluations import read_evaluation
from orchestrator.show.report.model import ModelProcess, ModelView, grid, model_request
from orchestrator.show.report.page import html_text, plain
from orchestrator.show.report.report_data import read_report
from orchestrator.space.search_space import SearchSpace
from orchestrator.summary import Summary, read_summary
from trainer.evaluation.query_metrics import QueryMetrics, write_query_metrics


@pytest.fixture
def search(tmp_path: Path) -> Summary:
    events = [
        event for index in range(3) for event in completed(index, 0.4 + index / 10, **{"clips.identities": 2 + index})
    ]
    return read_summary(write_search(tmp_path / "first", SearchSpace.load("smoke.yaml"), events))


def asked(search: Summary, program: str, deadline: float = 20.0) -> ModelView:
    """What a child that runs the program answers."""
    with ModelProcess(None, deadline=deadline, command=[sys.executable, "-c", program]) as process:
        process.ask(search)
        return process.answer(search)


def test_texts_in_charts_are_no_markup_and_numbers_have_few_digits() -> None:
    trace = go.Scatter(name="</script><b>", y=[1 / 3, None], hovertemplate="%{y}<extra></extra>")
    drawn = plain(go.Figure([trace], {"xaxis": {"title": "<a>"}}))
    (data,) = drawn["data"]
    assert (data["name"], data["y"]) == ("&lt;/script&gt;&lt;b&gt;", [0.33333, None])
    assert data["hovertemplate"] == "%{y}<extra></extra>", "ours"
    assert drawn["layout"]["xaxis"]["title"]["text"] == "&lt;a&gt;"


def test_columns_of_numbers_have_their_heading_on_the_same_side(search: Summary) -> None:
    page = html_text(read_report(search.folder, model=False, images=False))
    assert '<th scope="col">setting</th><th scope="col" class="number">value</th><th scope="col">searched</th>' in page
    assert '<td>clips.identities</td><td class="number">4</td><td>2 to 4</td>' in page


def test_cards_come_back_and_those_that_failed_say_why(search: Summary) -> None:
    data = {"names": ["clips.identities"], "values": [1.0]}
    card = {"kind": "importance", "about": ["mAP"], "data": data, "skipped": ""}
    lost = {"kind": "fit", "about": ["mAP"], "data": {}, "skipped": "no Graphviz"}
    found = asked(search, f"import sys; sys.stdin.read(); print({json.dumps(card)!r}); print({json.dumps(lost)!r})")
    assert [card.skipped for card in found.cards] == ["", "no Graphviz"]
    assert [card.kind for card in found.of_kind("importance")] == ["importance"]
    assert found.fits() == {}
    assert found.missing == ""


def test_a_model_process_that_dies_or_talks_nonsense_costs_its_cards_only(search: Summary) -> None:
    assert "ended with exit code 7" in asked(search, "import sys; sys.exit(7)").missing
    assert "no card" in asked(search, "print('hello')").missing
    assert "gave no card" in asked(search, "pass").missing


def test_a_model_that_takes_too_long_is_given_up_and_what_it_said_is_kept(search: Summary) -> None:
    card = {"kind": "fit", "about": ["mAP"], "data": {"r2": 0.5}, "skipped": ""}
    program = f"import time; print({json.dumps(card)!r}, flush=True); time.sleep(60)"
    found = asked(search, program, deadline=0.3)
    assert found.fits() == {"mAP": 0.5}
    assert "within 0.3 s" in found.missing


def test_the_model_is_told_of_metrics_without_any_difference_of_which_no_importance_is_asked(tmp_path: Path) -> None:
    events = [event for index in range(3) for event in completed(index, 1.0, **{"clips.identities": 2 + index})]
    request = model_request(read_summary(write_search(tmp_path / "first", SearchSpace.load("smoke.yaml"), events)))
    assert request is not None
    assert request["flat"] == ["mAP"]


def test_a_model_is_not_asked_about_too_few_trials(tmp_path: Path) -> None:
    assert "3 completed trials" in asked(read_summary(a_search(tmp_path / "few")), "print('never read')").missing


def test_the_request_has_the_best_configuration_and_completed_trials_only(search: Summary) -> None:
    request = model_request(search)
    assert request is not None
    assert request["centre"]["clips.identities"] == 2  # Ax's code for 4
    assert {trial["state"] for trial in request["question"]["trials"]} == {"completed"}
    assert set(request["grids"]) == set(search.space.parameters)


def test_a_grid_covers_a_range_evenly_and_names_every_value_of_a_choice() -> None:
    assert grid({"type": "float", "low": 0.0, "high": 1.0}, 3) == [0, 0.5, 1]
    assert grid({"type": "int", "low": 0, "high": 2}, 10) == [0, 1, 2]
    assert grid({"type": "int", "low": 0, "high": 100}, 3) == [0, 50, 100]
    assert grid({"type": "choice", "values": [0, 1], "ordered": False}, 10) == [0, 1]
    assert grid({"type": "choice", "values": [0.0, 0.3, 0.6, 1.0], "ordered": True}, 3) == [0, 0.6, 1]


def test_codes_of_a_card_become_values_again(search: Summary) -> None:
    card = {"kind": "slice", "about": ["clips.identities"], "data": {"x": [0, 1]}, "skipped": ""}
    (found,) = asked(search, f"import sys; sys.stdin.read(); print({json.dumps(card)!r})").cards
    low = search.space.parameters["clips.identities"].at(0)
    assert found.data["x"] == [low, int(low) + 1]
    card["data"] = {"x": [-1]}
    assert "no card" in asked(search, f"import sys; sys.stdin.read(); print({json.dumps(card)!r})").missing


def test_a_histogram_counts_every_share_once() -> None:
    assert histogram([0.0, 0.04, 0.5, 0.999, 1.0], bins=2) == [2, 3]


@pytest.fixture
def evaluated(search: Summary) -> Path:
    """The evaluation folder of the best trial, as the trainer leaves it."""
    place = search.folder.trial("t0002") / "evaluation"
    place.mkdir(parents=True)
    by_camera = np.array([[np.nan, 0.5], [1.0, np.nan], [np.nan, np.nan]])
    queries = QueryMetrics(
        average_precision=np.array([0.5, 1.0, np.nan]),
        valid=np.array([True, True, False]),
        identity=np.array([1, 2, 3]),
        camera=np.array([1, 2, 1]),
        frames=np.array([4, 4, 4]),
        first_frame=np.array(["a", "b", "c"]),
        gallery_cameras=np.array([1, 2]),
        by_camera=by_camera,
    )
    write_query_metrics(place, queries)
    (place / "evaluation.json").write_text(json.dumps({"mAP": 0.75, "cmc": {"embeddings": [0.5, 1.0]}}))
    for name in ("ranking.png", "attention.png"):
        Image.new("RGB", (3000, 40), "blue").save(place / name)
    return place


def test_an_evaluation_gives_curve_queries_cameras_and_pictures(search: Summary, evaluated: Path) -> None:
    found = read_evaluation(search.folder, "t0002", pictures=True)
    assert found is not None
    assert (found.cmc, found.precisions, found.problems) == ([0.5, 1.0], [0.5, 1.0], [])
    assert found.cameras is not None
    assert found.cameras.mean_ap == [[None, 0.5], [1.0, None]]
    assert set(found.pictures) == {"ranking", "attention"}
    assert all(uri.startswith("data:image/webp;base64,") and len(uri) < 20_000 for uri in found.pictures.values())


def test_cmc_curves_are_whole_where_the_evaluation_has_them(search: Summary, evaluated: Path) -> None:
    curves = read_report(search.folder, model=False, images=False).cmc_curves
    assert curves["t0002"] == [(1, 0.5), (2, 1.0)]
    assert [rank for rank, _ in curves["t0001"]] == [1, 5, 10, 20]


def test_pictures_of_real_identities_are_shown_only_when_asked_for(search: Summary, evaluated: Path) -> None:
    described = search.folder.description.read_text()
    assert read_report(search.folder, model=False, images=False).evaluation.pictures  # type: ignore[union-attr]
    search.folder.description.write_text(described.replace("synthetic: true", "synthetic: false"))
    assert not read_report(search.folder, model=False, images=False).evaluation.pictures  # type: ignore[union-attr]
    assert read_report(search.folder, model=False, images=True).evaluation.pictures  # type: ignore[union-attr]


def test_damaged_files_of_an_evaluation_are_listed_without_their_folder(search: Summary, evaluated: Path) -> None:
    for name in ("evaluation.json", "per_query.npz", "ranking.png"):
        (evaluated / name).write_bytes(b"{ no")
    found = read_evaluation(search.folder, "t0002", pictures=True)
    assert found is not None
    assert [problem.partition(":")[0] for problem in found.problems] == [
        "evaluation.json",
        "per_query.npz",
        "ranking.png",
    ]
    assert not any(str(search.folder.path) in problem for problem in found.problems), found.problems
    assert set(found.pictures) == {"attention"}


def test_a_trial_without_an_evaluation_has_none(search: Summary) -> None:
    assert read_evaluation(search.folder, "t0001", pictures=True) is None
