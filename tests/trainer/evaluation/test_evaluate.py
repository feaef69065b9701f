"""Evaluating a network: stages, kept embeddings, other data sets' checkpoints, partitions, what is left on disk."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from evaluations import checkpoint
from miniatures import write_miniature

from trainer.__main__ import run
from trainer.config import TrialConfig
from trainer.data import READERS
from trainer.errors import CheckpointError, ConfigError
from trainer.evaluation import evaluate as module
from trainer.evaluation.evaluate import evaluate
from trainer.evaluation.folder import write_evaluation
from trainer.evaluation.test_set import evaluate_partitions

PICTURES = {"cmc.png", "distances.png", "cameras.png", "roc.png"}
IDENTITIES = {"ranking.png", "attention.png"}


def of_prid(config: TrialConfig, root: Path, fold: int = 0) -> TrialConfig:
    data = {"name": "prid2011", "root": root, "fold": fold}
    settings = {**config.model_dump(mode="json"), "data": data}
    del settings["evaluation"]["protocol"]
    return TrialConfig.model_validate(settings)


# --- figures


def test_an_evaluation_gives_figures_before_and_after_re_ranking_and_the_time_of_each_stage(
    tiny_config: TrialConfig,
) -> None:
    found = evaluate(tiny_config, None, part="test")
    assert found.evaluation.protocol == "mars"
    assert found.evaluation.dropped_queries == found.ranking.dropped > 0
    assert found.evaluation.reranked is not None
    metrics = found.evaluation.metrics()
    assert metrics["mAP"] == found.ranking.mean_ap
    assert metrics["mAP_standard_error"] == found.ranking.standard_error
    assert metrics["reranked/mAP"] == found.reranked.mean_ap  # type: ignore[union-attr]
    stages = {"reading", "network", "embedding", "waiting for frames", "ranking", "reranking"}
    assert set(found.seconds) == stages
    assert min(found.seconds.values()) > 0


def test_re_ranking_can_be_left_out(tiny_config: TrialConfig) -> None:
    settings = tiny_config.evaluation.model_copy(update={"reranking": False})
    found = evaluate(tiny_config.model_copy(update={"evaluation": settings}), None, part="validation").evaluation
    assert found.reranked is None
    assert not [name for name in found.metrics() if name.startswith("reranked/")]


def test_a_checkpoint_of_another_number_of_identities_can_be_evaluated(
    tiny_config: TrialConfig, tmp_path: Path
) -> None:
    foreign = checkpoint(tmp_path / "foreign.pt", tiny_config, classes=751)
    assert evaluate(tiny_config, foreign, part="test").evaluation.queries > 0


def test_a_checkpoint_of_another_architecture_is_named(tiny_config: TrialConfig, tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "w.pt", tiny_config, classes=3)
    other = tiny_config.model_copy(update={"model": tiny_config.model.model_copy(update={"pooling": "mean"})})
    with pytest.raises(CheckpointError, match="holds another architecture"):
        evaluate(other, path, part="test")


# --- the usual protocol


def test_a_trial_without_a_protocol_takes_the_usual_one_of_its_data_set(tiny_config: TrialConfig) -> None:
    for name, data_set in READERS.items():
        assert TrialConfig.model_validate({"data": {"name": name}}).evaluation.protocol == data_set.protocol
    given = {"data": {"name": "prid2011"}, "evaluation": {"protocol": "mars"}}
    assert TrialConfig.model_validate(given).evaluation.protocol == "mars"
    assert TrialConfig.model_validate(tiny_config.model_dump()) == tiny_config


# --- kept embeddings


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every embedding that is not read from the cache."""
    calls: list[int] = []
    real = module.embed

    def counted(*arguments: object, **named: object) -> object:
        calls.append(1)
        return real(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "embed", counted)
    return calls


def test_kept_embeddings_give_the_same_figures_without_embedding(
    tiny_config: TrialConfig, tmp_path: Path, embedded: list[int]
) -> None:
    first, second = (evaluate(tiny_config, None, part="test", cache=tmp_path / "kept") for _ in range(2))
    assert len(embedded) == 1
    assert first.evaluation == second.evaluation


def test_how_embeddings_are_ranked_does_not_make_new_ones(
    tiny_config: TrialConfig, tmp_path: Path, embedded: list[int]
) -> None:
    for update in ({}, {"distance": "euclidean"}, {"protocol": "mars_official"}, {"reranking": False}):
        settings = tiny_config.evaluation.model_copy(update=update)
        evaluate(tiny_config.model_copy(update={"evaluation": settings}), None, part="test", cache=tmp_path)
    assert len(embedded) == 1


@pytest.mark.parametrize(
    ("group", "update"),
    [("evaluation", {"clips": 3}), ("evaluation", {"pooling": "max"}), ("clips", {"frames": 3})],
)
def test_other_settings_make_new_embeddings(
    tiny_config: TrialConfig, tmp_path: Path, embedded: list[int], group: str, update: dict[str, object]
) -> None:
    changed = getattr(tiny_config, group).model_copy(update=update)
    for config in (tiny_config, tiny_config.model_copy(update={group: changed})):
        evaluate(config, None, part="test", cache=tmp_path)
    assert len(embedded) == 2


