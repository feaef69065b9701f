"""Answers that are asked for ahead: when they are used, and that a suggestion comes whatever the model does."""

from __future__ import annotations

import math
from typing import Any

import pytest
from ax_children import ANSWER, history, question_of
from events import completed, continued, epoch_result, paused, reported, started, suggested
from hypothesis import given
from hypothesis import strategies as st
from small_spaces import finite, mixed, random_point
from strategies import quick

from orchestrator.algorithms.async_suggester import REPEATS, AsyncSuggester
from orchestrator.algorithms.ax_experiment import ax_experiment
from orchestrator.algorithms.ax_process import AxFailed
from orchestrator.algorithms.points import point_key
from orchestrator.algorithms.suggest import Continuation, Exhausted, Suggestion
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.events import Event, Forecast, TrialReported
from orchestrator.study.study import Study, fold


class FakeModel:
    """Answers in turn what it is told to, one `poll` after the question; the last answer for ever."""

    def __init__(self, *answers: object) -> None:
        self._answers = list(answers)
        self.questions: list[dict[str, Any]] = []
        self.awaited = 0
        self.is_busy = False

    def ask(self, question: dict[str, Any]) -> None:
        assert not self.awaited
        self.questions.append(question)
        self.awaited = question.get("count", 1)

    def poll(self) -> Any:
        if self.is_busy:
            return None
        self.awaited -= 1
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            self.awaited = 0
            raise answer
        is_whole = isinstance(answer, dict) and ("continue" in answer or "params" in answer)
        return answer if is_whole else {"params": answer, "until": self.questions[-1].get("ends", [3])[-1]}


POINT = {
    "optim.learning_rate": mixed().parameters["optim.learning_rate"].at(0.5),
    "clips.flip": 0.25,
    "clips.erase": 0.3,
    "clips.identities": 4,
    "model.pooling": "mean",
}
OTHER = {**ANSWER, "clips.identities": 7}


def taken(
    ahead: AsyncSuggester, space: SearchSpace, study: Study, *, patience: int = 20
) -> Suggestion | Continuation | Exhausted:
    for _ in range(patience):
        if (proposal := ahead.take(question_of(space, study), study)) is not None:
            return proposal
    raise AssertionError("no proposal ever came")


def ahead_of(model: FakeModel, space: SearchSpace, *, stale: int = 0) -> AsyncSuggester:
    return AsyncSuggester(model, space, stale=stale)  # type: ignore[arg-type]


def test_an_answer_is_decoded_and_what_is_inactive_left_out() -> None:
    space = mixed()
    assert taken(ahead_of(FakeModel(ANSWER), space), space, history(space, 3)) == Suggestion(
        POINT, "ax", config=space.config(POINT)
    )


def test_without_stale_answers_nothing_is_asked_before_it_is_needed() -> None:
    space, model = mixed(), FakeModel(ANSWER)
    ahead_of(model, space).want(question_of(space, history(space, 3)))
    assert model.questions == []


def test_without_stale_answers_only_the_answer_to_the_very_history_counts() -> None:
    space, model = mixed(), FakeModel(ANSWER, OTHER)
    ahead = ahead_of(model, space)
    before, after = history(space, 3, running=1), history(space, 4)
    assert ahead.take(question_of(space, before), before) is None
    found = taken(ahead, space, after)
    assert isinstance(found, Suggestion)
    assert found.params["clips.identities"] == 9
    assert model.questions == [question_of(space, before).experiment, question_of(space, after).experiment]


def test_an_answer_that_was_asked_for_ahead_is_there_at_once_after_the_next_result() -> None:
    space, model = mixed(), FakeModel(ANSWER)
    ahead = ahead_of(model, space, stale=1)
    before, after = history(space, 3, running=2), history(space, 4, running=1)
    ahead.want(question_of(space, before))
    ahead.want(question_of(space, before))
    assert ahead.take(question_of(space, after), after) == Suggestion(POINT, "ax", config=space.config(POINT))
    assert len(model.questions) == 1


def test_an_answer_that_does_not_know_of_two_results_or_of_a_trial_is_asked_for_again() -> None:
    space = mixed()
    before = history(space, 3, running=2)
    for after in (history(space, 5), history(space, 3, running=3)):
        model = FakeModel(ANSWER, OTHER)
        ahead = ahead_of(model, space, stale=1)
        ahead.want(question_of(space, before))
        assert ahead.take(question_of(space, after), after) is None
        found = taken(ahead, space, after)
        assert isinstance(found, Suggestion)
        assert found.params["clips.identities"] == 9


