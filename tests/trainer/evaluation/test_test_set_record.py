"""Every way to the test set leaves a record or is refused, and everything else never looks at it."""

from __future__ import annotations

import ast
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from miniatures import write_miniature
from searches import a_search
from trainings import changed

import trainer
from orchestrator.__main__ import run
from orchestrator.base.errors import LeaseError, SearchError
from orchestrator.runner.finalize import record_test_set_use
from orchestrator.show.export import export_trial
from orchestrator.show.search_text import final_lines
from orchestrator.show.status import status_document
from orchestrator.show.tables import tables_of
from orchestrator.stores.base import SearchFolder
from orchestrator.study.lease import Lease
from orchestrator.summary import read_summary
from trainer import ConfigError, TrialConfig, evaluate, evaluate_on_test_set, fit
from trainer.__main__ import run as run_trainer
from trainer.checkpoint import load_checkpoint, save_checkpoint
from trainer.data import read_splits
from trainer.data.folder import data_record
from trainer.evaluation.evaluate import write_embeddings
from trainer.evaluation.folder import Network, draw_comparison
from trainer.evaluation.test_set import evaluate_partitions
from trainer.evaluation.test_set_record import RECORD_FILE, RecordedUse, place_in_search
from trainer.model.network import TemporalAttentionResNet
from trainer.result import DataRecord

Way = Callable[[TrialConfig, Path, Path], object]
"""Judges the weights in a file on the test set and may write into a folder; a command's result is its exit code."""
BEST = "checkpoint/best.pt"


def written(config: TrialConfig, out: Path) -> str:
    out.mkdir(exist_ok=True)
    (out / "trial.json").write_text(config.model_dump_json())
    return str(out / "trial.json")


def by_command(*words: str) -> Way:
    return lambda config, weights, out: run(
        ["evaluate", written(config, out), "--checkpoint", str(weights), "--part", "test", *words]
    )


def by_trainer(*words: str) -> Way:
    return lambda config, weights, out: run_trainer(
        [words[0], written(config, out), "--checkpoint", str(weights), "--part", "test", *words[1:]]
    )


def with_pictures(config: TrialConfig, weights: Path, out: Path) -> object:
    return by_command("--out", str(out / "evaluation"), "--images")(config, weights, out)


def with_kept_embeddings(config: TrialConfig, weights: Path, out: Path) -> object:
    """The second time nothing is embedded; the figures are seen all the same."""
    evaluate(config, weights, part="test", cache=out / "cache")
    record = weights.parent / RECORD_FILE
    record.unlink()
    return evaluate(config, weights, part="test", cache=out / "cache")


def as_starting_weights(config: TrialConfig, weights: Path, out: Path) -> object:
    """Without a checkpoint the network is what `model.weights` names: here the bare weights."""
    bare = weights.with_name("bare.pt")
    torch.save(load_checkpoint(weights)["model"], bare)
    return evaluate(changed(config, model__weights=str(bare)), None, part="test")


def by_a_link(config: TrialConfig, weights: Path, out: Path) -> object:
    out.mkdir(exist_ok=True)
    (out / "link.pt").symlink_to(weights)
    shutil.copy(f"{weights}.sha256", out / "link.pt.sha256")
    return evaluate(config, out / "link.pt", part="test")


WAYS: dict[str, Way] = {
    "reidsearch evaluate": by_command(),
    "reidsearch evaluate, pictures": with_pictures,
    "reidsearch evaluate --json": by_command("--json"),
    "python -m trainer evaluate": by_trainer("evaluate"),
    "python -m trainer embed": lambda config, weights, out: by_trainer("embed", "--out", str(out / "e.npz"))(
        config, weights, out
    ),
    "trainer.evaluate": lambda config, weights, out: evaluate(config, weights, part="test"),
    "write_embeddings": lambda config, weights, out: write_embeddings(config, weights, out / "e.npz", part="test"),
    "evaluate_on_test_set": lambda config, weights, out: evaluate_on_test_set(config, weights, out / "test"),
    "model.weights": as_starting_weights,
    "a link": by_a_link,
}


@pytest.fixture
def config(tiny_config: TrialConfig) -> TrialConfig:
    return changed(tiny_config, evaluation__reranking=False)


@pytest.fixture
def weights(config: TrialConfig, tmp_path: Path) -> Path:
    """Those of a training of its own."""
    return save_weights(config, tmp_path / "run" / BEST)


