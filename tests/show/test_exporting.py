"""A trial's network with its model card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from evaluations import save_network
from events import epoch_result, evaluation
from searches import a_pausing_search, a_search, completed, write_search

from orchestrator.__main__ import run
from orchestrator.base.errors import SearchError
from orchestrator.show.card import _same_or_not
from orchestrator.show.export import Export, export_trial
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import SearchFolder
from orchestrator.study.events import (
    FinalizationStarted,
    SessionEnded,
    TrialCompleted,
    TrialReported,
    TrialStarted,
    TrialSuggested,
    TrialTested,
)
from orchestrator.summary import read_summary
from trainer.export import ExportFormat
from trainer.result import PairMetrics


@pytest.fixture
def folder(tmp_path: Path) -> SearchFolder:
    found = a_search(tmp_path / "runs" / "first", fingerprint="fingerprint-of-the-lists")
    for key in ("t0000", "t0001"):
        save_network(found, key)
    return found


def export_of(folder: SearchFolder, key: str, formats: Sequence[ExportFormat], out: Path) -> Export:
    summary = read_summary(folder)
    return export_trial(summary, summary.trial(key), formats, out)


def card(folder: SearchFolder, key: str, out: Path) -> str:
    return export_of(folder, key, ["checkpoint"], out).card.read_text()


def test_the_card_gives_the_figures_with_uncertainty_protocol_and_dropped_queries(
    folder: SearchFolder, tmp_path: Path
) -> None:
    text = card(folder, "best", tmp_path / "out")
    assert "# first/t0001" in text
    assert (
        "| validation split | 60.0 ± 3.0 | 30.0 | 60.0 | 60.0 | 60.0 | 60.0 | mars | even, 2 clips | 10 | 0 |" in text
    )
    assert "one of 2 completed ones that were compared on it" in text
    assert "No other seed was tried" in text
    assert "The test set was not opened for these weights, nor by this search." in text


def test_the_card_says_what_the_data_are_and_marks_synthetic_ones(folder: SearchFolder, tmp_path: Path) -> None:
    text = card(folder, "t0000", tmp_path / "out")
    assert "> **SYNTHETIC**" in text
    assert "Per cent (SYNTHETIC)" in text
    assert "fingerprint-of-the-lists" in text
    description = folder.description.read_text().replace("synthetic: true", "synthetic: false")
    folder.description.write_text(description)
    real = card(folder, "t0000", tmp_path / "real")
    assert "SYNTHETIC" not in real
    assert "MARS (Zheng et al. 2016) shows real people" in real
    assert "research only" in real


def test_the_card_says_what_the_network_is_for_what_not_and_that_it_is_personal_data(
    folder: SearchFolder, tmp_path: Path
) -> None:
    text = card(folder, "t0000", tmp_path / "out")
    for title in ("## Intended use", "## Out of scope", "## Privacy", "## Input and output"):
        assert title in text
    assert "personal data" in text
    assert "[B, 2, 3, 32, 16]" in text
    assert "seed 0" in text
    assert str(tmp_path) not in text


def test_the_card_of_a_confirmed_configuration_gives_mean_and_spread_over_fresh_seeds(tmp_path: Path) -> None:
    space = SearchSpace.load("smoke.yaml", overrides=["budget.trials=1", "replicates=3"])
    events = completed(0, 0.6)
    for number, mean_ap in enumerate((0.4, 0.5, 0.6), 1):
        key = f"t0000-r{number}"
        again = {**events[0].model_dump(), "trial": key, "seed": number, "source": "repeat", "repeats": "t0000"}
        events += [TrialSuggested.model_validate(again), TrialStarted(trial=key, attempt=1)]
        events += [TrialReported(trial=key, result=epoch_result(3, mean_ap)), TrialCompleted(trial=key)]
    folder = write_search(tmp_path / "s", space, [*events, SessionEnded(state="finished", reason="")])
    save_network(folder, "t0000-r1")
    text = card(folder, "t0000-r1", tmp_path / "out")
    assert "over 3 fresh seeds, by which it was not chosen: mAP 50.0 ± 10.0, 95 % interval 25.2 to 74.8" in text
    assert "the configuration of t0000 again" in text


def test_the_card_of_a_network_for_the_test_set_gives_its_figures_and_how_often_it_was_opened(tmp_path: Path) -> None:
    space = SearchSpace.load("smoke.yaml", overrides=["budget.trials=1"])
    events = completed(0, 0.6)
    opened = FinalizationStarted(finalization=1, leaders=["t0000"], seeds=1, epochs=None, by="me@h")
    final = {**events[0].model_dump(), "trial": "t0000-f1", "source": "finalize", "repeats": "t0000", "finalization": 1}
    last = epoch_result(3)
    told = TrialTested(trial="t0000-f1", evaluation=evaluation(0.3))
    events += [opened, TrialSuggested.model_validate(final), TrialStarted(trial="t0000-f1", attempt=1)]
    events += [TrialReported(trial="t0000-f1", result=last), told, TrialCompleted(trial="t0000-f1")]
    folder = write_search(tmp_path / "s", space, [*events, SessionEnded(state="finished", reason="")])
    save_network(folder, "t0000-f1")
    save_network(folder, "t0000")
    text = card(folder, "t0000-f1", tmp_path / "final")
    assert "| test set | 30.0 ± 3.0 |" in text
    assert "| validation split" not in text
    assert "The search has opened the test set once." in text
    assert "not opened for these weights (the search opened it once for others)" in card(
        folder, "t0000", tmp_path / "o"
    )


def test_weights_of_an_epoch_that_was_not_evaluated_get_no_figures(folder: SearchFolder, tmp_path: Path) -> None:
    save_network(folder, "t0000", epoch=2)
    assert "nothing: these weights were not evaluated" in card(folder, "t0000", tmp_path / "out")


def test_a_folder_that_holds_something_and_a_trial_without_a_network_are_refused(
    folder: SearchFolder, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").touch()
    with pytest.raises(SearchError, match="full: is not empty"):
        export_of(folder, "best", ["checkpoint"], tmp_path / "full")
    (folder.trial("t0000") / "checkpoint/best.pt").unlink()
    with pytest.raises(SearchError, match=r"t0000 \(completed\) has saved no network"):
        export_of(folder, "t0000", ["checkpoint"], tmp_path / "out")


def test_a_paused_trial_is_exported_with_a_card_that_says_so(tmp_path: Path) -> None:
    folder = a_pausing_search(tmp_path / "runs" / "first")
    save_network(folder, "t0000", epoch=5)
    text = card(folder, "t0000", tmp_path / "out")
    assert "trial `t0000` of search `first` (paused)" in text
    assert "weights after epoch 5 of " in text
    assert "one of 1 completed and 2 paused or stopped ones that were compared on it" in text


def test_only_the_owner_can_read_what_was_exported(folder: SearchFolder, tmp_path: Path) -> None:
    card(folder, "best", tmp_path / "out")
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o700


def test_export_without_a_trial_takes_the_best_and_names_the_files(
    folder: SearchFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, storage = tmp_path / "out", str(folder.path.parent)
    assert (
        run(["export", "first", "--to", "checkpoint", "--to", "safetensors", "--out", str(out), "--storage", storage])
        == 0
    )
    assert capsys.readouterr().out.split() == [
        str(out / name) for name in ("model.pt", "model.safetensors", "README.md")
    ]
    text = (out / "README.md").read_text()
    assert "`model.pt`" in text
    assert "`model.safetensors`" in text


def test_a_format_whose_packages_are_missing_is_one_line_and_exit_5(
    folder: SearchFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.export.NEEDED_PACKAGES", {"onnx": ("onnx", "not_a_package_of_anybody")})
    out, storage = tmp_path / "out", str(folder.path.parent)
    assert run(["export", "first/best", "--to", "onnx", "--out", str(out), "--storage", storage]) == 5
    _, line = capsys.readouterr().err.splitlines()
    assert line == "--to onnx needs not_a_package_of_anybody: pip install 'reidsearch[export]', or use --to checkpoint"
    assert not out.exists()


def test_a_damaged_checkpoint_is_one_line_and_exit_3(
    folder: SearchFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = folder.trial("t0001") / "checkpoint/best.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    storage = str(folder.path.parent)
    assert run(["export", "first/t0001", "--out", str(tmp_path / "out"), "--storage", storage]) == 3
    _, line = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{checkpoint}: its SHA-256 is not the one noted")


def test_the_threshold_of_the_validation_split_is_exported_and_stands_in_the_card(
    folder: SearchFolder, tmp_path: Path
) -> None:
    trial = read_summary(folder).trial("t0000")
    save_network(folder, trial.key, epoch=trial.results[-1].epoch)
    validation = trial.results[-1].validation
    assert validation is not None
    threshold = {"distance": 0.25, "false_positive_rate": 0.01}
    rates = {"EER": 0.1, "TPR": {"TPR@FPR=1e-4": None}, "matching_pairs": 5, "other_pairs": 200, "threshold": threshold}
    place = folder.trial(trial.key) / "evaluation/evaluation.json"
    place.parent.mkdir(exist_ok=True)
    place.write_text(json.dumps({"mAP": validation.mAP, "verification": rates}))
    text = card(folder, trial.key, tmp_path / "out")
    assert json.loads((tmp_path / "out/threshold.json").read_text()) == threshold
    assert "EER 10.0  TPR@FPR=1e-4 not measurable" in text
    assert "distance 0.25, chosen on the validation split" in text
    place.write_text(json.dumps({"mAP": validation.mAP / 2, "verification": rates}))
    assert "no threshold was chosen" in card(folder, trial.key, tmp_path / "other weights")
    assert not (tmp_path / "other weights/threshold.json").exists()


def test_the_card_says_how_the_data_sets_own_pairs_were_told_apart_on_the_test_set() -> None:
    pairs = PairMetrics(accuracy=0.9, threshold=0.5, EER=0.1, AUC=0.95, matching_pairs=250, other_pairs=250)
    judged = evaluation(0.8).model_copy(update={"pairs": pairs})
    assert any("own list of pairs: accuracy 90.0  EER 10.0  AUC 95.0" in line for line in _same_or_not(None, judged))
    assert not any("pairs" in line for line in _same_or_not(None, evaluation(0.8)))
