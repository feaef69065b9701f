"""Augmentation: a plan for each frame of a clip is drawn first and carried out afterwards.

`augmented` carries it out in a worker, `trainer.input.warp` on a device; the pixels are the same.

B clips, T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from trainer.input.clips import ClipConfig
from trainer.input.erasing import Erasure, draw_erasures

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# What an erased pixel is set to. Random erasing fills with the mean colour, zero after normalisation; the paper's code
# writes the mean's numbers into frames that are normalised already, where mean + std * mean is a light grey.
FILLS = {
    "mean": tuple(round(255 * mean) for mean in IMAGENET_MEAN),
    "light_grey": tuple(
        round(255 * (mean + std * mean)) for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)
    ),
}
# Random2DTranslation of the paper's code: how much larger than the input, and how often resized only.
ENLARGEMENT = 1.125
RESIZED_ONLY = 0.5


class FramePlan(NamedTuple):
    """What is done to one frame: a flip, black padding, perhaps a resize, a crop of H x W, erasing; in this order."""

    flip: bool
    enlarge: bool
    """Under `crop: translate`: resize to 1.125 x the input size instead of to the input size."""
    top: int
    """First row of the crop, counted in the padded and, under `translate`, resized frame."""
    left: int
    """First column of the crop."""
    erasure: Erasure


def draw_plan(config: ClipConfig, size: tuple[int, int], generator: torch.Generator) -> list[FramePlan]:
    """Draws for a clip of T frames of `size` (H, W).

    Geometry is drawn before erasing and neither depends on the settings of the other, nor on where it will be done.
    """
    frames = config.frames
    # Two calls of torch for a clip: each costs more than all its numbers.
    rows = torch.rand(1 if config.geometry_per == "clip" else frames, 4, generator=generator).tolist()
    geometry = [_geometry(config, size, *row) for row in rows]
    erasures = draw_erasures(config, size, 1 if config.erase_per == "clip" else frames, generator)
    return [FramePlan(*geometry[t % len(geometry)], erasures[t % len(erasures)]) for t in range(frames)]


def _geometry(
    config: ClipConfig, size: tuple[int, int], flip: float, resized: float, down: float, right: float
) -> tuple[bool, bool, int, int]:
    flipped = flip < config.flip
    if config.crop == "pad":
        places = 2 * config.pad + 1
        return flipped, False, int(down * places), int(right * places)
    if resized < RESIZED_ONLY:
        return flipped, False, 0, 0
    # Rounded as in the paper's code: the first and the last place are half as likely as the others.
    top, left = (
        round(draw * (large - side)) for draw, large, side in zip((down, right), enlarged(size), size, strict=True)
    )
    return flipped, True, top, left


def enlarged(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width from which `crop: translate` crops."""
    return round(size[0] * ENLARGEMENT), round(size[1] * ENLARGEMENT)


def augmented(
    frames: UInt8[np.ndarray, "T H W 3"], plan: Sequence[FramePlan], config: ClipConfig
) -> UInt8[np.ndarray, "T H W 3"]:
    """The frames with their plan carried out."""
    move = _pad_and_crop if config.crop == "pad" else _translate
    out = move(_flipped(frames, [planned.flip for planned in plan]), plan, config.pad)
    # Whole rows of bytes: to write pixel by pixel takes nine times as long.
    fill = np.tile(np.array(FILLS[config.erase_fill], dtype=np.uint8), out.shape[2])
    for rows, planned in zip(out.reshape(*out.shape[:2], -1), plan, strict=True):
        for top, left, height, width in planned.erasure.rectangles:
            rows[top : top + height, 3 * left : 3 * (left + width)] = fill[: 3 * width]
    return out


def _flipped(frames: UInt8[np.ndarray, "T H W 3"], flips: Sequence[bool]) -> Sequence[UInt8[np.ndarray, "H W 3"]]:
    """The frames, some of them mirrored. Copying through numpy's negative strides takes many times as long."""
    out = [*frames]
    mirrored = [t for t, flip in enumerate(flips) if flip]
    for t, frame in zip(mirrored, torch.from_numpy(frames[mirrored]).flip(2).numpy(), strict=True):
        out[t] = frame
    return out


