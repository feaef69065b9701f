"""One attempt: its messages, and what it calls each way of failing."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from orchestrator.runner.attempt import (
    ERROR_FILE,
    LOG_FILE,
    STOP_FILE,
    Assignment,
    Message,
    attempt_environment,
    run_attempt,
)
from orchestrator.runner.watchdog import HangWatch, hung
from trainer import DataError, DivergedError, TrialConfig
from trainer.data import read_splits
from trainer.data.splits import cut_validation, write_validation
from trainer.result import read_results


@pytest.fixture
def assignment(tiny_config: TrialConfig, tmp_path: Path) -> Assignment:
    out = tmp_path / "trials/t0000"
    out.mkdir(parents=True)
    (out / "config.json").write_text(tiny_config.model_dump_json())
    train = read_splits(tiny_config.data).train
    write_validation(tmp_path / "split.json", cut_validation(train, tiny_config.data.validation), train)
    return Assignment(search=tmp_path, trial="t0000", attempt=1, threads=1)


def messages(assignment: Assignment) -> list[Message]:
    sent: list[Message] = []
    run_attempt(assignment, sent.append)
    return sent


def test_an_attempt_sends_every_epoch_and_then_that_it_is_completed(assignment: Assignment) -> None:
    sent = messages(assignment)
    assert [message.epoch_result.epoch for message in sent[:-1] if message.epoch_result] == [1, 2, 3, 4]
    assert sent[-1].outcome is not None
    assert sent[-1].outcome.state == "completed"


def test_an_attempt_on_another_fold_is_judged_on_the_split_of_that_fold(assignment: Assignment) -> None:
    (assignment.search / "split.json").rename(assignment.search / "split-fold-2.json")
    assert messages(assignment)[-1].outcome.failure == "bad_data"  # type: ignore[union-attr]
    on_fold = assignment.model_copy(update={"fold": 2})
    assert messages(on_fold)[-1].outcome.state == "completed"  # type: ignore[union-attr]


def test_a_message_survives_the_pipe(assignment: Assignment) -> None:
    for message in messages(assignment):
        assert Message.model_validate_json(message.model_dump_json()) == message


def test_the_next_attempt_goes_on_from_the_checkpoint(assignment: Assignment) -> None:
    stopped = RuntimeError("the worker is lost")

    def stop_after_two(message: Message) -> None:
        if message.epoch_result and message.epoch_result.epoch == 2:
            raise stopped

    with pytest.raises(RuntimeError, match="worker is lost"):
        run_attempt(assignment, _only_epochs(stop_after_two))
    known = read_results(assignment.search / "trials/t0000/results.jsonl")
    sent = [message.epoch_result for message in messages(assignment)[:-1]]
    assert sent[:2] == known, "the epochs that were trained are sent again as they were, not trained again"
    assert [result.epoch for result in sent if result] == [1, 2, 3, 4]


def _only_epochs(send: Callable[[Message], None]) -> Callable[[Message], None]:
    """A pipe that breaks for good once it has broken."""
    broken: list[BaseException] = []

    def checked(message: Message) -> None:
        if broken:
            raise broken[0]
        try:
            send(message)
        except RuntimeError as error:
            broken.append(error)
            raise

    return checked


def test_an_attempt_that_is_told_to_stop_loses_no_step(assignment: Assignment) -> None:
    stop = assignment.search / "trials/t0000" / STOP_FILE
    told: list[Message] = []

    def tell_after_two(message: Message) -> None:
        told.append(message)
        if message.epoch_result and message.epoch_result.epoch == 2:
            stop.touch()

    run_attempt(assignment, tell_after_two)
    assert told[-1].outcome is not None
    assert told[-1].outcome.state == "stopped"
    assert "2 epochs and 1 of" in told[-1].outcome.reason
    log = (assignment.search / "trials/t0000" / LOG_FILE).read_text(encoding="utf-8")
    assert "attempt 1 stopped after 2 epochs" in log
    stop.unlink()
    assert [message.epoch_result.epoch for message in messages(assignment)[:-1] if message.epoch_result] == [1, 2, 3, 4]


def test_what_an_attempt_does_is_in_the_log_of_its_trial(assignment: Assignment) -> None:
    messages(assignment)
    text = (assignment.search / "trials/t0000" / LOG_FILE).read_text()
    assert "attempt 1" in text
    assert "attempt 1 completed" in text


def test_a_training_that_stands_still_ends_itself_and_leaves_its_stack(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from orchestrator.runner.watchdog import HangWatch\n"
        "def stands_still(): time.sleep(3600)\n"
        "with HangWatch(Path(sys.argv[1]), 0.2): stands_still()\n"
    )
    file = tmp_path / "hang.txt"
    done = subprocess.run([sys.executable, "-c", program, str(file)], capture_output=True, check=False)
    assert done.returncode == 1
    assert hung(file)
    assert "stands_still" in file.read_text()


def test_progress_puts_the_end_off_by_the_whole_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, armed = [100.0], []
    monkeypatch.setattr("orchestrator.runner.watchdog.time.monotonic", lambda: now[0])
    monkeypatch.setattr(
        "orchestrator.runner.watchdog.faulthandler.dump_traceback_later",
        lambda seconds, **_: armed.append((now[0], seconds)),
    )
    with HangWatch(tmp_path / "hang.txt", 60) as watch:
        for moment in (101.0, 104.0, 105.0, 159.0):
            now[0] = moment
            watch.progress("step", 1, 2)
    assert armed == [(100.0, 60), (104.0, 60), (159.0, 60)], "a thread each: at most twenty times in 60 s"


def test_a_training_that_goes_on_leaves_no_trace_of_a_hang(tmp_path: Path) -> None:
    with HangWatch(tmp_path / "hang.txt", 60) as watch:
        watch.progress("step", 1, 2)
    assert not hung(tmp_path / "hang.txt")


def test_a_damaged_checkpoint_is_put_aside_and_the_trial_trained_again(assignment: Assignment) -> None:
    messages(assignment)
    checkpoint = assignment.search / "trials/t0000/checkpoint/last.pt"
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    checkpoint.write_bytes(content)
    sent = messages(assignment)
    assert [message.epoch_result.epoch for message in sent[:-1] if message.epoch_result] == [1, 2, 3, 4]
    assert checkpoint.with_suffix(".damaged").is_file()
    assert "SHA-256" in (assignment.search / "trials/t0000" / ERROR_FILE).read_text()


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (DivergedError("loss/osm is nan in epoch 3"), "diverged"),
        (DataError("frame.jpg: is empty"), "bad_data"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory"),
        (torch.AcceleratorError("CUDA error: out of memory"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"), "worker_lost"),
        (ZeroDivisionError("somewhere"), "error"),
        (OSError(5, "Input/output error"), "error"),
    ],
)
def test_every_failure_has_its_name_its_reason_and_its_traceback(
    assignment: Assignment, monkeypatch: pytest.MonkeyPatch, error: BaseException, failure: str
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("trainer.training.loop.rank_tracklets", failing)
    (message,) = messages(assignment)
    assert message.outcome is not None
    assert (message.outcome.state, message.outcome.failure) == ("failed", failure)
    assert message.outcome.reason.startswith(type(error).__name__)
    assert "Traceback" in (assignment.search / "trials/t0000" / ERROR_FILE).read_text()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_is_full_has_a_failure_of_its_own_and_the_next_attempt_goes_on(
    assignment: Assignment, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(_: int) -> None:
        raise OSError(number, os.strerror(number))

    real, told = os.fsync, list[Message]()

    def fill_up(message: Message) -> None:
        told.append(message)
        if message.epoch_result is not None and message.epoch_result.epoch == 2:
            monkeypatch.setattr(os, "fsync", full)

    run_attempt(assignment, fill_up)
    outcome = told[-1].outcome
    assert outcome is not None and (outcome.state, outcome.failure) == ("failed", "disk_full")
    assert outcome.reason == f"{assignment.search / 'trials/t0000'}: {os.strerror(number)}"
    monkeypatch.setattr(os, "fsync", real)
    assert [message.epoch_result.epoch for message in messages(assignment)[:-1] if message.epoch_result] == [1, 2, 3, 4]


def test_a_failure_is_told_even_where_its_traceback_cannot_be_written(
    assignment: Assignment, monkeypatch: pytest.MonkeyPatch
) -> None:
    (assignment.search / "trials/t0000" / ERROR_FILE).mkdir()
    monkeypatch.setattr("trainer.training.loop.rank_tracklets", lambda *_, **__: 1 / 0)
    (message,) = messages(assignment)
    assert message.outcome is not None and message.outcome.failure == "error"


def test_a_frame_that_vanished_is_bad_data_and_names_the_file(
    assignment: Assignment, tiny_config: TrialConfig, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_config.data.root, copy)
    for frame in copy.glob("bbox_train/*/*F001.jpg"):
        frame.unlink()
    config = tiny_config.model_dump(mode="json")
    config["data"]["root"] = str(copy)
    path = assignment.search / "trials/t0000/config.json"
    path.write_text(TrialConfig.model_validate(config).model_dump_json())
    (message,) = messages(assignment)
    assert message.outcome is not None
    assert message.outcome.failure == "bad_data"
    assert "F001.jpg" in message.outcome.reason


@pytest.mark.parametrize(("gpus", "seen"), [(0, ""), (1, "3"), (0.5, "3"), (None, "3")])
def test_an_attempt_that_was_given_no_gpu_sees_none(
    monkeypatch: pytest.MonkeyPatch, gpus: float | None, seen: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert attempt_environment(2, gpus)["CUDA_VISIBLE_DEVICES"] == seen
    assert attempt_environment(2, gpus)["OMP_NUM_THREADS"] == "2"