def test_where_many_run_an_answer_may_lack_as_many_results_as_allowed() -> None:
    space = mixed()
    before = history(space, 3, running=6)
    for ended, is_taken in ((3, True), (4, False)):
        ahead = ahead_of(FakeModel(ANSWER, OTHER), space, stale=3)
        ahead.want(question_of(space, before))
        after = history(space, 3 + ended, running=6 - ended)
        assert (ahead.take(question_of(space, after), after) is not None) == is_taken


PLACES = [{**ANSWER, "clips.identities": identities - 2} for identities in (4, 5, 6, 7)]


def taken_from(study: Study, found: Suggestion | Continuation | Exhausted | None, *others: Event) -> Study:
    """The history once a proposal has become a trial, and what else has happened."""
    assert isinstance(found, Suggestion)
    event = suggested(len(study.trials), **found.params)  # type: ignore[arg-type]
    return fold([*study_events(study), event, *others])


def study_events(study: Study) -> list[Event]:
    events: list[Event] = []
    for trial in study.trials.values():
        event = suggested(trial.index, **trial.params)  # type: ignore[arg-type]
        events += [event, *(completed(trial.index, 0.1 * trial.index)[1:] if trial.is_over else [])]
    return events


def test_free_places_are_filled_from_one_question() -> None:
    space, model = mixed(), FakeModel(*PLACES)
    ahead, study = ahead_of(model, space, stale=6), history(space, 3, running=2)
    assert ahead.take(question_of(space, study), study, free=9) is None
    identities = []
    for _ in range(3):
        found = ahead.take(question_of(space, study), study, free=9)
        study = taken_from(study, found)
        identities.append(found.params["clips.identities"])  # type: ignore[union-attr]
    assert identities == [4, 5, 6]
    assert [question.get("count") for question in model.questions] == [3]


def counts_asked_for(free: list[int], *, stale: int) -> list[int]:
    """Points of each question of a search in which so many places are free, one number for each change."""
    space, model = mixed(), FakeModel(*({**ANSWER, "clips.flip": share / 1000} for share in range(200)))
    ahead, study = ahead_of(model, space, stale=stale), history(space, 3, running=2)
    for places in free:
        ahead.want(question_of(space, study))
        for left in range(places, 0, -1):
            while (found := ahead.take(question_of(space, study), study, free=left)) is None:
                pass
            study = taken_from(study, found)
    return [question.get("count", 1) for question in model.questions]


def test_more_points_are_asked_for_where_places_had_to_wait_and_fewer_where_none_had_to() -> None:
    assert counts_asked_for([1] * 5, stale=18) == [1] * 5
    assert counts_asked_for([2] * 5 + [1] * 20, stale=18) == [1, 2, 4, 8, 7, 6, 5]
    assert max(counts_asked_for([3] * 4, stale=4)) == 2


def test_of_several_answers_those_left_are_dropped_once_they_lack_too_much() -> None:
    space = mixed()
    for others, identities in (
        (completed(3, 0.3)[1:], 5),
        ([event for index in range(3, 8) for event in completed(index, 0.3)[1:]], 7),
        ([suggested(9, **random_point(space, 0, 99))], 7),  # type: ignore[arg-type]
    ):
        model = FakeModel(*PLACES)
        ahead, study = ahead_of(model, space, stale=4), history(space, 3, running=5)
        assert ahead.take(question_of(space, study), study, free=2) is None
        study = taken_from(study, ahead.take(question_of(space, study), study, free=2), *others)
        model._answers = [PLACES[3]]
        found = taken(ahead, space, study)
        assert isinstance(found, Suggestion)
        assert found.params["clips.identities"] == identities


def test_where_trials_end_faster_than_the_model_thinks_every_other_answer_is_used() -> None:
    space, model = mixed(), FakeModel(ANSWER)
    ahead, found = ahead_of(model, space, stale=1), []
    for ended in (0, 2, 4, 6):  # two trials end while it thinks
        study = history(space, 3 + ended, running=6 - ended)
        found.append(ahead.take(question_of(space, study), study))
    assert [each is not None for each in found] == [False, False, True, False]


def test_without_stale_answers_a_question_asks_for_one_point_however_many_places_are_free() -> None:
    space, model = mixed(), FakeModel(*PLACES)
    ahead, study = ahead_of(model, space), history(space, 3)
    ahead.take(question_of(space, study), study, free=9)
    assert "count" not in model.questions[0]


def test_asking_never_waits_for_a_busy_model() -> None:
    space, model = mixed(), FakeModel(ANSWER)
    model.is_busy = True
    ahead = ahead_of(model, space, stale=1)
    study = history(space, 3)
    for _ in range(5):
        ahead.want(question_of(space, study))
        assert ahead.take(question_of(space, study), study) is None
    assert len(model.questions) == 1