@pytest.fixture
def search(config: TrialConfig, tmp_path: Path) -> SearchFolder:
    return a_search(tmp_path / "runs/first", fingerprint=own_data(config).fingerprint)


def own_data(config: TrialConfig) -> DataRecord:
    return data_record(config.data, read_splits(config.data))


@pytest.fixture
def of_search(config: TrialConfig, search: SearchFolder) -> Path:
    """Weights of a search's trial."""
    return save_weights(config, search.trial("t0001") / BEST)


def save_weights(config: TrialConfig, path: Path) -> Path:
    torch.manual_seed(0)
    model = TemporalAttentionResNet(config.model, 5)
    save_checkpoint(path, {"config": config.model_dump(mode="json"), "epoch": 3, "model": model.state_dict()})
    return path


def record(weights: Path) -> list[RecordedUse]:
    file = weights.parent / RECORD_FILE
    return [RecordedUse.model_validate_json(line) for line in file.read_text().splitlines()] if file.is_file() else []


@pytest.mark.parametrize("way", [*WAYS, "with kept embeddings"])
def test_every_use_of_a_training_of_its_own_is_recorded_beside_the_weights(
    way: str, config: TrialConfig, weights: Path, tmp_path: Path
) -> None:
    found = {**WAYS, "with kept embeddings": with_kept_embeddings}[way](config, weights, tmp_path / "out")
    assert found == 0 or not isinstance(found, int) or "embed" in way
    (line,) = record(weights)
    assert line.use == ("embed" if "embed" in way and "kept" not in way else "evaluate")
    assert line.weights == ("bare.pt" if way == "model.weights" else "best.pt")
    assert "@" in line.by and len(line.sha256) == 64


