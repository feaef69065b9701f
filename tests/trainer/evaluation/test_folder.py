"""The evaluation that a training leaves: of its best network, the same after a resume; no training is lost for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from trainings import Interruption, changed, interrupt_after

from trainer import StoppedError, TrialConfig, fit
from trainer.data.dataset import Tracklet
from trainer.evaluation.analysis import probe_queries
from trainer.training.fit import FitResult

FILES = {
    *("evaluation.json", "per_query.npz", "cmc.png", "distances.png", "cameras.png", "roc.png"),
    *("ranking.png", "attention.png"),
}


@pytest.fixture(scope="module")
def config(tiny_config: TrialConfig) -> TrialConfig:
    """Its best epoch is not its last one, whose evaluation alone is re-ranked."""
    return changed(tiny_config, evaluation__folder=True)


def left_in(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "evaluation").iterdir()}


class Whole(NamedTuple):
    """A training that nothing interrupted."""

    training: FitResult
    out: Path
    there: list[bool]
    """Whether the evaluation was there when an epoch was told."""


@pytest.fixture(scope="module")
def whole(config: TrialConfig, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    out, there = tmp_path_factory.mktemp("whole"), list[bool]()
    training = fit(config, lambda _: there.append((out / "evaluation/ranking.png").exists()), out=out)
    return Whole(training, out, there)


def test_a_training_leaves_the_evaluation_of_the_network_that_it_keeps(whole: Whole) -> None:
    found = whole.training
    assert set(left_in(whole.out)) == FILES
    written = json.loads((whole.out / "evaluation/evaluation.json").read_text())
    assert found.best.validation is not None
    assert written["mAP"] == found.best.validation.mAP
    assert written["reranked"] is not None
    assert (written["part"], written["synthetic"], written["seconds"]) == ("validation", True, {})


@pytest.mark.parametrize("epoch", [1, 2, 3, 4])
def test_a_resumed_training_leaves_the_same_files(
    whole: Whole, config: TrialConfig, tmp_path: Path, epoch: int
) -> None:
    with pytest.raises(Interruption):
        fit(config, interrupt_after(epoch), out=tmp_path)
    fit(config, resume_from=tmp_path / "checkpoint/last.pt", out=tmp_path)
    assert left_in(tmp_path) == left_in(whole.out)


def test_whoever_hears_of_the_last_epoch_finds_the_evaluation(whole: Whole) -> None:
    assert whole.there == [False, False, False, True]


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
    whole: Whole, config: TrialConfig, tmp_path: Path
) -> None:
    shutil.copytree(whole.out, tmp_path, dirs_exist_ok=True)
    last, written = tmp_path / "checkpoint/last.pt", tmp_path / "evaluation/evaluation.json"
    written.unlink()
    with pytest.raises(StoppedError):
        fit(config, resume_from=last, out=tmp_path, stop=lambda: True)
    assert not written.exists()
    fit(config, resume_from=last, out=tmp_path)
    assert left_in(tmp_path) == left_in(whole.out)


def test_no_evaluation_is_left_where_none_is_wanted(tiny_config: TrialConfig, tmp_path: Path) -> None:
    fit(changed(tiny_config, evaluation__folder=False), out=tmp_path)
    assert not (tmp_path / "evaluation").exists()


def test_a_checkpoint_is_resumed_whether_or_not_an_evaluation_is_left(config: TrialConfig, tmp_path: Path) -> None:
    with pytest.raises(Interruption):
        fit(changed(config, evaluation__folder=False), interrupt_after(2), out=tmp_path)
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
