"""Trainings: their results made comparable, their checkpoints held back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer import EpochResult, TrialConfig, checkpoint
from trainer.config import TrialConfig as Config


def changed(config: TrialConfig, **settings: object) -> TrialConfig:
    """The configuration with dotted settings replaced, dots written as two underscores."""
    tree = config.model_dump(mode="json")
    for path, value in settings.items():
        *groups, last = path.split("__")
        branch = tree
        for group in groups:
            branch = branch[group]
        branch[last] = value
    return Config.model_validate(tree)


def figures(results: tuple[EpochResult, ...] | list[EpochResult]) -> list[dict[str, object]]:
    """All that must repeat: everything but times."""
    return [
        result.model_dump(exclude={"images_per_second", "data_wait_share", "seconds", "evaluation_seconds", "time"})
        for result in results
    ]


class Interruption(Exception):
    """Stands for whatever ends a process."""


def interrupt_after(epoch: int) -> Callable[[EpochResult], None]:
    """A report that ends the training once the epoch is known."""

    def report(result: EpochResult) -> None:
        if result.epoch == epoch:
            raise Interruption

    return report


class WriterGate:
    """Holds every write of a checkpoint until it is open."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        write = checkpoint._write_all

        def behind(states: dict[Path, dict[str, Any]]) -> None:
            assert self.open.wait(60)
            write(states)

        monkeypatch.setattr(checkpoint, "_write_all", behind)
