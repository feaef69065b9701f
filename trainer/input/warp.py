"""The same augmentation as `trainer.input.augment.augmented`, for a whole batch on the device that trains.

Every frame is one axis-aligned warp: an output pixel is a weighted mean of K x K source pixels, where K is 1 for a crop
and 3 for a resize, and what lies outside of the frame is black. All arithmetic is in integers, so that every device
gives the pixels that the worker gives.

N = B x T frames, H height, W width, K taps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from trainer.input.augment import FILLS, FramePlan, enlarged
from trainer.input.clips import ClipConfig
from trainer.input.erasing import Rectangle

PLAN_COLUMNS = 12  # flip, enlarge, top, left and two rectangles
NOTHING = Rectangle(0, 0, 0, 0)
# torch's 8-bit resize: weights are 16-bit integers of the highest precision that the largest weight allows.
WEIGHT_BITS = 15
MOST_PRECISION = 22


def plan_tensor(plans: Sequence[Sequence[FramePlan]]) -> Int[Tensor, "B T 12"]:
    """The plans of a batch's clips as numbers: flip, enlarge, top, left, and two rectangles, empty ones for none."""
    return torch.tensor([[_numbers(frame) for frame in plan] for plan in plans], dtype=torch.int32)


def _numbers(plan: FramePlan) -> list[int]:
    first, second = (*plan.erasure.rectangles, NOTHING, NOTHING)[:2]
    return [plan.flip, plan.enlarge, plan.top, plan.left, *first, *second]


def augmented_batch(
    frames: UInt8[Tensor, "B T 3 H W"], plans: Int[Tensor, "B T 12"], config: ClipConfig
) -> UInt8[Tensor, "B T 3 H W"]:
    """The frames with their plans carried out, on their device; in memory channels come last."""
    pixels = frames.flatten(0, 1).permute(0, 2, 3, 1)
    height, width = pixels.shape[1:3]
    plan = plans.flatten(0, 1).long()
    flip, enlarge, top, left = plan[:, :4].unbind(1)
    across = _taps_of(config, (height, width), 1, enlarge, left, frames.device)
    mirrored = torch.where(flip.bool()[:, None, None], width - 1 - across.source, across.source)
    down = _taps_of(config, (height, width), 0, enlarge, top, frames.device)
    # Columns first, rounded to 8 bits in between: the order of torch and of Pillow.
    pixels = _weighted(pixels.transpose(1, 2), across._replace(source=mirrored)).transpose(1, 2)
    pixels = _weighted(pixels, down)
    pixels = torch.where(
        _erased(plan[:, 4:], height, width)[..., None], _fill(config.erase_fill, frames.device), pixels
    )
    return pixels.permute(0, 3, 1, 2).view(frames.shape)


class Taps(NamedTuple):
    """How the pixels along one axis of the output are made from those of the source."""

    source: Int[Tensor, "*N out K"]
    """Source pixels, inside of the source."""
    weight: Int[Tensor, "*N out K"]
    """Their weights in units of 2^-precision, >= 0; zero for taps outside of the source."""
    precision: Int[Tensor, "*N"]


def _taps_of(
    config: ClipConfig,
    size: tuple[int, int],
    axis: int,
    enlarge: Int[Tensor, " N"],
    start: Int[Tensor, " N"],
    device: torch.device,
) -> Taps:
    """Taps of each frame along an axis: `size[axis]` rows of the table for its kind, from its crop's start on."""
    tables = _tables(config.crop, config.pad, size, axis, device)
    places = start[:, None] + torch.arange(size[axis], device=device)
    return Taps(
        tables.source[enlarge[:, None], places], tables.weight[enlarge[:, None], places], tables.precision[enlarge]
    )


