"""Early stopping: which trials stop, which never do, and that the journal alone decides."""

from __future__ import annotations

from typing import Any

import pytest
from events import completed, epoch_result, reported, started, suggested
from hypothesis import given
from hypothesis import strategies as st
from strategies import quick

from orchestrator.algorithms.stopping import decide, is_rung, learning_curve, verdict
from orchestrator.space.objective import Objective
from orchestrator.space.options import StoppingConfig
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.events import Event, TrialFailed
from orchestrator.study.study import Study, fold
from trainer.result import EpochResult

ASHA = StoppingConfig(rule="asha", grace=1, reduction=3)
MEDIAN = StoppingConfig(rule="percentile", grace=1, curves=2)
RULES = [ASHA, MEDIAN, StoppingConfig(rule="asha", grace=2, reduction=2), StoppingConfig(rule="percentile", curves=1)]

values = st.integers(0, 5).map(float)
curves = st.lists(st.lists(values, min_size=8, max_size=8), min_size=1, max_size=7)


OBJECTIVE = SearchSpace.load("smoke.yaml").objective


def space_with(**stopping: Any) -> SearchSpace:
    space = SearchSpace.load("smoke.yaml")
    return space.model_copy(update={"stopping": StoppingConfig(**stopping)})


PARAMS = {"optim.learning_rate": 5e-3, "clips.identities": 3, "model.attention_gate": "sigmoid"}
EPOCHS = space_with().config(PARAMS).optim.epochs


def study_of(*groups: list[Event]) -> Study:
    events = [event for group in groups for event in group]
    return fold(
        event.model_copy(update={"params": PARAMS, "epochs": EPOCHS}) if event.kind == "trial_suggested" else event
        for event in events
    )


def running(index: int, *curve: float | None) -> list[Event]:
    epochs: list[Event] = [reported(index, epoch, value) for epoch, value in enumerate(curve, 1)]
    return [suggested(index), started(index), *epochs]


# --- configuration -----------------------------------------------------------------------------------------------


def test_trials_are_trained_to_their_end_unless_the_space_says_otherwise() -> None:
    assert StoppingConfig().rule == "none"
    assert verdict([0.0], [[1.0]] * 20, StoppingConfig()) is None


# --- the rules -----------------------------------------------------------------------------------------------------


def test_rungs_are_powers_of_the_reduction_times_the_grace() -> None:
    config = StoppingConfig(rule="asha", grace=2, reduction=3)
    assert [count for count in range(60) if is_rung(count, config)] == [2, 6, 18, 54]


def test_asha_keeps_the_best_third_of_all_that_reached_the_rung() -> None:
    others = [[0.1], [0.2], [0.3], [0.4], [0.5]]
    assert verdict([0.45], others, ASHA) is None
    assert verdict([0.35], others, ASHA) == "number 3 of 6 after 1 evaluation, and the best 2 of them go on"


def test_asha_judges_at_rungs_only_and_only_by_those_that_reached_them() -> None:
    assert verdict([0.0, 0.0], [[1.0, 1.0]] * 9, ASHA) is None
    assert verdict([0.0, 0.0, 0.0], [[1.0, 1.0]] * 9, ASHA) is None
    assert verdict([0.0, 0.0, 0.0], [[1.0, 1.0, 1.0]], ASHA) is not None


def test_the_median_rule_stops_what_is_below_the_median_of_enough_others() -> None:
    assert verdict([0.2, 0.2], [[0.9, 0.3]], MEDIAN) is None
    assert verdict([0.2, 0.2], [[0.1, 0.3], [0.9, 0.1]], MEDIAN) is None
    reason = verdict([0.2, 0.2], [[0.1, 0.3], [0.9, 0.4], [0.9, 0.1], [0.9]], MEDIAN)
    assert reason == "no worse than 1 of 3 other trials after 2 evaluations, below percentile 50"


@pytest.mark.parametrize("rule", RULES)
@given(curves, values)
@quick
def test_the_best_so_far_is_never_stopped(rule: StoppingConfig, others: list[list[float]], value: float) -> None:
    for length in range(1, 9):
        best = max([value, *(other[length - 1] for other in others)])
        assert verdict([value] * (length - 1) + [best], others, rule) is None


@pytest.mark.parametrize("rule", ["asha", "percentile"])
@given(curves, st.integers(1, 8))
@quick
def test_nothing_is_stopped_before_the_grace_is_over(rule: Any, others: list[list[float]], grace: int) -> None:
    config = StoppingConfig(rule=rule, grace=grace, curves=1)
    assert all(verdict([-1.0] * length, others, config) is None for length in range(grace))


