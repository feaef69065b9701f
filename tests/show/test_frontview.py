"""The front as `status` tells it: to machines always, to people where there are several objectives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from events import completed
from rich.console import Console

from orchestrator.show.best_line import best_value
from orchestrator.show.front_view import front_table
from orchestrator.show.status import status_document
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import SearchFolder
from orchestrator.stores.loading import LoadedSearch
from orchestrator.study.description import Options, SearchDescription
from orchestrator.study.study import fold


def document(*overrides: str) -> dict[str, Any]:
    description = SearchDescription(
        search="s",
        uid="s-1",
        created="2026-11-22T00:00:00+00:00",
        seed=0,
        synthetic=True,
        data_fingerprint="0",
        options=Options(),
        command=[],
        host="h",
        commit=None,
        versions={},
        space=SearchSpace.load("smoke.yaml", overrides=overrides),
    )
    # Each epoch takes a second, so that the longer trial costs more.
    study = fold([*completed(0, 0.2, 0.4), *completed(1, 0.3), *completed(2, 0.25)])
    return status_document(LoadedSearch(SearchFolder(Path("/runs/s")), description, study, is_driven=False))


def test_the_front_of_two_objectives_is_listed_best_first_and_drawn() -> None:
    found = document("objective.metric='mAP, -hours'")
    assert found["front"] == [
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
    assert best_value(found).startswith("mAP 40.0 (t0000")


def test_one_objective_has_its_best_trial_as_front_and_no_table() -> None:
    found = document()
    assert [each["trial"] for each in found["front"]] == ["t0000"]
    assert front_table(found) is None