@pytest.mark.parametrize("way", WAYS)
def test_every_use_of_a_trial_of_a_search_is_refused_without_being_asked_for_and_says_nothing(
    way: str,
    config: TrialConfig,
    of_search: Path,
    search: SearchFolder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = search.journal.read_bytes()
    try:
        code = WAYS[way](config, of_search, tmp_path / "out")
        printed = capsys.readouterr()
        assert code == 3
        assert "mAP" not in printed.out
        assert "--open-test-set" in printed.err
    except ConfigError as error:
        assert "--open-test-set" in str(error)
    assert search.journal.read_bytes() == before
    assert not list((tmp_path / "out").rglob("*.npz")) and not list((tmp_path / "out").rglob("*.png"))
    assert not record(of_search), "nothing was used"


def test_a_use_that_was_asked_for_is_in_the_journal_and_in_all_that_is_shown(
    config: TrialConfig, of_search: Path, search: SearchFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert by_command("--open-test-set")(config, of_search, tmp_path / "out") == 0
    assert "mAP" in capsys.readouterr().out
    loaded = read_summary(search)
    (use,) = loaded.study.test_set_uses
    assert (use.asked.trial, use.asked.use, use.asked.weights) == ("t0001", "evaluate", f"trials/t0001/{BEST}")
    assert loaded.study.ended == "finished", "there is nothing to resume"
    summary = loaded
    assert status_document(summary)["test_set_uses"][0]["trial"] == "t0001"
    assert f"opened by {use.asked.by} for t0001" in final_lines(summary)[0]
    assert "also used 1 time by hand, for t0001" in tables_of([summary])[0].lines[0].note
    card = export_trial(summary, summary.trial("t0001"), ["checkpoint"], tmp_path / "exported").card.read_text()
    assert f"The test set was opened for this trial once by {use.asked.by}" in card
    assert "was not opened" not in card
    other = export_trial(summary, summary.trial("t0001"), ["checkpoint"], tmp_path / "again").card
    assert other.is_file()
    assert run(["logs", "first", "--storage", str(search.path.parent)]) == 0
    assert "trial=t0001 test set opened by=" in capsys.readouterr().out


def test_the_card_of_another_trial_says_that_the_search_opened_the_test_set(
    config: TrialConfig, search: SearchFolder, tmp_path: Path
) -> None:
    save_weights(config, search.trial("t0000") / BEST)
    record_test_set_use(search, "t0001", search.trial("t0001") / BEST, "evaluate", own_data(config))
    summary = read_summary(search)
    card = export_trial(summary, summary.trial("t0000"), ["checkpoint"], tmp_path / "out").card.read_text()
    assert "was not opened for these weights (the search opened it once for others)" in card


def test_a_use_of_another_data_set_is_recorded_with_its_name_and_leaves_the_search_s_own_test_set_closed(
    config: TrialConfig, of_search: Path, search: SearchFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_miniature("tracklets", tmp_path / "own")
    words = ("--open-test-set", "--data", str(tmp_path / "own"))
    assert by_command(*words)(config, of_search, tmp_path / "out") == 0
    summary = read_summary(search)
    (use,) = summary.study.test_set_uses
    assert use.asked.data is not None
    assert use.asked.data.name == "tracklets"
    assert not summary.study.own_test_set_uses
    assert status_document(summary)["test_set_uses"][0]["data"] == use.asked.data.model_dump()
    assert final_lines(summary)[0].endswith(f", on tracklets {use.asked.data.fingerprint[:8]}")
    assert "also used" not in tables_of([summary])[0].lines[0].note
    assert run(["logs", "first", "--storage", str(search.path.parent)]) == 0
    assert "data=tracklets" in capsys.readouterr().out


def test_a_search_that_is_driven_refuses_with_who_drives_it_and_nothing_is_judged(
    config: TrialConfig, of_search: Path, search: SearchFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Lease(search.lease):
        assert by_command("--open-test-set")(config, of_search, tmp_path / "out") == LeaseError.exit_code
    printed = capsys.readouterr()
    assert f"already driven by process {os.getpid()}" in printed.err
    assert "mAP" not in printed.out
    assert not read_summary(search).study.test_set_uses


def test_a_trial_that_the_journal_does_not_know_is_refused(
    config: TrialConfig, search: SearchFolder, tmp_path: Path
) -> None:
    with pytest.raises(SearchError, match="no trial 't0009'"):
        record_test_set_use(search, "t0009", search.trial("t0009") / BEST, "evaluate", own_data(config))


def test_weights_that_were_copied_out_of_a_search_are_recorded_beside_the_copy(
    config: TrialConfig, of_search: Path, search: SearchFolder, tmp_path: Path
) -> None:
    shutil.copytree(of_search.parent, tmp_path / "mine")
    evaluate(config, tmp_path / "mine/best.pt", part="test")
    assert len(record(tmp_path / "mine/best.pt")) == 1
    assert not read_summary(search).study.test_set_uses


def test_a_record_that_cannot_be_written_refuses_the_use(
    config: TrialConfig, weights: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    os.mkfifo(weights.parent / RECORD_FILE)
    assert by_command()(config, weights, tmp_path / "out") == 3
    printed = capsys.readouterr()
    assert "mAP" not in printed.out
    assert "would leave no record" in printed.err


def test_every_partition_is_recorded_beside_its_weights(
    config: TrialConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_miniature("prid2011", tmp_path / "prid")
    settings = {**config.model_dump(), "data": {"name": "prid2011", "root": str(tmp_path / "prid")}}
    settings["evaluation"] = {"reranking": False}
    prid = TrialConfig.model_validate(settings)
    for fold in range(10):
        save_weights(changed(prid, data__fold=fold), tmp_path / f"run-{fold}" / BEST)
    evaluate_partitions(prid, str(tmp_path / "run-{fold}" / BEST))
    assert [len(record(tmp_path / f"run-{fold}" / BEST)) for fold in range(10)] == [1] * 10
    search = a_search(tmp_path / "runs/fold-0")
    save_weights(prid, search.trial("t0000") / BEST)
    template = tmp_path / "runs/fold-{fold}/trials/t0000" / BEST
    for fold in range(1, 10):
        save_weights(changed(prid, data__fold=fold), Path(str(template).replace("{fold}", str(fold))))
    words = ["evaluate", written(prid, tmp_path / "out"), "--checkpoint", str(template), "--all-folds"]
    assert run(words) == 3, "all folds are of the test part, which has to be said"
    assert "--part test" in capsys.readouterr().err
    assert run([*words, "--part", "test"]) == 3
    assert run([*words, "--part", "test", "--open-test-set"]) == 0
    assert len(read_summary(search).study.test_set_uses) == 1


def test_an_untrained_network_leaves_no_record(config: TrialConfig, tmp_path: Path) -> None:
    evaluate(config, None, part="test")
    assert not list(tmp_path.rglob(RECORD_FILE))


def test_a_link_into_a_search_and_a_repetition_below_it_belong_to_their_trials(
    search: SearchFolder, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(search.path)
    assert place_in_search(tmp_path / "link/trials/t0001" / BEST) == (search.path, "t0001")
    repetition = search.path / "reproductions/t0000-1/trials/t0000" / BEST
    assert place_in_search(repetition) == (search.path, "t0000")
    assert place_in_search(search.path / "mine" / BEST) is None
    assert place_in_search(tmp_path / "runs/alone" / BEST) is None


# --- what is no way to the test set


@pytest.fixture
def without_test_frames(mini_mars: Path, config: TrialConfig, tmp_path: Path) -> TrialConfig:
    """Whatever looks at a test tracklet fails: its frames are not there."""
    root = tmp_path / "data"
    shutil.copytree(mini_mars, root, ignore=shutil.ignore_patterns("bbox_test"))
    return changed(config, data__root=root)


def test_training_and_everything_that_judges_by_default_never_read_a_test_frame(
    without_test_frames: TrialConfig, tmp_path: Path
) -> None:
    config, out = without_test_frames, tmp_path / "run"
    fit(config, out=out)
    best = str(out / BEST)
    file = written(config, tmp_path / "given")
    assert run(["evaluate", file, "--checkpoint", best, "--out", str(tmp_path / "e"), "--images"]) == 0
    assert run_trainer(["evaluate", file, "--checkpoint", best]) == 0
    assert run_trainer(["embed", file, "--checkpoint", best, "--out", str(tmp_path / "e.npz")]) == 0
    assert json.loads((tmp_path / "e/evaluation.json").read_text())["part"] == "validation"
    network = Network("a", config, out / BEST, out / "split.json")
    draw_comparison([network, network._replace(name="b")], [0], tmp_path / "sheet.png", synthetic=True)
    trainer.export_network(out / BEST, tmp_path / "exported", "checkpoint")
    assert not list(tmp_path.rglob(RECORD_FILE))
    assert run(["evaluate", file, "--checkpoint", best, "--part", "test"]) == 3, "the frames are not there"


def test_a_training_without_validation_identities_is_not_judged_on_others_instead(
    config: TrialConfig, weights: Path
) -> None:
    with pytest.raises(trainer.DataError, match="no identity is held out for validation"):
        evaluate(changed(config, data__validation__share=0.0), weights, part="validation")


def test_a_split_for_the_test_part_is_refused(config: TrialConfig, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a split says what the validation part is"):
        evaluate(config, weights, part="test", split=tmp_path / "split.json")


def test_opening_the_test_set_without_asking_for_it_is_refused(
    config: TrialConfig, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(["evaluate", written(config, tmp_path / "o"), "--checkpoint", str(weights), "--open-test-set"])
    assert code != 0
    assert "has no effect without --part test" in capsys.readouterr().err


def test_only_known_places_ask_for_the_test_part_or_choose_how_it_is_recorded() -> None:
    asking, recording = set(), set()
    root = Path(trainer.__file__).parents[1]
    for file in [*(root / "trainer").rglob("*.py"), *(root / "orchestrator").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.keyword):
                continue
            name = str(file.relative_to(root))
            if node.arg == "part" and isinstance(node.value, ast.Constant) and node.value.value == "test":
                asking.add(name)
            if node.arg == "record" and not (isinstance(node.value, ast.Name) and node.value.id == "record"):
                recording.add(name)
    assert asking == {"trainer/evaluation/test_set.py"}
    assert recording == {
        "orchestrator/cli/train.py",
        "orchestrator/runner/attempt.py",
        "orchestrator/runner/other_test_set.py",
    }


@pytest.mark.parametrize("other", [{"share": 0.0}, {"share": 0.4, "seed": 1}, {"folds": 3}], ids=str)
def test_a_network_is_not_judged_on_identities_that_it_was_trained_on_under_another_split(
    other: dict[str, object], config: TrialConfig, tmp_path: Path
) -> None:
    weights = save_weights(changed(config, data__validation=other), tmp_path / "run" / BEST)
    with pytest.raises(ConfigError, match=r"was trained on .* with another data\.validation"):
        evaluate(config, weights, part="validation")
    evaluate(config, weights, part="test")
