"""Saving while training goes on: what is on disk when an epoch is reported, and what is waited for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from trainings import WriterGate, changed, figures

from trainer import DivergedError, EpochResult, StoppedError, TrialConfig, checkpoint, fit
from trainer.checkpoint import CheckpointConfig, CheckpointWriter, load_checkpoint
from trainer.result import read_results
from trainer.training import saver as saving
from trainer.training.meters import EpochMeters
from trainer.training.saver import Saver
from trainer.training.state import TrainingState


class Training:
    """A training whose epochs end when the test says so; reports are kept with the epoch that `last.pt` then had."""

    def __init__(self, out: Path, every: Any) -> None:
        self.out, self.history, self.reported = out, list[EpochResult](), list[tuple[int, int]]()
        self.meters = EpochMeters()
        self.writer = CheckpointWriter(torch.device("cpu"))
        config, state = CheckpointConfig(every=every), cast(TrainingState, self)
        self.saver = Saver(config, self.writer, state, out, self.report)

    def checkpoints(self, out: Path, *, best: bool) -> dict[Path, dict[str, Any]]:
        return {out / f"{name}.pt": {"epoch": len(self.history)} for name in (["best"] if best else []) + ["last"]}

    def report(self, result: EpochResult) -> None:
        self.reported.append((result.epoch, self.saved))

    @property
    def saved(self) -> int:
        return int(load_checkpoint(self.out / "last.pt")["epoch"])

    def end_epoch(self, *, best: bool = False, last: bool = False) -> None:
        result = cast(EpochResult, SimpleNamespace(epoch=len(self.history) + 1))
        self.history.append(result)
        self.saver.after_epoch(best=best, last=last)
        self.saver.report(result)

    def is_written(self) -> None:
        self.writer.wait()
        self.saver.after_step()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[WriterGate]:
    found = WriterGate(monkeypatch)
    yield found
    found.open.set()


def test_epochs_that_end_during_a_save_are_saved_together_and_reported_when_they_are_on_disk(
    tmp_path: Path, gate: WriterGate
) -> None:
    training = Training(tmp_path, "auto")
    for _ in range(3):
        training.end_epoch()
        training.saver.after_step()
    assert training.reported == [], "nothing is on disk, and nothing was waited for"
    gate.open.set()
    training.is_written()
    assert training.reported == [(1, 1)]
    training.is_written()
    assert training.reported[1:] == [(2, 3), (3, 3)]


def test_with_a_number_an_epoch_that_is_due_waits_for_the_save_before(tmp_path: Path) -> None:
    training = Training(tmp_path, 1)
    for _ in range(4):
        training.end_epoch()
    training.is_written()
    assert [epoch for epoch, _ in training.reported] == [1, 2, 3, 4]
    assert all(saved >= epoch for epoch, saved in training.reported)


def test_a_new_best_network_is_saved_at_once_and_never_without_the_state_that_follows_it(tmp_path: Path) -> None:
    training = Training(tmp_path, 100)
    training.end_epoch(best=True)
    training.end_epoch()
    training.end_epoch(best=True)
    training.writer.wait()
    assert load_checkpoint(tmp_path / "best.pt")["epoch"] == training.saved == 3


@pytest.mark.parametrize("every", ["auto", 1, 100])
def test_the_last_epoch_of_a_run_is_on_disk_before_the_run_goes_on(tmp_path: Path, every: Any) -> None:
    training = Training(tmp_path, every)
    training.end_epoch(best=True)
    training.end_epoch(last=True)
    assert training.reported[-1] == (2, 2)


@pytest.mark.parametrize(("every", "saves"), [("auto", True), (1, False)])
def test_auto_alone_saves_within_an_epoch_that_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: Any, saves: bool
) -> None:
    training = Training(tmp_path, every)
    training.saver.after_step()
    assert not (tmp_path / "last.pt").exists(), "too early"
    monkeypatch.setattr(saving, "SAVE_PERIOD_S", 0.0)
    training.is_written()
    training.writer.wait()
    assert not (tmp_path / "last.pt").exists(), "nothing has changed"
    training.meters.batches += 1
    training.is_written()
    training.writer.wait()
    assert (tmp_path / "last.pt").exists() == saves


@pytest.fixture
def several_batches(tiny_config: TrialConfig) -> TrialConfig:
    """Two batches per epoch, and networks that are evaluated after the last one."""
    settings = {"clips__identities": 2, "optim__epochs": 3, "evaluation__every": 3, "checkpoint__every": "auto"}
    return changed(tiny_config, **settings)


class Killed(Exception):
    """Stands for whatever ends a process."""


def test_a_training_killed_after_a_save_within_an_epoch_resumes_bit_identically(
    several_batches: TrialConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit(several_batches, out=tmp_path / "whole")

    def progress(what: str, done: int, total: int, note: str = "") -> None:
        if (what, done) == ("epoch 2", 2):
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(saving, "SAVE_PERIOD_S", 0.0)
        patched.setattr(CheckpointWriter, "is_idle", lambda writer: writer.wait() or True)
        with pytest.raises(Killed):
            fit(several_batches, out=tmp_path / "cut", progress=progress)
    last = tmp_path / "cut/checkpoint/last.pt"
    state = load_checkpoint(last)
    assert (state["epoch"], state["meters"]["batches"]) == (1, 1)
    resumed = fit(several_batches, resume_from=last, out=tmp_path / "cut")
    assert figures(resumed.history) == figures(whole.history)


def test_a_stop_during_a_save_waits_for_it_and_saves_what_came_after(
    several_batches: TrialConfig, tmp_path: Path, gate: WriterGate
) -> None:
    steps: list[int] = []

    def stop() -> bool:
        steps.append(1)
        if len(steps) < 3:
            return False
        gate.open.set()
        return True

    with pytest.raises(StoppedError, match="1 epochs and 1 of 2 batches"):
        fit(several_batches, out=tmp_path / "cut", stop=stop)
    last = tmp_path / "cut/checkpoint/last.pt"
    assert load_checkpoint(last)["meters"]["batches"] == 1
    assert len(read_results(tmp_path / "cut/results.jsonl")) == 1, "the epoch that was on disk by then is reported"
    resumed = fit(several_batches, resume_from=last, out=tmp_path / "cut")
    assert figures(resumed.history) == figures(fit(several_batches, out=tmp_path / "whole").history)


def test_a_training_that_fails_during_a_save_reports_the_epoch_that_is_then_on_disk(
    several_batches: TrialConfig, tmp_path: Path, gate: WriterGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def progress(what: str, done: int, total: int, note: str = "") -> None:
        if what == "epoch 2":
            gate.open.set()
            monkeypatch.setattr(EpochMeters, "losses", diverged)

    def diverged(*_: object) -> dict[str, float]:
        raise DivergedError("loss/total is nan")

    heard: list[EpochResult] = []
    with pytest.raises(DivergedError):
        fit(several_batches, heard.append, out=tmp_path, progress=progress)
    assert [result.epoch for result in heard] == [1]


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_disk_that_is_full_ends_the_training_and_no_epoch_is_reported_that_is_not_saved(
    several_batches: TrialConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """The last of them is the save that a training would otherwise not meet again."""
    write = checkpoint.save_checkpoint

    def save(path: Path, state: dict[str, Any]) -> None:
        if state["epoch"] >= failing:
            raise OSError(28, "No space left on device", f"{path}.tmp")
        write(path, state)

    monkeypatch.setattr(checkpoint, "save_checkpoint", save)
    heard: list[EpochResult] = []
    with pytest.raises(OSError, match=r"No space left on device: '.*\.pt\.tmp'"):
        fit(changed(several_batches, checkpoint__every=1), heard.append, out=tmp_path)
    assert [result.epoch for result in heard] == list(range(1, failing))
    assert len(read_results(tmp_path / "results.jsonl")) == failing - 1