def test_a_point_that_was_tried_is_asked_for_again_with_other_seeds_and_then_replaced_by_a_new_one() -> None:
    space = mixed()
    study = fold([*history_events(space), suggested(3, **POINT)])  # type: ignore[arg-type]
    model = FakeModel(ANSWER)
    found = taken(ahead_of(model, space), space, study)
    assert isinstance(found, Suggestion)
    assert (found.source, "had been tried" in found.note) == ("random", True)
    assert point_key(found.params) != point_key(POINT)
    assert len(model.questions) == len({question["seed"] for question in model.questions}) == REPEATS + 1


def history_events(space: SearchSpace) -> list[Event]:
    events: list[Event] = []
    for index in range(3):
        point = random_point(space, 0, index)
        events += [suggested(index, **point), *completed(index, 0.1)[1:]]  # type: ignore[arg-type]
    return events


def test_a_new_point_at_a_second_asking_is_the_models_own() -> None:
    space = mixed()
    study = fold([*history_events(space), suggested(3, **POINT)])  # type: ignore[arg-type]
    found = taken(ahead_of(FakeModel(ANSWER, OTHER), space), space, study)
    assert isinstance(found, Suggestion)
    assert (found.source, found.note, found.params["clips.identities"]) == ("ax", "", 9)


BREAKS_CONSTRAINT = {**ANSWER, "clips.flip": 1.0, "clips.erase": 8}
USELESS: list[object] = [
    AxFailed("no answer within 180 s"),
    "a text",
    ["a", "list"],
    7,
    {},
    {"nonsense": 1},
    {**ANSWER, "more": 1},
    {**ANSWER, "clips.identities": "many"},
    {**ANSWER, "clips.identities": True},
    {**ANSWER, "clips.identities": 8},
    {**ANSWER, "clips.flip": math.nan},
    {**ANSWER, "clips.flip": math.inf},
    {**ANSWER, "clips.flip": 1.1},
    {**ANSWER, "clips.flip": None},
    {**ANSWER, "clips.erase": -1},
    {**ANSWER, "clips.erase": 10**400},
    {**ANSWER, "optim.learning_rate": -0.1},
    {**ANSWER, "model.pooling": 2},
    {**ANSWER, "model.pooling": "mean"},
    {**ANSWER, "model.pooling": [1]},
    BREAKS_CONSTRAINT,
]


@pytest.mark.parametrize("answer", USELESS, ids=lambda answer: str(answer)[:40])
@pytest.mark.parametrize("stale", [0, 1])
def test_whatever_the_model_says_a_point_of_the_space_is_proposed(answer: object, stale: int) -> None:
    space = mixed()
    found = taken(ahead_of(FakeModel(answer), space, stale=stale), space, history(space, 3))
    assert isinstance(found, Suggestion)
    assert found.source == "random"
    assert found.note.startswith("Ax: ")
    assert all(space.parameters[path].refusal(value) is None for path, value in found.params.items())


def test_a_model_that_cannot_be_asked_is_done_without() -> None:
    class Gone(FakeModel):
        def ask(self, question: dict[str, Any]) -> None:
            raise AxFailed("no child could be started")

    space = mixed()
    study = history(space, 3)
    found = ahead_of(Gone(None), space).take(question_of(space, study), study)
    assert isinstance(found, Suggestion)
    assert found.note == "Ax: no child could be started"


def test_the_search_asks_the_model_again_after_it_failed() -> None:
    space = mixed()
    ahead = ahead_of(FakeModel(AxFailed("died"), ANSWER), space)
    first, second = history(space, 3), history(space, 4)
    assert taken(ahead, space, first).source == "random"  # type: ignore[union-attr]
    assert taken(ahead, space, second).source == "ax"  # type: ignore[union-attr]


def test_a_model_that_fails_in_a_space_that_is_tried_out_ends_the_search() -> None:
    space = finite()
    events = [
        suggested(index, **{"clips.erase": margin, "model.pooling": gate, **flag})  # type: ignore[arg-type]
        for index, (margin, gate, flag) in enumerate(
            (margin, gate, flag)
            for margin in (0.1, 0.2, 0.3)
            for gate, flag in (
                ("mean", {}),
                ("attention", {"loss.osm_detach": True}),
                ("attention", {"loss.osm_detach": False}),
            )
        )
    ]
    assert isinstance(
        taken(ahead_of(FakeModel(AxFailed("SearchSpaceExhausted")), space), space, fold(events)), Exhausted
    )


