"""The learning rate, epoch by epoch."""

from __future__ import annotations

from typing import Literal

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from strategies import quick

from trainer.config import OptimConfig
from trainer.training.schedule import learning_rate


def test_shares_of_120_epochs_have_the_numbers_of_the_papers_code() -> None:
    case = reference.cases("warmup_lr.npz")
    config = OptimConfig(epochs=120, gamma=float(case["gamma"]), learning_rate=float(case["base"]))
    assert [learning_rate(config, epoch) for epoch in range(121)] == pytest.approx(case["lr"].tolist(), rel=1e-12)


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


def test_cosine_warms_up_like_the_milestones_and_then_is_torchs() -> None:
    config = OptimConfig(epochs=100, warmup=0.1, schedule="cosine", cosine_floor=0.2, learning_rate=1.0)
    stepped = config.model_copy(update={"schedule": "milestones"})
    assert [learning_rate(config, epoch) for epoch in range(11)] == [learning_rate(stepped, each) for each in range(11)]
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=90, eta_min=0.2)
    for epoch in range(10, 100):
        assert learning_rate(config, epoch) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()


@quick
@given(st.integers(1, 50), st.floats(0, 1))
def test_cosine_falls_from_the_end_of_the_warmup_on(epochs: int, warmup: float) -> None:
    config = OptimConfig(epochs=epochs, warmup=warmup, schedule="cosine")
    fallen = [learning_rate(config, epoch) for epoch in range(round(warmup * epochs), epochs)]
    assert fallen == sorted(fallen, reverse=True)


def test_warm_up_per_step_rises_between_the_rates_of_the_epochs_and_ends_with_the_warm_up() -> None:
    epochs, steps = OptimConfig(), OptimConfig(warmup_per="step")
    for epoch in range(12):
        assert learning_rate(steps, epoch) == learning_rate(epochs, epoch)
        assert learning_rate(epochs, epoch, 0.5) == learning_rate(epochs, epoch)
    between = (learning_rate(epochs, 3) + learning_rate(epochs, 4)) / 2
    assert learning_rate(steps, 3, 0.5) == pytest.approx(between)
    assert learning_rate(steps, 10, 0.5) == steps.learning_rate
