"""Replays: recorded curves under other rules and orders, with the decisions of a real search."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from events import completed, reported, started, suggested
from hypothesis import given
from hypothesis import strategies as st
from playing import Play, paused_space
from searches import write_search
from strategies import quick

from orchestrator.algorithms.ax_process import AxProcess
from orchestrator.algorithms.simulate import Candidate, Pick, Replay, candidates, nearest, order_of, replay
from orchestrator.algorithms.stopping import decide
from orchestrator.algorithms.suggest import ALGORITHMS
from orchestrator.base.errors import SearchError
from orchestrator.cli.results import ALGORITHMS as OFFERED
from orchestrator.cli.results import RULES, simulate
from orchestrator.show.simulate import SimulationOptions, simulation_document, stopping_config
from orchestrator.space.options import StoppingConfig
from orchestrator.space.problems import SpaceError
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import SearchFolder
from orchestrator.study.events import Event, SearchCreated
from orchestrator.study.study import Study, fold
from orchestrator.summary import read_summary

EPOCHS = 9
SPACE = SearchSpace.load("smoke.yaml", overrides=[f"optim.epochs={EPOCHS}"])
NONE = StoppingConfig()
ASHA = StoppingConfig(rule="asha")
MEDIAN = StoppingConfig(rule="percentile", curves=1)

curves = st.lists(
    st.lists(st.integers(0, 4).map(lambda value: value / 4), min_size=EPOCHS, max_size=EPOCHS), min_size=2, max_size=5
)


def point(index: int) -> dict[str, Any]:
    low, high = 1e-4, 1e-2
    rate = low * (high / low) ** (index / 10)
    return {"optim.learning_rate": rate, "clips.identities": 3, "model.attention_gate": "sigmoid"}


def study_of(*curves: Sequence[float]) -> Study:
    events: list[Event] = [SearchCreated(search="s", space="0", seed=0)]
    for index, curve in enumerate(curves):
        first, *rest = completed(index, *curve)
        events += [first.model_copy(update={"params": point(index), "epochs": EPOCHS}), *rest]
    return fold(events)


def flat(value: float) -> list[float]:
    return [value] * EPOCHS


def replayed(
    study: Study, stopping: StoppingConfig, *, slots: int = 1, order: str = "journaled", seed: int = 0
) -> Replay:
    pool = candidates(study, SPACE.objective)
    return replay(
        pool,
        SPACE.objective,
        order_of(order, SPACE, seed, AxProcess(Path("never.log"))),
        stopping=stopping,
        slots=slots,
    )


def test_without_a_rule_every_epoch_is_spent_and_the_best_found_when_its_trial_ends() -> None:
    made = replayed(study_of(flat(0.2), flat(0.7), flat(0.4)), NONE)
    assert (made.epochs, made.stopped, made.best_stopped) == (3 * EPOCHS, 0, False)
    assert [(found.epochs, found.value) for found in made.found] == [(EPOCHS, 0.2), (2 * EPOCHS, 0.7)]
    assert made.hours == pytest.approx(3 * EPOCHS / 3600)


def test_slots_run_at_once_and_share_what_they_saw() -> None:
    study = study_of(flat(0.7), flat(0.2), flat(0.6), flat(0.1))
    alone, together = replayed(study, ASHA, slots=1), replayed(study, ASHA, slots=2)
    assert together.hours < alone.hours
    assert together.epochs == EPOCHS + 3
    assert replayed(study, NONE, slots=2).hours == pytest.approx(replayed(study, NONE, slots=1).hours / 2)


def test_a_late_bloomer_that_is_stopped_is_told_of() -> None:
    late = [0.1] * 3 + [0.9] * (EPOCHS - 3)
    made = replayed(study_of(flat(0.5), late), ASHA)
    assert made.best_stopped
    assert made.found[-1].value == 0.5
    assert not replayed(study_of(flat(0.5), late), NONE).best_stopped


@pytest.mark.parametrize("stopping", [ASHA, MEDIAN])
@given(curves)
@quick
def test_a_replay_stops_where_the_search_itself_would_have(
    stopping: StoppingConfig, recorded: list[list[float]]
) -> None:
    studies: list[Study] = []
    space = SPACE.model_copy(update={"stopping": stopping})

    def remembering(study: Study, untried: Sequence[Candidate]) -> Pick:
        studies.append(study)
        return Pick(untried[0], "sobol")

    replay(candidates(study_of(*recorded), space.objective), space.objective, remembering, stopping=stopping, slots=1)
    after = studies[-1]
    again = Study()
    for trial in after.trials.values():
        again.apply(suggested(trial.index).model_copy(update={"params": trial.params, "epochs": EPOCHS}))
        again.apply(started(trial.index))
        reasons = []
        for result in trial.results:
            again.apply(reported(trial.index, result.epoch, result.metrics()["mAP"]))
            reasons.append(decide(again.trials[trial.key], again, space.stopping, space.objective))
        expected = None if trial.status == "completed" else str(trial.reason).partition(": ")[2]
        assert reasons == [*[None] * (len(reasons) - 1), expected]


PROMOTE = StoppingConfig(rule="promote", first=0.1)  # pauses after 1 and 3 of 9 epochs


def test_promotion_trains_the_best_third_of_each_rung_further_and_stops_what_is_never_promoted() -> None:
    falling = replayed(study_of(*(flat(0.9 - 0.1 * index) for index in range(9))), PROMOTE)
    assert (falling.epochs, falling.stopped, falling.best_stopped) == (9 + 3 * 2 + 1 * 6, 8, False)
    assert [found.value for found in falling.found] == [0.9]
    rising = replayed(study_of(*(flat(0.1 * index) for index in range(9))), PROMOTE)
    assert rising.epochs == 9 + 7 * 2 + 5 * 6, "the best yet is always promoted"
    assert rising.found[-1].value == pytest.approx(0.8)


def test_one_trial_is_trained_to_its_end_even_if_no_rung_fills_up() -> None:
    made = replayed(study_of(flat(0.2), flat(0.7)), PROMOTE, slots=3)
    assert (made.epochs, made.stopped, made.found[-1].value) == (1 + EPOCHS, 1, 0.7)


def test_a_place_that_was_free_is_filled_when_a_pause_makes_room_for_a_promotion() -> None:
    study = study_of(*(flat(0.9 - 0.1 * index) for index in range(9)))
    alone, together = replayed(study, PROMOTE, slots=1), replayed(study, PROMOTE, slots=9)
    assert together.epochs == alone.epochs == 21
    assert together.hours == pytest.approx(9 / 3600), "1 + 2 + 6 epochs, one after the other"


def paused_search(folder: Path, *, trials: int = 4) -> tuple[SearchFolder, Play]:
    """A finished search whose trials paused, on disk."""
    play = Play(paused_space("stopping.first=0.1", trials=trials))
    play.to_the_end(2, seed=1)
    return write_search(folder, play.space, play.events[1:]), play


def test_a_search_whose_trials_paused_is_decided_again_from_its_journal_alone(tmp_path: Path) -> None:
    search, play = paused_search(tmp_path / "s")
    document = simulation_document(read_summary(search), SimulationOptions(["none"], ["journaled"], (), 1, 1))
    counts = play.study.counts()
    assert document["candidates"] == counts["completed"] >= 2
    assert document["left_out"] == counts["stopped"] > 0, "how they would have ended is not known"
    decisions = document["decisions"]
    assert decisions["started"] == len(play.study.trials)
    assert decisions["paused"] == sum(len(trial.pauses) for trial in play.study.trials.values())
    assert decisions["continued"] > 0 and decisions["differences"] == []
    printed = CliRunner().invoke(simulate, ["s", "--storage", str(tmp_path), "--stopping", "promote"]).output
    assert "all of them the same" in printed


def test_a_search_with_one_whole_curve_still_has_its_decisions_made_again(tmp_path: Path) -> None:
    search, play = paused_search(tmp_path / "s", trials=1)
    assert play.study.counts()["completed"] == 1
    document = simulation_document(read_summary(search), SimulationOptions(["none"], ["journaled"], (), 1, 1))
    assert (document["replays"], document["best"], document["decisions"]["differences"]) == ([], None, [])
    printed = CliRunner().invoke(simulate, ["s", "--storage", str(tmp_path)]).output
    assert "too few trials have whole curves" in printed and "all of them the same" in printed


def test_a_search_without_pauses_says_nothing_of_decisions(search: SearchFolder) -> None:
    document = simulation_document(read_summary(search), SimulationOptions(["none"], ["journaled"], (), 1, 1))
    assert document["decisions"] is None


@pytest.mark.parametrize("algorithm", ["journaled", "random", "sobol", "grid"])
def test_every_order_tries_every_trial_once_and_is_repeatable(algorithm: str) -> None:
    study = study_of(*(flat(0.1 * index) for index in range(7)))
    first, second = (replayed(study, NONE, order=algorithm, seed=3) for _ in range(2))
    assert first == second
    assert first.epochs == 7 * EPOCHS
    assert first.found[-1].value == pytest.approx(0.6)


def test_random_orders_differ_by_their_seed() -> None:
    study = study_of(*(flat(0.1 * index) for index in range(7)))
    assert len({replayed(study, NONE, order="random", seed=seed).found for seed in range(5)}) > 1


def test_the_nearest_trial_is_measured_on_the_scale_of_the_search() -> None:
    pool = candidates(study_of(*(flat(0.1) for _ in range(11))), SPACE.objective)
    assert nearest(SPACE, point(4), pool).trial.key == "t0004"
    assert nearest(SPACE, {**point(4), "optim.learning_rate": 1e-3 * 1.3}, pool).trial.key == "t0006"
    other = {**point(4), "model.attention_gate": "softmax"}
    assert nearest(SPACE, other, pool).trial.key == "t0004"


def test_the_command_offers_what_there_is() -> None:
    assert set(OFFERED) == {"journaled", *ALGORITHMS}
    rules = set(StoppingConfig.model_json_schema()["properties"]["rule"]["enum"])
    assert set(RULES) == rules - {"freeze_thaw"}, "its model is not replayed"


def test_a_search_with_one_finished_trial_cannot_be_replayed() -> None:
    with pytest.raises(SearchError, match="needs at least 2"):
        candidates(study_of(flat(0.5)), SPACE.objective)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("stopping.grace=0", "stopping.grace"),
        ("stopping.rungs=3", "stopping.rungs"),
        ("optim.epochs=3", "only settings of the rule"),
        ("stopping.grace", "only settings of the rule"),
    ],
)
def test_settings_that_are_none_of_the_rule_are_refused(override: str, problem: str) -> None:
    with pytest.raises(SpaceError, match=problem):
        stopping_config(SPACE, "asha", [override])
    assert stopping_config(SPACE, "asha", ["stopping.grace=2", "stopping.percentile=25"]).grace == 2


@pytest.fixture
def search(tmp_path: Path) -> SearchFolder:
    """A search of three finished trials and one that is under way."""
    events: list[Event] = []
    for index, value in enumerate((0.2, 0.7, 0.4)):
        first, *rest = completed(index, *flat(value))
        events += [first.model_copy(update={"params": point(index), "epochs": EPOCHS}), *rest]
    events += [suggested(3).model_copy(update={"params": point(3), "epochs": EPOCHS}), started(3), reported(3, 1, 0.9)]
    return write_search(tmp_path / "s", SPACE, events)


def test_the_document_says_what_each_rule_costs_and_finds(search: SearchFolder) -> None:
    document = simulation_document(
        read_summary(search), SimulationOptions(RULES, ["journaled", "random"], [], slots=1, seeds=4)
    )
    assert (document["candidates"], document["left_out"], document["epochs"]) == (3, 1, 3 * EPOCHS)
    assert document["best"] == {"trial": "t0001", "value": 0.7}
    assert len(document["replays"]) == len(RULES) * (1 + 4)
    none, asha = (next(made for made in document["replays"] if made["rule"] == rule) for rule in ("none", "asha"))
    assert none["epochs"] == 3 * EPOCHS
    assert asha["epochs"] < none["epochs"]
    assert asha["best"] == 0.7


def test_the_command_prints_a_line_per_rule_and_order_or_one_document(search: SearchFolder) -> None:
    storage = ["--storage", str(search.path.parent)]
    shown = CliRunner().invoke(simulate, ["s", *storage], standalone_mode=False)
    assert shown.exception is None
    assert "3 trials with whole curves, 27 epochs in all, best mAP 70.0 by the first seed (t0001)" in shown.output
    assert "left out: 1 without a whole curve" in shown.output
    assert all(rule in shown.output for rule in RULES)
    as_json = CliRunner().invoke(simulate, ["s", *storage, "--json", "--stopping", "asha"], standalone_mode=False)
    assert [made["rule"] for made in json.loads(as_json.output)["replays"]] == ["asha"]
