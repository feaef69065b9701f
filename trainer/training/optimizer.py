"""Optimizers of the network, and what they decay."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from trainer.config import OptimConfig
from trainer.training.schedule import learning_rate

FUSED_DEVICES = ("cpu", "cuda")  # torch's fused Adam; the step on a CPU is 10 x faster than for-each
OPTIMIZERS: dict[str, type[torch.optim.Adam]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def make_optimizer(parameters: Iterable[nn.Parameter], config: OptimConfig) -> torch.optim.Optimizer:
    """Adam or AdamW over the parameters that require a gradient, at the learning rate of epoch 0.

    The decay covers every parameter, biases and batch norm included, as in the paper's code; without
    `decay_norm_and_bias` it leaves out those of fewer than two dimensions. The fused kernel is used where all
    parameters lie on a device that has one. No parameter raises ValueError.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    fused = all(parameter.device.type in FUSED_DEVICES for parameter in trained)
    return OPTIMIZERS[config.optimizer](
        _groups(trained, config),
        lr=learning_rate(config, 0),
        weight_decay=config.weight_decay,
        fused=fused,
        foreach=not fused,
    )


def _groups(parameters: list[nn.Parameter], config: OptimConfig) -> list[Any]:
    if config.decay_norm_and_bias:
        return parameters
    matrices = [parameter for parameter in parameters if parameter.ndim > 1]
    vectors = [parameter for parameter in parameters if parameter.ndim <= 1]
    return [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
