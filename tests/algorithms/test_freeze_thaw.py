"""The decision what trains next: pure, of valid and untried points, by what curves say; and the question behind it."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from events import completed, paused, reported, started, suggested
from hypothesis import given
from small_spaces import random_point
from strategies import quick, seeds

from orchestrator.algorithms.ax_experiment import ax_experiment
from orchestrator.algorithms.coded_points import CodedSpace, keys
from orchestrator.algorithms.curve_history import CurveTrial, Evaluated, History, State, curve_model
from orchestrator.algorithms.freeze_thaw import Continue, Evidence, Start, decide, decisions, ends, forecasts
from orchestrator.space.problems import SpaceError
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.events import AttemptFailed, Event, TrialFailed, TrialStopped
from orchestrator.study.study import Study, fold

EPOCHS, CHUNKS, ENDS = 16, (0.0625, 0.125, 0.25, 0.5), (1, 2, 4, 8, 16)
PLANE = CodedSpace.of(
    {"parameters": {name: {"type": "float", "low": 0.0, "high": 1.0} for name in "xy"}, "constraints": []}
)


def curve(final: float, until: int, clock: float = 0.0) -> list[Evaluated]:
    """A curve that rises to its final value, told at the ends of chunks."""
    return [Evaluated(end, final - np.exp(-5 * end / EPOCHS), clock + end) for end in ENDS if end <= until]


def trial(
    x: float, y: float, final: float, until: int = EPOCHS, state: State = "completed", start: int = EPOCHS
) -> CurveTrial:
    pauses = sum(start <= end <= until for end in ENDS[:-1])
    return CurveTrial(np.array([x, y]), state, EPOCHS, until, min(start, until), pauses, curve(final, until))


def value(x: float, y: float) -> float:
    return 1 - (x - 0.7) ** 2 - (y - 0.4) ** 2


def history(*more: CurveTrial, seed: int = 0, whole: int = 6) -> History:
    """Some whole trials of a hill, and others."""
    points = np.random.default_rng(seed).random((whole, 2))
    return History(PLANE, [*(trial(x, y, value(x, y)) for x, y in points), *more], ENDS, CHUNKS, seed)


# --- decisions -------------------------------------------------------------------------------------------------------


@given(seed=seeds)
@quick
def test_the_same_history_gives_the_same_decision_and_new_points_are_untried(seed: int) -> None:
    known = history(seed=seed)
    found = decide(known)
    assert isinstance(found, Start)
    again = decide(known)
    assert isinstance(again, Start)
    assert (found.places.tolist(), found.until) == (again.places.tolist(), again.until)
    assert ((found.places >= 0) & (found.places <= 1)).all()
    assert found.until in ENDS
    tried = set(keys(np.array([each.places for each in known.trials])))
    assert not tried & set(keys(found.places[None]))


def test_a_paused_trial_whose_curve_is_the_best_goes_on_and_a_bad_one_waits() -> None:
    promising = trial(0.72, 0.42, 1.3, until=4, state="paused", start=1)
    hopeless = trial(0.05, 0.95, 0.0, until=4, state="paused", start=1)
    found = decide(history(promising, hopeless))
    assert isinstance(found, Continue)
    assert found.trial == 6
    assert found.until == EPOCHS, "a trial pauses once"
    mean, deviation = found.forecast
    assert mean == pytest.approx(1.3, abs=0.25) and 0 < deviation < 0.5
    assert isinstance(decide(history(hopeless)), Start)


def test_no_forecast_is_shown_before_three_trials_are_completed() -> None:
    promising = trial(0.72, 0.42, 1.3, until=4, state="paused", start=1)
    assert not ends(history(promising, whole=2))
    assert list(ends(history(promising, whole=3))) == [3]


def test_trials_that_train_or_are_over_never_go_on() -> None:
    for state in ("pending", "stopped", "failed", "diverged"):
        promising = trial(0.72, 0.42, 1.3, until=4, state=state, start=1)  # type: ignore[arg-type]
        assert isinstance(decide(history(promising)), Start)


def test_several_decisions_at_once_are_at_different_places() -> None:
    found = [decision for decision, _ in zip(decisions(history(whole=10)), range(4), strict=False)]
    points = np.array([decision.places for decision in found if isinstance(decision, Start)])
    assert len(set(keys(points))) == 4
    assert np.ptp(points, axis=0).max() > 0.1, "what trains already is as good as known"


def test_a_continued_trial_is_not_continued_twice() -> None:
    paused_trials = [trial(0.72, 0.4 + 0.02 * i, 1.3, until=4, state="paused", start=1) for i in range(3)]
    found = [decision for decision, _ in zip(decisions(history(*paused_trials)), range(3), strict=False)]
    continued = [decision.trial for decision in found if isinstance(decision, Continue)]
    assert len(continued) == len(set(continued)) >= 2


def test_without_pauses_new_trials_are_whole() -> None:
    found = decide(replace(history(), ends=(EPOCHS,), chunks=()))
    assert isinstance(found, Start)
    assert found.until == EPOCHS


def test_the_search_climbs_the_hill() -> None:
    known = replace(history(whole=5), ends=(EPOCHS,))
    for _ in range(8):
        found = decide(known)
        assert isinstance(found, Start)
        x, y = found.places
        known = replace(known, trials=[*known.trials, trial(x, y, value(x, y))])
    assert max(each.curve[-1].value for each in known.trials) > 0.99 - np.exp(-5)


def test_points_near_a_trial_that_diverged_are_worth_less() -> None:
    lost = trial(0.7, 0.4, 0.0, until=2, state="diverged", start=1)
    found = decide(replace(history(lost, whole=12), ends=(EPOCHS,)))
    assert isinstance(found, Start)
    assert np.linalg.norm(found.places - lost.places) > 0.1


def test_a_small_space_is_tried_out_and_then_there_is_nothing_left() -> None:
    space = CodedSpace.of({"parameters": {"a": {"type": "int", "low": 0, "high": 4}}, "constraints": []})
    rows = [CurveTrial(np.array([i / 4]), "completed", 16, 16, 16, 0, curve(i, 16)) for i in range(3)]
    known, found = History(space, rows, (16,), (), 0), []
    for decision in decisions(known):
        assert isinstance(decision, Start)
        found.append(float(decision.places[0]))
    assert sorted(found) == [0.75, 1.0]


def test_equal_values_are_followed_by_a_random_point_that_trains_whole() -> None:
    equal = [
        CurveTrial(np.array([0.1 * i, 0.5]), "completed", 16, 16, 16, 0, [Evaluated(16, 0.5, i)]) for i in range(4)
    ]
    found = decide(History(PLANE, equal, ENDS, CHUNKS, 0))
    assert isinstance(found, Start)
    assert found.until == EPOCHS


# --- the guard -------------------------------------------------------------------------------------------------------


def judged(count: int, *, tells: bool, seed: int = 3) -> History:
    """Whole trials at random points with random ends, which earlier values are close to, or say nothing about."""
    draws = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        final, other = draws.standard_normal(2)
        early = final + 0.1 * other if tells else other
        values = [Evaluated(end, final if end == EPOCHS else early, number + end / 100) for end in ENDS]
        rows.append(CurveTrial(draws.random(2), "completed", EPOCHS, EPOCHS, EPOCHS, 0, values))
    return History(PLANE, rows, ENDS, CHUNKS, 0)


def evidence_of(history: History) -> Evidence:
    model = curve_model(history)
    assert model is not None
    return Evidence.of(history, model)


def test_new_trials_pause_where_early_values_tell_of_the_last_ones() -> None:
    found = decide(judged(16, tells=True))
    assert isinstance(found, Start)
    assert (found.until, found.note) == (1, "")


def test_a_trial_pauses_after_the_first_epoch_whose_values_leave_little_unknown() -> None:
    enough = Evidence(completed=8, residual=[0.9, 0.6, 0.2, 0.1], new_inflation=1.0, paused_inflation=[1.0] * 4)
    assert enough.first_pause(history()) == 2
    assert enough._replace(residual=[0.9, 0.8, 0.7, 0.61]).first_pause(history()) == EPOCHS
    assert enough._replace(completed=7).first_pause(history()) == EPOCHS, "too few have said so"


def test_where_early_values_say_nothing_trials_run_whole_and_a_note_says_why() -> None:
    found = decide(judged(16, tells=False))
    assert isinstance(found, Start)
    assert found.until == EPOCHS
    assert "trials run whole: values up to epoch 8 of 16 leave" in found.note and "16 completed trials" in found.note


def test_the_first_trials_run_whole_whatever_their_values_tell_and_without_pauses_nothing_is_noted() -> None:
    for history_ in (judged(7, tells=True), replace(judged(16, tells=False), ends=(EPOCHS,), chunks=())):
        found = decide(history_)
        assert isinstance(found, Start)
        assert (found.until, found.note) == (EPOCHS, "")


@given(seed=seeds)
@quick
def test_more_epochs_never_leave_more_unknown(seed: int) -> None:
    residual = evidence_of(judged(10, tells=bool(seed % 2), seed=seed)).residual
    assert all(0 <= after <= before <= 1 for before, after in itertools.pairwise(residual))


def test_starts_take_no_more_than_half_of_the_epochs_of_trials_that_pause() -> None:
    """Paused trials that a new one beats: where starts have taken half of the epochs, the best of them goes on."""
    whole = list(history(whole=10).trials)
    behind = [trial(0.6, 0.3 + 0.02 * i, 0.95, until=1, state="paused", start=1) for i in range(8)]
    found = decide(replace(history(), trials=[*whole, *behind]))
    assert isinstance(found, Continue)
    went_on = [trial(0.6, 0.6 + 0.02 * i, 0.95, start=1) for i in range(8)]
    assert isinstance(decide(replace(history(), trials=[*whole, *went_on, *behind])), Start)


# --- forecasts -------------------------------------------------------------------------------------------------------


def test_forecasts_are_of_trials_with_values_that_are_not_over_for_good() -> None:
    known = history(
        trial(0.7, 0.4, 1.0, until=4, state="paused", start=1),
        trial(0.2, 0.4, 0.6, until=2, state="stopped", start=1),
        trial(0.3, 0.4, 0.6, until=2, state="failed", start=1),
        trial(0.3, 0.5, 0.6, until=0, state="pending"),
    )
    assert set(ends(known)) == {6, 7}
    assert ends(replace(known, trials=known.trials[:1])) == {}


def test_half_of_the_change_that_a_forecast_expects_is_part_of_its_error() -> None:
    hopeless = trial(0.1, 0.9, -1000.0, until=4, state="paused", start=4)
    ((mean, error),) = ends(history(hopeless)).values()
    assert mean - hopeless.curve[-1].value < 2.01 * error


# --- the question ----------------------------------------------------------------------------------------------------

OVERRIDES = ["stopping={rule: freeze_thaw, first: 0.25}", "optim.epochs=8", "budget.trials=20", "evaluation.every=1"]


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return SearchSpace.load("smoke.yaml", overrides=OVERRIDES)


def begun(space: SearchSpace, index: int, *values: float) -> list[Event]:
    event = suggested(index, **random_point(space, 0, index))  # type: ignore[arg-type]
    event = event.model_copy(update={"epochs": 8, "until": 2})
    return [event, started(index), *(reported(index, epoch, each) for epoch, each in enumerate(values, 1))]


def asked(space: SearchSpace, *parts: list[Event]) -> dict[str, object]:
    question = ax_experiment(space, 0, fold([event for part in parts for event in part]))
    return json.loads(json.dumps(question, allow_nan=False))["trials"][-1]  # type: ignore[no-any-return]


def test_a_paused_trial_is_told_with_its_curve_at_chunk_ends(space: SearchSpace) -> None:
    told = asked(space, begun(space, 0, 0.1, 0.2), [paused(0, 2)])
    assert (told["state"], told["until"], told["first"], told["pauses"]) == ("paused", 2, 2, 1)
    assert [each[:2] for each in told["curve"]] == [[2, 0.2]]  # type: ignore[union-attr, attr-defined]


def test_the_question_does_not_change_while_trials_train(space: SearchSpace) -> None:
    before, after = begun(space, 0, 0.1), begun(space, 0, 0.1, 0.2)
    assert asked(space, before) == asked(space, after)
    assert asked(space, before)["curve"] == []


def test_a_trial_that_diverged_is_told_from_one_that_failed_otherwise(space: SearchSpace) -> None:
    for failure, state in (("diverged", "diverged"), ("error", "failed")):
        lost = AttemptFailed.model_validate({"trial": "t0000", "attempt": 1, "failure": failure, "reason": ""})
        over = TrialFailed.model_validate({"trial": "t0000", "failure": failure, "reason": ""})
        assert asked(space, begun(space, 0, 0.1), [lost, over])["state"] == state


def test_a_smaller_is_better_objective_is_told_with_larger_values_better() -> None:
    space = SearchSpace.load("smoke.yaml", overrides=[*OVERRIDES, "objective.goal=minimize"])
    assert asked(space, begun(space, 0, 0.1, 0.2), [paused(0, 2)])["curve"][0][1] == -0.2  # type: ignore[index]


def test_without_a_stopping_rule_only_last_values_are_told_and_with_one_the_curves() -> None:
    for rule, epochs in (("none", [3]), ("asha", [1, 2, 3])):
        space = SearchSpace.load("smoke.yaml", overrides=[f"stopping.rule={rule}"])
        _, *rest = completed(0, 0.1, 0.2, 0.3)
        point = suggested(0, **random_point(space, 0, 0))  # type: ignore[arg-type]
        assert [each[0] for each in asked(space, [point, *rest])["curve"]] == epochs  # type: ignore[attr-defined]


def test_freeze_thaw_without_the_model_is_refused() -> None:
    for override in (
        "algorithm.name=sobol",
        "objective.metric='mAP, -hours'",
        "objective.constraints=['rank1 >= 0.1']",
    ):
        with pytest.raises(SpaceError, match=r"stopping\.rule: freeze_thaw needs the model"):
            SearchSpace.load("smoke.yaml", overrides=[*OVERRIDES, override])


def some_trials(space: SearchSpace) -> Study:
    """Four whole trials, a paused, a running and a stopped one."""
    events: list[Event] = []
    for index in range(4):
        final = 0.3 + 0.1 * index
        _, *rest = completed(index, *(final - 0.2 / epoch + 0.025 for epoch in range(1, 9)))
        events += [begun(space, index)[0].model_copy(update={"until": None}), *rest]  # type: ignore[union-attr]
    events += [*begun(space, 4, 0.3, 0.4), paused(4, 2), *begun(space, 5, 0.3)]
    return fold([*events, *begun(space, 6, 0.1, 0.2), TrialStopped(trial="t0006", rule="user", epoch=2, reason="")])


def test_the_report_has_a_forecast_of_every_trial_that_has_values_and_is_not_completed(space: SearchSpace) -> None:
    found = forecasts(some_trials(space), space)
    assert set(found) == {"t0004", "t0005", "t0006"}
    assert 0.3 < found["t0004"].value < 0.7
    assert found["t0004"].value > found["t0006"].value
    assert all(each.error > 0 for each in found.values())


def test_forecasts_need_no_algorithm_with_a_model() -> None:
    space = SearchSpace.load("smoke.yaml", overrides=["optim.epochs=8", "algorithm.name=sobol"])
    assert set(forecasts(some_trials(space), space)) == {"t0004", "t0005", "t0006"}
    assert forecasts(Study(), space) == {}


# --- trials of an earlier search -------------------------------------------------------------------------------------


def with_earlier(known: History, *, level: float = 0.0, scale: float = 1.0, sign: float = 1.0) -> History:
    """After twelve trials of an earlier search of the same hill, or with a sign of -1 of its mirror image."""
    points = np.random.default_rng([known.seed, 1]).random((12, 2))
    values = [level + scale * sign * value(x, y) for x, y in points]
    earlier = [
        CurveTrial(point, "completed", 1, 1, 1, 0, [Evaluated(1, each, 0.0)], search=1)
        for point, each in zip(points, values, strict=True)
    ]
    return replace(known, trials=[*earlier, *known.trials])


def test_level_and_scale_of_an_earlier_search_do_not_matter() -> None:
    for seed in range(3):
        plain = decide(with_earlier(history(seed=seed)))
        moved = decide(with_earlier(history(seed=seed), level=40.0, scale=1000.0))
        assert isinstance(plain, Start) and isinstance(moved, Start)
        np.testing.assert_allclose(moved.places, plain.places, atol=0.02)


def test_an_earlier_search_of_the_same_function_shows_where_the_best_points_are() -> None:
    known = history(whole=3, seed=2)
    best = np.array([[0.7, 0.4]])
    alone, warm = curve_model(known), curve_model(with_earlier(known, level=40.0))
    assert alone is not None and warm is not None
    assert warm.final(best).covariance[0, 0] < 0.5 * alone.final(best).covariance[0, 0]
    assert abs(warm.final(best).mean[0] - (1 - np.exp(-5))) < 0.2, "in the units of this search"


def test_an_earlier_search_that_says_otherwise_moves_next_to_nothing() -> None:
    known = history(whole=12)
    wrong, alone = curve_model(with_earlier(known, sign=-1.0)), curve_model(known)
    assert wrong is not None and alone is not None
    asked = np.random.default_rng(5).random((4, 2))
    np.testing.assert_allclose(wrong.final(asked).mean, alone.final(asked).mean, atol=0.02)


def test_trials_of_an_earlier_search_count_as_none_of_this_one() -> None:
    known = history(whole=7)
    warm = with_earlier(known)
    assert warm.decisions == known.decisions
    assert warm.completed == [12 + place for place in range(7)]
    model = curve_model(warm)
    assert model is not None
    assert Evidence.of(warm, model).completed == 7, "a pause has to be earned by trials of this search"


def test_a_point_of_an_earlier_search_may_be_tried_again() -> None:
    space = CodedSpace.of({"parameters": {"a": {"type": "int", "low": 0, "high": 4}}, "constraints": []})
    rows = [CurveTrial(np.array([i / 4]), "completed", 16, 16, 16, 0, curve(i, 16)) for i in range(4)]
    earlier = replace(rows[0], places=np.array([1.0]), search=1)
    found = decide(History(space, [earlier, *rows], ENDS, CHUNKS, 0))
    assert isinstance(found, Start)
    assert found.places.tolist() == [1.0]
