"""Tune's scheduler stops the trials that the searcher says, and every copy of it asks the same searcher."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from canaries import SECRETS, told
from ray.tune.execution import class_cache
from ray.tune.schedulers import TrialScheduler

from orchestrator.runner.searcher import JournalScheduler, keep_secrets


class Listener:
    """Remembers epochs and stops after the third; one for all copies, as the searcher is."""

    heard: ClassVar[list[tuple[str, dict[str, Any]]]] = []
    deaths: ClassVar[list[tuple[str, str]]] = []

    def on_epoch(self, trial_id: str, result: dict[str, Any]) -> bool:
        self.heard.append((trial_id, result))
        return len(self.heard) >= 3

    def on_death(self, trial_id: str, reason: str) -> None:
        self.deaths.append((trial_id, reason))


@pytest.fixture(autouse=True)
def silence() -> None:
    Listener.heard.clear()
    Listener.deaths.clear()


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


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (
            "Traceback ...\n  import trainer\nModuleNotFoundError: No module named 'trainer'\n",
            "ModuleNotFoundError: No",
        ),
        (
            "The actor died because its node has died. Node Id: 12\n\tclass_name: T\n\tpid: 7\n",
            "The actor died because",
        ),
        ("", ""),
    ],
)
def test_the_searcher_hears_why_a_worker_died(tmp_path: Path, told: str, reason: str) -> None:
    file = tmp_path / "error.txt"
    file.write_text(f"Failure # 1 (occurred at noon)\nOSError: earlier\nFailure # 2 (occurred at one)\n{told}")
    trial: Any = SimpleNamespace(trial_id="x1", error_file=str(file))
    JournalScheduler(Listener()).on_trial_error(None, trial)
    (heard,) = Listener.deaths
    assert heard[0] == "x1"
    assert heard[1].startswith(reason)
    assert bool(heard[1]) == bool(reason)


def test_a_failure_of_which_tune_wrote_nothing_has_no_reason(tmp_path: Path) -> None:
    for file in (None, str(tmp_path / "missing.txt")):
        JournalScheduler(Listener()).on_trial_error(None, SimpleNamespace(trial_id="x1", error_file=file))  # type: ignore[arg-type]
    assert Listener.deaths == [("x1", ""), ("x1", "")]


def test_tune_passes_no_secret_of_the_environment_to_its_workers_but_settings_of_ray(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Worker:
        """Something that Tune would start."""

    for name, value in {**SECRETS, "RAY_CHDIR_TO_TRIAL_DIR": "0"}.items():
        monkeypatch.setenv(name, value)
    keep_secrets()
    started: Any = class_cache._ActorClassCache().get(Worker)  # type: ignore[no-untyped-call]
    passed = started._default_options["runtime_env"]["env_vars"]
    assert passed["RAY_CHDIR_TO_TRIAL_DIR"] == "0"
    assert told(str(passed)) == []
