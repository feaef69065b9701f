"""Optimizers of the network, and what they decay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from trainer.config import OptimConfig
from trainer.training.schedule import learning_rate

BACKBONE = "backbone."
SHARE = "rate_share"
FUSED_DEVICES = ("cpu", "cuda")  # torch's fused Adam; the step on a CPU is 10 x faster than for-each
OPTIMIZERS: dict[str, type[torch.optim.Adam]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Adam or AdamW over the parameters that require a gradient, at the learning rate of epoch 0.

    The decay covers every parameter, biases and batch norm included, as in the paper's code; without
    `decay_norm_and_bias` it leaves out those of fewer than two dimensions. The parameters of `backbone`, where the
    model has one, are in groups of their own, with their share of the rate. The fused kernel is used where all
    parameters lie on a device that has one. No parameter raises ValueError.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    fused = all(parameter.device.type in FUSED_DEVICES for parameter in trained.values())
    optimizer = OPTIMIZERS[config.optimizer](
        _groups(trained, config),
        lr=config.learning_rate,
        fused=fused,
        foreach=not fused,
    )
    set_rate(optimizer, learning_rate(config, 0))
    return optimizer


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Gives each group of parameters its share of a learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group[SHARE]


def _groups(parameters: Mapping[str, nn.Parameter], config: OptimConfig) -> list[dict[str, Any]]:
    """The parameters by share of the rate and by decay, in their order."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        share = config.backbone_rate if name.startswith(BACKBONE) else 1.0
        decays = config.decay_norm_and_bias or parameter.ndim > 1
        groups.setdefault((share, config.weight_decay if decays else 0.0), []).append(parameter)
    return [{"params": members, SHARE: share, "weight_decay": decay} for (share, decay), members in groups.items()]
