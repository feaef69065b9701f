"""A training on a GPU, pretended: it learns the same as on the CPU, and the host never waits for it in a step."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from pretend_gpu import CUDA, TO_GPU, PretendGpu
from torch import Tensor
from torch.utils._pytree import tree_leaves
from trainings import changed, figures

from trainer.checkpoint import load_checkpoint
from trainer.config import TrialConfig
from trainer.input.augment import draw_plan
from trainer.input.loader import Batch
from trainer.input.warp import plan_tensor
from trainer.training.fit import fit
from trainer.training.learner import Learner
from trainer.training.meters import EpochMeters

CPU = torch.device("cpu")
SIZE = (32, 16)
STEPS = 3
LOSSES = {"osm_share": 0.5, "center_weight": 5e-4, "attention_weight": 0.1}


class Learned(NamedTuple):
    """What a few steps leave behind."""

    state: list[Tensor]
    losses: dict[str, float]
    attention: dict[str, float]


def trial(**settings: Any) -> TrialConfig:
    """The smallest trial with these settings; every loss term unless `loss` is among them."""
    model = {"backbone": "tiny", "weights": "none", "height": SIZE[0], "width": SIZE[1]}
    clips = {"identities": 2, "tracklets": 2, "frames": 2, "pad": 2}
    smallest = {
        "model": model | settings.get("model", {}),
        "clips": clips | settings.get("clips", {}),
        "compute": {"precision": "fp32"} | settings.get("compute", {}),
    }
    return TrialConfig.model_validate({"loss": LOSSES, **settings, **smallest})


def batches(config: TrialConfig) -> Iterator[Batch]:
    """Clips of noise, as a loader hands them over."""
    draws = torch.Generator().manual_seed(0)
    while True:
        plans = [draw_plan(config.clips, SIZE, draws) for _ in range(4)]
        yield Batch(
            torch.randint(256, (4, 2, *SIZE, 3), dtype=torch.uint8, generator=draws).permute(0, 1, 4, 2, 3),
            torch.tensor([0, 0, 1, 1]),
            torch.tensor([[frame.erasure.erased for frame in plan] for plan in plans]),
            plan_tensor(plans) if config.clips.augment_on == "device" else None,
        )


def steps(config: TrialConfig, device: torch.device, scale: float | None) -> Iterator[tuple[Learner, EpochMeters]]:
    """The learner and its meters, before the first step and after each."""
    learner, meters, source = Learner(config, 3, device, own_weights=True), EpochMeters(), batches(config)
    if scale is not None:  # as fp16 has it
        learner.scaler = torch.amp.GradScaler(device.type, init_scale=scale)
    learner.begin_epoch(0)
    yield learner, meters
    for _ in range(STEPS):
        group = [next(source) for _ in range(config.optim.accumulate)]
        learner.step(group, partial(meters.add, attention=config.model.pooling == "attention"))
        yield learner, meters


def learned(learner: Learner, meters: EpochMeters) -> Learned:
    """Everything that learned, on the CPU."""
    state = [leaf.cpu().clone() for leaf in tree_leaves(learner.state()) if isinstance(leaf, Tensor)]
    return Learned(state, meters.losses(0), meters.attention())


def assert_the_same(found: Learned, expected: Learned) -> None:
    """To the last bit."""
    assert (found.losses, found.attention) == (expected.losses, expected.attention)
    assert len(found.state) == len(expected.state) > 30
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found.state, expected.state, strict=True))


TRIALS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipped": {"optim": {"clip_norm": 0.01}},
    "average": {"optim": {"ema_decay": 0.75}},
    "accumulated": {"optim": {"accumulate": 2}},
    "frozen backbone": {"optim": {"freeze_epochs": 1, "backbone_rate": 0.1, "decay_norm_and_bias": False}},
    "centers by Wen": {"loss": LOSSES | {"center_update": "wen"}},
    "classifier, scores": {"loss": LOSSES | {"osm_class_vectors": "classifier", "attention_on": "scores"}},
    "OSM alone, detached": {"loss": LOSSES | {"osm_share": 1, "osm_detach": True, "osm_temperature": 0.1}},
    "Euclidean triplets": {"loss": {"triplet_metric": "euclidean", "triplet_margin": None, "feature": "before_neck"}},
    "mean": {"model": {"pooling": "mean", "neck": "none"}, "loss": {}},
    "max": {"model": {"pooling": "max"}, "loss": {}},
    "sigmoid": {"model": {"attention_gate": "sigmoid", "attention_score_relu": False}},
    "factorised": {"model": {"attention_factorised": True}, "compute": {"channels_last": False}},
    "mobilenet_v2": {"model": {"backbone": "mobilenet_v2"}},
    "padded on the device": {"clips": {"augment_on": "device"}},
    "translated on the device": {"clips": {"augment_on": "device", "crop": "translate", "second_erase": 0.5}},
    "all at once": {
        "optim": {"clip_norm": 0.01, "ema_decay": 0.75, "accumulate": 2, "optimizer": "adamw"},
        "clips": {"augment_on": "device"},
    },
}
SCALES: dict[str, float | None] = {"fp32": None, "scaled": 2.0**16, "overflowing": 3e38}


@pytest.mark.parametrize(
    ("name", "scale"),
    [(name, "fp32") for name in TRIALS]
    + [(name, scale) for name in ("plain", "all at once", "centers by Wen") for scale in ("scaled", "overflowing")],
)
def test_a_step_waits_for_nothing_copies_each_batch_once_and_learns_what_the_cpu_learns(name: str, scale: str) -> None:
    config = trial(**TRIALS[name])
    *_, last = steps(config, CPU, SCALES[scale])
    expected = learned(*last)
    tensors = 4 if config.clips.augment_on == "device" else 3  # frames, labels, erased, and what is to be done
    with PretendGpu() as gpu:
        for number, last in enumerate(steps(config, CUDA, SCALES[scale])):
            if number > 1:  # the first step makes what is kept
                assert not gpu.waits
                assert gpu.copies == {TO_GPU: tensors * config.optim.accumulate}
            gpu.forget()
            if number == STEPS:
                found = learned(*last)
    assert_the_same(found, expected)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_waits_for_nothing_either(precision: str) -> None:
    with PretendGpu() as gpu:
        for number, (learner, _) in enumerate(steps(trial(compute={"precision": precision}), CUDA, None)):
            assert learner.scaler.is_enabled() == (precision == "fp16")
            assert number < 2 or not gpu.waits
            gpu.forget()


def test_an_epoch_reads_its_losses_and_its_attention_once() -> None:
    with PretendGpu() as gpu:
        *_, (_, meters) = steps(trial(), CUDA, None)
        gpu.forget()
        meters.losses(0)
        meters.attention()
        assert gpu.waits == {
            "copy from the GPU in meters.EpochMeters.losses": 1,
            "copy from the GPU in meters.EpochMeters.attention": 1,
        }


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true")
def test_a_training_on_a_gpu_resumed_too_reports_and_saves_what_one_on_the_cpu_does(
    tiny_config: TrialConfig, tmp_path: Path
) -> None:
    config = changed(
        tiny_config, optim__epochs=2, optim__ema_decay=0.5, clips__identities=2, clips__augment_on="device"
    )
    expected = fit(config, out=tmp_path / "cpu", device="cpu")
    seen: list[tuple[str, int]] = []
    with PretendGpu() as gpu:

        def progress(what: str, done: int, total: int, note: str = "") -> None:
            seen.append((what, gpu.waits.total()))

        fit(config, out=tmp_path / "gpu", device="cuda", until=1, progress=progress)
        last = tmp_path / "gpu" / "checkpoint" / "last.pt"
        found = fit(config, out=tmp_path / "gpu", device="cuda", resume_from=last, progress=progress)
    # Once to end an epoch, and once to save it; the copies that are saved are waited for together.
    assert gpu.waits["synchronize in compute.synchronize"] == 2 * config.optim.epochs
    assert not any("checkpoint" in where for where in gpu.waits)
    for stage in ("epoch 1", "epoch 2"):
        waits = [total for what, total in seen if what == stage]
        assert len(waits) > 1 and waits[1:] == waits[:-1], f"a step of {stage} waited: {gpu.waits}"
    assert figures(found.history) == figures(expected.history)
    saved, on_cpu = (
        [
            leaf
            for leaf in tree_leaves(load_checkpoint(tmp_path / where / "checkpoint" / "last.pt"))
            if isinstance(leaf, Tensor)
        ]
        for where in ("gpu", "cpu")
    )
    assert len(saved) == len(on_cpu) and all(map(torch.equal, saved, on_cpu))
