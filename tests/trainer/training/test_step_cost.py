"""One measured step: what it says agrees with what a training leaves behind; and it never takes its caller along."""

from __future__ import annotations

import itertools
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
from trainer import ConfigError, DataError, TrialConfig, fit
from trainer.checkpoint import load_checkpoint
from trainer.data import Tracklet, read_splits
from trainer.data.splits import applied_split, cut_validation
from trainer.data.synthetic.dataset import write_outline, write_synthetic
from trainer.input.loader import Batch, EvaluationBatch
from trainer.input.sampler import IdentityBatches
from trainer.result import Progress, no_progress
from trainer.training import step_cost
from trainer.training.learner import Learner, in_groups
from trainer.training.step_cost import (
    MAX_STEPS,
    _seconds_per_frame,
    _seconds_per_step,
    line_through,
    measure_step,
    saved_bytes,
    with_batch,
)


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


class SlowProcessor:
    """A clock that steps and embedding move on by a time for each image, and a memory that they fill."""

    def __init__(self, patch: pytest.MonkeyPatch, step_s: float, image_s: float, image_bytes: int = 2**20) -> None:
        self.now, self.peak = 0.0, 2**30
        self.step_s, self.image_s, self.image_bytes = step_s, image_s, image_bytes
        patch.setattr(time, "monotonic", lambda: self.now)
        patch.setattr(Learner, "step", lambda learner, batches, observe: self.step(batches))
        patch.setattr(step_cost, "embed", self.embed)
        patch.setattr(step_cost, "_peak_bytes", lambda: self.peak)

    def step(self, batches: list[Batch]) -> None:
        images = [batch.frames.shape[0] * batch.frames.shape[1] for batch in batches]
        self.now += self.step_s + self.image_s * sum(images)
        self.peak = max(self.peak, 2**30 + self.image_bytes * max(images))

    def embed(self, model: object, chosen: list[Tracklet], config: TrialConfig, *, progress: Progress) -> None:
        clips = len(chosen) * config.evaluation.clips
        for done in range(config.evaluation.batch, clips + config.evaluation.batch, config.evaluation.batch):
            self.now += config.evaluation.batch * config.clips.frames * self.image_s / 3
            progress("embedding", min(done, clips), clips)


@pytest.mark.parametrize("image_s", [0.1, 1.0])
@pytest.mark.parametrize("settings", [{}, {"optim__accumulate": 5}, {"clips__tracklets": 64, "evaluation__batch": 512}])
def test_a_processor_takes_a_minute_however_large_the_batch_and_says_what_a_whole_one_takes(
    tiny_config: TrialConfig, monkeypatch: pytest.MonkeyPatch, image_s: float, settings: dict[str, object]
) -> None:
    config = changed(tiny_config, **{"clips__identities": 4, "clips__tracklets": 8, "clips__frames": 8, **settings})
    processor = SlowProcessor(monkeypatch, step_s=0.5, image_s=image_s)
    monkeypatch.setattr(step_cost, "memory_here", lambda: 2**40)
    cost = measure_step(config, device="cpu")
    images = cost.images_per_batch
    assert cost.measured_images < images == 4 * config.clips.tracklets * 8
    assert processor.now < 60
    assert cost.seconds_per_batch == pytest.approx(0.5 / config.optim.accumulate + image_s * images)
    assert cost.memory_bytes == 2**30 + images * 2**20 + cost.last_bytes
    assert cost.seconds_per_frame == pytest.approx(image_s / 3)


def test_a_processor_tries_the_whole_batch_where_there_is_time(
    tiny_config: TrialConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    SlowProcessor(monkeypatch, step_s=0.2, image_s=0.1)
    cost = measure_step(changed(tiny_config, clips__identities=4, clips__tracklets=4, clips__frames=4), device="cpu")
    assert (cost.measured_images, cost.images_per_batch) == (64, 64)
    assert cost.seconds_per_batch == pytest.approx(6.6)


def test_a_batch_that_would_not_fit_by_what_smaller_ones_took_is_refused(
    tiny_config: TrialConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = changed(tiny_config, clips__identities=4, clips__tracklets=64, clips__frames=8)
    SlowProcessor(monkeypatch, step_s=0.5, image_s=0.1, image_bytes=2**28)
    monkeypatch.setattr(step_cost, "memory_here", lambda: 64 * 2**30)
    with pytest.raises(MemoryError, match="2048 images take about 513 GiB, and there are 64"):
        measure_step(config, device="cpu")


@given(
    identities=st.integers(2, 64), tracklets=st.integers(1, 64), frames=st.integers(1, 64), most=st.integers(8, 5000)
)
def test_a_batch_is_cut_to_about_so_many_images_and_keeps_two_identities(
    identities: int, tracklets: int, frames: int, most: int
) -> None:
    clips = {"identities": identities, "tracklets": tracklets, "frames": frames}
    config = TrialConfig.model_validate({"clips": clips, "optim": {"accumulate": 3}})
    cut = with_batch(config, most)
    images = cut.clips.identities * cut.clips.tracklets * cut.clips.frames
    assert images <= most
    assert images > most / 4 or cut.clips == config.clips
    assert cut.clips.identities >= 2
    assert (cut.clips.tracklets >= 2) == (tracklets >= 2), "without a second tracklet there is no pair of an identity"
    assert cut.optim.accumulate == 1


@pytest.mark.parametrize(
    ("points", "line"),
    [
        ((10, 3.0, 20, 5.0), (1.0, 0.2)),
        ((10, 3.0, 20, 2.0), (0.0, 0.1)),
        ((10, 3.0, 20, 9.0), (0.0, 0.45)),
        ((20, 3.0, 20, 2.0), (0.0, 0.1)),
        ((10, 3.0, 20, 3.0), (3.0, 0.0)),
    ],
)
def test_a_line_neither_falls_nor_begins_below_nothing(
    points: tuple[float, float, float, float], line: tuple[float, float]
) -> None:
    assert line_through(*points) == pytest.approx(line)


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
        run_smoke_test(tiny_config, threads=1, gpus=0, disk=tmp_path, command=child(program))


def test_a_configuration_that_does_not_fit_into_its_share_of_a_gpu_is_told_what_to_do(
    tiny_config: TrialConfig, tmp_path: Path
) -> None:
    program = child("print(json.dumps({'error': ['out_of_memory', 'OutOfMemoryError', 'z']}))")
    with pytest.raises(EnvironmentProblem, match=r"does not fit into 0\.5 of a GPU; give each trial more with .*: z"):
        run_smoke_test(tiny_config, threads=1, gpus=0.5, disk=tmp_path, command=program)


def test_an_interrupted_rehearsal_leaves_no_child(tiny_config: TrialConfig, tmp_path: Path) -> None:
    program = (
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        "print(json.dumps({'progress': ['steps', 1, 2, '']}), flush=True)\ntime.sleep(60)"
    )

    def interrupt(what: str, done: int, total: int, note: str = "") -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_smoke_test(tiny_config, threads=1, gpus=0, disk=tmp_path, progress=interrupt, command=child(program))
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_the_child_ends_with_its_parent() -> None:
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
        time.sleep(0.5)  # it waits for an order, and would for ever
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
