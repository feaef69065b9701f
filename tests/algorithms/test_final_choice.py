"""The choice of the best configuration by the model: its formulas, what it trains again, how the winner counts."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from events import epoch_result, started, suggested
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtri
from searches import trials_of_rates
from small_spaces import mixed
from strategies import quick
from summaries import summary_of

from orchestrator.algorithms.ax_experiment import coordinates
from orchestrator.algorithms.final_choice import (
    Belief,
    Contenders,
    belief,
    expected_maximum,
    knowledge_gradients,
)
from orchestrator.algorithms.replicates import (
    Replicate,
    best_configuration,
    confirmations,
    next_replicate,
    replicates_left_at_most,
)
from orchestrator.runner.next_step import AddTrial, SearchOver, next_step, trials_left
from orchestrator.show.dry_run import Estimate
from orchestrator.show.search_text import best_lines
from orchestrator.space.options import CONFIRMING_SEEDS, Replicates
from orchestrator.space.problems import SpaceError
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.events import (
    AttemptFailed,
    Event,
    TrialCompleted,
    TrialFailed,
    TrialReported,
    TrialStarted,
    TrialSuggested,
)
from orchestrator.study.study import Study, fold

seeds = st.integers(0, 2**31 - 1)
POINT = {"optim.learning_rate": 1e-3, "clips.identities": 4, "model.attention_gate": "softmax"}


def space(*overrides: str, trainings: int = 6, trials: int = 12) -> SearchSpace:
    by_model = f"replicates={{trainings: {trainings}, choose: model}}"
    return SearchSpace.load("smoke.yaml", overrides=[f"budget.trials={trials}", by_model, *overrides])


SPACE = space()


def tried(values: list[float]) -> list[Event]:
    return trials_of_rates(SPACE, values)


def begun(replicate: Replicate) -> list[Event]:
    return [
        TrialSuggested(
            trial=replicate.key,
            index=replicate.original.index,
            params=replicate.original.params,
            source=replicate.source,
            seed=replicate.seed,
            epochs=3,
            repeats=replicate.original.key,
            note=replicate.note,
        ),
        TrialStarted(trial=replicate.key, attempt=1),
    ]


def ended(key: str, value: float | None) -> list[Event]:
    if value is None:
        return [TrialFailed(trial=key, failure="error", reason="x")]
    return [TrialReported(trial=key, result=epoch_result(1, value)), TrialCompleted(trial=key)]


def spend(study: Study, where: SearchSpace, train: object, limit: int = 99) -> list[Replicate]:
    """Runs replicates one after the other; `train` gives the value of the configuration of this index."""
    spent: list[Replicate] = []
    while len(spent) < limit and (replicate := next_replicate(study, where)) is not None:
        spent.append(replicate)
        value = train(replicate.original.index)  # type: ignore[operator]
        for event in [*begun(replicate), *ended(replicate.key, value)]:
            study.apply(event)
    return spent


VALUES = [0.0, 0.1, 0.21, 0.32, 0.45, 0.58, 0.7, 0.58, 0.45, 0.32, 0.21, 0.1]


# --- formulas --------------------------------------------------------------------------------------------------------


@given(seed=seeds, count=st.integers(1, 12))
@quick
def test_the_expected_maximum_is_the_mean_over_many_values_of_the_normal(seed: int, count: int) -> None:
    draws = np.random.default_rng(seed)
    means, slopes = draws.standard_normal((2, count))
    slopes *= draws.integers(0, 2, count)  # some lines are level, and parallel
    normal = ndtri((np.arange(5000) + 0.5) / 5000)
    expected = (means[:, None] + slopes[:, None] * normal).max(0).mean()
    assert expected_maximum(means, slopes) == pytest.approx(expected, abs=1e-3)


def some_belief(seed: int, count: int = 5) -> Belief:
    draws = np.random.default_rng(seed)
    root = draws.standard_normal((count, count))
    return Belief(draws.standard_normal(count), root @ root.T, 0.5)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_knowledge_gradient_is_the_mean_rise_of_the_best_mean_over_simulated_trainings(seed: int) -> None:
    known, draws = some_belief(seed), np.random.default_rng(1)
    gains = knowledge_gradients(known)
    assert (gains >= -1e-12).all()
    for place in range(5):
        deviation = math.sqrt(known.covariance[place, place] + known.noise)
        values = known.mean[place] + deviation * draws.standard_normal(1000)
        rises = np.array([known.told(place, value).mean.max() for value in values]) - known.mean.max()
        assert gains[place] == pytest.approx(rises.mean(), abs=5 * rises.std() / math.sqrt(1000) + 1e-12)


def test_a_training_is_told_as_the_normal_distribution_of_all_says() -> None:
    known = some_belief(0)
    told = known.told(2, 1.7)
    row = known.covariance[2] / (known.covariance[2, 2] + known.noise)
    np.testing.assert_allclose(told.mean, known.mean + row * (1.7 - known.mean[2]))
    np.testing.assert_allclose(told.covariance, known.covariance - np.outer(row, known.covariance[2]))
    np.testing.assert_allclose(known.told(1, 0.3).told(2, 1.7).mean, told.told(1, 0.3).mean, rtol=1e-9)


def test_a_running_training_moves_no_mean_and_makes_another_there_worth_less() -> None:
    known = Belief(np.array([1.0, 0.9]), np.eye(2), 1.0)
    expected = known.expecting(0)
    np.testing.assert_array_equal(expected.mean, known.mean)
    assert knowledge_gradients(expected)[0] < knowledge_gradients(known)[0]


def test_values_without_noise_need_no_second_training() -> None:
    known = Belief(np.array([1.0, 0.5]), np.diag([1.0, 0.0]), 0.0)
    told = known.told(0, 0.25)
    assert told.mean.tolist() == [0.25, 0.5]
    assert knowledge_gradients(told).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.5, 0.5], [0.5, -math.inf]])
def test_where_nothing_differs_every_mean_is_sure(values: list[float]) -> None:
    points = np.linspace(0, 1, len(values))[:, None]
    known = belief(points, np.array(values))
    assert known.mean.tolist() == values
    assert knowledge_gradients(known.among([0])).tolist() == [0.0]


def test_a_point_is_seen_by_its_places_with_a_coordinate_for_each_choice() -> None:
    where = mixed()
    whole = next(iter(where.samples(0)))
    idle = {path: value for path, value in whole.items() if path != "model.attention_hidden"}
    found = coordinates(where, [whole, {**idle, "model.pooling": "mean"}])
    assert found.shape == (2, len(where.parameters)), "a choice of two values takes one coordinate"
    assert ((found >= 0) & (found <= 1)).all()
    assert found[1, -1] == pytest.approx(0.5, abs=0.05), "not active: the middle"


# --- what trainings are spent on -------------------------------------------------------------------------------------


def test_trainings_choose_then_three_fresh_seeds_confirm_the_winner_alone() -> None:
    study = fold(tried(VALUES))
    spent = spend(study, SPACE, lambda index: VALUES[index])
    assert [each.source for each in spent] == ["compare"] * 6 + ["repeat"] * CONFIRMING_SEEDS
    winners = {each.original.key for each in spent[6:]}
    best = best_configuration(study, SPACE.objective)
    assert best is not None
    assert {best.trial.key} == winners
    assert best.confirmed
    assert [found.trial for found in confirmations(study, SPACE.objective)] == [best.trial.key]
    assert len({(each.original.key, each.seed) for each in spent}) == len(spent), "no seed comes twice"


def test_the_value_that_is_reported_is_of_the_seeds_that_did_not_choose() -> None:
    study, draws = fold(tried(VALUES)), random.Random(0)
    spent = spend(study, SPACE, lambda index: min(1.0, max(0.0, VALUES[index] + draws.gauss(0, 0.1))))
    best = best_configuration(study, SPACE.objective)
    assert best is not None
    assert best.confirmation is not None
    fresh = [study.replicates[each.key].results[0].metrics()["mAP"] for each in spent[6:]]
    assert best.confirmation.values == tuple(fresh)


def test_only_what_may_be_the_best_is_trained_again() -> None:
    spent = spend(fold(tried(VALUES)), SPACE, lambda index: VALUES[index])
    assert {each.original.index for each in spent} <= {5, 6, 7}, "the others are far below"


def test_a_winner_by_luck_is_found_out() -> None:
    values = [*VALUES[:11], 0.95]
    study = fold(tried(values))
    spend(study, SPACE, lambda index: 0.1 if index == 11 else values[index])
    best = best_configuration(study, SPACE.objective)
    assert best is not None
    assert best.trial.index == 6


def test_trainings_at_once_are_spread_and_the_confirming_ones_wait_for_them() -> None:
    study, where = fold(tried(VALUES)), space(trainings=3)
    running = []
    while (replicate := next_replicate(study, where)) is not None:
        running.append(replicate)
        for event in begun(replicate):
            study.apply(event)
    assert [each.source for each in running] == ["compare"] * 3
    for each in running:
        for event in ended(each.key, VALUES[each.original.index]):
            study.apply(event)
    confirming = next_replicate(study, where)
    assert confirming is not None
    assert confirming.source == "repeat"


def test_replicates_wait_until_every_configuration_is_over() -> None:
    assert next_replicate(fold([*tried(VALUES[:4]), suggested(4), started(4)]), SPACE) is None


def test_a_configuration_that_fails_when_it_is_compared_is_out() -> None:
    study = fold(tried(VALUES))
    first = next_replicate(study, SPACE)
    assert first is not None
    for event in [*begun(first), *ended(first.key, None)]:
        study.apply(event)
    spent = spend(study, SPACE, lambda index: VALUES[index])
    assert first.original.key not in {each.original.key for each in spent}
    assert len(spent) == 5 + CONFIRMING_SEEDS, "it counts as one of the trainings"


def test_a_confirming_training_that_fails_is_not_replaced() -> None:
    study = fold(tried(VALUES))
    spend(study, SPACE, lambda index: VALUES[index], limit=6)
    values = iter([0.6, None, 0.6])
    assert len(spend(study, SPACE, lambda index: next(values))) == CONFIRMING_SEEDS
    best = best_configuration(study, SPACE.objective)
    assert best is not None
    assert not best.confirmed


@pytest.mark.parametrize("seeds", [0, 5])
def test_the_winner_is_confirmed_by_as_many_seeds_as_asked_for(seeds: int) -> None:
    study, where = fold(tried(VALUES)), space(f"replicates.seeds={seeds}")
    assert replicates_left_at_most(study, where) == 6 + seeds
    assert [each.source for each in spend(study, where, lambda index: VALUES[index])] == ["compare"] * 6 + [
        "repeat"
    ] * seeds


def test_one_configuration_is_confirmed_by_all_that_is_spent() -> None:
    study = fold(tried([0.5]))
    assert len(spend(study, SPACE, lambda index: 0.5)) == 6 + CONFIRMING_SEEDS
    assert next_replicate(fold([]), SPACE) is None
    assert replicates_left_at_most(fold([]), SPACE) == 0


def test_equal_values_go_to_the_earlier_trial() -> None:
    spent = spend(fold(tried([0.5] * 4)), SPACE, lambda index: 0.5)
    assert {each.original.index for each in spent} == {0}


def test_only_configurations_that_keep_the_constraints_may_win() -> None:
    where = space("objective.constraints=[mINP <= 0.3]")
    spent = spend(fold(tried(VALUES)), where, lambda index: VALUES[index])
    assert {each.original.index for each in spent} <= {index for index, value in enumerate(VALUES) if value <= 0.6}


def test_less_is_better_where_the_objective_says_so() -> None:
    where = space("objective.goal=minimize")
    spent = spend(fold(tried(VALUES)), where, lambda index: VALUES[index])
    assert {each.original.index for each in spent} <= {0, 1, 11}


def test_a_point_that_diverged_counts_as_the_worst() -> None:
    events = [*tried(VALUES), suggested(12), started(12)]
    events += [
        AttemptFailed(trial="t0012", attempt=1, failure="diverged", reason="nan"),
        TrialFailed(trial="t0012", failure="diverged", reason="nan"),
    ]
    study = fold(events)
    study.trials["t0012"].params = dict(POINT)
    found = Contenders.of(study, SPACE)
    assert found is not None
    assert "t0012" not in [trial.key for trial in found.trials]


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.5], [0.2, 0.52, 0.5], [0.8, 0.2, 0.2, 0.8]])
def test_every_history_comes_to_an_end(values: list[float]) -> None:
    study = fold(tried(values))
    assert len(spend(study, SPACE, lambda index: values[index])) <= 6 + CONFIRMING_SEEDS
    assert next_replicate(study, SPACE) is None


# --- the search ------------------------------------------------------------------------------------------------------


def test_the_reason_of_a_training_stands_in_the_journal() -> None:
    study = fold(tried(VALUES))
    step = next_step(study, SPACE, now=0.0)
    assert isinstance(step, AddTrial)
    assert step.event.source == "compare"
    assert "improves the best mean most" in step.event.note
    assert step == next_step(fold(tried(VALUES)), SPACE, now=0.0), "the same history, the same step"


def test_the_trainings_that_are_left_are_counted_exactly() -> None:
    study, left = fold(tried(VALUES)), []
    while isinstance(step := next_step(study, SPACE, now=0.0), AddTrial):
        left.append(trials_left(study, SPACE, now=0.0))
        event = step.event
        started_, *_ = [TrialStarted(trial=event.trial, attempt=1)]
        for each in [event, started_, *ended(event.trial, VALUES[event.index])]:
            study.apply(each)
    assert left == [9, 8, 7, 6, 5, 4, 3, 2, 1]
    assert isinstance(step, SearchOver)
    assert trials_left(study, SPACE, now=0.0) == 0


def test_a_dry_run_counts_trainings_that_choose_and_that_confirm() -> None:
    assert Estimate(SPACE, None, None, None).repeats == 9  # type: ignore[arg-type]


def test_a_confirmed_winner_is_shown_like_any_other() -> None:
    study = fold(tried(VALUES))
    spend(study, SPACE, lambda index: VALUES[index])
    (line, *_) = best_lines(summary_of(study, SPACE))
    assert line == "t0006: mAP 70.0 ± 0.0 over 3 seeds (95 % interval 70.0 to 70.0)"


# --- the space -------------------------------------------------------------------------------------------------------


def test_the_model_needs_no_number_of_seeds() -> None:
    assert SPACE.replicates == Replicates(seeds=CONFIRMING_SEEDS, choose="model", trainings=6)
    assert SearchSpace.model_validate(SPACE.resolved()) == SPACE


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("objective.metric='mAP, -hours'", "the model compares by one objective"),
        ("data.validation.folds=3", "the model compares values of one split"),
    ],
)
def test_a_choice_that_makes_no_sense_is_refused_in_one_line(override: str, said: str) -> None:
    with pytest.raises(SpaceError) as caught:
        space(override)
    (line,) = caught.value.problems
    assert said in str(line)
