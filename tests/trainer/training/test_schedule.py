"""The learning rate, epoch by epoch."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from strategies import quick

from trainer.config import OptimConfig
from trainer.training.schedule import cosine_factor, learning_rate, milestone_factor


def factor(epoch: int) -> float:
    """The paper's schedule, with a gamma of one half."""
    return milestone_factor(epoch, warmup_epochs=10, warmup_factor=0.01, milestones=(40, 70), gamma=0.5)


def test_schedule_has_the_numbers_of_the_papers_code() -> None:
    case = reference.cases("warmup_lr.npz")
    gamma, base = float(case["gamma"]), float(case["base"])
    ours = [
        base * milestone_factor(epoch, warmup_epochs=10, warmup_factor=0.01, milestones=(40, 70), gamma=gamma)
        for epoch in range(121)
    ]
    assert ours == pytest.approx(case["lr"].tolist(), rel=1e-12)


def test_shares_of_120_epochs_are_the_papers_schedule() -> None:
    config = OptimConfig(epochs=120, gamma=0.5, learning_rate=2.0)
    rates = [learning_rate(config, epoch) for epoch in range(120)]
    assert rates == pytest.approx([2 * factor(epoch) for epoch in range(120)])


@quick
@given(st.integers(1, 400), st.floats(0, 1), st.sampled_from(["milestones", "cosine"]))
def test_rate_is_never_above_the_base_nor_zero(
    epochs: int, place: float, schedule: Literal["milestones", "cosine"]
) -> None:
    config = OptimConfig(epochs=epochs, schedule=schedule)
    assert 0 < learning_rate(config, min(int(place * epochs), epochs - 1)) <= config.learning_rate


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_first_epoch_comes_before_every_milestone_however_few_they_are(epochs: int) -> None:
    config = OptimConfig(epochs=epochs, warmup=0)
    assert learning_rate(config, 0) == config.learning_rate


@pytest.mark.parametrize("milestones", [(0.5, 0.3), (0.5, 0.5)])
def test_milestones_that_do_not_ascend_are_refused(milestones: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError, match="must ascend"):
        OptimConfig(milestones=milestones)


def cosine(epoch: int, *, floor: float = 0.0) -> float:
    """100 epochs, 10 of them warm-up."""
    return cosine_factor(epoch, epochs=100, warmup_epochs=10, warmup_factor=0.01, floor=floor)


def test_cosine_warms_up_like_the_milestones() -> None:
    assert [cosine(epoch) for epoch in range(11)] == pytest.approx([factor(epoch) for epoch in range(11)])


def test_cosine_is_torchs_cosine_after_the_warmup() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=90, eta_min=0.2)
    for epoch in range(10, 100):
        assert cosine(epoch, floor=0.2) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()


@quick
@given(st.integers(1, 50), st.integers(0, 60))
def test_cosine_falls_from_the_end_of_the_warmup_on(epochs: int, warmup: int) -> None:
    rates = [
        cosine_factor(epoch, epochs=epochs, warmup_epochs=warmup, warmup_factor=0.01, floor=0.0)
        for epoch in range(epochs)
    ]
    fallen = rates[warmup:]
    assert all(math.isfinite(rate) for rate in rates)
    assert fallen == sorted(fallen, reverse=True)


def test_schedule_of_a_configuration_is_the_one_it_names() -> None:
    config = OptimConfig(epochs=100, warmup=0.1, schedule="cosine", cosine_floor=0.2, learning_rate=2.0)
    assert learning_rate(config, 55) == pytest.approx(2 * cosine(55, floor=0.2))


def test_warm_up_per_step_rises_between_the_rates_of_the_epochs_and_ends_with_the_warm_up() -> None:
    epochs, steps = OptimConfig(), OptimConfig(warmup_per="step")
    for epoch in range(12):
        assert learning_rate(steps, epoch) == learning_rate(epochs, epoch)
        assert learning_rate(epochs, epoch, 0.5) == learning_rate(epochs, epoch)
    between = (learning_rate(epochs, 3) + learning_rate(epochs, 4)) / 2
    assert learning_rate(steps, 3, 0.5) == pytest.approx(between)
    assert learning_rate(steps, 10, 0.5) == steps.learning_rate
