"""Points as rows of numbers: every candidate is a valid point, whatever the parameters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from small_spaces import FLAG, GATE, IDENTITIES, MARGIN, finite, mixed, space_of
from strategies import quick, seeds

from orchestrator.algorithms.ax_experiment import ax_experiment, point_from_answer
from orchestrator.algorithms.coded_points import CodedSpace, keys
from orchestrator.algorithms.curve_values import Array
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.study import Study

LOG_INTS = {"type": "int", "low": 1, "high": 20, "log": True}
FRAMES = {"type": "choice", "values": [2, 4, 8], "ordered": True}
POOLING = {"type": "choice", "values": ["mean", "max", "attention"]}
ALL_KINDS = {"clips.flip": MARGIN, "clips.frames": FRAMES, "clips.identities": IDENTITIES, "clips.pad": LOG_INTS}


def coded(space: SearchSpace) -> CodedSpace:
    return CodedSpace.of(ax_experiment(space, 0, Study()))


def draws(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def every_kind(space: CodedSpace, seed: int) -> Array:
    """Candidates of each kind."""
    random = space.random(draws(seed), 20)
    return np.vstack([random, space.near(draws(seed), random[0], 20), space.around(draws(seed), random[:2], 10, 0.2)])


@pytest.mark.parametrize(
    "space",
    [mixed(), finite(), space_of({**ALL_KINDS, "model.pooling": POOLING})],
    ids=["mixed", "finite", "all kinds"],
)
@given(seed=seeds)
@quick
def test_every_candidate_is_a_point_of_the_space_and_keeps_its_constraints(space: SearchSpace, seed: int) -> None:
    found = coded(space)
    for row in every_kind(found, seed):
        point = point_from_answer(space, found.codes(row))
        assert all(space.parameters[path].refusal(value) is None for path, value in point.items())
        np.testing.assert_allclose(found.places(found.codes(row)), row)


def test_what_is_not_active_makes_no_difference_between_candidates() -> None:
    space = mixed()
    found = coded(space)
    gate, width = (list(space.parameters).index(path) for path in ("model.pooling", "model.attention_hidden"))
    rows = found.random(draws(0), 200)
    idle = rows[rows[:, gate] == space.parameters["model.pooling"].place("mean")]
    assert len(idle) and len(set(idle[:, width])) == 1
    asked = ax_experiment(space, 0, Study())
    assert idle[0, width] == asked["parameters"]["model.attention_hidden"]["inactive"]


def test_values_of_a_choice_without_an_order_lie_equally_far_apart() -> None:
    found = coded(space_of({"clips.flip": MARGIN, "model.pooling": POOLING}))
    points = found.coordinates(np.array([[0.5, place] for place in (0, 0.5, 1)]))
    assert points.shape == (3, 4)
    distances = {round(float(np.linalg.norm(points[i] - points[j])), 9) for i, j in ((0, 1), (0, 2), (1, 2))}
    assert len(distances) == 1


def test_a_choice_of_two_values_and_an_ordered_one_are_one_coordinate() -> None:
    found = coded(space_of({"loss.osm_detach": FLAG, "clips.frames": FRAMES}))
    np.testing.assert_array_equal(found.coordinates(np.array([[1.0, 0.5]])), [[1.0, 0.5]])


def test_each_value_of_a_list_is_drawn_as_often_as_the_others() -> None:
    found = coded(space_of({"clips.flip": MARGIN, "clips.frames": FRAMES}))
    _, counts = np.unique(found.random(draws(0), 3000)[:, 1], return_counts=True)
    assert counts.min() > 900


def test_small_spaces_are_listed_and_others_are_not() -> None:
    listed = coded(finite()).every()
    assert listed is not None
    assert len(set(keys(listed))) == finite().point_count()
    assert coded(mixed()).every() is None


def test_lists_are_left_by_steps_too_short_to_reach_the_next_value() -> None:
    found = coded(space_of({"loss.osm_detach": FLAG, "model.pooling": GATE}))
    near = found.near(draws(0), np.array([0.0, 0.0]), 50)
    assert {tuple(row) for row in near.tolist()} == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_points_that_differ_by_rounding_are_the_same() -> None:
    first, second = keys(np.array([[0.1 + 0.2, 1.0], [0.3, 1.0]]))
    assert first == second
