"""The learning rate as a pure function of the epoch, or of the step."""

from __future__ import annotations

import math
from collections.abc import Sequence

from trainer.config import OptimConfig


def milestone_factor(
    epoch: float, *, warmup_epochs: int, warmup_factor: float, milestones: Sequence[int], gamma: float
) -> float:
    """Factor of the learning rate in `epoch`, counted from 0, under warm-up and milestones.

    It rises linearly from `warmup_factor` in epoch 0 to 1 in epoch `warmup_epochs`, and is multiplied by
    `gamma` from each epoch in `milestones` on. Luo et al. 2019 (arXiv:1903.07071), Eq. 1, counted as the
    paper's code does; Luo's code steps before the first epoch and so never trains at `warmup_factor`.
    """
    passed = sum(milestone <= epoch for milestone in milestones)
    return float(_warmup(epoch, warmup_epochs, warmup_factor) * gamma**passed)


def cosine_factor(epoch: float, *, epochs: int, warmup_epochs: int, warmup_factor: float, floor: float) -> float:
    """Factor of the learning rate in `epoch`, counted from 0, under warm-up and half a cosine.

    After the warm-up of `milestone_factor` it falls from 1 in epoch `warmup_epochs` towards `floor`, which
    it would reach in epoch `epochs` (Loshchilov and Hutter 2017, arXiv:1608.03983, Eq. 5, without restarts).
    """
    if epoch < warmup_epochs:
        return _warmup(epoch, warmup_epochs, warmup_factor)
    progress = (epoch - warmup_epochs) / max(epochs - warmup_epochs, 1)
    return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2


def _warmup(epoch: float, epochs: int, factor: float) -> float:
    progress = min(epoch / epochs, 1.0) if epochs else 1.0
    return factor * (1 - progress) + progress


def learning_rate(config: OptimConfig, epoch: int, passed: float = 0.0) -> float:
    """Learning rate in `epoch`, counted from 0; shares of the epochs are rounded to epochs.

    However few the epochs, the first one comes before every milestone.

    Args:
        config: the schedule.
        epoch: epochs that are over.
        passed: share of this epoch that is over, in [0, 1); it counts in a warm-up per step only.
    """
    warmup_epochs = round(config.warmup * config.epochs)
    now = epoch + passed if config.warmup_per == "step" and epoch < warmup_epochs else epoch
    if config.schedule == "cosine":
        factor = cosine_factor(
            now,
            epochs=config.epochs,
            warmup_epochs=warmup_epochs,
            warmup_factor=config.warmup_factor,
            floor=config.cosine_floor,
        )
    else:
        factor = milestone_factor(
            now,
            warmup_epochs=warmup_epochs,
            warmup_factor=config.warmup_factor,
            milestones=[max(1, round(share * config.epochs)) for share in config.milestones],
            gamma=config.gamma,
        )
    return config.learning_rate * factor
