"""Training on all identities, and what the test set says of the network."""

from __future__ import annotations

from pathlib import Path

import pytest
from trainings import changed

import trainer.evaluation.test_set
from trainer import ConfigError, DataError, TrialConfig, check_test_set, evaluate, evaluate_on_test_set, fit
from trainer.checkpoint import load_checkpoint
from trainer.data import read_splits

BEST = Path("checkpoint/best.pt")


@pytest.fixture
def on_all(tiny_config: TrialConfig) -> TrialConfig:
    return changed(tiny_config, data__validation__share=0.0)


def test_without_a_validation_split_all_identities_are_trained_on_and_the_last_network_is_kept(
    on_all: TrialConfig, tmp_path: Path
) -> None:
    result = fit(on_all, out=tmp_path)
    assert all(epoch.validation is None for epoch in result.history)
    assert result.best is result.history[-1]
    kept = load_checkpoint(tmp_path / BEST)
    assert kept["epoch"] == on_all.optim.epochs
    identities = {tracklet.identity for tracklet in read_splits(on_all.data).train}
    assert any(weight.shape[:1] == (len(identities),) for weight in kept["model"].values() if weight.ndim == 2)


def test_the_figures_are_those_of_an_evaluation_on_the_test_part(on_all: TrialConfig, tmp_path: Path) -> None:
    fit(on_all, out=tmp_path)
    found = evaluate_on_test_set(on_all, tmp_path / BEST, tmp_path / "test")
    assert found == evaluate(on_all, tmp_path / BEST, part="test").evaluation
    assert found.reranked is not None
    assert (tmp_path / "test/per_query.npz").is_file()


def test_figures_that_are_there_are_read_and_the_test_set_is_not_asked_again(
    on_all: TrialConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(on_all, out=tmp_path)
    first = evaluate_on_test_set(on_all, tmp_path / BEST, tmp_path / "test")
    monkeypatch.setattr(trainer.evaluation.test_set, "evaluate", None)
    assert evaluate_on_test_set(on_all, tmp_path / BEST, tmp_path / "test") == first


def test_damaged_figures_are_named_and_not_taken_for_none(on_all: TrialConfig, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"mAP": 0.5}')
    with pytest.raises(DataError, match=r"result\.json: damaged"):
        evaluate_on_test_set(on_all, tmp_path / BEST, tmp_path)


def test_a_protocol_that_does_not_fit_the_test_set_shows_before_the_training(on_all: TrialConfig) -> None:
    check_test_set(on_all)
    with pytest.raises(ConfigError, match="prid"):
        check_test_set(changed(on_all, evaluation__protocol="prid"))
