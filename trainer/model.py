"""The network: a ResNet over frames, attention over time, and the neck that feeds classifier and ranking."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trainer.frozen import FrozenConfig


class ModelConfig(FrozenConfig):
    """Architecture of the network and where its weights come from."""

    backbone: Literal["resnet18", "resnet34", "resnet50", "resnet101", "tiny"] = "resnet50"
    """torchvision's ResNets, or `tiny`: four convolutions, for tests and for laptops."""
    weights: str = "imagenet"
    """`imagenet` (torchvision's IMAGENET1K_V1), `none` (random), or the path of a weights file or checkpoint."""
    height: int = Field(256, ge=16, le=1024)
    """Height of the input frames, in pixels."""
    width: int = Field(128, ge=8, le=1024)
    """Width of the input frames, in pixels."""
    last_stride: Literal[1, 2] = 1
    """Stride of the last stage; 1 doubles the feature map (Luo et al. 2019)."""
    attention_hidden: int = Field(256, ge=1)
    """Channels between the spatial and the temporal convolution of the attention head."""
    attention_gate: Literal["softmax", "sigmoid"] = "softmax"
    """How scores become weights over frames: softmax, or sigmoid followed by L1 normalisation."""
