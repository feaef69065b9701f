"""The learning rate, epoch by epoch, and the optimizer."""

from __future__ import annotations

import copy

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from strategies import quick
from torch import nn

from trainer.schedule import OptimConfig, learning_rate, learning_rate_factor, make_optimizer


def factor(epoch: int) -> float:
    """The paper's schedule, with a gamma of one half."""
    return learning_rate_factor(epoch, warmup_epochs=10, warmup_factor=0.01, milestones=(40, 70), gamma=0.5)


def test_schedule_has_the_numbers_of_the_papers_code() -> None:
    case = reference.cases("warmup_lr.npz")
    gamma, base = float(case["gamma"]), float(case["base"])
    ours = [
        base * learning_rate_factor(epoch, warmup_epochs=10, warmup_factor=0.01, milestones=(40, 70), gamma=gamma)
        for epoch in range(121)
    ]
    assert ours == pytest.approx(case["lr"].tolist(), rel=1e-12)


def test_shares_of_120_epochs_are_the_papers_schedule() -> None:
    config = OptimConfig(epochs=120, gamma=0.5, learning_rate=2.0)
    rates = [learning_rate(config, epoch) for epoch in range(120)]
    assert rates == pytest.approx([2 * factor(epoch) for epoch in range(120)])


def test_warmup_starts_at_its_factor_and_ends_at_one() -> None:
    assert factor(0) == pytest.approx(0.01)
    assert factor(5) == pytest.approx(0.505)
    assert factor(10) == 1


def test_milestone_takes_effect_in_its_own_epoch() -> None:
    assert [factor(epoch) for epoch in (39, 40, 69, 70)] == [1, 0.5, 0.5, 0.25]


def test_without_warmup_the_first_epoch_has_the_full_rate() -> None:
    assert learning_rate_factor(0, warmup_epochs=0, warmup_factor=0.01, milestones=(), gamma=0.1) == 1


@quick
@given(st.integers(1, 400), st.integers(0, 399))
def test_rate_is_never_above_the_base_nor_zero(epochs: int, epoch: int) -> None:
    config = OptimConfig(epochs=epochs)
    assert 0 < learning_rate(config, epoch) <= config.learning_rate


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_first_epoch_comes_before_every_milestone_however_few_they_are(epochs: int) -> None:
    config = OptimConfig(epochs=epochs, warmup=0)
    assert learning_rate(config, 0) == config.learning_rate


@pytest.mark.parametrize("milestones", [(0.5, 0.3), (0.5, 0.5)])
def test_milestones_that_do_not_ascend_are_refused(milestones: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError, match="must ascend"):
        OptimConfig(milestones=milestones)


def test_optimizer_leaves_out_frozen_parameters() -> None:
    neck = nn.BatchNorm1d(3)
    neck.bias.requires_grad_(False)
    (group,) = make_optimizer(neck.parameters(), OptimConfig()).param_groups
    assert [parameter is neck.weight for parameter in group["params"]] == [True]


def test_optimizer_starts_at_the_rate_of_the_first_epoch() -> None:
    config = OptimConfig()
    (group,) = make_optimizer(nn.Linear(2, 2).parameters(), config).param_groups
    assert group["lr"] == learning_rate(config, 0)
    assert group["weight_decay"] == config.weight_decay


def test_optimizer_is_torchs_plain_adam() -> None:
    config = OptimConfig(learning_rate=0.1, warmup=0, weight_decay=0.3)
    ours = nn.Linear(3, 2)
    theirs = copy.deepcopy(ours)
    optimizers = (
        make_optimizer(ours.parameters(), config),
        torch.optim.Adam(theirs.parameters(), lr=0.1, weight_decay=0.3, foreach=False, fused=False),
    )
    for _ in range(5):
        for layer, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            layer(torch.ones(1, 3)).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight)


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(ValueError, match="empty parameter list"):
        make_optimizer([], OptimConfig())
