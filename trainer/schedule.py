"""The learning rate as a pure function of the epoch, and the optimizers it drives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from trainer.frozen import FrozenConfig

FUSED_DEVICES = ("cpu", "cuda")  # torch's fused Adam; the step on a CPU is 10 x faster than for-each

Share = Annotated[float, Field(ge=0, le=1)]


class OptimConfig(FrozenConfig):
    """How long and how fast the network learns. Shares are of `epochs`, so that a short search and a long
    final run mean the same schedule."""

    epochs: int = Field(120, ge=1)
    """Passes over the training persons."""
    optimizer: Literal["adam"] = "adam"
    """Adam with coupled L2 decay on every parameter, as the paper's code has it."""
    learning_rate: float = Field(3.5e-4, gt=0)
    """Learning rate after warm-up."""
    weight_decay: float = Field(5e-4, ge=0)
    """L2 decay."""
    warmup: Share = 10 / 120
    """Share of the epochs over which the learning rate rises linearly."""
    warmup_factor: float = Field(0.01, gt=0, le=1)
    """Factor of the learning rate in the first epoch of the warm-up."""
    milestones: tuple[Share, ...] = (40 / 120, 70 / 120)
    """Shares of the epochs after which the learning rate is multiplied by `gamma`, ascending."""
    gamma: float = Field(0.1, gt=0, le=1)
    """Factor of the learning rate at each milestone."""

    @model_validator(mode="after")
    def _milestones_ascend(self) -> OptimConfig:
        if any(later <= earlier for earlier, later in pairwise(self.milestones)):
            raise ValueError(f"milestones: {list(self.milestones)} must ascend")
        return self


def learning_rate_factor(
    epoch: int, *, warmup_epochs: int, warmup_factor: float, milestones: Sequence[int], gamma: float
) -> float:
    """Factor of the learning rate in `epoch`, counted from 0.

    It rises linearly from `warmup_factor` in epoch 0 to 1 in epoch `warmup_epochs`, and is multiplied by
    `gamma` from each epoch in `milestones` on. Luo et al. 2019 (arXiv:1903.07071), Eq. 1, counted as the
    paper's code does; Luo's code steps before the first epoch and so never trains at `warmup_factor`.
    """
    progress = min(epoch / warmup_epochs, 1.0) if warmup_epochs else 1.0
    warmup = warmup_factor * (1 - progress) + progress
    passed = sum(milestone <= epoch for milestone in milestones)
    return float(warmup * gamma**passed)


def learning_rate(config: OptimConfig, epoch: int) -> float:
    """Learning rate in `epoch`, counted from 0; shares of the epochs are rounded to epochs.

    However few the epochs, the first one comes before every milestone.
    """
    return config.learning_rate * learning_rate_factor(
        epoch,
        warmup_epochs=round(config.warmup * config.epochs),
        warmup_factor=config.warmup_factor,
        milestones=[max(1, round(share * config.epochs)) for share in config.milestones],
        gamma=config.gamma,
    )


def make_optimizer(parameters: Iterable[nn.Parameter], config: OptimConfig) -> torch.optim.Optimizer:
    """Adam over the parameters that require a gradient, in one group, at the learning rate of epoch 0.

    The decay is coupled L2 on every parameter, biases and batch norm included, as in the paper's code. The
    fused kernel is used where all parameters lie on a device that has one. No parameter raises ValueError.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    fused = all(parameter.device.type in FUSED_DEVICES for parameter in trained)
    return torch.optim.Adam(
        trained,
        lr=learning_rate(config, 0),
        weight_decay=config.weight_decay,
        fused=fused,
        foreach=not fused,
    )
