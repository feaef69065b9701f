"""The learning rate as a pure function of the epoch, or of the step."""

from __future__ import annotations

import math

from trainer.config import OptimConfig


def learning_rate(config: OptimConfig, epoch: int, passed: float = 0.0) -> float:
    """Learning rate in `epoch`, counted from 0; shares of the epochs are rounded to epochs.

    It rises linearly from the share `warmup_factor` in epoch 0 to the whole rate in the epoch that ends the warm-up.
    `milestones` then multiply it by `gamma` from each of theirs on; Luo et al. 2019 (arXiv:1903.07071), Eq. 1, counted
    as the paper's code does; Luo's code steps before the first epoch and so never trains at `warmup_factor`. However
    few the epochs, the first one comes before every milestone. `cosine` lets it fall towards the share `cosine_floor`,
    which it would reach after the last epoch (Loshchilov and Hutter 2017, arXiv:1608.03983, Eq. 5, without restarts).

    Args:
        config: the schedule.
        epoch: epochs that are over.
        passed: share of this epoch that is over, in [0, 1); it counts in a warm-up per step only.
    """
    warmup = round(config.warmup * config.epochs)
    now = epoch + passed if config.warmup_per == "step" and epoch < warmup else epoch
    warmed = min(now / warmup, 1.0) if warmup else 1.0
    factor = config.warmup_factor * (1 - warmed) + warmed
    if config.schedule == "milestones":
        factor *= config.gamma ** sum(max(1, round(share * config.epochs)) <= now for share in config.milestones)
    elif epoch >= warmup:
        progress = (epoch - warmup) / max(config.epochs - warmup, 1)
        factor = config.cosine_floor + (1 - config.cosine_floor) * (1 + math.cos(math.pi * progress)) / 2
    return config.learning_rate * factor
