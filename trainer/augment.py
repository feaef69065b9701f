"""Augmentation of the frames of a clip, on 8-bit pixels, one draw per frame.

T frames, H height, W width.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from trainer.clips import ClipConfig

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# What an erased pixel is set to. Random erasing fills with the mean colour; the paper's code writes the ImageNet mean
# *after* normalisation, which is light grey. Here it is the mean itself, zero after normalisation.
ERASED_PIXEL = np.array([round(255 * value) for value in IMAGENET_MEAN], dtype=np.uint8)
# Zhong et al. 2017 as in the paper's code: area share, aspect ratio (uniform, not log-uniform), attempts.
ERASED_AREA = (0.02, 0.4)
ERASED_ASPECT = (0.3, 1 / 0.3)
ERASING_ATTEMPTS = 100


class Rectangle(NamedTuple):
    """A part of a frame, in pixels."""

    top: int
    left: int
    height: int
    width: int


def augment(
    frames: UInt8[np.ndarray, "T H W 3"], config: ClipConfig, generator: torch.Generator
) -> tuple[UInt8[np.ndarray, "T H W 3"], Bool[np.ndarray, " T"]]:
    """Flips, pads, crops and erases each frame on its own; also says which frames were erased."""
    out = np.zeros_like(frames)
    erased = np.zeros(len(frames), dtype=bool)
    coins = torch.rand(len(frames), 2, generator=generator).tolist()
    shifts = torch.randint(2 * config.pad + 1, (len(frames), 2), generator=generator).tolist()
    for t, ((flip, erase), (down, right)) in enumerate(zip(coins, shifts, strict=True)):
        frame = frames[t, :, ::-1] if flip < config.flip else frames[t]
        _paste_shifted(out[t], frame, down - config.pad, right - config.pad)
        rectangle = erased_rectangle(frame.shape[0], frame.shape[1], generator) if erase < config.erase else None
        if rectangle is not None:
            top, left, height, width = rectangle
            out[t, top : top + height, left : left + width] = ERASED_PIXEL
            erased[t] = True
    return out, erased


def _paste_shifted(
    target: UInt8[np.ndarray, "H W 3"], frame: UInt8[np.ndarray, "H W 3"], down: int, right: int
) -> None:
    """Writes the frame moved by (down, right) pixels: black padding and a crop of the same size in one copy."""
    height, width = frame.shape[:2]
    rows = slice(max(0, down), min(height, height + down))
    columns = slice(max(0, right), min(width, width + right))
    target[rows, columns] = frame[rows.start - down : rows.stop - down, columns.start - right : columns.stop - right]


def erased_rectangle(height: int, width: int, generator: torch.Generator) -> Rectangle | None:
    """A random rectangle inside a frame, or None when no draw fitted (Zhong et al. 2017, the paper's constants).

    The area share is uniform in [0.02, 0.4] and the aspect ratio height / width uniform in [0.3, 1 / 0.3]; a rectangle
    as high or as wide as the frame is drawn again, up to 100 times.
    """
    for _ in range(ERASING_ATTEMPTS):
        area_draw, aspect_draw, top_draw, left_draw = torch.rand(4, generator=generator).tolist()
        area = height * width * _between(*ERASED_AREA, area_draw)
        aspect = _between(*ERASED_ASPECT, aspect_draw)
        h, w = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 0 < h < height and 0 < w < width:
            return Rectangle(int(top_draw * (height - h + 1)), int(left_draw * (width - w + 1)), h, w)
    return None


def _between(low: float, high: float, draw: float) -> float:
    return low + (high - low) * draw


def normalised(frames: UInt8[Tensor, "*any 3 H W"]) -> Float[Tensor, "*any 3 H W"]:
    """Pixels as the ImageNet networks expect them: mean 0 and standard deviation 1 per channel."""
    mean = torch.tensor(IMAGENET_MEAN, device=frames.device).view(3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=frames.device).view(3, 1, 1)
    return (frames.float() / 255 - mean) / std
