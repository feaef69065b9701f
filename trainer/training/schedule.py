"""The learning rate as a pure function of the epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from trainer.frozen import FrozenConfig

Share = Annotated[float, Field(ge=0, le=1)]


def _as_tuple(value: Any) -> Any:
    """A list from a file as the tuple it stands for; strict validation by itself tells them apart."""
    return tuple(value) if isinstance(value, list) else value


class OptimConfig(FrozenConfig):
    """How long and how fast the network learns. Shares are of `epochs`, so that a short search and a long
    final run mean the same schedule."""

    epochs: int = Field(120, ge=1)
    """Passes over the training identities."""
    optimizer: Literal["adam", "adamw"] = "adam"
    """`adam`: decay is L2 added to the gradient, as in the paper's code. `adamw`: decay apart from the gradient
    (Loshchilov and Hutter 2019, arXiv:1711.05101)."""
    learning_rate: float = Field(3.5e-4, gt=0)
    """Learning rate after warm-up."""
    weight_decay: float = Field(5e-4, ge=0)
    """L2 decay."""
    decay_norm_and_bias: bool = True
    """Whether the scales of batch norms and all biases decay too, as in the paper's code."""
    schedule: Literal["milestones", "cosine"] = "milestones"
    """After the warm-up: steps at `milestones`, or half a cosine down to `cosine_floor`."""
    warmup: Share = 10 / 120
    """Share of the epochs over which the learning rate rises linearly."""
    warmup_factor: float = Field(0.01, gt=0, le=1)
    """Factor of the learning rate in the first epoch of the warm-up."""
    milestones: Annotated[tuple[Share, ...], BeforeValidator(_as_tuple)] = (40 / 120, 70 / 120)
    """Shares of the epochs after which the learning rate is multiplied by `gamma`, ascending."""
    gamma: float = Field(0.1, gt=0, le=1)
    """Factor of the learning rate at each milestone."""
    cosine_floor: Share = 0.0
    """Factor of the learning rate towards which the cosine schedule falls."""
    accumulate: int = Field(1, ge=1)
    """Batches whose gradients are averaged before a step of the optimizer."""
    clip_norm: float | None = Field(None, gt=0)
    """Greatest length of the gradient over all of the network's parameters; longer ones are scaled down."""
    ema_decay: float | None = Field(None, gt=0, lt=1)
    """Decay, per step, of an exponential moving average of the weights, which is then what gets evaluated."""

    @model_validator(mode="after")
    def _milestones_ascend(self) -> OptimConfig:
        if any(later <= earlier for earlier, later in pairwise(self.milestones)):
            raise ValueError(f"milestones: {list(self.milestones)} must ascend")
        return self


def milestone_factor(
    epoch: int, *, warmup_epochs: int, warmup_factor: float, milestones: Sequence[int], gamma: float
) -> float:
    """Factor of the learning rate in `epoch`, counted from 0, under warm-up and milestones.

    It rises linearly from `warmup_factor` in epoch 0 to 1 in epoch `warmup_epochs`, and is multiplied by
    `gamma` from each epoch in `milestones` on. Luo et al. 2019 (arXiv:1903.07071), Eq. 1, counted as the
    paper's code does; Luo's code steps before the first epoch and so never trains at `warmup_factor`.
    """
    passed = sum(milestone <= epoch for milestone in milestones)
    return float(_warmup(epoch, warmup_epochs, warmup_factor) * gamma**passed)


def cosine_factor(epoch: int, *, epochs: int, warmup_epochs: int, warmup_factor: float, floor: float) -> float:
    """Factor of the learning rate in `epoch`, counted from 0, under warm-up and half a cosine.

    After the warm-up of `milestone_factor` it falls from 1 in epoch `warmup_epochs` towards `floor`, which
    it would reach in epoch `epochs` (Loshchilov and Hutter 2017, arXiv:1608.03983, Eq. 5, without restarts).
    """
    if epoch < warmup_epochs:
        return _warmup(epoch, warmup_epochs, warmup_factor)
    progress = (epoch - warmup_epochs) / max(epochs - warmup_epochs, 1)
    return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2


def _warmup(epoch: int, epochs: int, factor: float) -> float:
    progress = min(epoch / epochs, 1.0) if epochs else 1.0
    return factor * (1 - progress) + progress


def learning_rate(config: OptimConfig, epoch: int) -> float:
    """Learning rate in `epoch`, counted from 0; shares of the epochs are rounded to epochs.

    However few the epochs, the first one comes before every milestone.
    """
    warmup_epochs = round(config.warmup * config.epochs)
    if config.schedule == "cosine":
        factor = cosine_factor(
            epoch,
            epochs=config.epochs,
            warmup_epochs=warmup_epochs,
            warmup_factor=config.warmup_factor,
            floor=config.cosine_floor,
        )
    else:
        factor = milestone_factor(
            epoch,
            warmup_epochs=warmup_epochs,
            warmup_factor=config.warmup_factor,
            milestones=[max(1, round(share * config.epochs)) for share in config.milestones],
            gamma=config.gamma,
        )
    return config.learning_rate * factor
