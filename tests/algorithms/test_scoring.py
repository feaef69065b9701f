"""Scores of trials: values and costs, constraints relative to the baseline, the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pytest
from events import epoch_result, suggested
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.algorithms.budget import spent
from orchestrator.algorithms.replicates import top_trials
from orchestrator.algorithms.scoring import (
    costs,
    is_feasible,
    lost_baseline,
    outcome_limits,
    pareto_front,
    ranked,
    score,
    trials_since_improvement,
)
from orchestrator.algorithms.stopping import decide
from orchestrator.base.errors import EnvironmentProblem
from orchestrator.space.objective import (
    Objective,
    OutcomeConstraint,
    RelativeConstraint,
    check_costs,
    parse_objective,
    parse_outcome,
)
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.events import Event, TrialCompleted, TrialFailed, TrialReported, TrialStarted
from orchestrator.study.study import Study, Trial, fold

BOTH = Objective(metric="mAP, -hours")
RELATIVE = Objective(metric="mAP", constraints=("rank1 >= 0.9 * baseline",))


class Outcome(NamedTuple):
    """How a trial of one epoch ended."""

    mean_ap: float
    hours: float = 1.0
    rank1: float = 0.5
    is_completed: bool = True


def outcome_events(index: int, outcome: Outcome, *, source: str = "sobol", gpus: float = 0.0) -> list[Event]:
    key = f"t{index:04d}"
    result = epoch_result(1, outcome.mean_ap)
    assert result.validation is not None
    validation = result.validation.model_copy(update={"rank1": outcome.rank1})
    result = result.model_copy(update={"seconds": 3600 * outcome.hours, "validation": validation})
    events = [
        suggested(index).model_copy(update={"source": source}),
        TrialStarted(trial=key, attempt=1, gpus=gpus),
        TrialReported(trial=key, result=result),
    ]
    return [*events, TrialCompleted(trial=key)] if outcome.is_completed else events


def study_of(*outcomes: Outcome, baseline: bool = False) -> Study:
    events: list[Event] = []
    for index, outcome in enumerate(outcomes):
        events += outcome_events(index, outcome, source="start" if baseline and index == 0 else "sobol")
    return fold(events)


def keys(front: Sequence[tuple[Trial, object]]) -> set[str]:
    return {trial.key for trial, _ in front}


# Costs


def test_a_trial_costs_the_hours_of_its_epochs_and_as_many_gpu_hours_as_it_held_gpus() -> None:
    (trial,) = fold(outcome_events(0, Outcome(0.5, hours=1.5), gpus=2)).trials.values()
    assert costs(trial) == {"hours": 1.5, "gpu_hours": 3.0}


def test_each_epoch_is_charged_with_the_gpus_that_its_own_attempt_held() -> None:
    hour = {"seconds": 3600.0}
    events: list[Event] = [
        suggested(0),
        TrialStarted(trial="t0000", attempt=1, gpus=1),
        TrialReported(trial="t0000", result=epoch_result(1, 0.1).model_copy(update=hour)),
        TrialStarted(trial="t0000", attempt=2, gpus=4),
        TrialReported(trial="t0000", result=epoch_result(1, 0.1).model_copy(update=hour)),  # known already
        TrialReported(trial="t0000", result=epoch_result(2, 0.2).model_copy(update=hour)),
    ]
    assert costs(fold(events).trials["t0000"]) == {"hours": 2.0, "gpu_hours": 5.0}


def test_values_are_those_of_all_objectives_and_the_first_one_is_the_value() -> None:
    (trial,) = study_of(Outcome(0.4, hours=2, rank1=0.7)).trials.values()
    found = score(trial, Objective(metric="mAP, -hours, rank1"))
    assert found is not None
    assert (found.value, found.values) == (0.4, (0.4, 2.0, 0.7))


def test_gpu_hours_are_refused_where_trials_hold_no_gpu() -> None:
    for objective in (Objective(metric="mAP, -gpu_hours"), Objective(constraints=("gpu_hours <= 3",))):
        check_costs(objective, 0.5)
        with pytest.raises(EnvironmentProblem, match=r"no GPU for the trials here.*use hours"):
            check_costs(objective, 0)
    with pytest.raises(EnvironmentProblem, match=r"budget\.gpu_hours: no GPU"):
        check_costs(BOTH, 0, is_limited=True)
    check_costs(BOTH, 0)


# The front

GRID = st.integers(0, 4).map(lambda number: number / 4)
OUTCOMES = st.lists(st.builds(Outcome, GRID, GRID, GRID, st.sampled_from([True, True, True, False])), max_size=12)
OBJECTIVES = st.builds(
    Objective,
    metric=st.sampled_from(["mAP", "-mAP", "mAP, -hours", "rank1, mAP", "mAP, -rank1, -hours"]),
    constraints=st.sampled_from([(), ("mINP >= 0.2",)]),
)


def dominates(one: Outcome, other: Outcome, objective: Objective) -> bool:
    """Written out from the definition, apart from the code under test."""
    merits = {"mAP": (one.mean_ap, other.mean_ap), "rank1": (one.rank1, other.rank1), "hours": (one.hours, other.hours)}
    pairs = [merits[term.strip(" -")][:: -1 if "-" in term else 1] for term in objective.metric.split(",")]
    return all(mine >= theirs for mine, theirs in pairs) and any(mine > theirs for mine, theirs in pairs)


@given(OUTCOMES, OBJECTIVES)
def test_the_front_is_all_feasible_trials_that_no_feasible_one_dominates(
    outcomes: list[Outcome], objective: Objective
) -> None:
    study = study_of(*outcomes)
    least = 0.2 if objective.constraints else 0.0
    feasible = {f"t{i:04d}": one for i, one in enumerate(outcomes) if one.is_completed and one.mean_ap / 2 >= least}
    front = pareto_front(study, objective)
    assert keys(front) == {
        key for key, one in feasible.items() if not any(dominates(other, one, objective) for other in feasible.values())
    }
    for key in feasible.keys() - keys(front):
        assert any(dominates(feasible[member], feasible[key], objective) for member in keys(front))
    order = [trial.key for trial, _ in ranked(study, objective)]
    assert [trial.key for trial, _ in front] == [key for key in order if key in keys(front)]


@given(OUTCOMES, OBJECTIVES)
def test_the_patience_counts_the_trials_since_the_front_last_got_a_new_point(
    outcomes: list[Outcome], objective: Objective
) -> None:
    def points(count: int) -> set[tuple[float, ...]]:
        return {found.values for _, found in pareto_front(study_of(*completed[:count]), objective)}

    completed = [outcome for outcome in outcomes if outcome.is_completed]
    changes = [count for count in range(1, len(completed) + 1) if points(count) != points(count - 1)]
    assert trials_since_improvement(study_of(*completed), objective) == len(completed) - max(changes, default=0)


def test_several_objectives_rank_by_the_first_after_feasibility() -> None:
    study = study_of(Outcome(0.3, hours=1), Outcome(0.5, hours=9), Outcome(0.9, rank1=0.1))
    objective = Objective(metric="mAP, -hours", constraints=("rank1 >= 0.4",))
    assert [trial.key for trial, _ in ranked(study, objective)] == ["t0001", "t0000", "t0002"]
    assert keys(pareto_front(study, objective)) == {"t0000", "t0001"}


# Relative to the baseline


@given(GRID, GRID, st.sampled_from([">=", "<="]), st.sampled_from([0.5, 1.0, 2.0]), st.sampled_from([0.0, -0.25, 0.25]))
def test_a_relative_bound_is_that_of_the_baselines_value(
    base: float, value: float, sign: str, share: float, shift: float
) -> None:
    bound = parse_outcome(f"rank1 {sign} {share} * baseline {shift:+}".replace("+0.0", "").replace("-0.0", ""))
    assert isinstance(bound, RelativeConstraint)
    limit = share * base + shift
    assert bound.against(base).holds(value) == (value >= limit if sign == ">=" else value <= limit)


def test_constraints_compare_with_the_first_start_point_once_it_is_completed() -> None:
    study = study_of(Outcome(0.5, rank1=0.8), Outcome(0.9, rank1=0.7), Outcome(0.6, rank1=0.73), baseline=True)
    assert outcome_limits(study, RELATIVE) == [OutcomeConstraint("rank1", ">=", pytest.approx(0.72))]
    assert [trial.key for trial, _ in ranked(study, RELATIVE)] == ["t0002", "t0000", "t0001"]
    assert keys(pareto_front(study, RELATIVE)) == {"t0002"}


def test_nothing_is_feasible_and_no_patience_is_lost_before_the_baseline_is_completed() -> None:
    study = study_of(Outcome(0.5, is_completed=False), Outcome(0.9), Outcome(0.6), baseline=True)
    assert outcome_limits(study, RELATIVE) == [None]
    best = ranked(study, RELATIVE)
    assert [trial.key for trial, _ in best] == ["t0001", "t0002"]
    assert not any(is_feasible(found, study, RELATIVE) for _, found in best)
    assert pareto_front(study, RELATIVE) == []
    assert trials_since_improvement(study, RELATIVE) == 0
    assert lost_baseline(study, RELATIVE) is None


def relative_space(*overrides: str) -> SearchSpace:
    constraint = "objective.constraints=['rank1 >= baseline - 0.05']"
    return SearchSpace.load("smoke.yaml", overrides=[constraint, "budget.trials=9", *overrides])


def test_a_search_whose_baseline_failed_ends_and_says_why() -> None:
    failed = TrialFailed(trial="t0000", failure="diverged", reason="")
    events = [
        *outcome_events(0, Outcome(0.5, is_completed=False), source="start"),
        *outcome_events(1, Outcome(0.9)),
    ]
    space = relative_space("replicates=3")
    assert spent(fold(events), space) is None
    study = fold([*events, failed])
    end = spent(study, space)
    assert end is not None
    assert end.reason == "the baseline t0000 failed, with which objective.constraints compare"
    assert (end.at_once, end.ends_replicates) == (False, True)
    assert top_trials(study, space.objective, 2) == []


def test_the_baseline_is_never_stopped_early_where_constraints_compare_with_it() -> None:
    early = "stopping={rule: asha, grace: 1, reduction: 2}"
    events = [*outcome_events(1, Outcome(0.9)), *outcome_events(2, Outcome(0.8))]
    events += outcome_events(0, Outcome(0.1, is_completed=False), source="start")
    study = fold(events)
    longer = "optim.epochs=8"
    plain = SearchSpace.load("smoke.yaml", overrides=[early, longer])
    study.trials["t0000"].params = plain.start[0]
    relative = relative_space(early, longer)
    assert decide(study.trials["t0000"], study, relative.stopping, relative.objective) is None
    assert decide(study.trials["t0000"], study, plain.stopping, plain.objective) is not None


# How it is written


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names nothing beside a comma or a minus"),
        ("mAP,", "names nothing beside a comma or a minus"),
        ("mAP, -", "names nothing beside a comma or a minus"),
        ("mAP, gpu_hour", "'gpu_hour'.* - did you mean 'gpu_hours'"),
        ("mAP, -mAP", "names mAP twice"),
        ("mAP, hours", "hours is a cost, which a minus lowers; write -hours"),
        ("-hours", "hours is a cost; name a metric of the validation split first, such as 'mAP, -hours'"),
        ("mAP, mINP, rank1, rank5", "at most 3"),
        ("mAP mINP", "must be 'mAP', .*is 'mAP mINP'"),
    ],
)
def test_what_names_no_objective_is_refused_in_a_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_objective(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rank1 >= baseline * 0.9", "must compare a metric with a number or the baseline"),
        ("rank1 >= -0.9 * baseline", "must compare a metric with a number or the baseline"),
        ("baseline <= rank1", "must compare a metric with a number or the baseline"),
        ("rank1 >= 0 * baseline", "0 times the baseline is 0"),
        ("rank1 >= baseline - 2", "shares between 0 and 1; 2 points are 0.02"),
        ("speed >= baseline", "'speed' is no metric"),
    ],
)
def test_what_bounds_nothing_is_refused_in_a_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_outcome(text)


def test_a_cost_may_be_bounded_by_any_number_and_a_metric_by_a_share_only() -> None:
    assert parse_outcome("hours <= 30") == OutcomeConstraint("hours", "<=", 30.0)
    assert parse_outcome("hours<=1.5*baseline+0.5") == RelativeConstraint("hours", "<=", 1.5, 0.5)


@pytest.mark.parametrize("metric", ["mAP", "-mAP", "mAP, -hours"])
def test_an_objective_is_read_back_equal(metric: str) -> None:
    objective = Objective(metric=metric)
    assert Objective.model_validate(objective.model_dump(mode="json")) == objective
    assert objective.first.metric == "mAP"
    assert objective.first.goal == ("minimize" if metric == "-mAP" else "maximize")


@pytest.mark.parametrize("metric", ["-mAP", "mAP, -hours"])
def test_a_goal_beside_a_minus_or_several_metrics_is_refused(metric: str) -> None:
    with pytest.raises(ValueError, match="drop it"):
        Objective.model_validate({"metric": metric, "goal": "minimize"})
    assert Objective(metric="mAP", goal="minimize").terms == parse_objective("-mAP")
