"""The learning rate as a pure function of the epoch, and the optimizers it drives."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from trainer.frozen import FrozenConfig

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
