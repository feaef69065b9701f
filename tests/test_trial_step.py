"""One measured step: what it says agrees with what a training leaves behind; and it never takes its caller along."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from test_training import changed
from waiting import wait_until

from orchestrator.engine.rehearsal import rehearse
from orchestrator.errors import EnvironmentProblem
from trainer import ConfigError, DataError, TrialConfig, fit, measure_step
from trainer.batches import IdentityBatches
from trainer.checkpoint import load_checkpoint
from trainer.data import read_splits
from trainer.data.synthetic import write_outline, write_synthetic
from trainer.data.validation import cut_validation
from trainer.training_data import applied_split
from trainer.trial_step import MAX_STEPS, saved_bytes


@pytest.mark.parametrize("settings", [{}, {"optim__ema_decay": 0.9, "optim__accumulate": 2, "clips__persons": 2}])
def test_what_is_measured_is_what_a_training_has(
    tiny_config: TrialConfig, tmp_path: Path, settings: dict[str, object]
) -> None:
    config = changed(tiny_config, optim__epochs=1, **settings)
    cost = measure_step(config)
    fit(config, out=tmp_path)
    train = read_splits(config.data).train
    labels = applied_split(train, cut_validation(train, config.data.validation)).labels
    assert cost.batches_per_epoch == len(IdentityBatches(labels, config.clips, config.seed))
    assert cost.images_per_batch == config.clips.persons * 2 * 2
    for file, expected in (("best.pt", cost.best_bytes), ("last.pt", cost.last_bytes)):
        path = tmp_path / "checkpoint" / file
        assert saved_bytes({k: v for k, v in load_checkpoint(path).items() if k != "tally"}) == expected
        assert expected < path.stat().st_size < expected + 100_000  # names and sizes of the tensors
    assert 0 < cost.seconds_per_batch < 5 and 0 < cost.seconds_per_frame < 1
    assert 1 <= cost.steps <= MAX_STEPS
    assert cost.evaluated_frames <= cost.evaluation_frames
    assert cost.memory_bytes > 100 * 2**20


def test_more_persons_than_there_are_is_refused_before_a_search(tiny_config: TrialConfig) -> None:
    with pytest.raises(ConfigError, match=r"clips\.persons: 8 persons per batch, but only 5"):
        measure_step(changed(tiny_config, clips__persons=8))


def child(program: str) -> list[str]:
    return [sys.executable, "-c", f"import json, os, signal, sys, time\n{program}"]


@pytest.mark.parametrize(
    ("program", "error", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", EnvironmentProblem, "killed from outside: most likely .* memory"),
        ("print('no answer', file=sys.stderr); sys.exit(7)", EnvironmentProblem, "exit code 7:\nno answer"),
        ("print(json.dumps({'error': ['bad_data', 'DataError', 'x.jpg: is empty']}))", DataError, "^x.jpg: is empty$"),
        ("print(json.dumps({'error': ['bad_config', 'ConfigError', 'clips: y']}))", ConfigError, "^clips: y$"),
        (
            "print(json.dumps({'error': ['out_of_memory', 'AcceleratorError', 'z']}))",
            EnvironmentProblem,
            "does not fit into the memory here: z",
        ),
        ("print(json.dumps({'error': ['error', 'KeyError', 'z']}))", EnvironmentProblem, "failed: KeyError: z"),
    ],
)
def test_however_the_child_ends_the_answer_is_one_error(
    tiny_config: TrialConfig, program: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        rehearse(tiny_config, threads=1, command=child(program))


def test_an_interrupted_rehearsal_leaves_no_child(tiny_config: TrialConfig, tmp_path: Path) -> None:
    program = (
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        "print(json.dumps({'progress': ['steps', 1, 2, '']}), flush=True)\ntime.sleep(60)"
    )

    def interrupt(what: str, done: int, total: int, note: str = "") -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rehearse(tiny_config, threads=1, progress=interrupt, command=child(program))
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_the_child_ends_with_its_parent(tiny_config: TrialConfig, tmp_path: Path) -> None:
    order = json.dumps({"threads": 1, "config": tiny_config.model_dump(mode="json")})
    program = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-m', 'orchestrator.engine.rehearsal'], stdin=subprocess.PIPE)\n"
        "print(child.pid, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        process = psutil.Process(int(parent.stdout.readline()))
        del order  # it waits for one, and would for ever
        time.sleep(0.5)
        parent.kill()
    wait_until(lambda: not process.is_running())


def test_an_outline_has_the_lists_and_all_frames_of_the_data_set(tmp_path: Path, mini_mars: Path) -> None:
    root = tmp_path / "outline"
    write_outline(root, size="tiny", seed=0)
    for file in (mini_mars / "info").iterdir():
        if file.suffix in (".txt", ".mat"):
            assert (root / "info" / file.name).read_bytes() == file.read_bytes()
    frames = sorted(path.relative_to(mini_mars) for path in mini_mars.glob("bbox_*/*/*.jpg"))
    assert sorted(path.relative_to(root) for path in root.glob("bbox_*/*/*.jpg")) == frames
    assert all((root / frame).stat().st_size > 0 for frame in frames)
    assert sum(1 for frame in frames if not (root / frame).is_symlink()) < len(frames) / 2
    assert os.path.commonpath([os.path.realpath(root / frame) for frame in frames]) == str(
        root.resolve() / "bbox_train"
    )


def test_an_outline_never_replaces_a_data_set(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "there", size="tiny", seed=0, workers=1)
    with pytest.raises(DataError, match="cannot be written"):
        write_outline(tmp_path / "there", size="tiny", seed=0)