@given(
    identities=st.integers(0, 7),
    step=st.integers(0, 8),
    margin=st.floats(0, 1),
    rate=st.floats(0, 1),
    gate=st.integers(0, 1),
)
@quick
def test_every_answer_within_the_space_means_the_point_that_the_question_would_state_it_as(
    identities: int, step: int, margin: float, rate: float, gate: int
) -> None:
    space = mixed(constraints=[])
    answer = {
        **ANSWER,
        "clips.identities": identities,
        "clips.erase": step,
        "clips.flip": margin,
        "optim.learning_rate": rate,
        "model.pooling": gate,
    }
    study = history(space, 3)
    found = taken(ahead_of(FakeModel(answer), space), space, study)
    assert isinstance(found, Suggestion)
    asked = ax_experiment(space, 0, fold([suggested(0, **found.params)]))  # type: ignore[arg-type]
    (trial,) = asked["trials"]
    assert {**trial["params"], "model.attention_hidden": 0.5} == pytest.approx(answer, abs=1e-15)


def test_values_that_are_not_finite_never_reach_the_model() -> None:
    space = mixed()
    poisoned = [suggested(3, **POINT), *completed(3, 0.5)[1:]]  # type: ignore[arg-type]
    result = epoch_result(1, 0.5)
    assert result.validation is not None
    broken = result.model_copy(update={"validation": result.validation.model_copy(update={"mAP": math.nan})})
    poisoned[2] = TrialReported(trial="t0003", result=broken)
    asked = ax_experiment(space, 0, fold([*history_events(space), *poisoned]))
    assert [trial["state"] for trial in asked["trials"]] == ["completed"] * 3 + ["failed"]


# --- paused trials -------------------------------------------------------------------------------------------------


def pausing() -> SearchSpace:
    return mixed(
        stopping={"rule": "freeze_thaw", "first": 0.25}, trainer={"optim": {"epochs": 8}, "evaluation": {"every": 1}}
    )


def with_paused(space: SearchSpace, *others: Event) -> Study:
    """Three whole trials and one that has paused after 2 of 8 epochs."""
    point = suggested(3, **random_point(space, 0, 3))  # type: ignore[arg-type]
    begun = [point.model_copy(update={"epochs": 8, "until": 2}), started(3), reported(3, 1), reported(3, 2, 0.7)]
    return fold([*history_events(space), *begun, paused(3, 2), *others])


GOES_ON = {"continue": "t0003", "until": 4, "forecast": [0.8, 0.05], "reason": "a new trial promises less"}


def test_an_answer_that_continues_a_paused_trial_has_a_forecast_and_says_why() -> None:
    space = pausing()
    found = taken(ahead_of(FakeModel(GOES_ON), space), space, with_paused(space))
    assert isinstance(found, Continuation)
    assert (found.trial, found.until, found.forecast) == ("t0003", 4, Forecast(value=0.8, error=0.05))
    assert found.reason == "expected to end at 0.8 ± 0.05; a new trial promises less"
    whole = taken(ahead_of(FakeModel({**GOES_ON, "until": 8}), space), space, with_paused(space))
    assert isinstance(whole, Continuation)
    assert whole.until is None


def test_the_forecast_of_a_value_that_is_lowered_has_its_own_sign() -> None:
    space = pausing()
    space = space.model_copy(update={"objective": space.objective.model_copy(update={"goal": "minimize"})})
    found = taken(ahead_of(FakeModel({**GOES_ON, "forecast": [-0.3, 0.05]}), space), space, with_paused(space))
    assert isinstance(found, Continuation)
    assert found.forecast == Forecast(value=-0.3 * -1, error=0.05)


def test_a_continuation_of_a_trial_that_is_not_paused_any_more_is_not_used() -> None:
    space, model = pausing(), FakeModel(GOES_ON, ANSWER)
    ahead = ahead_of(model, space, stale=1)
    ahead.want(question_of(space, with_paused(space)))
    found = taken(ahead, space, with_paused(space, continued(3, 4)))
    assert isinstance(found, Suggestion)
    assert found.source == "ax"


def test_the_answers_after_a_continuation_took_it_for_training_and_are_used() -> None:
    space, model = pausing(), FakeModel(GOES_ON, ANSWER)
    ahead, study = ahead_of(model, space, stale=4), with_paused(space)
    assert ahead.take(question_of(space, study), study, free=2) is None
    assert isinstance(ahead.take(question_of(space, study), study, free=2), Continuation)
    study = with_paused(space, continued(3, 4))
    found = ahead.take(question_of(space, study), study, free=1)
    assert isinstance(found, Suggestion)
    assert [question.get("count") for question in model.questions] == [2]


def test_a_new_trial_pauses_at_the_chunk_of_its_own_length_that_the_model_chose() -> None:
    space = pausing()
    found = taken(ahead_of(FakeModel({"params": ANSWER, "until": 4}), space), space, with_paused(space))
    assert isinstance(found, Suggestion)
    assert found.until == 4
    whole = taken(ahead_of(FakeModel({"params": ANSWER, "until": 8}), space), space, with_paused(space))
    assert isinstance(whole, Suggestion)
    assert whole.until == 8, "the epochs of its training: it never pauses"