def _pad_and_crop(
    frames: Sequence[UInt8[np.ndarray, "H W 3"]], plan: Sequence[FramePlan], pad: int
) -> UInt8[np.ndarray, "T H W 3"]:
    out = np.zeros((len(frames), *frames[0].shape), dtype=np.uint8)
    for target, frame, planned in zip(out, frames, plan, strict=True):
        _paste_shifted(target, frame, pad - planned.top, pad - planned.left)
    return out


def _paste_shifted(
    target: UInt8[np.ndarray, "H W 3"], frame: UInt8[np.ndarray, "H W 3"], down: int, right: int
) -> None:
    """Writes the frame moved by (down, right) pixels: black padding and a crop of the same size in one copy."""
    height, width = frame.shape[:2]
    rows, columns = _visible(height, down), _visible(width, right)
    target[rows, columns] = frame[rows.start - down : rows.stop - down, columns.start - right : columns.stop - right]


def _visible(side: int, shift: int) -> slice:
    """Where a line of `side` pixels that is moved by `shift` still covers itself; nowhere beyond `side`."""
    start = min(max(0, shift), side)
    return slice(start, max(start, min(side, side + shift)))


def _translate(
    frames: Sequence[UInt8[np.ndarray, "H W 3"]], plan: Sequence[FramePlan], pad: int
) -> UInt8[np.ndarray, "T H W 3"]:
    """Random2DTranslation of padded frames.

    Frames of a kind lie side by side, so that torch resizes them in one call. Its antialiased resize of 8-bit pixels is
    Pillow's up to rounding: 0.004 grey levels from the paper's frames on average, at 73 us a frame of 256 x 128. A
    bilinear warp without antialiasing is 0.34 levels off and takes 67 us (benchmarks.bench_loader): not taken.
    """
    (height, width, _), count = frames[0].shape, len(frames)
    order = sorted(range(count), key=lambda t: plan[t].enlarge)
    padded = np.zeros((count, height + 2 * pad, width + 2 * pad, 3), dtype=np.uint8)
    for place, t in enumerate(order):
        padded[place, pad : pad + height, pad : pad + width] = frames[t]
    shrunk = sum(not planned.enlarge for planned in plan)
    resized = [
        *_resized(padded[:shrunk], (height, width)),
        *_resized(padded[shrunk:], enlarged((height, width))),
    ]
    out = np.empty((count, height, width, 3), dtype=np.uint8)
    for frame, t in zip(resized, order, strict=True):
        top, left = plan[t].top, plan[t].left
        out[t] = frame[top : top + height, left : left + width]
    return out


def _resized(frames: UInt8[np.ndarray, "N h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "N H W 3"]:
    if not len(frames):
        return np.empty((0, *size, 3), dtype=np.uint8)
    # This order of permuting keeps the memory channels-last, for which torch has its fast path.
    batch = torch.from_numpy(frames).permute(0, 3, 1, 2)
    resized = functional.interpolate(batch, size, mode="bilinear", antialias=True)
    return resized.permute(0, 2, 3, 1).numpy()


def normalised(frames: UInt8[Tensor, "*any 3 H W"]) -> Float[Tensor, "*any 3 H W"]:
    """Pixels as the ImageNet networks expect them: mean 0 and standard deviation 1 per channel; memory order as is."""
    pixels = frames.movedim(-3, -1)
    if not pixels.is_contiguous():
        scale, offset = _scale_and_offset(frames.device, 1)
        return torch.addcmul(offset.view(3, 1, 1), frames.float(), scale.view(3, 1, 1))
    # Channels last, as decoders leave them: rows of 3 W numbers at once. Three by three takes half as long again.
    scale, offset = _scale_and_offset(frames.device, frames.shape[-1])
    rows = pixels.flatten(-2).to(torch.float32, copy=True)
    return torch.addcmul(offset, rows, scale, out=rows).view(pixels.shape).movedim(-1, -3)


@cache
def _scale_and_offset(device: torch.device, width: int) -> tuple[Float[Tensor, " 3*width"], Float[Tensor, " 3*width"]]:
    # Kept per device: to copy them over for each batch would make the host wait for a GPU.
    with torch.inference_mode(False):
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        return (1 / (255 * std)).repeat(width).to(device), (-mean / std).repeat(width).to(device)