def test_other_weights_and_changed_frames_make_new_embeddings(
    tiny_config: TrialConfig, tmp_path: Path, embedded: list[int]
) -> None:
    kept = tmp_path / "kept"
    for seed in (1, 2):
        weights = checkpoint(tmp_path / f"{seed}.pt", tiny_config, classes=3, seed=seed)
        evaluate(tiny_config, weights, part="test", cache=kept)
    assert len(embedded) == 2
    frame = Path(READERS["mars"](tiny_config.data.root).query[0].frames[0])
    status = frame.stat()
    os.utime(frame, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))
    try:
        evaluate(tiny_config, weights, part="test", cache=kept)
    finally:
        os.utime(frame, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert len(embedded) == 3


def test_damaged_kept_embeddings_are_made_again(tiny_config: TrialConfig, tmp_path: Path, embedded: list[int]) -> None:
    first = evaluate(tiny_config, None, part="test", cache=tmp_path).evaluation
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-200])
    assert evaluate(tiny_config, None, part="test", cache=tmp_path).evaluation == first
    assert len(embedded) == 2


# --- partitions


def test_all_partitions_are_evaluated_each_on_its_own_test_identities(tiny_config: TrialConfig, tmp_path: Path) -> None:
    write_miniature("prid2011", tmp_path / "prid")
    config = of_prid(tiny_config, tmp_path / "prid")
    found = evaluate_partitions(config, None)
    alone = [
        evaluate(of_prid(tiny_config, tmp_path / "prid", fold), None, part="test").evaluation for fold in range(10)
    ]
    assert found.evaluations == alone
    values = [evaluation.rank1 for evaluation in alone]
    assert found.spreads["rank1"].mean == pytest.approx(np.mean(values))
    assert found.spreads["rank1"].deviation == pytest.approx(np.std(values, ddof=1))
    assert {evaluation.protocol for evaluation in alone} == {"prid"}


def test_a_network_trained_on_one_partition_is_not_evaluated_on_others(
    tiny_config: TrialConfig, tmp_path: Path
) -> None:
    write_miniature("prid2011", tmp_path / "prid")
    config = of_prid(tiny_config, tmp_path / "prid")
    path = checkpoint(tmp_path / "fold0.pt", config, classes=3)
    with pytest.raises(ConfigError, match=r"was trained on partition 0 of prid2011.*\{fold\}"):
        evaluate_partitions(config, str(path))
    for fold in range(10):
        checkpoint(tmp_path / f"fold{fold}.pt", of_prid(tiny_config, tmp_path / "prid", fold), classes=3)
    assert len(evaluate_partitions(config, str(tmp_path / "fold{fold}.pt")).evaluations) == 10


def test_a_data_set_with_one_partition_has_no_all_folds(tiny_config: TrialConfig) -> None:
    with pytest.raises(ConfigError, match="mars has one partition only; leave --all-folds out"):
        evaluate_partitions(tiny_config, None)


# --- what is left on disk


def test_an_evaluation_of_generated_data_leaves_figures_and_every_picture(
    tiny_config: TrialConfig, tmp_path: Path
) -> None:
    found = evaluate(tiny_config, None, part="test")
    write_evaluation(tmp_path / "out", found, "test", images=False)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"evaluation.json", "per_query.npz"} | PICTURES | IDENTITIES
    written = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert (written["synthetic"], written["protocol"], written["mAP"]) == (True, "mars", found.evaluation.mAP)
    with np.load(tmp_path / "out/per_query.npz", allow_pickle=False) as arrays:
        assert np.nanmean(arrays["average_precision"]) == pytest.approx(found.evaluation.mAP)


@pytest.mark.parametrize("images", [False, True])
def test_real_people_are_shown_only_where_images_are_asked_for(
    tiny_config: TrialConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: bool
) -> None:
    monkeypatch.setattr("trainer.evaluation.folder.is_synthetic", lambda root: False)
    found = evaluate(tiny_config, None, part="validation")
    write_evaluation(tmp_path, found, "validation", images=images)
    assert ({path.name for path in tmp_path.iterdir()} >= IDENTITIES) == images


def test_two_evaluations_are_compared_by_one_command(
    tiny_config: TrialConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "trial.json"
    config.write_text(tiny_config.model_dump_json())
    for seed in (1, 2):
        weights = checkpoint(tmp_path / f"{seed}.pt", tiny_config, classes=3, seed=seed)
        assert run(["evaluate", str(config), "--checkpoint", str(weights), "--out", str(tmp_path / str(seed))]) == 0
    figures = [json.loads(line)["mAP"] for line in capsys.readouterr().out.splitlines()]
    folders = [str(tmp_path / "1"), str(tmp_path / "2")]
    assert run(["compare", *folders, "--out", str(tmp_path / "deltas.png")]) == 0
    compared = json.loads(capsys.readouterr().out)
    assert compared["delta"] == pytest.approx(figures[1] - figures[0])
    assert compared["low"] <= compared["delta"] <= compared["high"]
    assert (tmp_path / "deltas.png").is_file()
    assert run(["compare", folders[0], str(tmp_path / "none")]) == 3
    assert len(capsys.readouterr().err.splitlines()) == 1