@pytest.mark.parametrize("rule", RULES)
@given(curves, st.lists(values, min_size=1, max_size=8), st.randoms(use_true_random=False))
@quick
def test_the_order_in_which_the_others_are_listed_does_not_matter(
    rule: StoppingConfig, others: list[list[float]], own: list[float], random: Any
) -> None:
    shuffled = random.sample(others, len(others))
    assert verdict(own, others, rule) == verdict(own, shuffled, rule)


@pytest.mark.parametrize("rule", RULES)
@given(curves, st.data())
@quick
def test_some_trial_is_trained_to_its_end_however_trials_interleave(
    rule: StoppingConfig, full: list[list[float]], data: st.DataObject
) -> None:
    seen: list[list[float]] = [[] for _ in full]
    alive = set(range(len(full)))
    while unfinished := sorted(index for index in alive if len(seen[index]) < 8):
        index = data.draw(st.sampled_from(unfinished))
        seen[index].append(full[index][len(seen[index])])
        others = [curve for number, curve in enumerate(seen) if number != index]
        if len(seen[index]) < 8 and verdict(seen[index], others, rule):
            alive.discard(index)
    assert alive


# --- what the journal says -----------------------------------------------------------------------------------------


def test_a_trial_behind_others_in_the_journal_is_stopped() -> None:
    study = study_of(completed(0, 0.5, 0.5, 0.5), running(1, 0.2))
    assert decide(study.trials["t0001"], study, StoppingConfig(rule="asha"), OBJECTIVE) is not None
    assert decide(study.trials["t0001"], study, StoppingConfig(rule="none"), OBJECTIVE) is None


def test_the_order_of_the_events_decides() -> None:
    space = space_with(rule="asha")
    weak_first = study_of(running(0), running(1, 0.2))
    assert decide(weak_first.trials["t0001"], weak_first, space.stopping, space.objective) is None
    weak_first.apply(reported(0, 1, 0.5))
    assert decide(weak_first.trials["t0000"], weak_first, space.stopping, space.objective) is None
    strong_first = study_of(running(0, 0.5), running(1, 0.2))
    assert decide(strong_first.trials["t0001"], strong_first, space.stopping, space.objective) is not None


def test_the_last_epoch_is_never_stopped() -> None:
    space = space_with(rule="percentile", curves=1)
    behind = study_of(completed(0, *[0.5] * EPOCHS), running(1, *[0.2] * EPOCHS))
    assert decide(behind.trials["t0001"], behind, space.stopping, space.objective) is None


def test_an_epoch_without_an_evaluation_is_not_judged_and_not_counted() -> None:
    space = space_with(rule="asha")
    between = study_of(completed(0, 0.5, 0.5), running(1, None))
    assert decide(between.trials["t0001"], between, space.stopping, space.objective) is None
    assert learning_curve(study_of(running(0, None, 0.3)).trials["t0000"], space.objective) == [0.3]
    assert decide(study_of(running(0)).trials["t0000"], between, space.stopping, space.objective) is None


def test_failed_trials_are_not_compared_with() -> None:
    failed: Event = TrialFailed(trial="t0000", failure="diverged", reason="")
    study = study_of(running(0, 0.9), [failed], running(1, 0.2))
    assert decide(study.trials["t0001"], study, StoppingConfig(rule="asha"), OBJECTIVE) is None


def test_a_search_that_minimizes_keeps_the_smallest() -> None:
    study = study_of(completed(0, 0.5, 0.5), running(1, 0.2), running(2, 0.7))
    space = space_with(rule="asha").model_copy(update={"objective": Objective(metric="mAP", goal="minimize")})
    assert decide(study.trials["t0001"], study, space.stopping, space.objective) is None
    assert decide(study.trials["t0002"], study, space.stopping, space.objective) is not None


def test_a_search_for_the_best_epoch_judges_by_the_best_epoch_so_far() -> None:
    trial = study_of(running(0, 0.3, 0.6, 0.4)).trials["t0000"]
    assert learning_curve(trial, Objective(epoch="best")) == [0.3, 0.6, 0.6]
    assert learning_curve(trial, Objective(goal="minimize", epoch="best")) == [-0.3, -0.3, -0.3]
    assert learning_curve(trial, Objective(epoch="last")) == [0.3, 0.6, 0.4]


@pytest.mark.parametrize("result", [epoch_result(3), epoch_result(3, 0.25)], ids=["trained", "evaluated"])
def test_one_metric_of_an_epoch_is_the_one_among_all_of_them(result: EpochResult) -> None:
    metrics = result.metrics()
    for name in (*metrics, "mAP", "rank1", "reranked/mAP", "attention_entropy", "none"):
        assert result.metric(name) == metrics.get(name), name
