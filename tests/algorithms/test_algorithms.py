"""Every algorithm: points of the space, none twice, the same for the same history, and an end if there is one."""

from __future__ import annotations

from typing import Any

import pytest
from events import reported
from hypothesis import given, settings
from small_spaces import FLAG, GATE, IDENTITIES, MARGIN, RATE, finite, mixed, random_point, space_of
from strategies import quick, seeds

from orchestrator.algorithms.points import grid_points, point_key
from orchestrator.algorithms.suggest import ALGORITHMS, AskModel, Exhausted, Proposal, Suggestion, new_random_suggestion
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.events import (
    Event,
    Observation,
    ObservationsAttached,
    SearchCreated,
    TrialCompleted,
    TrialStarted,
    TrialSuggested,
)
from orchestrator.study.study import Study, fold

NAMES = sorted(ALGORITHMS)


def ended(suggestion: Suggestion, index: int) -> list[Event]:
    """A completed trial of the suggestion."""
    key = f"t{index:04d}"
    return [
        TrialSuggested(trial=key, index=index, params=suggestion.params, source=suggestion.source, seed=0, epochs=3),
        TrialStarted(trial=key, attempt=1),
        reported(index, 1, 0.1 + 0.001 * index),
        TrialCompleted(trial=key),
    ]


def random_answer(space: SearchSpace, seed: int, study: Study) -> Suggestion | Exhausted:
    """In place of the model: what the searcher falls back to."""
    return new_random_suggestion(space, seed, study)


def searched(name: str, space: SearchSpace, trials: int, seed: int = 0) -> tuple[list[Suggestion], Proposal | None]:
    """A sequential search: its suggestions, and how it ended if it did so by itself."""
    events: list[Event] = [SearchCreated(search="s", space="0", seed=seed)]
    found: list[Suggestion] = []
    for index in range(trials):
        study = fold(events)
        step = ALGORITHMS[name](space, seed, study)
        if isinstance(step, AskModel):
            step = random_answer(space, seed, study)
        if not isinstance(step, Suggestion):
            return found, step
        found.append(step)
        events += ended(step, index)
    return found, None


def keys(found: list[Suggestion]) -> list[str]:
    return [point_key(suggestion.params) for suggestion in found]


def assert_inside(space: SearchSpace, params: dict[str, Any]) -> None:
    assert set(params) == set(space.active(params))
    assert all(space.parameters[path].refusal(value) is None for path, value in params.items())
    for bound in space.linear_constraints():
        assert bound.holds({path: float(params[path]) for path in bound.weights})


@pytest.mark.parametrize("name", NAMES)
def test_every_point_obeys_steps_conditions_and_constraints_and_none_comes_twice(name: str) -> None:
    space = mixed()
    found, _ = searched(name, space, 25)
    assert len(found) == len(set(keys(found))) == 25
    for suggestion in found:
        assert_inside(space, suggestion.params)
    assert {"model.attention_hidden" in suggestion.params for suggestion in found} == {True, False}


@pytest.mark.parametrize("name", NAMES)
@given(seed=seeds)
@settings(quick, max_examples=5)
def test_a_finite_space_is_tried_out_point_by_point_and_then_ends(name: str, seed: int) -> None:
    space = finite()
    found, end = searched(name, space, 30, seed)
    assert len(found) == len(set(keys(found))) == space.point_count() == 9
    assert isinstance(end, Exhausted)
    assert "every point" in end.reason


@pytest.mark.parametrize("name", NAMES)
def test_the_points_that_the_space_names_come_first(name: str) -> None:
    start = [
        {"clips.erase": 0.3, "model.pooling": "mean"},
        {"clips.erase": 0.1, "model.pooling": "attention", "loss.osm_detach": True},
    ]
    found, _ = searched(name, finite(start=start), 9)
    assert [suggestion.params for suggestion in found[:2]] == start
    assert [suggestion.source for suggestion in found[:2]] == ["start", "start"]
    assert len(set(keys(found))) == 9


@pytest.mark.parametrize("name", NAMES)
@given(seed=seeds)
@settings(quick, max_examples=5)
def test_the_same_history_gives_the_same_step(name: str, seed: int) -> None:
    space = mixed()
    assert searched(name, space, 8, seed) == searched(name, space, 8, seed)


@pytest.mark.parametrize(("name", "source"), [("sobol", "sobol"), ("random", "random"), ("grid", "grid")])
def test_algorithms_without_a_model_name_themselves_as_the_source(name: str, source: str) -> None:
    found, _ = searched(name, mixed(), 12)
    assert {suggestion.source for suggestion in found} == {source}
    assert {suggestion.note for suggestion in found} == {""}


@pytest.mark.parametrize("name", ["sobol", "random"])
def test_seeds_make_different_searches(name: str) -> None:
    assert keys(searched(name, mixed(), 5, 1)[0]) != keys(searched(name, mixed(), 5, 2)[0])


def test_ax_asks_its_model_once_the_initial_design_has_results() -> None:
    space, events = mixed(), [SearchCreated(search="s", space="0", seed=0)]
    kinds: list[type] = []
    for index in range(14):
        study = fold(events)
        step = ALGORITHMS["ax"](space, 0, study)
        kinds.append(type(step))
        suggestion = step if isinstance(step, Suggestion) else random_answer(space, 0, study)
        assert isinstance(suggestion, Suggestion)
        events += ended(suggestion, index)
    assert kinds == [Suggestion] * 5 + [AskModel] * 9


