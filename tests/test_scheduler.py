"""The scheduler: the searcher's word is Tune's decision, and no copy of it has a mind of its own."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from ray.tune.schedulers import TrialScheduler

from orchestrator.engine.scheduler import JournalScheduler


class Listener:
    """Remembers epochs and stops after the third; one for all copies, as the searcher is."""

    heard: ClassVar[list[tuple[str, dict[str, Any]]]] = []

    def on_epoch(self, trial_id: str, result: dict[str, Any]) -> bool:
        self.heard.append((trial_id, result))
        return len(self.heard) >= 3


@pytest.fixture(autouse=True)
def silence() -> None:
    Listener.heard.clear()


def decision(scheduler: JournalScheduler, epoch: int) -> str:
    trial: Any = SimpleNamespace(trial_id="x1")
    return scheduler.on_trial_result(None, trial, {"message": f"epoch {epoch}"})


def test_the_searcher_decides_and_hears_of_the_epoch_that_is_the_last() -> None:
    scheduler = JournalScheduler(Listener())
    assert [decision(scheduler, epoch) for epoch in (1, 2, 3)] == [
        TrialScheduler.CONTINUE,
        TrialScheduler.CONTINUE,
        TrialScheduler.STOP,
    ]
    assert Listener.heard[-1] == ("x1", {"message": "epoch 3"})


def test_a_copy_by_pickle_asks_the_same_searcher() -> None:
    scheduler = JournalScheduler(Listener())
    decision(scheduler, 1)
    decision(pickle.loads(pickle.dumps(scheduler)), 2)  # noqa: S301  # our own bytes
    assert decision(scheduler, 3) == TrialScheduler.STOP
