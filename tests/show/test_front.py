"""The front as `status` tells it: to machines always, to people where there are several objectives."""

from __future__ import annotations

from events import completed
from rich.console import Console
from summaries import summary_of

from orchestrator.show.search_text import summary_line
from orchestrator.show.status import status_document
from orchestrator.show.terminal import front_table
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.study import fold
from orchestrator.summary import Summary


def summary(*overrides: str) -> Summary:
    # Each epoch takes a second, so that the longer trial costs more.
    study = fold([*completed(0, 0.2, 0.4), *completed(1, 0.3), *completed(2, 0.25)])
    return summary_of(study, SearchSpace.load("smoke.yaml", overrides=overrides))


def test_the_front_of_two_objectives_is_listed_best_first_and_drawn() -> None:
    found = summary("objective.metric='mAP, -hours'")
    assert status_document(found)["front"] == [
        {"trial": "t0000", "values": {"mAP": 0.4, "hours": 2 / 3600}},
        {"trial": "t0001", "values": {"mAP": 0.3, "hours": 1 / 3600}},
    ]
    console = Console(width=80)
    with console.capture() as captured:
        console.print(front_table(found))
    assert [line.split() for line in captured.get().splitlines()] == [
        ["front", "mAP", "hours"],
        ["t0000", "40.0", "0.000556"],
        ["t0001", "30.0", "0.000278"],
    ]
    assert "best mAP 40.0 (t0000" in summary_line(found)


def test_one_objective_has_its_best_trial_as_front_and_no_table() -> None:
    found = summary()
    assert [trial.key for trial, _ in found.front] == ["t0000"]
    assert front_table(found) is None
