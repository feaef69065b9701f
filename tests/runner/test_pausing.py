"""Pausing and continuing trials, as decisions that are functions of the study alone."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import pytest
from bench import Bench
from events import epoch_result, paused, reported, started, suggested
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playing import NOW, Play, paused_space
from ray.tune.search import Searcher
from searches import POINT

from orchestrator.algorithms.async_suggester import AsyncSuggester
from orchestrator.algorithms.budget import trainings_left, trainings_taken
from orchestrator.algorithms.stopping import promotion
from orchestrator.algorithms.suggest import AskModel, Continuation, Exhausted, Proposal
from orchestrator.base.process import exclusive
from orchestrator.runner import trial_runner
from orchestrator.runner.checkpoints import drop_checkpoints
from orchestrator.runner.control import stop
from orchestrator.runner.epochs import recover_epochs
from orchestrator.runner.next_step import (
    AddTrial,
    ContinueTrial,
    EndPaused,
    SearchOver,
    Wait,
    next_step,
    propose,
    question_ahead,
    step_of,
    stops_for_budget,
    trials_left,
)
from orchestrator.runner.replay import replayed_decisions
from orchestrator.runner.trial_spec import AttemptResult
from orchestrator.space.options import StoppingConfig
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.events import (
    Event,
    Forecast,
    SessionStarted,
    TrialCompleted,
    TrialContinued,
    TrialStarted,
    TrialStopped,
    TrialSuggested,
    TrialTracked,
)
from orchestrator.study.journal import Record, read_journal
from orchestrator.study.study import Study, fold
from trainer.result import write_results

slow = settings(
    max_examples=20, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)


def of_kind(events: Sequence[Event], *kinds: type) -> list[str]:
    return [event.trial for event in events if isinstance(event, kinds)]  # type: ignore[union-attr]


# --- a whole search ------------------------------------------------------------------------------------------------


def test_trials_start_short_and_the_best_third_continues() -> None:
    play = Play(paused_space("stopping.first=0.25", trials=4))
    study = play.to_the_end()
    first = [event for event in play.events if isinstance(event, TrialSuggested)]
    assert {event.until for event in first} == {3}, "a quarter of 12 epochs"
    continued = [event for event in play.events if isinstance(event, TrialContinued)]
    assert continued[0].reason == "number 1 of 3 after 0.25 of the epochs, and the best 1 of them goes on"
    assert continued[0].until == 9, "the next rung lies at three quarters"
    assert study.counts()["completed"] >= 2 and len(study.trials) > 4, "more are tried than could be trained whole"
    assert trainings_taken(study, play.space) <= 4


def test_of_the_highest_rung_the_best_continues_first() -> None:
    play = Play(paused_space("stopping.first=0.1", trials=20, epochs=30))
    while not of_kind(play.events, TrialContinued) or play.study.trials[play.running[0]].pauses != [3, 9]:
        play.fill(1)
        play.advance(0)
        if not play.running:
            play.fill(1)
    until = [event.until for event in play.events if isinstance(event, TrialContinued)]
    assert until == [9, 9, 9, 27], "three in the second rung are needed before one of them goes on"


def test_when_the_search_is_over_what_is_still_paused_ends_before_repeats_begin() -> None:
    play = Play(paused_space("replicates=2", trials=2))
    study = play.to_the_end()
    stopped = [event for event in play.events if isinstance(event, TrialStopped)]
    assert stopped and {event.rule for event in stopped} == {"promote"}
    assert stopped[0].reason == "paused for good after 3 of 12 epochs, as the search is over: 2 trials"
    assert study.replicates and all(
        trial.is_over and not trial.pauses for trial in study.all_trials.values() if trial.repeats
    )
    order = [event.kind for event in play.events if event.kind == "trial_stopped" or getattr(event, "repeats", "")]
    assert order == sorted(order), "stopped before suggested again"


def test_a_search_of_one_training_completes_it() -> None:
    play = Play(paused_space(trials=1))
    assert play.to_the_end().counts()["completed"] == 1
    last = [event for event in play.events if isinstance(event, TrialContinued)]
    assert [event.reason for event in last] == ["the best of 1 paused trials that the rest of the budget lasts for"]


@given(
    rule=st.sampled_from(["promote", "freeze_thaw"]),
    trials=st.integers(1, 6),
    slots=st.integers(1, 5),
    first=st.sampled_from([0.05, 0.25, 0.5]),
    moves=st.lists(
        st.tuples(st.integers(0, 9), st.sampled_from(["epoch", "epoch", "epoch", "lost", "diverged"])), max_size=60
    ),
)
@slow
def test_however_attempts_end_no_budget_is_exceeded_and_nothing_is_left_paused(
    rule: str, trials: int, slots: int, first: float, moves: list[tuple[int, str]]
) -> None:
    play, left = Play(paused_space(f"stopping.first={first}", rule=rule, trials=trials)), list(moves)
    for _ in range(4000):
        if play.fill(slots):
            break
        assert trainings_left(play.study, play.space) >= 0
        place, what = left.pop(0) if left else (0, "epoch")
        if what == "epoch":
            play.advance(place)
        else:
            play.fail(place, for_good=what == "diverged")
    assert play.fill(slots) and not play.running
    assert all(trial.is_over for trial in play.study.all_trials.values())
    assert trials_left(play.study, play.space, NOW) == 0
    assert play.study.completed or len(play.study.failed) > 0


# --- promotion -----------------------------------------------------------------------------------------------------


def promoted(study: Study, space: SearchSpace) -> str | None:
    """The trial that is promoted, the slow way from the definition: every rung in full, every pair compared."""
    reduction, shares = space.stopping.reduction, [Fraction(str(space.stopping.first))]
    while shares[-1] * reduction < 1:
        shares.append(shares[-1] * reduction)
    rungs = []
    for share in shares:
        values = {}
        for trial in study.trials.values():
            evaluated = [each for each in trial.results if each.validation and each.epoch >= share * trial.epochs]
            if evaluated and trial.status != "failed":
                values[trial.key] = evaluated[0].validation.mAP  # type: ignore[union-attr]
        rungs.append(values)
    for number in reversed(range(len(rungs))):
        values = rungs[number]
        passed = {key for above in rungs[number + 1 :] for key in above}
        for key in sorted(values, key=lambda key: (-values[key], key)):
            better = sum(other > values[key] or (other == values[key] and name < key) for name, other in values.items())
            is_promotable = study.trials[key].status == "paused" and key not in passed
            if is_promotable and better < len(values) // reduction:
                return key
    return None


@given(
    values=st.lists(st.integers(0, 4), min_size=40, max_size=40),
    slots=st.integers(1, 4),
    first=st.sampled_from([0.1, 0.05, 0.25]),
    reduction=st.integers(2, 4),
    every=st.integers(1, 3),
    moves=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 11)), min_size=40, max_size=100),
)
@slow
def test_promotion_is_that_of_the_definition(
    values: list[int], slots: int, first: float, reduction: int, every: int, moves: list[tuple[int, int]]
) -> None:
    rules = (f"stopping.first={first}", f"stopping.reduction={reduction}", f"evaluation.every={every}")
    space = paused_space(*rules, trials=30, epochs=20)
    play = Play(space, lambda index, epoch: values[(3 * index + epoch) % 40] / 10)
    for place, chance in moves:
        found = promotion(play.study, space.stopping, space.objective, lambda trial: True)
        assert (None if found is None else found.trial.key) == promoted(play.study, space)
        if play.fill(slots):
            break
        if chance == 0:
            play.fail(place, for_good=True)
        else:
            play.advance(place)


def test_only_what_the_budget_lasts_for_is_promoted_and_other_rules_promote_nothing() -> None:
    space = paused_space("stopping.first=0.25")
    study = some_paused(3)
    assert promotion(study, space.stopping, space.objective, lambda trial: True) is not None
    assert promotion(study, space.stopping, space.objective, lambda trial: False) is None
    for rule in ("none", "asha", "percentile", "freeze_thaw"):
        assert promotion(study, StoppingConfig(rule=rule), space.objective, lambda trial: True) is None


def some_paused(count: int) -> Study:
    """Trials that have paused after 3 of 12 epochs; no rule has looked at them."""
    play = Play(paused_space("stopping.first=0.25", rule="freeze_thaw", trials=9))
    for _ in range(3 * count):
        play.fill(1)
        play.advance(0)
    assert play.study.counts()["paused"] == count == len(play.study.trials)
    return play.study


# --- budgets -------------------------------------------------------------------------------------------------------


def test_a_paused_trial_takes_what_it_has_trained_and_a_running_one_what_it_will_train() -> None:
    space, study = paused_space(trials=9), some_paused(3)
    assert trainings_taken(study, space) == Fraction(9, 12)
    step = next_step(study, space, NOW)
    assert isinstance(step, ContinueTrial) and step.event.until == 9
    study.apply(step.event)
    assert trainings_taken(study, space) == Fraction(3 + 3 + 9, 12)
    study.apply(TrialStopped(trial=step.event.trial, rule="user", epoch=3, reason="x"))
    assert trainings_taken(study, space) == Fraction(9, 12)
    assert trials_left(study, space, NOW) == 2 + int((9 - Fraction(9, 12)) / Fraction(1, 4))


def test_the_rest_of_a_budget_goes_to_the_best_once_all_are_paused() -> None:
    space = paused_space("stopping.first=0.25", rule="freeze_thaw", trials=2)
    study = some_paused(4)
    study.apply(suggested(4).model_copy(update={"params": POINT, "epochs": 12, "until": 3}))
    study.apply(started(4))
    assert next_step(study, space, NOW) == Wait(), "the one that still trains may be the best"
    for event in (reported(4, 3, 0.9), paused(4, 3)):
        study.apply(event)
    step = next_step(study, space, NOW)
    assert isinstance(step, ContinueTrial)
    assert (step.event.trial, step.event.until) == ("t0004", None)


def test_a_target_stops_paused_trials_with_the_running_ones() -> None:
    play = Play(paused_space("budget.target=0.4", "stopping.first=0.25"))
    while not play.study.completed:
        play.fill(2)
        play.advance(0)
    stops = stops_for_budget(play.study, play.space, NOW)
    assert {stop.trial for stop in stops} >= {
        trial.key for trial in play.study.trials.values() if trial.status == "paused"
    }
    step = next_step(play.study, play.space, NOW)
    assert not isinstance(step, SearchOver), "nothing that is unfinished is forgotten"


def test_patience_lets_running_trials_end_before_it_gives_up_paused_ones() -> None:
    play = Play(paused_space("budget.patience=1", "stopping.first=0.25", trials=9), lambda index, epoch: 0.5)
    while len(play.study.completed) < 2:
        play.fill(2)
        play.advance(0)
    assert next_step(play.study, play.space, NOW) == Wait()
    play.to_the_end(2)
    given_up = [event for event in play.events if isinstance(event, TrialStopped)]
    assert given_up and all("1 completed trials in a row improved nothing" in event.reason for event in given_up)


def test_a_search_that_is_extended_to_whole_trainings_trains_paused_ones_with_what_new_ones_leave() -> None:
    study = some_paused(5)
    assert isinstance(next_step(study, paused_space(rule="none", trials=3), NOW), AddTrial)
    step = next_step(study, paused_space(rule="none", trials=2), NOW)
    assert isinstance(step, ContinueTrial) and step.event.until is None
    for event in (step.event, TrialStarted(trial=step.event.trial, attempt=2), TrialCompleted(trial=step.event.trial)):
        study.apply(event)
    end = next_step(study, paused_space(rule="none", trials=2), NOW)
    assert isinstance(end, EndPaused) and {event.rule for event in end.events} == {"budget"}


# --- the baseline --------------------------------------------------------------------------------------------------


def test_the_baseline_of_relative_constraints_never_pauses() -> None:
    space = paused_space("objective.constraints=['rank1 >= 0.95 * baseline']")
    play = Play(space)
    play.to_the_end(2)
    baseline, *others = play.study.trials.values()
    assert (baseline.until, baseline.pauses, baseline.status) == (None, [], "completed")
    assert all(trial.pauses for trial in others)


# --- the model's proposals -----------------------------------------------------------------------------------------

FORECAST = Forecast(value=0.7, error=0.02)


def test_a_continuation_that_the_model_proposes_is_carried_out_with_its_reason_and_forecast() -> None:
    space, study = paused_space(rule="freeze_thaw", trials=9), some_paused(3)
    proposal = Continuation("t0001", 5, "expected improvement 0.01 an epoch", FORECAST)
    step = next_step(study, space, NOW, lambda study, space: proposal)
    assert step == ContinueTrial(
        TrialContinued(trial="t0001", until=5, reason="expected improvement 0.01 an epoch", forecast=FORECAST)
    )
    assert step_of(study, space, proposal) == step


def test_a_continuation_that_came_too_late_or_exceeds_the_budget_is_none() -> None:
    space, study = paused_space(rule="freeze_thaw", trials=9), some_paused(3)
    proposal = Continuation("t0001", 5, "x", None)
    assert step_of(study, paused_space(rule="freeze_thaw", trials=1), proposal) is None
    study.apply(TrialStopped(trial="t0001", rule="user", epoch=3, reason="x"))
    assert step_of(study, space, proposal) is None
    assert step_of(study, space, Exhausted("x")) is None and step_of(study, space, None) is None


def test_a_free_place_waits_for_the_model_and_the_model_is_asked_ahead() -> None:
    space, study, question = paused_space(rule="freeze_thaw", trials=9), some_paused(3), AskModel({"trials": []})
    assert next_step(study, space, NOW, lambda study, space: question) == question
    assert question_ahead(study, space, lambda study, space: question) == question


def test_freeze_thaw_pauses_first_and_then_where_the_model_says() -> None:
    space, study = paused_space("stopping.first=0.25", rule="freeze_thaw", trials=9), some_paused(3)
    step = next_step(study, space, NOW)
    assert isinstance(step, AddTrial) and step.event.until == 3


# --- attempts ------------------------------------------------------------------------------------------------------

PAUSED = AttemptResult(state="paused")
SHORT = ("optim.epochs=6", "stopping.rule=promote", "stopping.first=0.3", "algorithm.name=sobol")


def bench_with(folder: Path, *, paused: int, trials: int = 4) -> Bench:
    """A search of one trial at a time, with some that have paused after 2 of 6 epochs."""
    bench = Bench(folder, trials=trials, concurrent=1, overrides=SHORT)
    for index in range(paused):
        spec = bench.searcher.suggest(f"x{index}")
        assert (spec["trial"], spec["until"]) == (f"t{index:04d}", 2)
        for epoch in (1, 2):
            bench.epoch(f"x{index}", epoch, 0.1 * (index + 1) * epoch)
        bench.end(f"x{index}", PAUSED)
    return bench


def test_an_attempt_that_has_paused_frees_its_place_and_the_best_is_handed_out_again(tmp_path: Path) -> None:
    bench = bench_with(tmp_path / "s", paused=3)
    assert bench.status() == {"t0000": "paused", "t0001": "paused", "t0002": "paused"}
    assert bench.searcher.handed_out == 0
    spec = bench.searcher.suggest("again")
    assert (spec["trial"], spec["attempt"], spec["until"]) == ("t0002", 2, None)
    kinds = [record.event.kind for record in read_journal(bench.folder.journal)]
    assert kinds[-2:] == ["trial_continued", "trial_started"], "in the journal before it is handed out"
    bench.epoch("again", 6, 0.9)
    bench.end("again", AttemptResult(state="completed"))
    assert bench.status()["t0002"] == "completed"


def test_a_place_waits_for_the_model_and_takes_the_paused_trial_that_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = bench_with(tmp_path / "s", paused=2, trials=9)  # too few for a promotion
    monkeypatch.setattr(trial_runner, "propose", lambda study, space: AskModel({"trials": []}))
    answers = [None, None, Continuation("t0001", 4, "it gains most", FORECAST)]
    monkeypatch.setattr(AsyncSuggester, "take", lambda *arguments, **settings: answers.pop(0))
    bench.recorder.record(TrialTracked(trial="t0000", mlflow_run_id="r"))  # the history has changed: it is asked anew
    assert [bench.searcher.suggest("x2"), bench.searcher.suggest("x2")] == [None, None], "it computes"
    spec = bench.searcher.suggest("x2")
    assert (spec["trial"], spec["attempt"], spec["until"]) == ("t0001", 2, 4)
    assert bench.recorder.study.trials["t0001"].forecast == FORECAST
    assert bench.searcher.failure is None


def test_an_attempt_that_is_lost_between_its_last_epoch_and_its_result_is_tried_again(tmp_path: Path) -> None:
    bench = bench_with(tmp_path / "s", paused=1)
    bench.searcher.suggest("x1")
    for epoch in (1, 2):
        bench.epoch("x1", epoch, 0.5)
    bench.end("x1", None, error=True)
    assert bench.status()["t0001"] == "pending"
    spec = bench.searcher.suggest("x2")
    assert (spec["trial"], spec["attempt"], spec["until"]) == ("t0001", 2, 2)
    bench.end("x2", PAUSED)
    assert bench.status()["t0001"] == "paused"


def test_a_trial_that_a_dead_session_left_at_its_pause_pauses_and_is_not_trained_on(tmp_path: Path) -> None:
    bench = bench_with(tmp_path / "s", paused=0)
    bench.searcher.suggest("x0")
    bench.epoch("x0", 1, 0.1)
    write_results(bench.folder.trial("t0000") / "results.jsonl", [epoch_result(1, 0.1), epoch_result(2, 0.2)])
    again = Bench(tmp_path / "s", trials=4, concurrent=1, overrides=SHORT)
    recover_epochs(again.folder, paused_space(*SHORT), again.recorder)
    trial = again.recorder.study.trials["t0000"]
    assert (trial.status, trial.epoch, trial.pauses) == ("paused", 2, [2])
    recover_epochs(again.folder, paused_space(*SHORT), again.recorder)
    assert trial.pauses == [2], "it is known already"


def checkpoints(bench: Bench, index: int) -> Path:
    folder = bench.folder.trial(f"t{index:04d}") / "checkpoint"
    folder.mkdir()
    for name in ("last.pt", "last.pt.sha256", "best.pt", "best.pt.sha256"):
        (folder / name).write_text("x")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_paused_for_good_keeps_its_best_network_and_frees_the_rest(tmp_path: Path) -> None:
    bench = bench_with(tmp_path / "s", paused=3, trials=2)
    given_up = [checkpoints(bench, 0), checkpoints(bench, 1)]
    assert bench.searcher.suggest("x3")["trial"] == "t0002"
    assert bench.searcher.suggest("x4") is None
    assert all("last.pt" in names(folder) for folder in given_up), "the running one may fail"
    bench.complete("x3", 0.9)
    assert bench.searcher.suggest("x4") == Searcher.FINISHED
    assert bench.status() == {"t0000": "stopped", "t0001": "stopped", "t0002": "completed"}
    assert [names(folder) for folder in given_up] == [["best.pt", "best.pt.sha256"]] * 2


def test_a_paused_trial_that_a_user_gives_up_frees_its_state(tmp_path: Path) -> None:
    bench = bench_with(tmp_path / "s", paused=2)
    first, second = checkpoints(bench, 0), checkpoints(bench, 1)
    bench.folder.store.request(bench.folder, "t0000")
    bench.searcher.ends_now()
    assert bench.status() == {"t0000": "stopped", "t0001": "paused"}
    bench.journal.close()
    assert stop(bench.folder, "t0001").done
    assert names(first) == names(second) == ["best.pt", "best.pt.sha256"]


def test_the_state_of_a_trial_with_a_living_attempt_is_kept(tmp_path: Path) -> None:
    bench = bench_with(tmp_path / "s", paused=1)
    folder = checkpoints(bench, 0)
    bench.recorder.record(TrialStopped(trial="t0000", rule="user", epoch=2, reason="x"))
    with exclusive(bench.folder.trial("t0000") / "lock", 0):
        drop_checkpoints(bench.folder, bench.recorder.study, before=())
        assert "last.pt" in names(folder)
    drop_checkpoints(bench.folder, bench.recorder.study, before={"t0000"})
    assert "last.pt" not in names(folder), "what an earlier session left is found"


# --- replays -------------------------------------------------------------------------------------------------------


def records(events: Sequence[Event]) -> list[Record]:
    return [Record(number, NOW + number, event) for number, event in enumerate(events, 1)]


@given(
    rule=st.sampled_from(["promote", "freeze_thaw", "none"]),
    slots=st.integers(1, 4),
    moves=st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["epoch", "epoch", "lost", "diverged"])), max_size=60),
)
@slow
def test_every_decision_is_made_again_from_the_journal_alone(
    rule: str, slots: int, moves: list[tuple[int, str]]
) -> None:
    play = Play(paused_space("stopping.first=0.1", "replicates=1", rule=rule, trials=3))
    for place, what in moves:
        if play.fill(slots):
            break
        if what == "epoch":
            play.advance(place)
        else:
            play.fail(place, for_good=what == "diverged")
    play.to_the_end(slots)
    found = replayed_decisions(records(play.events), play.space)
    assert found.differences == []
    assert found.counts["trial_suggested"] == len(play.study.trials), "repeats are chosen afterwards"
    assert found.counts["trial_paused"] == sum(len(trial.pauses) for trial in play.study.trials.values())


def test_a_model_that_continued_a_trial_is_not_asked_again() -> None:
    def model(study: Study, space: SearchSpace) -> Proposal:
        if "t0000" in study.trials and study.trials["t0000"].pauses == [3]:
            return Continuation("t0000", 5, "it has the largest expected improvement", FORECAST)
        return propose(study, space)

    play = Play(paused_space(rule="freeze_thaw", trials=3), propose=model)
    study = play.to_the_end()
    assert study.trials["t0000"].pauses[:2] == [3, 5] and study.trials["t0000"].forecast == FORECAST
    assert replayed_decisions(records(play.events), play.space).differences == []


def test_a_journal_with_other_decisions_than_the_rule_makes_is_found_out() -> None:
    play = Play(paused_space("stopping.first=0.25"))
    play.to_the_end()
    at, continued = next((place, event) for place, event in enumerate(play.events) if isinstance(event, TrialContinued))
    worse = next(trial.key for trial in fold(play.events[:at]).trials.values() if trial.key != continued.trial)
    forged = [*play.events[:at], continued.model_copy(update={"trial": worse}), *play.events[at + 1 :]]
    differences = replayed_decisions(records(forged), play.space).differences
    assert differences[0] == f"line {at + 1}: trial_continued {worse}; now trial_continued {continued.trial}"


# --- sessions ------------------------------------------------------------------------------------------------------


@given(st.integers(0, 120), st.integers(1, 4))
@slow
def test_a_session_that_dies_at_any_event_is_continued_to_the_same_pauses(cut: int, slots: int) -> None:
    play = Play(paused_space("stopping.first=0.1", trials=3))
    play.to_the_end(slots)
    before = [event for event in play.events[: cut + 2] if event.kind != "session_ended"]
    again = Play(play.space)
    again.record(*before[2:], SessionStarted(session=2, host="h", pid=2))
    paused_then = {trial.key for trial in again.study.trials.values() if trial.status == "paused"}
    assert again.study.queue == [t.key for t in again.study.trials.values() if t.status == "pending"]
    assert not paused_then & set(again.study.queue)
    study = again.to_the_end(slots)
    assert all(trial.is_over for trial in study.all_trials.values())
    assert trainings_taken(study, play.space) <= 3
