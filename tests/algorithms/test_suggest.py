"""Suggestions depend only on the space, the seed and the history."""

from __future__ import annotations

import json

import pytest
from events import completed, suggested
from small_spaces import random_point, sobol_point

from orchestrator.algorithms.ax_experiment import ax_experiment
from orchestrator.algorithms.suggest import initial_suggestion, initial_trials
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.events import AttemptFailed, Event, Observation, ObservationsAttached, TrialFailed
from orchestrator.study.study import fold


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return SearchSpace.load("attn_cl.yaml")


@pytest.fixture(scope="module")
def smoke() -> SearchSpace:
    return SearchSpace.load("smoke.yaml", overrides=["budget.trials=30"])


def test_known_points_come_first_then_the_initial_design_then_the_model(smoke: SearchSpace) -> None:
    events = []
    sources = []
    for index in range(8):
        suggestion = initial_suggestion(smoke, 0, fold(events))
        sources.append(suggestion.source if suggestion else "model")
        events += completed(index, 0.1 * index)
    assert sources == ["start", *["sobol"] * 4, *["model"] * 3]


def test_a_space_without_known_points_begins_in_its_middle() -> None:
    space = SearchSpace.load("smoke.yaml", overrides=["start=[]"])
    first = initial_suggestion(space, 0, fold([]))
    assert first is not None
    assert first.source == "center"
    assert first.params["optim.learning_rate"] == pytest.approx(1e-3), "of 1e-4 to 1e-2, on its log scale"
    assert first.params["clips.identities"] == 3
    second = initial_suggestion(space, 0, fold(completed(0, 0.1)))
    assert second is not None
    assert second.source == "sobol"


def test_a_middle_that_a_constraint_forbids_is_left_out() -> None:
    space = SearchSpace.load("smoke.yaml", overrides=["start=[]", "constraints=['clips.identities <= 2']"])
    first = initial_suggestion(space, 0, fold([]))
    assert first is not None
    assert first.source == "sobol"


def test_the_initial_design_goes_on_while_too_little_is_known_for_a_model(smoke: SearchSpace) -> None:
    nothing_finished = fold([suggested(index) for index in range(20)])
    suggestion = initial_suggestion(smoke, 0, nothing_finished)
    assert suggestion is not None
    assert suggestion.source == "sobol"


def test_points_of_the_initial_design_differ_and_lie_in_the_space(space: SearchSpace) -> None:
    points = [sobol_point(space, 0, index) for index in range(16)]
    assert len({json.dumps(point) for point in points}) == 16
    for point in points:
        assert all(space.parameters[path].refusal(value) is None for path, value in point.items())
        space.config(point)


def test_the_initial_design_fills_each_range_evenly_on_its_own_scale(space: SearchSpace) -> None:
    values = sorted(float(sobol_point(space, 1, index)["optim.learning_rate"]) for index in range(16))
    low, high = 6e-5, 2e-3
    middle = (low * high) ** 0.5
    assert sum(value < middle for value in values) == 8


@pytest.mark.parametrize("draw", [sobol_point, random_point])
def test_points_depend_on_seed_and_index_alone(space: SearchSpace, draw) -> None:
    assert draw(space, 3, 5) == draw(space, 3, 5)
    assert draw(space, 3, 5) != draw(space, 4, 5)
    assert draw(space, 3, 5) != draw(space, 3, 6)


def test_the_model_learns_of_completed_trials_only_and_sees_the_others_as_what_they_are(smoke: SearchSpace) -> None:
    study = fold(
        [
            *completed(0, 0.2, 0.4),
            suggested(1),
            suggested(2),
            AttemptFailed(trial="t0002", attempt=1, failure="diverged", reason=""),
            TrialFailed(trial="t0002", failure="diverged", reason=""),
        ]
    )
    question = ax_experiment(smoke, 0, study)
    assert [trial["state"] for trial in question["trials"]] == ["completed", "pending", "diverged"]
    assert question["trials"][0]["value"] == 0.4
    assert all("value" not in trial for trial in question["trials"][1:])
    json.dumps(question, allow_nan=False)


def test_the_model_hears_of_all_objectives_and_of_bounds_in_numbers() -> None:
    constraints = "['mINP >= baseline', 'rank1 >= 0.1', 'hours <= 9']"
    overrides = ["objective.metric='mAP, -hours'", f"objective.constraints={constraints}"]
    space = SearchSpace.load("smoke.yaml", overrides=overrides)
    first, *rest = completed(0, 0.3)
    running = [first.model_copy(update={"source": "start"}), *rest[:-1]]
    question = ax_experiment(space, 0, fold([*running, *completed(1, 0.2)]))
    assert question["objective"] == "mAP, -hours"
    assert question["outcome_constraints"] == ["rank1 >= 0.1", "hours <= 9.0"]
    assert question["trials"][1]["metrics"] == {"hours": 1 / 3600, "mINP": 0.1, "rank1": 0.2}
    question = ax_experiment(space, 0, fold([*running, rest[-1], *completed(1, 0.2)]))
    assert question["outcome_constraints"] == ["mINP >= 0.15", "rank1 >= 0.1", "hours <= 9.0"]


def test_finished_trials_of_an_earlier_search_need_all_objectives() -> None:
    space = SearchSpace.load("smoke.yaml", overrides=["objective.metric='mAP, -hours'"])
    known = [
        Observation(trial="t0000", params={}, value=0.5, standard_error=None),
        Observation(trial="t0001", params={}, value=0.6, standard_error=None, metrics={"hours": 2.0}),
    ]
    study = fold([ObservationsAttached(search="earlier", observations=known)])
    (told,) = ax_experiment(space, 0, study)["trials"]
    assert (told["value"], told["metrics"]) == (0.6, {"hours": 2.0})


def test_the_model_is_asked_about_a_space_whose_fixed_settings_alone_the_trainer_refuses() -> None:
    space = SearchSpace.load("b_bot_osm_cl.yaml", overrides=["loss.osm_share=1"])  # needs the centers that are searched
    assert "loss.center_weight" in space.parameters
    assert ax_experiment(space, 0, fold([]))["model"] == "curves"


def test_the_question_to_the_model_is_the_same_for_the_same_history(smoke: SearchSpace) -> None:
    events = [*completed(0, 0.2), *completed(1, 0.3), suggested(2)]
    assert ax_experiment(smoke, 0, fold(events)) == ax_experiment(smoke, 0, fold(events))
    assert ax_experiment(smoke, 0, fold(events)) != ax_experiment(smoke, 1, fold(events))


def test_the_initial_design_is_a_handful_and_all_points_of_the_start(space: SearchSpace) -> None:
    assert initial_trials(space) == 5
    assert initial_trials(SearchSpace.load("attn_cl.yaml", overrides=["budget.trials=3"])) == 3


def test_the_first_trials_of_a_search_that_pauses_train_to_their_end() -> None:
    space = SearchSpace.load("smoke.yaml", overrides=["stopping={rule: freeze_thaw, first: 0.25}", "budget.trials=30"])
    events: list[Event] = []
    for index in range(initial_trials(space)):
        suggestion = initial_suggestion(space, 0, fold(events))
        assert suggestion is not None
        assert suggestion.until == space.config(space.any_sample()).optim.epochs
        events += completed(index, 0.1 * index)
    assert initial_suggestion(space, 0, fold(events)) is None
