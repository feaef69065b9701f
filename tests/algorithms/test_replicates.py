"""Replicates of the best configurations: which run, with which seeds and folds, and how they confirm the best."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
from events import completed, epoch_result, started, suggested
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import stdtrit
from summaries import summary_of

from orchestrator.algorithms.ax_experiment import ax_experiment
from orchestrator.algorithms.budget import spent
from orchestrator.algorithms.replicates import (
    T_QUANTILES,
    Replicate,
    best_configuration,
    confirmations,
    next_replicate,
    replicate_fold,
    replicate_folds,
    replicates_left,
    t_interval,
)
from orchestrator.algorithms.scoring import trials_since_improvement
from orchestrator.algorithms.simulate import candidates
from orchestrator.algorithms.stopping import decide
from orchestrator.algorithms.suggest import ALGORITHMS, Suggestion
from orchestrator.algorithms.trial_configs import trial_config
from orchestrator.runner.splits import batch_problems
from orchestrator.show.search_text import best_lines, confirmation_lines, summary_line
from orchestrator.space.objective import Objective
from orchestrator.space.options import CONFIRMING_SEEDS
from orchestrator.space.problems import SpaceError
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.events import (
    EVENT,
    Event,
    TrialCompleted,
    TrialFailed,
    TrialReported,
    TrialStarted,
    TrialSuggested,
)
from orchestrator.study.study import Study, fold, unfinished

MEAN_AP = Objective()
SHARES = st.floats(0, 1, allow_subnormal=False)
POINT = {"optim.learning_rate": 1e-3, "clips.identities": 4, "model.attention_gate": "softmax"}


def space(*overrides: str, replicates: str = "{seeds: 3, leaders: 2}", trials: int = 3) -> SearchSpace:
    return SearchSpace.load("smoke.yaml", overrides=[f"budget.trials={trials}", f"replicates={replicates}", *overrides])


def tried(index: int, *curve: float) -> list[Event]:
    """A whole trial at a point of the smoke space."""
    return [
        events.model_copy(update={"params": POINT | {"optim.learning_rate": 1e-3 + index * 1e-5}})
        if isinstance(events, TrialSuggested)
        else events
        for events in completed(index, *curve)
    ]


def of_values(*values: float) -> list[Event]:
    return [event for index, value in enumerate(values) for event in tried(index, value)]


def repeated(repeat: Replicate, value: float | None) -> list[Event]:
    """A repeat from its suggestion to its end; None fails for good."""
    original = repeat.original
    begun: list[Event] = [
        TrialSuggested(
            trial=repeat.key,
            index=original.index,
            params=original.params,
            source="repeat",
            seed=repeat.seed,
            epochs=3,
            repeats=original.key,
            fold=repeat.fold,
        ),
        TrialStarted(trial=repeat.key, attempt=1),
    ]
    if value is None:
        return [*begun, TrialFailed(trial=repeat.key, failure="diverged", reason="DivergedError: loss/osm is nan")]
    result = TrialReported(trial=repeat.key, result=epoch_result(1, value))
    return [*begun, result, TrialCompleted(trial=repeat.key)]


def with_repeats(events: list[Event], where: SearchSpace, values: dict[str, list[float | None]]) -> Study:
    """The study after its leaders were repeated, with these values by their keys."""
    study = fold(events)
    left = {key: list(each) for key, each in values.items()}
    while (repeat := next_replicate(study, where)) is not None and left[repeat.original.key]:
        for event in repeated(repeat, left[repeat.original.key].pop(0)):
            study.apply(event)
    return study


# --- which repeats are run -------------------------------------------------------------------------------------------


def test_repeats_wait_until_every_configuration_is_over() -> None:
    events = of_values(0.5, 0.4)
    assert next_replicate(fold([*events, suggested(2), started(2)]), space()) is None
    assert next_replicate(fold(events), space()) is not None


def test_the_best_are_repeated_one_after_the_other() -> None:
    keys = [repeat.key for repeat in replicates_left(fold(of_values(0.4, 0.6, 0.5)), space())]
    assert keys == ["t0001-r1", "t0001-r2", "t0001-r3", "t0002-r1", "t0002-r2", "t0002-r3"]


@given(st.lists(SHARES, min_size=1, max_size=6), st.integers(0, 5), st.integers(1, 4), st.integers(0, 99))
def test_every_leader_gets_the_same_fresh_seeds(values: list[float], seeds: int, leaders: int, seed: int) -> None:
    study = fold(of_values(*values))
    study.seed = seed
    where = SPACE.model_copy(
        update={"replicates": SPACE.replicates.model_copy(update={"seeds": seeds, "leaders": leaders})}
    )
    by_leader: dict[str, list[int]] = {}
    for repeat in replicates_left(study, where):
        by_leader.setdefault(repeat.original.key, []).append(repeat.seed)
    assert len(by_leader) == (min(leaders, len(values)) if seeds else 0)
    assert len({tuple(each) for each in by_leader.values()}) <= 1
    for each in by_leader.values():
        assert len({seed, *each}) == seeds + 1, "none is that of the search, none comes twice"
        assert all(0 <= fresh < 2**31 for fresh in each)


SPACE = space()


@given(st.lists(st.sampled_from([None, 0.1, 0.5, 0.9]), min_size=6, max_size=6))
@settings(max_examples=30)
def test_every_repeat_is_run_once_whatever_becomes_of_it(values: list[float | None]) -> None:
    study = with_repeats(of_values(0.4, 0.6, 0.5), SPACE, {"t0001": values[:3], "t0002": values[3:]})
    assert len(study.replicates) == 6
    assert next_replicate(study, SPACE) is None


def test_a_search_without_replicates_repeats_nothing() -> None:
    assert next_replicate(fold(of_values(0.4)), space(replicates="0")) is None


def test_only_completed_configurations_that_keep_the_constraints_are_repeated() -> None:
    study = fold([*of_values(0.4, 0.8), suggested(2), TrialFailed(trial="t0002", failure="error", reason="x")])
    where = space("objective.constraints=[mINP <= 0.3]")
    assert {repeat.original.key for repeat in replicates_left(study, where)} == {"t0000"}


def test_new_leaders_of_an_extended_search_are_repeated_and_the_old_repeats_kept() -> None:
    study = with_repeats(of_values(0.4, 0.5), space(trials=2), {"t0000": [0.4] * 3, "t0001": [0.3, 0.3, 0.3]})
    for event in tried(2, 0.45):
        study.apply(event)
    assert [repeat.key for repeat in replicates_left(study, space())] == ["t0002-r1", "t0002-r2", "t0002-r3"]
    assert len(confirmations(study, MEAN_AP)) == 2
    best = best_configuration(study, MEAN_AP)
    assert best is not None
    assert (best.trial.key, best.confirmed) == ("t0000", True), "it was confirmed although it leads no more"


def test_more_seeds_add_to_those_that_are_there() -> None:
    study = with_repeats(of_values(0.4), space(), {"t0000": [0.4] * 3})
    assert [repeat.key for repeat in replicates_left(study, space(replicates="5"))] == ["t0000-r4", "t0000-r5"]


# --- folds -----------------------------------------------------------------------------------------------------------


@given(st.integers(2, 7), st.data())
def test_repeats_go_through_the_other_folds_in_turn(folds: int, data: st.DataObject) -> None:
    own = data.draw(st.integers(0, folds - 1))
    config = folded(folds, own)
    found = [replicate_fold(config, number) for number in range(1, folds)]
    assert sorted([own, *(each for each in found if each is not None)]) == list(range(folds))
    assert [replicate_fold(config, number + folds - 1) for number in range(1, folds)] == found


def folded(folds: int, fold: int):  # type: ignore[no-untyped-def]
    config = SPACE.config(POINT)
    validation = config.data.validation.model_copy(update={"folds": folds, "fold": fold})
    return config.model_copy(update={"data": config.data.model_copy(update={"validation": validation})})


def test_without_folds_repeats_are_judged_on_the_split_of_the_search() -> None:
    assert replicate_folds(SPACE) == []
    assert {repeat.fold for repeat in replicates_left(fold(of_values(0.5)), SPACE)} == {None}


def test_a_repeat_trains_the_same_configuration_with_its_own_seed_and_fold() -> None:
    where = space("data.validation.folds=3", "data.validation.fold=2")
    assert replicate_folds(where) == [0, 1]
    study = fold(of_values(0.5))
    repeats = list(replicates_left(study, where))
    assert [repeat.fold for repeat in repeats] == [0, 1, 0]
    for event in repeated(repeats[1], 0.4):
        study.apply(event)
    original, repeat = (trial_config(where, trial) for trial in study.all_trials.values())
    assert repeat.seed == repeats[1].seed != original.seed
    assert (original.data.validation.fold, repeat.data.validation.fold) == (2, 1)
    same = {"seed": 0, "data": original.data}
    assert original.model_copy(update=same) == repeat.model_copy(update=same)


def test_a_batch_has_to_fit_into_what_every_fold_leaves_to_train_on(mini_mars: Path) -> None:
    folds = ("synthetic=null", f"data.root={mini_mars}", "data.validation.folds=3", "data.validation.fold=2")
    batch = "parameters.clips.identities.high=6"
    assert batch_problems(space(*folds, batch, replicates="0"))[0] == [], "2 of 8 identities are held out"
    assert "leaves 5 to train on" in batch_problems(space(*folds, batch))[0][0], "and 3 in the other folds"


# --- what they say ---------------------------------------------------------------------------------------------------


@given(st.lists(SHARES, min_size=2, max_size=12))
def test_the_interval_is_that_of_scipy(values: list[float]) -> None:
    interval = t_interval(values)
    assert interval is not None
    error = stats.sem(values)
    expected = stats.t.interval(0.95, len(values) - 1, loc=statistics.fmean(values), scale=error or 1e-300)
    assert interval == pytest.approx(expected, abs=1e-9)


def test_one_value_has_no_interval_and_no_deviation() -> None:
    assert t_interval([0.5]) is None
    study = with_repeats(of_values(0.4), SPACE, {"t0000": [0.3]})
    (found,) = confirmations(study, MEAN_AP)
    assert (found.mean, found.standard_deviation, found.interval, found.confirmed) == (0.3, None, None, False)


def test_the_best_is_the_confirmed_one_with_the_best_mean_and_not_the_luckiest() -> None:
    study = with_repeats(of_values(0.4, 0.6, 0.5), SPACE, {"t0001": [0.41, 0.43, 0.42], "t0002": [0.5, 0.5, 0.47]})
    best = best_configuration(study, MEAN_AP)
    assert best is not None
    assert best.confirmation is not None
    assert (best.trial.key, best.confirmed, best.score.value) == ("t0002", True, 0.5)
    assert best.confirmation.mean == pytest.approx(0.49)
    assert best.confirmation.standard_deviation == pytest.approx(statistics.stdev([0.5, 0.5, 0.47]))
    assert best.confirmation.metrics["mINP"] == pytest.approx(0.245)
    least = best_configuration(study, Objective(goal="minimize"))
    assert least is not None
    assert least.trial.key == "t0001"


def test_equal_means_go_to_the_earlier_trial() -> None:
    study = with_repeats(of_values(0.4, 0.6, 0.5), SPACE, {"t0001": [0.5] * 3, "t0002": [0.5] * 3})
    assert best_configuration(study, MEAN_AP).trial.key == "t0001"  # type: ignore[union-attr]


def test_before_three_fresh_seeds_the_best_is_that_of_one_seed_and_not_confirmed() -> None:
    for values in ([], [0.1], [0.1, 0.1], [0.9, None, 0.9]):
        study = with_repeats(of_values(0.4, 0.6), SPACE, {"t0001": values, "t0000": []})
        best = best_configuration(study, MEAN_AP)
        assert best is not None
        assert (best.trial.key, best.confirmed) == ("t0001", False)
    assert best.confirmation is not None
    assert (len(best.confirmation.values), best.confirmation.lost) == (2, 1)
    assert best_configuration(fold([]), MEAN_AP) is None
    assert CONFIRMING_SEEDS == 3


def test_a_mean_that_breaks_a_constraint_confirms_nothing() -> None:
    bounded = Objective(constraints=("rank1 >= 0.5",))
    study = with_repeats(of_values(0.4, 0.6), SPACE, {"t0001": [0.4, 0.5, 0.5], "t0000": [0.6] * 3})
    best = best_configuration(study, bounded)
    assert best is not None
    assert (best.trial.key, best.confirmed) == ("t0000", True)
    alone = with_repeats(of_values(0.6), SPACE, {"t0000": [0.4, 0.5, 0.5]})
    assert not best_configuration(alone, bounded).confirmed  # type: ignore[union-attr]


# --- what repeats must not touch -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def confirmed() -> Study:
    return with_repeats(of_values(0.4, 0.6), SPACE, {"t0001": [0.7] * 3, "t0000": [0.3] * 3})


def test_the_choice_of_the_next_configuration_does_not_know_of_repeats(confirmed: Study) -> None:
    before = fold(of_values(0.4, 0.6))
    where = space(trials=9)
    for name, algorithm in ALGORITHMS.items():
        step = algorithm(where, 0, confirmed)
        assert step == algorithm(where, 0, before), name
        assert isinstance(step, Suggestion)
    assert ax_experiment(where, 0, confirmed) == ax_experiment(where, 0, before)


def test_repeats_count_neither_as_trials_nor_for_patience_nor_for_a_target(confirmed: Study) -> None:
    assert spent(confirmed, space(trials=3)) is None
    assert trials_since_improvement(confirmed, MEAN_AP) == 0
    assert spent(confirmed, space("budget.target=0.65", trials=3)) is None


def test_repeats_cost_epochs_and_end_with_them(confirmed: Study) -> None:
    end = spent(confirmed, space("budget.epochs=8"))
    assert end is not None
    assert (end.at_once, end.ends_replicates) == (True, True)
    assert spent(confirmed, space("budget.epochs=9")) is None
    reached = spent(confirmed, space("budget.target=0.5"))
    assert reached is not None
    assert (reached.at_once, reached.ends_replicates) == (True, False), "what one seed reached is to be confirmed"


def test_repeats_are_neither_stopped_early_nor_compared_with() -> None:
    where = space("stopping.rule=asha", "optim.epochs=9", trials=9)
    study = fold([*tried(0, 0.9, 0.9, 0.9), *tried(1, 0.5, 0.5, 0.5)])
    repeat = next(replicates_left(study, where))
    for event in [*repeated(repeat, 0.95)[:2], TrialReported(trial=repeat.key, result=epoch_result(1, 0.01))]:
        study.apply(event)
    assert decide(study.replicates[repeat.key], study, where.stopping, where.objective) is None
    ahead = fold([*tried(0, 0.5), *repeated(repeat, 0.9), *tried(1, 0.6)[:-1]])
    assert decide(ahead.trials["t0001"], ahead, where.stopping, where.objective) is None, "it is behind the repeat only"


def test_a_replay_tries_each_configuration_once(confirmed: Study) -> None:
    assert [candidate.trial.key for candidate in candidates(confirmed, SPACE.objective)] == ["t0000", "t0001"]


def test_unfinished_configurations_come_before_unfinished_repeats() -> None:
    study = fold([*of_values(0.4), suggested(1)])
    repeat = Replicate("t0000-r1", study.trials["t0000"], 1, None)
    study.apply(repeated(repeat, 0.5)[0])
    study.apply(suggested(2))
    assert [trial.key for trial in unfinished(study)] == ["t0001", "t0002", "t0000-r1"]


# --- journal, language, words ----------------------------------------------------------------------------------------


def test_a_repeat_is_read_back_from_the_journal_as_one() -> None:
    event = repeated(Replicate("t0000-r1", fold(of_values(0.4)).trials["t0000"], 7, 1), 0.5)[0]
    assert EVENT.validate_json(event.model_dump_json()) == event


def test_a_number_stands_for_so_many_seeds_of_two_leaders() -> None:
    assert space(replicates="3") == space(replicates="{seeds: 3}") == space(replicates="{seeds: 3, leaders: 2}")
    assert SearchSpace.load("smoke.yaml").replicates.seeds == 0
    assert SearchSpace.model_validate(SPACE.resolved()) == SPACE


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("-1", "replicates: must be at least 0"),
        ("true", "replicates: must be a whole number"),
        ("{seeds: 3, leaders: 0}", "replicates.leaders: must be at least 1"),
        ("{seed: 3}", "did you mean 'seeds'"),
    ],
)
def test_replicates_that_mean_nothing_are_refused(wrong: str, said: str) -> None:
    with pytest.raises(SpaceError) as caught:
        space(replicates=wrong)
    assert said in str(caught.value)


def test_a_confirmed_best_is_named_with_its_spread_and_interval() -> None:
    found = summary_of(
        with_repeats(of_values(0.4, 0.6), SPACE, {"t0001": [0.40, 0.42, 0.44], "t0000": [0.3, None, 0.3]})
    )
    assert summary_line(found).endswith("best mAP 42.0 ± 2.0 (t0001, 3 seeds)")
    lines = best_lines(found)
    assert lines[0] == "t0001: mAP 42.0 ± 2.0 over 3 seeds (95 % interval 37.0 to 47.0)"
    assert lines[1] == ("validation mAP 42.0 rank1 42.0 rank5 42.0 rank20 42.0 (means; mAP 60.0 with the first seed)")
    assert lines[-1] == "t0000: mAP 30.0 ± 0.0 over 2 of 3 seeds (95 % interval 30.0 to 30.0), not confirmed"
    assert list(confirmation_lines(found)) == ["t0001", "t0000"]


def test_a_best_of_one_seed_is_said_to_be_unconfirmed() -> None:
    found = summary_of(fold(of_values(0.4, 0.6)))
    assert summary_line(found).endswith("best mAP 60.0 (t0001, one seed, not confirmed)")
    assert best_lines(found)[0].endswith("rank20 60.0 (one seed, not confirmed)")
    assert best_lines(summary_of(fold([]))) == []


def test_the_quantiles_that_are_kept_are_those_of_scipy() -> None:
    assert {freedom: float(stdtrit(freedom, 0.975)) for freedom in T_QUANTILES} == T_QUANTILES
