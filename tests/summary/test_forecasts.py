"""Forecasts that are made when a search is looked at, beside those in its journal."""

from __future__ import annotations

import pytest
from events import completed, paused, reported, started, suggested
from small_spaces import random_point
from summaries import summary_of

from orchestrator.space.search_space import SearchSpace
from orchestrator.study.events import Event, TrialSuggested
from orchestrator.study.study import fold
from orchestrator.summary import with_forecasts


def looked_at(whole: int) -> list[Event]:
    """Whole trials, and one that was paused without a forecast, as the journal has it after every pause."""
    space = SearchSpace.load("smoke.yaml")
    events: list[Event] = []
    for index in range(whole):
        events += completed(index, *(0.1 * index + 0.1 * epoch for epoch in range(1, 4)))
    events += [suggested(whole), started(whole), reported(whole, 1, 0.2), paused(whole, 1)]
    return [
        event.model_copy(update={"params": random_point(space, 0, event.index)})
        if isinstance(event, TrialSuggested)
        else event
        for event in events
    ]


def test_a_paused_trial_without_a_forecast_in_the_journal_gets_one_when_it_is_looked_at() -> None:
    before = summary_of(fold(looked_at(4)))
    assert before.forecasts == {}
    (found,) = with_forecasts(before).forecasts.values()
    assert found.value == pytest.approx(0.4, abs=0.2) and 0 < found.error < 0.3
    assert before.forecasts == {}, "nothing that was read is changed"


def test_with_few_completed_trials_no_forecast_is_made() -> None:
    assert with_forecasts(summary_of(fold(looked_at(2)))).forecasts == {}


def test_where_trials_are_many_the_forecasts_of_the_journal_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.summary.MOST_FORECAST", 4)
    assert with_forecasts(summary_of(fold(looked_at(4)))).forecasts == {}, "the search has five trials"
