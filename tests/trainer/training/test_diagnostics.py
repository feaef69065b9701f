"""What a training says of itself: evaluations that eat the time."""

from __future__ import annotations

import logging

import pytest

from trainer.config import TrialConfig
from trainer.result import EpochResult
from trainer.training.diagnostics import evaluation_share, log_diagnostics


def epoch(number: int, seconds: float, evaluation: float = 0.0) -> EpochResult:
    return EpochResult(
        epoch=number,
        losses={},
        learning_rate=1e-3,
        validation=None,
        images_per_second=1.0,
        data_wait_share=0.0,
        seconds=seconds + evaluation,
        evaluation_seconds=evaluation,
        time=0.0,
    )


def said(history: list[EpochResult], caplog: pytest.LogCaptureFixture, **optim: int) -> list[str]:
    config = TrialConfig.model_validate({"optim": {"epochs": 40, **optim}})
    with caplog.at_level(logging.INFO, "trainer"):
        log_diagnostics(history, config)
    return [record.getMessage() for record in caplog.records]


def test_the_share_of_evaluations_is_of_a_whole_round_of_epochs() -> None:
    history = [epoch(1, 2.0), epoch(2, 2.0, evaluation=5.0)]
    assert evaluation_share(history, every=10) == pytest.approx(5 / 25)
    assert evaluation_share(history, every=2) == pytest.approx(5 / 9)


def test_evaluations_that_take_more_than_a_fifth_of_the_time_are_warned_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    history = [epoch(number, 1.0, evaluation=10.0 if number % 10 == 0 else 0.0) for number in range(1, 21)]
    (line,) = said(history[:10], caplog)
    assert line.startswith("evaluations take 50 % of the time; raise evaluation.every")
    caplog.clear()
    assert said(history[:11], caplog) == said(history, caplog) == []


def test_a_training_says_at_its_end_what_share_evaluations_took(caplog: pytest.LogCaptureFixture) -> None:
    history = [epoch(number, 1.0, evaluation=1.0 if number % 10 == 0 else 0.0) for number in range(1, 21)]
    assert said(history[:10], caplog, epochs=20) == []
    assert said(history, caplog, epochs=20) == ["evaluations took 9 % of the time"]
