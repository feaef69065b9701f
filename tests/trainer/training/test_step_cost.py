"""One measured step: what it says agrees with what a training leaves behind; and it never takes its caller along."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trainings import changed
from waiting import wait_until

from orchestrator.base.errors import EnvironmentProblem
from orchestrator.runner.smoke_test import run_smoke_test
from trainer import ConfigError, DataError, TrialConfig, fit, measure_step
from trainer.checkpoint import load_checkpoint
from trainer.data import Tracklet, read_splits
from trainer.data.splits import applied_split, cut_validation
from trainer.data.synthetic.dataset import write_outline, write_synthetic
from trainer.input.loader import Batch, EvaluationBatch
from trainer.input.sampler import IdentityBatches
from trainer.result import Progress, no_progress
from trainer.training.learner import Learner, in_groups
from trainer.training.step_cost import MAX_STEPS, _seconds_per_frame, _seconds_per_step, saved_bytes


@pytest.mark.parametrize("settings", [{}, {"optim__ema_decay": 0.9, "optim__accumulate": 2, "clips__identities": 2}])
def test_what_is_measured_is_what_a_training_has(
    tiny_config: TrialConfig, tmp_path: Path, settings: dict[str, object]
) -> None:
    config = changed(tiny_config, optim__epochs=1, **settings)
    cost = measure_step(config)
    fit(config, out=tmp_path)
    train = read_splits(config.data).train
    labels = applied_split(train, cut_validation(train, config.data.validation)).labels
    assert cost.batches_per_epoch == len(IdentityBatches(labels, config.clips, config.seed))
    assert cost.images_per_batch == config.clips.identities * 2 * 2
    for file, expected in (("best.pt", cost.best_bytes), ("last.pt", cost.last_bytes)):
        path = tmp_path / "checkpoint" / file
        assert saved_bytes({k: v for k, v in load_checkpoint(path).items() if k != "tally"}) == expected
        assert expected < path.stat().st_size < expected + 100_000  # names and sizes of the tensors
    assert 0 < cost.seconds_per_batch < 5 and 0 < cost.seconds_per_frame < 1
    assert 1 <= cost.steps <= MAX_STEPS
    assert cost.evaluated_frames <= cost.evaluation_frames
    assert cost.memory_bytes > 100 * 2**20


class Decoding:
    """A clock, and processes that decode batches for it: W of them, each batch in `batch_s`, two ready of each."""

    def __init__(self, workers: int, batch_s: float) -> None:
        self.now = 1000.0
        self.workers, self.batch_s = workers, batch_s

    def batches(self, since: float = 0.0) -> Iterator[list[None]]:
        """Each takes until its process has decoded it; without processes it is decoded when it is asked for."""
        ready: list[float] = []
        taken: list[float] = []
        for place in itertools.count():
            if self.workers == 0:
                self.now += self.batch_s
            else:
                asked = taken[place - 2 * self.workers] if place >= 2 * self.workers else since
                free = ready[place - self.workers] if place >= self.workers else 0.0
                ready.append(max(asked, free) + self.batch_s)
                self.now = max(self.now, ready[place])
                taken.append(self.now)
            yield [None]

    def work(self, seconds: float) -> None:
        """The network's part."""
        self.now += seconds

    def pace(self, work_s: float, group: int = 1) -> float:
        """Seconds of a batch in the long run, by many of them; so many are asked for before the network works."""
        again = Decoding(self.workers, self.batch_s)
        batches = again.batches()
        moments = []
        for _ in range(1000):
            for _ in range(group):
                next(batches)
            again.work(work_s * group)
            moments.append(again.now)
        steps = 840  # a multiple of every number of processes up to 8, which hand batches over in bursts
        return (moments[-1] - moments[-1 - steps]) / (steps * group)


hundredths = st.integers(1, 300).map(lambda number: number / 100)


