"""Augmentation of a batch on a device: the same pixels as the worker's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pretend_gpu import CUDA, TO_GPU, PretendGpu
from torch.nn import functional

from trainer.input.augment import augmented, draw_plan
from trainer.input.clips import ClipConfig
from trainer.input.loader import Batch, to_device
from trainer.input.warp import augmented_batch, plan_tensor, triangle_taps

sizes = st.tuples(st.integers(8, 70), st.integers(8, 50))


def both_ways(config: ClipConfig, size: tuple[int, int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two clips of noise, augmented by the worker's code and by the device's."""
    draws = torch.Generator().manual_seed(seed)
    plans = [draw_plan(config, size, draws) for _ in range(2)]
    frames = np.random.default_rng(seed).integers(0, 256, (2, config.frames, *size, 3), dtype=np.uint8)
    worker = np.stack([augmented(clip, plan, config) for clip, plan in zip(frames, plans, strict=True)])
    decoded = torch.from_numpy(frames).permute(0, 1, 4, 2, 3)
    return torch.from_numpy(worker).permute(0, 1, 4, 2, 3), augmented_batch(decoded, plan_tensor(plans), config)


@pytest.mark.parametrize("crop", ["pad", "translate"])
@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(size=sizes, pad=st.integers(0, 12), seed=st.integers(0, 1000))
def test_worker_and_device_give_identical_pixels(crop: str, size: tuple[int, int], pad: int, seed: int) -> None:
    config = ClipConfig(crop=crop, pad=pad, second_erase=0.5, erase_fill="light_grey")
    worker, device = both_ways(config, size, seed)
    assert torch.equal(worker, device)


@pytest.mark.parametrize("size", [(256, 128), (224, 112)])
@pytest.mark.parametrize("crop", ["pad", "translate"])
def test_worker_and_device_agree_at_the_sizes_that_are_trained(crop: str, size: tuple[int, int]) -> None:
    worker, device = both_ways(ClipConfig(crop=crop), size, 0)
    assert torch.equal(worker, device)


def test_a_batch_comes_back_channels_last_and_contiguous_frames_are_taken_too() -> None:
    config = ClipConfig(crop="translate")
    plans = plan_tensor([draw_plan(config, (32, 16), torch.Generator().manual_seed(0))])
    frames = torch.randint(256, (1, 4, 3, 32, 16), dtype=torch.uint8)
    out = augmented_batch(frames, plans, config)
    assert out.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
    channels_last = frames.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    assert torch.equal(out, augmented_batch(channels_last, plans, config))


@given(source=st.integers(1, 300), target=st.integers(1, 300))
def test_taps_are_those_of_torchs_own_resize_of_8_bit_pixels(source: int, target: int) -> None:
    line = torch.randint(256, (source,), dtype=torch.uint8, generator=torch.Generator().manual_seed(source))
    image = line.expand(1, 3, 4, source).contiguous(memory_format=torch.channels_last)
    expected = functional.interpolate(image, (4, target), mode="bilinear", antialias=True)[0, 0, 0]
    taps = triangle_taps(source, target)
    values = (line.long()[taps.source.clamp(max=source - 1)] * taps.weight).sum(-1)
    assert torch.equal((values + (1 << taps.precision >> 1)) >> taps.precision, expected.long())


@pytest.mark.parametrize("crop", ["pad", "translate"])
@pytest.mark.parametrize("pad", [0, 4])
@pytest.mark.parametrize(
    "settings",
    [
        {"flip": 0.0, "erase": 0.0},
        {"flip": 1.0, "erase": 1.0, "second_erase": 1.0},
        {"geometry_per": "clip", "erase_per": "clip", "erase_fill": "light_grey"},
        {"erased_labels": "second", "second_erase": 0.5},
    ],
    ids=str,
)
def test_a_gpu_augments_to_the_same_pixels_copies_a_batch_once_and_is_never_waited_for(
    crop: str, pad: int, settings: dict[str, object]
) -> None:
    config = ClipConfig.model_validate({"crop": crop, "pad": pad, "augment_on": "device", **settings})
    draws = torch.Generator().manual_seed(0)
    with PretendGpu() as gpu:
        for number in range(3):
            plans = [draw_plan(config, (32, 16), draws) for _ in range(2)]
            frames = torch.randint(256, (2, config.frames, 32, 16, 3), dtype=torch.uint8, generator=draws)
            clips = zip(frames.numpy(), plans, strict=True)
            expected = np.stack([augmented(clip, plan, config) for clip, plan in clips])
            erased = torch.tensor([[frame.erasure.erased for frame in plan] for plan in plans])
            batch = Batch(frames.permute(0, 1, 4, 2, 3), torch.tensor([0, 1]), erased, plan_tensor(plans))
            gpu.forget()
            there = to_device(batch, CUDA, config)
            if number:  # the first makes the tables that are kept
                assert not gpu.waits
                assert gpu.copies == {TO_GPU: 4}, "frames, labels, erased, plans"
            assert there.pending is None
            assert {tensor.device for tensor in there[:3]} == {CUDA}
            np.testing.assert_array_equal(there.frames.cpu().permute(0, 1, 3, 4, 2).numpy(), expected)
            assert torch.equal(there.erased.cpu(), erased)
