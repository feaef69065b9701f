"""The optimizer: torch's own, over the right parameters."""

from __future__ import annotations

import copy
from typing import Literal

import pytest
import torch
from torch import nn

from trainer.config import OptimConfig
from trainer.training.optimizer import OPTIMIZERS, make_optimizer
from trainer.training.schedule import learning_rate


def test_optimizer_leaves_out_frozen_parameters() -> None:
    neck = nn.BatchNorm1d(3)
    neck.bias.requires_grad_(False)
    (group,) = make_optimizer(neck, OptimConfig()).param_groups
    assert [parameter is neck.weight for parameter in group["params"]] == [True]


def test_optimizer_starts_at_the_rate_of_the_first_epoch() -> None:
    config = OptimConfig()
    (group,) = make_optimizer(nn.Linear(2, 2), config).param_groups
    assert group["lr"] == learning_rate(config, 0)
    assert group["weight_decay"] == config.weight_decay


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_optimizer_is_torchs_plain_one_of_its_name(name: Literal["adam", "adamw"]) -> None:
    config = OptimConfig(optimizer=name, learning_rate=0.1, warmup=0, weight_decay=0.3)
    ours = nn.Linear(3, 2)
    theirs = copy.deepcopy(ours)
    optimizers = (
        make_optimizer(ours, config),
        OPTIMIZERS[name](theirs.parameters(), lr=0.1, weight_decay=0.3, foreach=False, fused=False),
    )
    for _ in range(5):
        for layer, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            layer(torch.ones(1, 3)).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight)


def test_norms_and_biases_can_be_spared_the_decay() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    config = OptimConfig(weight_decay=0.3, decay_norm_and_bias=False)
    decay = {
        id(parameter): group["weight_decay"]
        for group in make_optimizer(network, config).param_groups
        for parameter in group["params"]
    }
    found = {name: decay[id(parameter)] for name, parameter in network.named_parameters()}
    expected = {"0.weight": 0.3, "0.bias": 0, "1.weight": 0, "1.bias": 0, "3.weight": 0.3, "3.bias": 0}
    assert found == expected
