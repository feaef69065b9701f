"""The evaluation that a training leaves: of its best network, the same after a resume; no training is lost for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from trainer import EpochResult, StoppedError, TrialConfig, fit
from trainer.data.dataset import Tracklet
from trainer.evaluation.analysis import probe_queries

FILES = {
    *("evaluation.json", "per_query.npz", "cmc.png", "distances.png", "cameras.png", "roc.png"),
    *("ranking.png", "attention.png"),
}


class Interruption(Exception):
    """Stands for whatever ends a process."""


@pytest.fixture
def config(tiny_config: TrialConfig) -> TrialConfig:
    """Its best epoch is not its last one, whose evaluation alone is re-ranked."""
    return with_evaluation(tiny_config, folder=True)


def with_evaluation(config: TrialConfig, **settings: object) -> TrialConfig:
    return config.model_copy(update={"evaluation": config.evaluation.model_copy(update=settings)})


def left_in(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "evaluation").iterdir()}


def interrupt_after(epoch: int) -> Callable[[EpochResult], None]:
    def report(result: EpochResult) -> None:
        if result.epoch == epoch:
            raise Interruption

    return report


def test_a_training_leaves_the_evaluation_of_the_network_that_it_keeps(config: TrialConfig, tmp_path: Path) -> None:
    found = fit(config, out=tmp_path)
    assert set(left_in(tmp_path)) == FILES
    written = json.loads((tmp_path / "evaluation/evaluation.json").read_text())
    assert found.best.validation is not None
    assert written["mAP"] == found.best.validation.mAP
    assert written["reranked"] is not None
    assert (written["part"], written["synthetic"], written["seconds"]) == ("validation", True, {})


@pytest.mark.parametrize("epoch", [1, 2, 3, 4])
def test_a_resumed_training_leaves_the_same_files(config: TrialConfig, tmp_path: Path, epoch: int) -> None:
    fit(config, out=tmp_path / "whole")
    with pytest.raises(Interruption):
        fit(config, interrupt_after(epoch), out=tmp_path / "cut")
    fit(config, resume_from=tmp_path / "cut/checkpoint/last.pt", out=tmp_path / "cut")
    assert left_in(tmp_path / "cut") == left_in(tmp_path / "whole")


def test_whoever_hears_of_the_last_epoch_finds_the_evaluation(config: TrialConfig, tmp_path: Path) -> None:
    there: list[bool] = []
    fit(config, lambda _: there.append((tmp_path / "evaluation/ranking.png").exists()), out=tmp_path)
    assert there == [False, False, False, True]


def test_an_evaluation_that_cannot_be_written_costs_no_trained_network(
    config: TrialConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "evaluation").touch()
    heard: list[int] = []
    found = fit(config, lambda result: heard.append(result.epoch), out=tmp_path)
    assert heard == [1, 2, 3, 4]
    assert len(found.history) == 4
    assert "not written" in caplog.text


def test_a_training_that_is_stopped_while_it_evaluates_its_best_network_leaves_it_when_resumed(
    config: TrialConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(config, out=tmp_path / "whole")
    with pytest.raises(Interruption):
        fit(config, interrupt_after(4), out=tmp_path / "cut")
    last = tmp_path / "cut/checkpoint/last.pt"
    (tmp_path / "cut/evaluation/evaluation.json").unlink()
    with pytest.raises(StoppedError):
        fit(config, resume_from=last, out=tmp_path / "cut", stop=lambda: True)
    assert not (tmp_path / "cut/evaluation/evaluation.json").exists()
    fit(config, resume_from=last, out=tmp_path / "cut")
    assert left_in(tmp_path / "cut") == left_in(tmp_path / "whole")


def test_no_evaluation_is_left_where_none_is_wanted(tiny_config: TrialConfig, tmp_path: Path) -> None:
    fit(with_evaluation(tiny_config, folder=False), out=tmp_path)
    assert not (tmp_path / "evaluation").exists()


def test_a_checkpoint_is_resumed_whether_or_not_an_evaluation_is_left(config: TrialConfig, tmp_path: Path) -> None:
    with pytest.raises(Interruption):
        fit(with_evaluation(config, folder=False), interrupt_after(2), out=tmp_path)
    fit(config, resume_from=tmp_path / "checkpoint/last.pt", out=tmp_path)
    assert set(left_in(tmp_path)) == FILES


# --- the queries that are shown


def a_query(place: int, folder: str = "a") -> Tracklet:
    return Tracklet((f"{folder}/{place:04d}C1T0001F001.jpg",), place, 1)


def test_probes_are_the_same_queries_wherever_they_stand_and_the_data_lies() -> None:
    there = [a_query(place) for place in range(30)]
    moved = [a_query(place, "elsewhere") for place in reversed(range(30))]
    chosen = [
        [query[place].identity for place in probe_queries(query, np.ones(30, bool), 6)] for query in (there, moved)
    ]
    assert chosen[0] == chosen[1]
    assert len(set(chosen[0])) == 6


def test_probes_are_spread_over_the_queries_and_have_a_match() -> None:
    query, valid = [a_query(place) for place in range(1000)], np.arange(1000) % 2 == 0
    chosen = probe_queries(query, valid, 100)
    assert valid[chosen].all()
    assert 350 < np.mean(chosen) < 650
    assert len(probe_queries(query[:3], valid[:3], 6)) == 2
