"""Stopping in the middle of an epoch: by the caller's question, and by signals to the command line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from trainings import changed, figures

from trainer import StoppedError, TrialConfig, fit
from trainer.result import read_results
from trainer.training.interruption import stop_on_signals
from trainer.training.learner import Learner


class StopAt:
    """Says stop at one question and never before."""

    def __init__(self, question: int) -> None:
        self.left = question

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.fixture
def several_batches(tiny_config: TrialConfig) -> TrialConfig:
    """Two batches per epoch and several per evaluation."""
    return changed(tiny_config, clips__identities=2, evaluation__batch=8, optim__epochs=2, optim__ema_decay=0.9)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("question", [0, 1, 2, 4])
def test_a_training_stopped_at_any_step_or_evaluation_resumes_bit_identically(
    several_batches: TrialConfig, tmp_path: Path, question: int, workers: int
) -> None:
    config = changed(several_batches, clips__workers=workers, checkpoint__every=5)
    whole = fit(config, out=tmp_path / "whole")
    with pytest.raises(StoppedError, match="--resume continues"):
        fit(config, out=tmp_path / "cut", stop=StopAt(question))
    resumed = fit(config, resume_from=tmp_path / "cut/checkpoint/last.pt", out=tmp_path / "cut")
    assert figures(resumed.history) == figures(whole.history)
    left, right = (
        torch.load(tmp_path / run / "checkpoint/last.pt", weights_only=True)["model"] for run in ("whole", "cut")
    )
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_training_stopped_again_and_again_still_ends_the_same(several_batches: TrialConfig, tmp_path: Path) -> None:
    whole = fit(several_batches, out=tmp_path / "whole")
    fewest_steps = StopAt(0)
    checkpoint = None
    for _ in range(100):
        try:
            result = fit(several_batches, resume_from=checkpoint, out=tmp_path / "cut", stop=fewest_steps)
            break
        except StoppedError:
            checkpoint = tmp_path / "cut/checkpoint/last.pt"
            fewest_steps = StopAt(4)  # an evaluation is not kept in parts: leave it time for one
    assert figures(result.history) == figures(whole.history)


@pytest.mark.parametrize("question", [0, 2, 5, 6])
def test_a_training_with_a_frozen_backbone_and_rates_per_step_resumes_bit_identically(
    several_batches: TrialConfig, tmp_path: Path, question: int
) -> None:
    """Stopped in the frozen epoch, between both and after it."""
    config = changed(
        several_batches, optim__freeze_epochs=1, optim__backbone_rate=0.3, optim__warmup_per="step", optim__warmup=0.5
    )
    whole = fit(config, out=tmp_path / "whole")
    with pytest.raises(StoppedError):
        fit(config, out=tmp_path / "cut", stop=StopAt(question))
    resumed = fit(config, resume_from=tmp_path / "cut/checkpoint/last.pt", out=tmp_path / "cut")
    assert figures(resumed.history) == figures(whole.history)


def test_accumulated_batches_are_never_cut_apart(several_batches: TrialConfig, tmp_path: Path) -> None:
    config = changed(several_batches, optim__accumulate=2)
    with pytest.raises(StoppedError, match="2 of 2 batches"):
        fit(config, out=tmp_path, stop=StopAt(0))


def test_a_step_that_dies_with_a_worker_while_a_stop_is_asked_for_is_a_stop_and_resumes_bit_identically(
    several_batches: TrialConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit(several_batches, out=tmp_path / "whole")
    asked: list[bool] = []

    def killed(learner: Learner, batch: object) -> None:
        asked.append(True)
        raise RuntimeError("DataLoader worker is killed by signal: Terminated.")

    with monkeypatch.context() as patched:

        def interrupt(what: str, done: int, total: int, note: str = "") -> None:
            if what == "epoch 1" and done == total:
                patched.setattr(Learner, "forward", killed)

        with pytest.raises(StoppedError, match="in the middle of a step"):
            fit(several_batches, out=tmp_path / "cut", progress=interrupt, stop=lambda: bool(asked))
    resumed = fit(several_batches, resume_from=tmp_path / "cut/checkpoint/last.pt", out=tmp_path / "cut")
    assert figures(resumed.history) == figures(whole.history)


def test_signals_only_ask_and_the_second_does_not_wait() -> None:
    with stop_on_signals() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()
        assert stop.received == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_to_the_whole_group_saves_the_state_and_resume_goes_on(
    tiny_config: TrialConfig, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    out, path = tmp_path / "run", tmp_path / "trial.json"
    path.write_text(changed(tiny_config, clips__workers=1, optim__epochs=500).model_dump_json())
    command = [sys.executable, "-m", "trainer", "fit", str(path), "--out", str(out)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        os.killpg(process.pid, number)
        _, errors = process.communicate()
    assert process.returncode == code, errors
    # A worker of the loader that dies of the signal first cuts the step short; where torch's handler of that interrupts
    # a callback, Python prints what the handler raises, and goes on.
    errors = re.sub(r"Exception ignored in(?s:.*?)is killed by signal: \w+\. *\n", "", errors)
    assert re.search("stopped (after|in the middle of a step)", errors) and "Traceback" not in errors
    done = len(read_results(out / "results.jsonl"))
    assert first["epoch"] == 1 <= done
    state = torch.load(out / "checkpoint/last.pt", weights_only=True)
    assert len(state["history"]) == done
