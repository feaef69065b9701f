"""Searches on disk for tests, written without running anything."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from events import epoch_result

from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import SearchFolder
from orchestrator.stores.local import local_search
from orchestrator.study.description import Options, SearchDescription, write_description
from orchestrator.study.events import (
    Event,
    SearchCreated,
    SessionEnded,
    TrialCompleted,
    TrialReported,
    TrialStarted,
    TrialSuggested,
)
from orchestrator.study.journal import Journal

POINT = {"optim.learning_rate": 5e-3, "clips.identities": 3, "model.attention_gate": "sigmoid"}
"""Of the space `smoke`."""


def completed(index: int, mean_ap: float, **changed: object) -> list[Event]:
    """A trial of the space `smoke` with one epoch's result."""
    key = f"t{index:04d}"
    params = {**POINT, **changed}
    point = {"trial": key, "index": index, "params": params, "source": "sobol", "seed": 0, "epochs": 3}
    return [
        TrialSuggested.model_validate(point),
        TrialStarted(trial=key, attempt=1),
        TrialReported(trial=key, result=epoch_result(3, mean_ap)),
        TrialCompleted(trial=key),
    ]


def write_search(
    folder: Path,
    space: SearchSpace,
    events: Iterable[Event],
    *,
    fingerprint: str = "0",
    tracklets: dict[str, int] | None = None,
) -> SearchFolder:
    """A search of the folder's name that did all this, on generated data unless `tracklets` counts those of real."""
    found = local_search(folder)
    folder.mkdir(parents=True)
    description = SearchDescription(
        search=folder.name,
        uid="u",
        created="2026-11-22T00:00:00+00:00",
        seed=0,
        synthetic=tracklets is None,
        data_fingerprint=fingerprint,
        tracklets=tracklets,
        options=Options(),
        command=[],
        host="h",
        commit=None,
        versions={},
        space=space,
    )
    write_description(found.description, description)
    journal = Journal(found.journal)
    for event in (SearchCreated(search=folder.name, space="0", seed=0), *events):
        journal.append(event)
    journal.close()
    return found


def a_search(folder: Path, *overrides: str, fingerprint: str = "0") -> SearchFolder:
    """A finished search of two trials, the second better, in the space `smoke`."""
    space = SearchSpace.load("smoke.yaml", overrides=["budget.trials=2", *overrides])
    ending = SessionEnded(state="finished", reason="2 trials")
    events = [*completed(0, 0.4), *completed(1, 0.6, **{"clips.identities": 4}), ending]
    return write_search(folder, space, events, fingerprint=fingerprint)
