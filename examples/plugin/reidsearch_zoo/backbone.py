"""A network over frames: patches of 8 x 8 pixels, and a convolution over them."""

from __future__ import annotations

from torch import nn

PATCH = 8
CHANNELS = 32


def patches(size: tuple[int, int], last_stride: int) -> nn.Module:
    """Frames [N 3 H W] to maps [N 32 H/8 W/8], with stride 2 half as high and wide; frames may have any `size`."""
    return nn.Sequential(
        nn.Conv2d(3, CHANNELS, PATCH, stride=PATCH, bias=False),
        nn.BatchNorm2d(CHANNELS),
        nn.ReLU(),
        nn.Conv2d(CHANNELS, CHANNELS, 3, stride=last_stride, padding=1),
    )