@cache
def _tables(crop: str, pad: int, size: tuple[int, int], axis: int, device: torch.device) -> Taps:
    """Taps for frames that are not enlarged and for those that are, [2 places K]; kept, for every batch needs them."""
    side, large = size[axis], enlarged(size)[axis]
    padded = side + 2 * pad
    targets = (padded, padded) if crop == "pad" else (side, large)
    tables = [triangle_taps(padded, target) for target in targets]
    places, taps = max(targets), max(table.source.shape[1] for table in tables)
    source, weight = torch.zeros(2, 2, places, taps, dtype=torch.int64)
    for kind, table in enumerate(tables):
        source[kind, : len(table.source), : table.source.shape[1]] = table.source - pad
        weight[kind, : len(table.weight), : table.weight.shape[1]] = table.weight
    weight[(source < 0) | (source >= side)] = 0
    precision = torch.stack([table.precision for table in tables])
    with torch.inference_mode(False):
        return Taps(source.clamp(0, side - 1).to(device), weight.int().to(device), precision.int().to(device))


def triangle_taps(source: int, target: int) -> Taps:
    """Taps of an antialiased bilinear resize of `source` pixels to `target`, as torch computes it for 8-bit pixels.

    A triangle around the center of each output pixel, as wide as two source pixels or two output pixels, whichever
    is more; weights sum to 1 and are rounded to integers.
    """
    scale = source / target
    reach = max(scale, 1.0)
    centers = scale * (np.arange(target) + 0.5)
    first = np.maximum(0, (centers - reach + 0.5).astype(int))
    stop = np.minimum(source, (centers + reach + 0.5).astype(int))
    index = first[:, None] + np.arange(2 * math.ceil(reach) + 1)
    weight = np.maximum(0, 1 - np.abs((index - centers[:, None] + 0.5) / reach)) * (index < stop[:, None])
    weight /= weight.sum(axis=1, keepdims=True)
    precision = _precision(float(weight.max()))
    whole = (weight * 2**precision + 0.5).astype(int)
    used = int(whole.any(axis=0).nonzero()[0].max()) + 1
    return Taps(torch.from_numpy(index[:, :used]), torch.from_numpy(whole[:, :used]), torch.tensor(precision))


def _precision(largest: float) -> int:
    for precision in range(MOST_PRECISION):
        if int(0.5 + largest * 2 ** (precision + 1)) >= 2**WEIGHT_BITS:
            return precision
    return MOST_PRECISION


def _weighted(pixels: UInt8[Tensor, "N S R 3"], taps: Taps) -> UInt8[Tensor, "N out R 3"]:
    """Weighted sums of a frame's S lines; a gather of whole lines for each of the K taps, never K copies at once."""
    count, side = pixels.shape[:2]
    lines = pixels.reshape(count * side, -1)
    first = side * torch.arange(count, device=pixels.device)[:, None]
    precision = taps.precision[:, None, None]
    total = (1 << precision) >> 1  # rounds to nearest
    for index, weight in zip(taps.source.unbind(-1), taps.weight.unbind(-1), strict=True):
        picked = lines.index_select(0, (first + index).flatten()).view(*index.shape, -1)
        total = picked.int().mul_(weight[..., None]).add_(total)
    rounded = (total >> precision).clamp(max=255).to(torch.uint8)
    return rounded.view(*rounded.shape[:2], -1, 3)


def _erased(rectangles: Int[Tensor, "N 8"], height: int, width: int) -> Bool[Tensor, "N H W"]:
    top, left, high, wide = rectangles.view(-1, 2, 4, 1).unbind(2)
    rows = torch.arange(height, device=rectangles.device)
    columns = torch.arange(width, device=rectangles.device)
    inside_rows = (rows >= top) & (rows < top + high)
    inside_columns = (columns >= left) & (columns < left + wide)
    return (inside_rows[..., :, None] & inside_columns[..., None, :]).any(dim=1)


@cache
def _fill(name: str, device: torch.device) -> UInt8[Tensor, " 3"]:
    with torch.inference_mode(False):
        return torch.tensor(FILLS[name], dtype=torch.uint8).to(device)