def test_a_failing_design_goes_on_in_a_finite_space_until_it_ends() -> None:
    space, events = finite(), [SearchCreated(search="s", space="0", seed=0)]
    for index in range(9):
        step = ALGORITHMS["ax"](space, 0, fold(events))
        suggestion = random_answer(space, 0, fold(events)) if isinstance(step, AskModel) else step
        assert isinstance(suggestion, Suggestion)
        events += ended(suggestion, index)[:1]
    assert isinstance(ALGORITHMS["ax"](space, 0, fold(events)), Exhausted)


@pytest.mark.parametrize("trials", [1, 8, 30, 100])
def test_a_grid_has_as_many_levels_as_the_budget_holds_and_two_at_least(trials: int) -> None:
    space = space_of({"optim.learning_rate": RATE, "clips.flip": MARGIN, "loss.osm_detach": FLAG}, trials=trials)
    points = list(grid_points(space, 0))
    levels = {1: 2, 8: 2, 30: 3, 100: 7}[trials]
    assert len(points) == len(set(map(point_key, points))) == 2 * levels**2
    for path, parameter in (("optim.learning_rate", RATE), ("clips.flip", MARGIN)):
        values = sorted({float(point[path]) for point in points})
        assert len(values) == levels
        assert [values[0], values[-1]] == pytest.approx([parameter["low"], parameter["high"]])


def test_a_grid_within_the_budget_comes_in_order_with_every_whole_number() -> None:
    space = space_of({"clips.identities": IDENTITIES, "model.pooling": GATE}, trials=16)
    points = [(point["clips.identities"], point["model.pooling"]) for point in grid_points(space, 0)]
    assert points == [(identities, gate) for identities in range(2, 10) for gate in ("mean", "attention")]


def test_a_grid_beyond_the_budget_is_sampled_and_not_cut_off_at_a_corner() -> None:
    parameters = {f"clips.{name}": {"type": "choice", "values": list(range(10))} for name in "abcdef"}
    found, _ = searched("grid", space_of(parameters, trials=20), 20)
    assert len({suggestion.params["clips.a"] for suggestion in found}) > 5


def test_whole_numbers_on_a_log_scale_are_all_on_a_grid_that_has_room() -> None:
    space = space_of({"model.attention_hidden": {"type": "int", "low": 3, "high": 50, "log": True}}, trials=48)
    assert [point["model.attention_hidden"] for point in grid_points(space, 0)] == list(range(3, 51))


@pytest.mark.parametrize("name", NAMES)
def test_constraints_that_leave_next_to_nothing_end_the_search_and_not_the_process(name: str) -> None:
    space = space_of(
        {"clips.flip": MARGIN, "clips.erase": MARGIN},
        constraints=["clips.flip + clips.erase <= 1e-9"],
        trials=9,
    )
    _, end = searched(name, space, 9)
    assert isinstance(end, Exhausted)


def test_numbers_that_differ_in_the_last_digits_only_are_one_point() -> None:
    assert point_key({"a": 0.1 + 0.2, "b": 1}) == point_key({"b": 1.0, "a": 0.3})
    assert point_key({"a": True}) != point_key({"a": 1})


def warm_started(space: SearchSpace) -> Study:
    """A study without trials that knows ten of an earlier search."""
    known = [
        Observation(trial=f"t{index:04d}", params=random_point(space, 0, index), value=0.1 * index, standard_error=0.02)
        for index in range(10)
    ]
    attached = ObservationsAttached(search="earlier", observations=known)
    return fold([SearchCreated(search="s", space="0", seed=0), attached])


def test_finished_trials_of_an_earlier_search_take_the_place_of_the_initial_design_of_ax_models() -> None:
    space = mixed(algorithm={"name": "ax", "method": "quality"})
    step = ALGORITHMS["ax"](space, 0, warm_started(space))
    assert isinstance(step, AskModel)
    assert [trial["state"] for trial in step.experiment["trials"]] == ["completed"] * 10
    assert step.experiment["trials"][3]["value"] == pytest.approx(0.3)


def test_a_search_with_our_model_begins_with_its_own_trials_whatever_an_earlier_one_found() -> None:
    space = mixed()
    step = ALGORITHMS["ax"](space, 0, warm_started(space))
    assert isinstance(step, Suggestion)
    assert step.source == "center"


def test_the_best_point_of_an_earlier_search_is_tried_after_the_known_points() -> None:
    space, study = mixed(), warm_started(mixed())
    for event in ended(Suggestion(random_point(space, 1, 0), "center"), 0):
        study.apply(event)
    step = ALGORITHMS["ax"](space, 0, study)
    assert isinstance(step, Suggestion)
    assert (step.params, step.source) == (study.attached[0][9].params, "start")
    for event in ended(step, 1):
        study.apply(event)
    following = ALGORITHMS["ax"](space, 0, study)
    assert isinstance(following, Suggestion)
    assert following.source == "sobol"
