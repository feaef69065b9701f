"""One attempt: its messages, and what it calls each way of failing."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from miniatures import write_miniature
from trainings import changed

from orchestrator.runner.attempt import run_attempt
from orchestrator.runner.trial_spec import (
    ERROR_FILE,
    LOG_FILE,
    STOP_FILE,
    TrialSpec,
    WorkerMessage,
    attempt_environment,
)
from orchestrator.runner.watchdog import Watchdog, hung
from trainer import DataError, DivergedError, TrialConfig
from trainer.automatic import Machine
from trainer.data import read_splits
from trainer.data.splits import cut_validation, write_validation
from trainer.result import read_results


@pytest.fixture
def spec(tiny_config: TrialConfig, tmp_path: Path) -> TrialSpec:
    out = tmp_path / "trials/t0000"
    out.mkdir(parents=True)
    (out / "config.json").write_text(tiny_config.model_dump_json())
    train = read_splits(tiny_config.data).train
    write_validation(tmp_path / "split.json", cut_validation(train, tiny_config.data.validation), train)
    return TrialSpec(search=tmp_path, trial="t0000", attempt=1, threads=1, config=tiny_config.model_dump_json())


def messages(spec: TrialSpec) -> list[WorkerMessage]:
    sent: list[WorkerMessage] = []
    run_attempt(spec, sent.append)
    return sent


def test_an_attempt_sends_every_epoch_and_then_that_it_is_completed(spec: TrialSpec) -> None:
    sent = messages(spec)
    assert [message.epoch_result.epoch for message in sent[:-1] if message.epoch_result] == [1, 2, 3, 4]
    assert sent[-1].attempt_result is not None
    assert sent[-1].attempt_result.state == "completed"


def test_an_attempt_that_is_to_pause_ends_after_that_epoch_and_the_next_one_goes_on(spec: TrialSpec) -> None:
    sent = messages(spec.model_copy(update={"until": 2}))
    assert [message.epoch_result.epoch for message in sent[:-1] if message.epoch_result] == [1, 2]
    assert sent[-1].attempt_result is not None and sent[-1].attempt_result.state == "paused"
    assert "attempt 1 paused" in (spec.search / "trials/t0000" / LOG_FILE).read_text(encoding="utf-8")
    rest = messages(spec)
    assert [message.epoch_result for message in rest[:2]] == [message.epoch_result for message in sent[:2]]
    assert rest[-1].attempt_result is not None and rest[-1].attempt_result.state == "completed"


def test_what_auto_became_stands_in_the_trials_configuration_and_where_the_data_are_does_not(
    spec: TrialSpec, tiny_config: TrialConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "here"
    link.symlink_to(tiny_config.data.root)
    monkeypatch.setattr("orchestrator.runner.attempt.data_here", lambda *_: link)
    monkeypatch.setattr("trainer.training.fit.this_machine", lambda device: Machine(amx=True))
    told = changed(tiny_config, optim__epochs=1, compute__precision="auto", clips__workers="auto")
    messages(spec.model_copy(update={"config": told.model_dump_json()}))
    left = TrialConfig.model_validate_json((tmp_path / "trials/t0000/config.json").read_text())
    assert left == changed(told, compute__precision="bf16", clips__workers=0)


def test_an_attempt_on_another_fold_is_judged_on_the_split_of_that_fold(spec: TrialSpec) -> None:
    (spec.search / "split.json").rename(spec.search / "split-fold-2.json")
    assert messages(spec)[-1].attempt_result.failure == "bad_data"  # type: ignore[union-attr]
    on_fold = spec.model_copy(update={"fold": 2})
    assert messages(on_fold)[-1].attempt_result.state == "completed"  # type: ignore[union-attr]


def test_a_final_training_on_joined_data_sets_which_have_no_test_part_ends_without_a_test(
    spec: TrialSpec, tiny_config: TrialConfig, tmp_path: Path
) -> None:
    write_miniature("joined", tmp_path / "all")
    data = {"name": "joined", "root": str(tmp_path / "all"), "validation": {"share": 0.0}}
    config = changed(tiny_config, data=data, optim__epochs=1)
    sent = messages(spec.model_copy(update={"config": config.model_dump_json(), "tests": True}))
    assert sent[-1].attempt_result is not None and sent[-1].attempt_result.state == "completed"
    assert not [message for message in sent if message.test is not None]


def test_a_message_survives_the_pipe(spec: TrialSpec) -> None:
    for message in messages(spec):
        assert WorkerMessage.model_validate_json(message.model_dump_json()) == message


def test_the_next_attempt_goes_on_from_the_checkpoint(spec: TrialSpec) -> None:
    stopped = RuntimeError("the worker is lost")

    def stop_after_two(message: WorkerMessage) -> None:
        if message.epoch_result and message.epoch_result.epoch == 2:
            raise stopped

    with pytest.raises(RuntimeError, match="worker is lost"):
        run_attempt(spec, _only_epochs(stop_after_two))
    known = read_results(spec.search / "trials/t0000/results.jsonl")
    sent = [message.epoch_result for message in messages(spec)[:-1]]
    assert sent[:2] == known, "the epochs that were trained are sent again as they were, not trained again"
    assert [result.epoch for result in sent if result] == [1, 2, 3, 4]


def _only_epochs(send: Callable[[WorkerMessage], None]) -> Callable[[WorkerMessage], None]:
    """A pipe that breaks for good once it has broken."""
    broken: list[BaseException] = []

    def checked(message: WorkerMessage) -> None:
        if broken:
            raise broken[0]
        try:
            send(message)
        except RuntimeError as error:
            broken.append(error)
            raise

    return checked


def test_an_attempt_that_is_told_to_stop_loses_no_step(spec: TrialSpec) -> None:
    stop = spec.search / "trials/t0000" / STOP_FILE
    told: list[WorkerMessage] = []

    def tell_after_two(message: WorkerMessage) -> None:
        told.append(message)
        if message.epoch_result and message.epoch_result.epoch == 2:
            stop.touch()

    run_attempt(spec, tell_after_two)
    assert told[-1].attempt_result is not None
    assert told[-1].attempt_result.state == "stopped"
    # The third is saved when the second is reported, or is about to be.
    assert re.search("[23] epochs and [01] of", told[-1].attempt_result.reason)
    log = (spec.search / "trials/t0000" / LOG_FILE).read_text(encoding="utf-8")
    assert re.search("attempt 1 stopped after [23] epochs", log)
    stop.unlink()
    assert [message.epoch_result.epoch for message in messages(spec)[:-1] if message.epoch_result] == [1, 2, 3, 4]


def test_what_an_attempt_does_is_in_the_log_of_its_trial(spec: TrialSpec) -> None:
    messages(spec)
    text = (spec.search / "trials/t0000" / LOG_FILE).read_text()
    assert "attempt 1" in text
    assert "attempt 1 completed" in text


def test_a_training_that_stands_still_ends_itself_and_leaves_its_stack(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from orchestrator.runner.watchdog import Watchdog\n"
        "def stands_still(): time.sleep(3600)\n"
        "with Watchdog(Path(sys.argv[1]), 0.2): stands_still()\n"
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
    with Watchdog(tmp_path / "hang.txt", 60) as watch:
        for moment in (101.0, 104.0, 105.0, 159.0):
            now[0] = moment
            watch.progress("step", 1, 2)
    assert armed == [(100.0, 60), (104.0, 60), (159.0, 60)], "a thread each: at most twenty times in 60 s"


def test_a_training_that_goes_on_leaves_no_trace_of_a_hang(tmp_path: Path) -> None:
    with Watchdog(tmp_path / "hang.txt", 60) as watch:
        watch.progress("step", 1, 2)
    assert not hung(tmp_path / "hang.txt")


def test_a_damaged_checkpoint_is_put_aside_and_the_trial_trained_again(spec: TrialSpec) -> None:
    messages(spec)
    checkpoint = spec.search / "trials/t0000/checkpoint/last.pt"
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    checkpoint.write_bytes(content)
    sent = messages(spec)
    assert [message.epoch_result.epoch for message in sent[:-1] if message.epoch_result] == [1, 2, 3, 4]
    assert checkpoint.with_suffix(".damaged").is_file()
    assert "SHA-256" in (spec.search / "trials/t0000" / ERROR_FILE).read_text()


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
    spec: TrialSpec, monkeypatch: pytest.MonkeyPatch, error: BaseException, failure: str
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("trainer.training.fit.evaluate_network", failing)
    (message,) = messages(spec)
    assert message.attempt_result is not None
    assert (message.attempt_result.state, message.attempt_result.failure) == ("failed", failure)
    assert message.attempt_result.reason.startswith(type(error).__name__)
    assert "Traceback" in (spec.search / "trials/t0000" / ERROR_FILE).read_text()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_is_full_has_a_failure_of_its_own_and_the_next_attempt_goes_on(
    spec: TrialSpec, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(_: int) -> None:
        raise OSError(number, os.strerror(number))

    real, told = os.fsync, list[WorkerMessage]()

    def fill_up(message: WorkerMessage) -> None:
        told.append(message)
        if message.epoch_result is not None and message.epoch_result.epoch == 2:
            monkeypatch.setattr(os, "fsync", full)

    run_attempt(spec, fill_up)
    attempt_result = told[-1].attempt_result
    assert attempt_result is not None and (attempt_result.state, attempt_result.failure) == ("failed", "disk_full")
    assert attempt_result.reason == f"{spec.search / 'trials/t0000'}: {os.strerror(number)}"
    monkeypatch.setattr(os, "fsync", real)
    assert [message.epoch_result.epoch for message in messages(spec)[:-1] if message.epoch_result] == [1, 2, 3, 4]


def test_a_failure_is_told_even_where_its_traceback_cannot_be_written(
    spec: TrialSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    (spec.search / "trials/t0000" / ERROR_FILE).mkdir()
    monkeypatch.setattr("trainer.training.fit.evaluate_network", lambda *_, **__: 1 / 0)
    (message,) = messages(spec)
    assert message.attempt_result is not None and message.attempt_result.failure == "error"


def test_a_frame_that_vanished_is_bad_data_and_names_the_file(
    spec: TrialSpec, tiny_config: TrialConfig, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_config.data.root, copy)
    for frame in copy.glob("bbox_train/*/*F001.jpg"):
        frame.unlink()
    config = tiny_config.model_dump(mode="json")
    config["data"]["root"] = str(copy)
    moved = TrialConfig.model_validate(config).model_dump_json()
    (message,) = messages(spec.model_copy(update={"config": moved}))
    assert message.attempt_result is not None
    assert message.attempt_result.failure == "bad_data"
    assert "F001.jpg" in message.attempt_result.reason


@pytest.mark.parametrize(("gpus", "seen"), [(0, ""), (1, "3"), (0.5, "3"), (None, "3")])
def test_an_attempt_that_was_given_no_gpu_sees_none(
    monkeypatch: pytest.MonkeyPatch, gpus: float | None, seen: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert attempt_environment(2, gpus)["CUDA_VISIBLE_DEVICES"] == seen
    assert attempt_environment(2, gpus)["OMP_NUM_THREADS"] == "2"


def test_an_attempt_that_shares_its_gpu_is_limited_to_its_share(
    spec: TrialSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[float] = []
    monkeypatch.setattr("trainer.compute.limit_gpu_memory", limits.append)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-7f3a")
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    for gpus in (0, 1, None, 0.5):
        messages(spec.model_copy(update={"gpus": gpus}))
        is_set = attempt_environment(2, gpus).get("PYTORCH_ALLOC_CONF") == "expandable_segments:True"
        assert is_set == (gpus == 0.5)
    assert limits == [0.5]
    assert "attempt 1 on GPU MIG-7f3a, 0.5 of it\n" in (spec.search / "trials/t0000/log.txt").read_text()
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "max_split_size_mb:64")
    assert attempt_environment(2, 0.5)["PYTORCH_ALLOC_CONF"] == "max_split_size_mb:64"
