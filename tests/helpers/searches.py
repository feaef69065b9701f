"""Searches on disk for tests, written without running anything."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from events import epoch_result

from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import SearchFolder
from orchestrator.stores.local import local_search
from orchestrator.study.description import Options, SearchDescription, write_description
from orchestrator.study.events import (
    Event,
    Forecast,
    SearchCreated,
    SessionEnded,
    SessionStarted,
    TrialCompleted,
    TrialContinued,
    TrialPaused,
    TrialReported,
    TrialStarted,
    TrialStopped,
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


def pausing_events() -> list[Event]:
    """Four trials of 20 epochs in the space `smoke` which pause after 5.

    `t0000` is paused, `t0001` continued to its end, `t0002` was continued and trains epoch 8, `t0003` was stopped while
    it was paused. Their mAP is 0.01 per epoch, and 0.2 more for `t0001`.
    """
    keys = [f"t{index:04d}" for index in range(4)]
    events: list[Event] = [SessionStarted(session=1, host="h", pid=1)]
    for index, key in enumerate(keys):
        events += [
            TrialSuggested(trial=key, index=index, params=POINT, source="ax", seed=0, epochs=20, until=5),
            *_trained(key, 0, 5),
            TrialPaused(trial=key, epoch=5, reason="until epoch 5", forecast=Forecast(value=0.5, error=0.04)),
        ]
    ahead = Forecast(value=0.781, error=0.02)
    return [
        *events,
        TrialContinued(trial="t0001", until=None, reason="the best", forecast=ahead),
        *_trained("t0001", 5, 20),
        TrialCompleted(trial="t0001"),
        TrialContinued(trial="t0002", until=10, reason="the next", forecast=ahead),
        *_trained("t0002", 5, 7),
        TrialStopped(trial="t0003", rule="freeze_thaw", epoch=5, reason="paused for good"),
    ]


def trials_of_rates(space: SearchSpace, values: Sequence[float]) -> list[Event]:
    """Whole trials in the space `smoke` whose learning rates are spread over their range."""
    path = "optim.learning_rate"
    rates = [space.parameters[path].at((index + 0.5) / len(values)) for index in range(len(values))]
    return [
        event
        for index, (rate, value) in enumerate(zip(rates, values, strict=True))
        for event in completed(index, value, **{path: rate})
    ]


def _trained(key: str, begin: int, end: int) -> list[Event]:
    more = 0.2 if key == "t0001" else 0.0
    epochs = range(begin + 1, end + 1)
    reports = [TrialReported(trial=key, result=epoch_result(epoch, more + epoch / 100)) for epoch in epochs]
    return [TrialStarted(trial=key, attempt=1 if begin == 0 else 2), *reports]


def a_pausing_search(folder: Path) -> SearchFolder:
    """The search of `pausing_events`, interrupted."""
    space = SearchSpace.load("smoke.yaml", overrides=["stopping.rule=freeze_thaw"])
    return write_search(folder, space, [*pausing_events(), SessionEnded(state="interrupted", reason="asked to stop")])