@given(workers=st.integers(0, 8), batch_s=hundredths, work_s=hundredths, accumulate=st.sampled_from([1, 2, 3]))
def test_a_step_is_timed_at_the_pace_at_which_batches_come(
    workers: int, batch_s: float, work_s: float, accumulate: int
) -> None:
    decoding = Decoding(workers, batch_s)
    config = TrialConfig.model_validate({"clips": {"workers": workers}, "optim": {"accumulate": accumulate}})
    learner = cast(Learner, SimpleNamespace(step=lambda group, observe: decoding.work(work_s * len(group))))
    groups = cast(Iterator[list[Batch]], in_groups(cast(Iterator[Batch], decoding.batches()), accumulate))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: decoding.now)
        seconds, steps, untimed = _seconds_per_step(learner, groups, config, torch.device("cpu"), no_progress)
    assert seconds / accumulate == pytest.approx(decoding.pace(work_s, accumulate), rel=0.12)
    assert untimed >= 1
    assert steps * accumulate >= 2 * workers


@given(workers=st.integers(0, 8), batch_s=hundredths, work_s=hundredths)
def test_frames_of_an_evaluation_are_timed_at_the_pace_at_which_they_come(
    workers: int, batch_s: float, work_s: float
) -> None:
    decoding = Decoding(workers, batch_s)
    config = TrialConfig.model_validate(
        {"clips": {"workers": workers, "frames": 4}, "evaluation": {"batch": 2, "clips": 1}}
    )
    tracklets = [Tracklet(("frame.jpg",) * 4, identity, 1) for identity in range(200)]

    def embed(model: object, chosen: list[Tracklet], *_: object, progress: Progress) -> None:
        batches = decoding.batches()
        for done in range(2, len(chosen) + 1, 2):
            next(batches)
            decoding.work(work_s)
            progress("embedding", done, len(chosen))

    def loader(clips: object, **_: object) -> Iterator[EvaluationBatch]:
        began = decoding.now  # no batch is ready when its processes start
        for _ in decoding.batches(since=began):
            yield EvaluationBatch(torch.zeros(2, 4, 3, 1, 1, dtype=torch.uint8), ())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: decoding.now)
        patch.setattr("trainer.training.step_cost.embed", embed)
        patch.setattr("trainer.training.step_cost.evaluation_loader", loader)
        learner = cast(Learner, SimpleNamespace(evaluated=None))
        seconds, frames = _seconds_per_frame(learner, tracklets, config, torch.device("cpu"), no_progress)
    assert 8 * seconds == pytest.approx(decoding.pace(work_s), rel=0.02)
    assert frames == 16


def test_what_saving_costs_is_measured_on_the_disk_that_is_named_and_nothing_is_left(
    tiny_config: TrialConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda file: written.append(os.fstat(file).st_size))
    cost = measure_step(tiny_config, disk=tmp_path)
    assert written[0] > cost.best_bytes and written[1] > cost.last_bytes
    assert cost.save_last_seconds > 0 and cost.save_best_seconds > 0
    assert list(tmp_path.iterdir()) == []


def test_more_identities_than_there_are_is_refused_before_a_search(tiny_config: TrialConfig) -> None:
    with pytest.raises(ConfigError, match=r"clips\.identities: 8 identities per batch, but only 5"):
        measure_step(changed(tiny_config, clips__identities=8))


def child(program: str) -> list[str]:
    return [sys.executable, "-c", f"import json, os, signal, sys, time\n{program}"]


@pytest.mark.parametrize(
    ("program", "error", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", EnvironmentProblem, "killed from outside: most likely .* memory"),
        ("print('no answer', file=sys.stderr); sys.exit(7)", EnvironmentProblem, "ended with exit code 7: no answer$"),
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
    tiny_config: TrialConfig, tmp_path: Path, program: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        run_smoke_test(tiny_config, threads=1, disk=tmp_path, command=child(program))


def test_an_interrupted_rehearsal_leaves_no_child(tiny_config: TrialConfig, tmp_path: Path) -> None:
    program = (
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        "print(json.dumps({'progress': ['steps', 1, 2, '']}), flush=True)\ntime.sleep(60)"
    )

    def interrupt(what: str, done: int, total: int, note: str = "") -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_smoke_test(tiny_config, threads=1, disk=tmp_path, progress=interrupt, command=child(program))
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_the_child_ends_with_its_parent(tiny_config: TrialConfig, tmp_path: Path) -> None:
    order = json.dumps({"threads": 1, "config": tiny_config.model_dump(mode="json")})
    program = (
        "import subprocess, sys\n"
        "from orchestrator.runner.smoke_test import CHILD\n"
        "child = subprocess.Popen(CHILD, stdin=subprocess.PIPE)\n"
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
