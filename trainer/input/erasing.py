"""Random erasing: which rectangles of a frame are wiped out, and which frames count as erased (Zhong et al. 2017).

H height, W width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from trainer.input.clips import ClipConfig

# The constants of Zhong et al. as in the paper's code: share of the frame's area, height / width, attempts.
ERASED_AREA = (0.02, 0.4)
ERASED_ASPECT = (0.3, 1 / 0.3)  # uniform, not log-uniform: the median is 1.8
ERASING_ATTEMPTS = 100


class Rectangle(NamedTuple):
    """A part of a frame, in pixels."""

    top: int
    left: int
    height: int
    width: int


class Erasure(NamedTuple):
    """What erasing does to a frame."""

    rectangles: tuple[Rectangle, ...]
    """None, one or two."""
    erased: bool
    """Whether the frame counts as erased in the attention loss; see `ClipConfig.erased_labels`."""


def draw_erasures(config: ClipConfig, size: tuple[int, int], count: int, generator: torch.Generator) -> list[Erasure]:
    """Independent draws for `count` frames of `size` (H, W); an eraser that finds no place leaves no label."""
    rows = torch.rand(count, 2, 5, generator=generator).tolist()
    return [_erasure(config, size, first, second, generator) for first, second in rows]


def _erasure(
    config: ClipConfig, size: tuple[int, int], first: list[float], second: list[float], generator: torch.Generator
) -> Erasure:
    one = _rectangle(size, first[1:], generator) if first[0] < config.erase else None
    two = _rectangle(size, second[1:], generator) if second[0] < config.second_erase else None
    rectangles = tuple(rectangle for rectangle in (one, two) if rectangle is not None)
    return Erasure(rectangles, bool(rectangles) if config.erased_labels == "every" else two is not None)


def _rectangle(size: tuple[int, int], draws: list[float], generator: torch.Generator) -> Rectangle | None:
    for _ in range(ERASING_ATTEMPTS):
        rectangle = erased_rectangle(size, draws)
        if rectangle is not None:
            return rectangle
        draws = torch.rand(4, generator=generator).tolist()
    return None


def erased_rectangle(size: tuple[int, int], draws: list[float]) -> Rectangle | None:
    """The rectangle that four draws from [0, 1) stand for, or None where it does not fit.

    The first draw is the share of the area, uniform in [0.02, 0.4], the second height / width, uniform in [0.3, 1 /
    0.3]; a rectangle as high or as wide as the frame does not fit. The others place it, every place equally likely.
    """
    (height, width), (area_draw, aspect_draw, top_draw, left_draw) = size, draws
    area = height * width * _between(*ERASED_AREA, area_draw)
    aspect = _between(*ERASED_ASPECT, aspect_draw)
    h, w = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
    if not (0 < h < height and 0 < w < width):
        return None
    return Rectangle(int(top_draw * (height - h + 1)), int(left_draw * (width - w + 1)), h, w)


def _between(low: float, high: float, draw: float) -> float:
    return low + (high - low) * draw
