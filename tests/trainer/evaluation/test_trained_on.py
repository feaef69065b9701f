"""A network trained on one data set, judged on another: told apart by fingerprint, marked, never on what it saw."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from evaluations import BETTER, WORSE, checkpoint, queries
from evaluations import evaluation as written_evaluation
from miniatures import write_miniature
from trainings import changed

from trainer import ConfigError, DataError, TrialConfig, evaluate, fit
from trainer.__main__ import run
from trainer.checkpoint import load_checkpoint, save_checkpoint
from trainer.data import Tracklet, ValidationConfig, read_splits
from trainer.data.dataset import NamedNumber, dataset_fingerprint, fingerprint
from trainer.data.splits import cut_validation, write_validation
from trainer.evaluation.test_set import evaluate_partitions
from trainer.evaluation.test_set_record import RECORD_FILE, RecordedUse
from trainer.evaluation.trained_on import config_on
from trainer.export import export_network
from trainer.result import DataRecord, Evaluation

BEST = Path("checkpoint/best.pt")
OTHER = {"trained_on": "mini-mars", "tested_on": "tracklets"}


@pytest.fixture
def config(tiny_config: TrialConfig) -> TrialConfig:
    return changed(tiny_config, evaluation__reranking=False)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    write_miniature("tracklets", tmp_path / "own")
    return tmp_path / "own"


@pytest.fixture
def prid(tmp_path: Path) -> Path:
    write_miniature("prid2011", tmp_path / "prid")
    return tmp_path / "prid"


def trained(config: TrialConfig, path: Path) -> Path:
    """A checkpoint as a training writes it."""
    checkpoint(path, config, classes=3)
    name = "mini-mars" if "mini" in config.data.root.name else config.data.name
    record = DataRecord(name=name, fingerprint=dataset_fingerprint(read_splits(config.data)))
    save_checkpoint(path, {**load_checkpoint(path), "data": record.model_dump()})
    return path


def written(config: TrialConfig, folder: Path) -> Path:
    (folder / "trial.json").write_text(config.model_dump_json())
    return folder / "trial.json"


def marks(evaluation: Evaluation) -> tuple[str | None, str | None]:
    return evaluation.trained_on, evaluation.tested_on


# --- what a checkpoint says


def test_a_training_and_an_export_note_which_data_set_was_trained_on(config: TrialConfig, tmp_path: Path) -> None:
    fit(changed(config, optim__epochs=1), out=tmp_path)
    noted = load_checkpoint(tmp_path / BEST)["data"]
    assert noted == {"name": "mini-mars", "fingerprint": dataset_fingerprint(read_splits(config.data))}
    exported = export_network(tmp_path / BEST, tmp_path / "out", "checkpoint").file
    assert load_checkpoint(exported)["data"] == noted


def test_an_evaluation_on_the_data_set_of_the_training_is_not_marked_wherever_it_lies(
    config: TrialConfig, tmp_path: Path
) -> None:
    weights = trained(config, tmp_path / "w.pt")
    shutil.copytree(config.data.root, tmp_path / "moved")
    found = evaluate(changed(config, data__root=str(tmp_path / "moved")), weights, part="validation").evaluation
    assert marks(found) == (None, None)
    assert not {"trained_on", "tested_on"} & json.loads(found.model_dump_json()).keys()


def test_a_checkpoint_of_an_earlier_version_is_of_unknown_data_unless_its_settings_name_the_same_folder(
    config: TrialConfig, tmp_path: Path, own: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = checkpoint(tmp_path / "old.pt", config, classes=3)
    assert marks(evaluate(config, old, part="validation").evaluation) == (None, None)
    assert "earlier version" not in caplog.text
    shutil.copytree(config.data.root, tmp_path / "moved")
    moved = changed(config, data__root=str(tmp_path / "moved"))
    assert marks(evaluate(moved, old, part="validation").evaluation) == ("unknown data", "mini-mars")
    assert "an earlier version wrote it, without a fingerprint" in caplog.text
    on_own = config_on(written(config, tmp_path), [], own, old)
    assert marks(evaluate(on_own, old, part="test").evaluation) == ("mars", "tracklets")


# --- which identities may be judged


def test_the_files_of_the_training_in_another_folder_are_recognised_and_identities_trained_on_refused(
    config: TrialConfig, tmp_path: Path
) -> None:
    on_all = changed(config, data__validation__share=0.0)
    weights = trained(on_all, tmp_path / "w.pt")
    shutil.copytree(config.data.root, tmp_path / "moved")
    moved = changed(config, data__root=str(tmp_path / "moved"))
    with pytest.raises(ConfigError, match=r"was trained on .* with another data\.validation"):
        evaluate(moved, weights, part="validation")


def test_a_split_of_another_training_lets_nobody_be_judged_who_was_trained_on(
    config: TrialConfig, tmp_path: Path
) -> None:
    fit(changed(config, optim__epochs=1), out=tmp_path / "run")
    weights, split = tmp_path / "run" / BEST, tmp_path / "run/split.json"
    assert load_checkpoint(weights)["held_out"]
    evaluate(config, weights, part="validation", split=split)
    train = read_splits(config.data).train
    other = cut_validation(train, ValidationConfig(share=0.5, seed=1))
    write_validation(tmp_path / "other.json", other, train)
    with pytest.raises(ConfigError, match=r"was trained on .* of the .* identities to be judged"):
        evaluate(config, weights, part="validation", split=tmp_path / "other.json")
    on_all = tmp_path / "all.pt"
    save_checkpoint(on_all, {**load_checkpoint(weights), "held_out": []})
    with pytest.raises(ConfigError, match="only the test part is left"):
        evaluate(config, on_all, part="validation", split=split)


def test_a_checkpoint_of_a_training_is_not_judged_as_starting_weights(config: TrialConfig, tmp_path: Path) -> None:
    weights = trained(config, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match="is a checkpoint of a training; give it as --checkpoint"):
        evaluate(changed(config, model__weights=str(weights)), None, part="validation")


def test_data_sets_of_equal_counts_and_other_people_have_other_fingerprints() -> None:
    def of(name: str) -> str:
        return fingerprint([Tracklet(("a/0.jpg", "a/1.jpg"), NamedNumber(1, name), NamedNumber(1, "door"))])

    assert of("anna") != of("ugo")


def test_another_data_set_of_the_same_layout_may_be_cut_and_partitioned_otherwise(
    config: TrialConfig, tmp_path: Path, prid: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = {"name": "prid2011", "root": str(prid), "fold": 0, "validation": {"folds": 2}}
    first = TrialConfig.model_validate({**config.model_dump(), "data": data, "evaluation": {"reranking": False}})
    weights = trained(first, tmp_path / "w.pt")
    shutil.copytree(prid, tmp_path / "other")
    last = next(iter(sorted((tmp_path / "other/multi_shot/cam_a").iterdir())))
    shutil.copy(last / "0003.png", last / "0004.png")
    other = changed(first, data__root=str(tmp_path / "other"), data__fold=1)
    found = evaluate(other, weights, part="validation").evaluation
    assert found.trained_on is not None
    assert found.tested_on is not None
    assert found.trained_on.startswith("prid2011 ")
    assert found.tested_on.startswith("prid2011 ")
    assert found.trained_on != found.tested_on
    assert "identities that both hold are not recognised" in caplog.text
    assert len(evaluate_partitions(changed(other, data__fold=0), str(weights)).evaluations) == 10
    for part in ("test", "validation"):
        with pytest.raises(ConfigError, match="was trained on partition 0 of prid2011"):
            evaluate(changed(first, data__fold=1), weights, part=part)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"\{fold\}"):
        evaluate_partitions(first, str(weights))


# --- evaluate --data


def test_the_data_set_in_a_folder_is_recognised_and_judged_by_its_own_protocol_and_splits(
    config: TrialConfig, tmp_path: Path, own: Path, prid: Path
) -> None:
    on_all = changed(config, data__validation__share=0.0)
    file, weights = written(on_all, tmp_path), trained(on_all, tmp_path / "w.pt")
    found = config_on(file, [], prid, weights)
    assert (found.data.name, found.data.root, found.evaluation.protocol) == ("prid2011", prid, "prid")
    assert found.data.validation.holds_out
    assert config_on(file, [], own, weights).data.name == "tracklets"
    given = config_on(file, ["data.fold=3", "evaluation.protocol=mars"], prid, weights)
    assert (given.data.fold, given.evaluation.protocol) == (3, "mars")
    unusual = written(changed(on_all, evaluation__protocol="mars_query_in_gallery"), tmp_path)
    assert config_on(unusual, [], own, weights).evaluation.protocol == "mars_query_in_gallery"
    with pytest.raises(DataError, match="looks like no data set"):
        config_on(file, [], tmp_path, weights)
    with pytest.raises(ConfigError, match="--data names the folder already"):
        config_on(file, ["data.root=/elsewhere"], prid, weights)


def test_the_data_set_of_the_training_that_has_moved_keeps_its_settings(config: TrialConfig, tmp_path: Path) -> None:
    shutil.copytree(config.data.root, tmp_path / "moved")
    found = config_on(written(config, tmp_path), [], tmp_path / "moved", trained(config, tmp_path / "w.pt"))
    assert found == changed(config, data__root=str(tmp_path / "moved"))


def test_every_output_says_what_was_trained_on_and_what_tested_on(
    config: TrialConfig, tmp_path: Path, own: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, weights = written(config, tmp_path), trained(config, tmp_path / "w.pt")
    words = ["evaluate", str(file), "--checkpoint", str(weights), "--data", str(own)]
    assert run([*words, "--part", "test", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out).items() >= OTHER.items()
    assert f"{own}: tracklets, its test part is judged" in printed.err
    assert json.loads((tmp_path / "out/evaluation.json").read_text()).items() >= OTHER.items()
    line = RecordedUse.model_validate_json((tmp_path / RECORD_FILE).read_text())
    assert line.data is not None
    assert line.data.name == "tracklets"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert run([*words, "--part", "test"]) == 0
    assert "trained on mini-mars, tested on tracklets" in capsys.readouterr().out


def test_a_comparison_says_which_network_was_trained_on_other_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = written_evaluation(tmp_path / "own", queries(WORSE))
    other = written_evaluation(tmp_path / "mars", queries(BETTER), **OTHER)
    assert run(["compare", str(same), str(other)]) == 0
    assert json.loads(capsys.readouterr().out)["other_data"] == [None, "trained on mini-mars, tested on tracklets"]
