"""The whole training step beside the bare ResNet-50, forward and backward, of the same precision and layout.

    python -m benchmarks.bench_step [--clips 32] [--precision fp32 bf16] [--height 256 --width 128] [--compile]

The step has all of the paper's losses, Adam on 77 (224 x 112) to 93 (256 x 128) million parameters, the centers' own
step, the change from 8-bit pixels to normalised floats, and the tally of figures; its batch lies in memory. The bare
network is the same backbone with mean pooling and the sum of its features as loss: no step, no head. Rivals take turns.
Beside both stands the floor: the arithmetic of forward and backward at the rate of a large matrix product of the same
precision, measured in the same run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.measuring import measure, say
from trainer.automatic import resolved, this_machine
from trainer.compute import autocast, float32_products, prepare_process, tried_convolutions
from trainer.config import TrialConfig
from trainer.input.augment import normalised
from trainer.input.loader import Batch
from trainer.training.learner import Learner

IDENTITIES = 625  # MARS
FRAMES = 4
# Forward and backward of ResNet-50 with last stride 1, per image; other sizes in proportion to their pixels.
GIGAFLOP = {(256, 128): 24.2, (224, 112): 18.8}
MATRIX = 2048


def main() -> None:
    """Measures every precision that was asked for and prints one JSON line."""
    asked = _arguments()
    prepared = prepare_process()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    results = {
        precision: compared(
            _config(asked, {"precision": precision, "compile": asked.compile}), device=device, runs=asked.runs
        )
        for precision in asked.precision
    }
    images = asked.clips * FRAMES
    say(
        benchmark="step",
        images=images,
        size=[asked.height, asked.width],
        process=prepared._asdict(),
        compile=asked.compile,
        **results,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_step", description=__doc__)
    parser.add_argument(
        "--clips", type=int, default=32, help="clips per batch, 4 frames each  [default: the paper's 32]"
    )
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--height", type=int, default=224)
    parser.add_argument("--width", type=int, default=112)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    return parser.parse_args()


def _config(asked: argparse.Namespace, compute: dict[str, object]) -> TrialConfig:
    return step_config({"height": asked.height, "width": asked.width}, compute, clips=asked.clips)


def step_config(model: dict[str, object], compute: dict[str, object], *, clips: int) -> TrialConfig:
    """A trial with all of the paper's losses and so many clips per batch, of four tracklets per identity."""
    return TrialConfig.model_validate(
        {
            "clips": {"identities": clips // 4, "tracklets": 4, "frames": FRAMES},
            "model": {"weights": "none", **model},
            "loss": {"osm_share": 0.5, "center_weight": 5e-4, "attention_weight": 1.0},
            "compute": compute,
        }
    )


def compared(config: TrialConfig, *, device: torch.device, runs: int) -> dict[str, Any]:
    """Seconds of the step and of the bare network, their ratio, and images per second of both and of the floor."""
    config = resolved(config, this_machine(device))
    batch = in_memory_batch(config, device)
    with float32_products(config.compute, device), tried_convolutions(device):
        found = measure(
            {
                "step": whole_step(config, batch, device),
                "bare": _bare_network(config, batch, device),
                "product": _matrix_product(config.compute.precision, device),
            },
            runs=runs,
        )
    images = batch.frames.shape[0] * batch.frames.shape[1]
    product_rate = 2 * MATRIX**3 / found["product"].wall_s
    work = images * _gigaflop(*config.input_size) * 1e9
    return {
        **{name: found[name].as_dict(4) for name in ("step", "bare")},
        "step_over_bare_wall": round(found["step"].wall_s / found["bare"].wall_s, 4),
        "step_over_bare_cpu": round(found["step"].cpu_s / found["bare"].cpu_s, 4),
        "images_per_second": round(images / found["step"].wall_s, 2),
        "bare_images_per_second": round(images / found["bare"].wall_s, 2),
        "floor_images_per_second": round(images * product_rate / work, 2),
        "product_gigaflop_per_second": round(product_rate / 1e9, 1),
    }


def _gigaflop(height: int, width: int) -> float:
    return GIGAFLOP.get((height, width), GIGAFLOP[256, 128] * height * width / (256 * 128))


def in_memory_batch(config: TrialConfig, device: torch.device) -> Batch:
    """A batch of random pixels of the configured shape, each identity with all its tracklets."""
    clips = config.clips.identities * config.clips.tracklets
    generator = torch.Generator().manual_seed(0)
    size = (clips, FRAMES, 3, config.model.height, config.model.width)
    frames = torch.randint(256, size, dtype=torch.uint8, generator=generator)
    labels = torch.arange(config.clips.identities).repeat_interleave(config.clips.tracklets)
    erased = torch.rand(clips, FRAMES, generator=generator) < config.clips.erase
    return Batch(frames.to(device), labels.to(device), erased.to(device), None)


def whole_step(config: TrialConfig, batch: Batch, device: torch.device) -> Callable[[], None]:
    """A training step on the batch, as `trainer.fit` takes it."""
    learner = Learner(config, IDENTITIES, device, own_weights=True)
    learner.compile()
    learner.begin_epoch(0)
    seen: list[Tensor] = []

    def step() -> None:
        learner.step([batch], lambda _batch, _output, terms: seen.append(terms["total"].detach()))
        _wait(device)

    return step


def _bare_network(config: TrialConfig, batch: Batch, device: torch.device) -> Callable[[], None]:
    backbone = Learner(config, IDENTITIES, device, own_weights=True).model.backbone.train()
    if config.compute.compile:
        backbone.compile()
    frames = normalised(batch.frames.flatten(0, 1))
    if config.compute.channels_last:
        frames = frames.contiguous(memory_format=torch.channels_last)

    def forward_and_backward() -> None:
        backbone.zero_grad(set_to_none=True)
        with autocast(config.compute, device):
            features = backbone(frames).mean((2, 3))
        features.float().sum().backward()
        _wait(device)

    return forward_and_backward


def _matrix_product(precision: str, device: torch.device) -> Callable[[], None]:
    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    left, right = torch.randn(2, MATRIX, MATRIX, device=device).to(kinds[precision])

    def product() -> None:
        torch.mm(left, right)
        _wait(device)

    return product


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
