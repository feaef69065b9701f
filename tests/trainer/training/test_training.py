"""Training: learns, resumes to the last bit, and says what went wrong."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from trainings import Interruption, changed, figures, interrupt_after

from trainer import CheckpointError, ConfigError, DivergedError, EpochResult, TrialConfig, evaluate, fit, measure_step
from trainer.checkpoint import load_checkpoint, save_checkpoint
from trainer.config import TrialConfig as Config
from trainer.result import read_results
from trainer.training.fit import FitResult


class Whole(NamedTuple):
    """A training that nothing interrupted."""

    training: FitResult
    out: Path


@pytest.fixture(scope="module")
def whole(tiny_config: TrialConfig, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    out = tmp_path_factory.mktemp("whole")
    return Whole(fit(tiny_config, out=out), out)


@pytest.fixture(scope="module")
def seldom(tiny_config: TrialConfig) -> TrialConfig:
    """Saves its state less often than every epoch."""
    return changed(tiny_config, checkpoint__every=3, optim__epochs=5, evaluation__every=2)


@pytest.fixture(scope="module")
def whole_seldom(seldom: TrialConfig, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    out = tmp_path_factory.mktemp("seldom")
    return Whole(fit(seldom, out=out), out)


def test_two_runs_of_one_seed_give_identical_figures(whole: Whole, tiny_config: TrialConfig, tmp_path: Path) -> None:
    assert figures(fit(tiny_config, out=tmp_path).history) == figures(whole.training.history)


def test_another_seed_gives_other_figures(whole: Whole, tiny_config: TrialConfig, tmp_path: Path) -> None:
    assert figures(fit(changed(tiny_config, seed=1), out=tmp_path).history) != figures(whole.training.history)


@pytest.mark.parametrize(("epoch", "workers"), [(1, 0), (2, 0), (3, 0), (2, 2)])
def test_a_run_interrupted_after_any_epoch_resumes_bit_identically(
    whole: Whole, tiny_config: TrialConfig, tmp_path: Path, epoch: int, workers: int
) -> None:
    config = changed(tiny_config, clips__workers=workers)
    with pytest.raises(Interruption):
        fit(config, interrupt_after(epoch), out=tmp_path / "cut")
    heard: list[EpochResult] = []
    resumed = fit(config, heard.append, tmp_path / "cut/checkpoint/last.pt", out=tmp_path / "cut")
    assert figures(resumed.history) == figures(heard) == figures(whole.training.history)
    assert figures(read_results(tmp_path / "cut/results.jsonl")) == figures(whole.training.history)
    weights = [load_checkpoint(run / "checkpoint/last.pt")["model"] for run in (whole.out, tmp_path / "cut")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


TIMES = {"images_per_second", "data_wait_share", "seconds", "evaluation_seconds", "time"}


def exact(value: object) -> object:
    """All of a checkpoint that must repeat: tensors to the last bit, everything but times."""
    if isinstance(value, torch.Tensor):
        return value.dtype, tuple(value.shape), value.reshape(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(value, dict):
        return {name: exact(each) for name, each in value.items() if name not in TIMES}
    return [exact(each) for each in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize(("elsewhere", "every"), [(False, 4), (True, 1)], ids=["here", "on another machine"])
def test_a_run_paused_again_and_again_leaves_what_one_leaves_that_never_paused(
    tiny_config: TrialConfig, tmp_path: Path, elsewhere: bool, every: int
) -> None:
    config = changed(tiny_config, checkpoint__every=every, optim__epochs=5, evaluation__every=2, optim__ema_decay=0.9)
    config = changed(config, evaluation__folder=True)
    whole = fit(config, out=tmp_path / "whole")
    out, checkpoint, heard = tmp_path / "cut", None, list[EpochResult]()
    for until in (2, 4, None):
        heard.clear()
        paused = fit(config, heard.append, checkpoint, out=out, until=until)
        assert len(paused.history) == len(heard) == (until or 5)
        assert load_checkpoint(out / "checkpoint/last.pt")["epoch"] == (until or 5), "its state is saved"
        assert (out / "evaluation").exists() == (until is None), "only the end is a result"
        if elsewhere and until is not None:
            moved = tmp_path / f"after-{until}"
            shutil.copytree(out / "checkpoint", moved / "checkpoint")
            out.rename(tmp_path / f"gone-{until}")
            out = moved
        checkpoint = out / "checkpoint/last.pt"
    assert figures(read_results(out / "results.jsonl")) == figures(heard) == figures(whole.history)
    for file in ("checkpoint/last.pt", "checkpoint/best.pt"):
        assert exact(load_checkpoint(out / file)) == exact(load_checkpoint(tmp_path / "whole" / file)), file
    files = [path.relative_to(out) for path in (out / "evaluation").rglob("*") if path.is_file()]
    assert files
    for file in files:
        assert (out / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file


def test_a_run_that_has_the_epochs_it_was_to_train_trains_nothing(tiny_config: TrialConfig, tmp_path: Path) -> None:
    first = fit(tiny_config, out=tmp_path, until=2)
    before = (tmp_path / "checkpoint/last.pt").read_bytes()
    again = fit(tiny_config, resume_from=tmp_path / "checkpoint/last.pt", out=tmp_path, until=2)
    assert again.history == first.history
    assert (tmp_path / "checkpoint/last.pt").read_bytes() == before
    assert len(fit(tiny_config, out=tmp_path / "more", until=99).history) == tiny_config.optim.epochs


@pytest.mark.parametrize("epoch", [1, 2, 4])
def test_epochs_lost_from_a_checkpoint_that_is_saved_less_often_are_repeated_to_the_last_bit(
    whole_seldom: Whole, seldom: TrialConfig, tmp_path: Path, epoch: int
) -> None:
    with pytest.raises(Interruption):
        fit(seldom, interrupt_after(epoch), out=tmp_path)
    heard: list[EpochResult] = []
    resumed = fit(seldom, heard.append, tmp_path / "checkpoint/last.pt", out=tmp_path)
    assert figures(resumed.history) == figures(heard) == figures(whole_seldom.training.history)
    assert figures(read_results(tmp_path / "results.jsonl")) == figures(whole_seldom.training.history)
    for file in ("last.pt", "best.pt"):
        left, right = (load_checkpoint(out / "checkpoint" / file) for out in (whole_seldom.out, tmp_path))
        assert left["epoch"] == right["epoch"]
        assert all(torch.equal(left["model"][name], right["model"][name]) for name in left["model"])


def test_the_state_is_saved_when_due_with_a_new_best_and_at_the_end(tiny_config: TrialConfig, tmp_path: Path) -> None:
    config = changed(tiny_config, checkpoint__every=3, optim__epochs=5, evaluation__every=5)
    saved: list[int] = []
    fit(config, lambda _: saved.append(load_checkpoint(tmp_path / "checkpoint/last.pt")["epoch"]), out=tmp_path)
    assert saved == [1, 1, 3, 3, 5]  # the first epoch is the best as long as none is evaluated


def test_a_checkpoint_older_than_this_setting_and_one_of_another_frequency_are_resumed(
    tiny_config: TrialConfig, tmp_path: Path
) -> None:
    with pytest.raises(Interruption):
        fit(tiny_config, interrupt_after(2), out=tmp_path)
    path = tmp_path / "checkpoint/last.pt"
    state = load_checkpoint(path)
    del state["config"]["checkpoint"]
    save_checkpoint(path, {name: value for name, value in state.items() if name != "format"})
    assert len(fit(changed(tiny_config, checkpoint__every=2), resume_from=path, out=tmp_path).history) == 4


def test_training_learns_to_tell_its_identities_apart(tiny_config: TrialConfig, tmp_path: Path) -> None:
    config = changed(
        tiny_config,
        optim__epochs=25,
        optim__warmup=0.0,
        optim__milestones=[],
        evaluation__every=25,
        clips__erase=0.0,
        loss__attention_weight=0.0,
    )
    history = fit(config, out=tmp_path).history
    # An epoch is one batch here: five of them are one figure.
    first, last = ([result.losses for result in part] for part in (history[:5], history[-5:]))
    for term in ("identity", "total"):
        assert sum(losses[term] for losses in last) < 0.9 * sum(losses[term] for losses in first)


def test_the_best_checkpoint_evaluates_to_the_figures_it_was_saved_with(whole: Whole, tiny_config: TrialConfig) -> None:
    result, out = whole
    again = evaluate(tiny_config, out / "checkpoint/best.pt", part="validation", split=out / "split.json").evaluation
    best = result.best.validation
    assert best is not None
    after_training = {"reranked", "verification"}
    assert again.model_dump(exclude=after_training) == best.model_dump(exclude=after_training)
    assert again.verification is not None and best.verification is None
    last = result.history[-1].validation
    assert last is not None and last.reranked is not None


def test_the_test_part_is_evaluated_on_its_own_query_and_gallery(tiny_config: TrialConfig) -> None:
    validation = evaluate(tiny_config, None, part="validation").evaluation
    test = evaluate(tiny_config, None, part="test").evaluation
    assert (test.queries, test.dropped_queries) != (validation.queries, validation.dropped_queries)


def test_a_loss_that_is_not_finite_raises_with_its_name(
    tiny_config: TrialConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "trainer.losses.reid_loss.batch_hard", lambda distances, *_, **__: distances.sum() * float("nan")
    )
    with pytest.raises(DivergedError, match=r"loss/triplet is nan in epoch 1, batch 1"):
        fit(tiny_config, out=tmp_path)
    assert read_results(tmp_path / "results.jsonl") == []


def test_a_checkpoint_of_another_configuration_is_refused_by_naming_the_setting(
    tiny_config: TrialConfig, tmp_path: Path
) -> None:
    fit(changed(tiny_config, optim__epochs=1), out=tmp_path)
    with pytest.raises(CheckpointError, match=r"other settings \(loss\.triplet_margin, optim\.epochs\)"):
        fit(
            changed(tiny_config, loss__triplet_margin=0.1),
            resume_from=tmp_path / "checkpoint/last.pt",
            out=tmp_path,
        )


def test_a_data_set_that_was_moved_does_not_hinder_a_resume(
    tiny_config: TrialConfig, tmp_path: Path, mini_mars: Path
) -> None:
    fit(changed(tiny_config, optim__epochs=1), out=tmp_path / "run")
    moved = tmp_path / "moved"
    moved.symlink_to(mini_mars)
    config = changed(tiny_config, optim__epochs=1, data__root=str(moved))
    assert len(fit(config, resume_from=tmp_path / "run/checkpoint/last.pt", out=tmp_path / "run").history) == 1


def test_a_network_without_its_imagenet_weights_is_refused_before_training(
    tiny_config: TrialConfig, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"model\.weights: imagenet: there are none for model\.backbone tiny"):
        fit(changed(tiny_config, model__weights="imagenet"), out=tmp_path)


def test_an_epoch_of_uniform_attention_warns_and_the_first_one_says_what_to_do(
    tiny_config: TrialConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fit(changed(tiny_config, optim__epochs=2, optim__learning_rate=1e-6), out=tmp_path)
    warned = [record.getMessage() for record in caplog.records if "attention entropy 1.00" in record.getMessage()]
    assert [line.partition(":")[0] for line in warned] == ["epoch 1", "epoch 2"]
    assert ["model.attention_score_relu" in line for line in warned] == [True, False]


def test_without_attention_nothing_is_said_about_it(
    tiny_config: TrialConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = changed(tiny_config, optim__epochs=1, model__pooling="mean", loss__attention_weight=0.0)
    (result,) = fit(config, out=tmp_path).history
    assert result.attention == {}
    assert "attention" not in caplog.text


def test_every_figure_of_an_epoch_has_a_name_of_its_own(tiny_config: TrialConfig, tmp_path: Path) -> None:
    (result,) = fit(changed(tiny_config, optim__epochs=1), out=tmp_path).history
    assert {"attention/entropy", "attention/dead_scores", "attention/erased_weight", "loss/osm", "mAP"} <= set(
        result.metrics()
    )


def test_the_papers_recipe_trains_with_all_that_it_fills_in(tiny_config: TrialConfig, tmp_path: Path) -> None:
    given = tiny_config.model_dump(mode="json", exclude_unset=True)
    config = Config.model_validate({**given, "recipe": "paper", "optim": {"epochs": 2}})
    assert (config.clips.crop, config.clips.second_erase, config.loss.attention_on) == ("translate", 0.5, "scores")
    (_, result) = fit(config, out=tmp_path).history
    assert set(result.losses) == {"total", "identity", "triplet", "center", "osm", "attention"}
    assert result.validation is not None
    state = torch.load(tmp_path / "checkpoint/last.pt", weights_only=True)
    assert state["learner"]["loss"]["centers"].shape == (751, 64)


def test_where_frames_are_augmented_changes_no_figure(tiny_config: TrialConfig, tmp_path: Path) -> None:
    config = changed(tiny_config, optim__epochs=2, clips__crop="translate", clips__second_erase=0.5)
    by_worker = fit(config, out=tmp_path / "worker")
    on_device = fit(changed(config, clips__augment_on="device"), out=tmp_path / "device")
    assert figures(by_worker.history) == figures(on_device.history)


@pytest.mark.parametrize(
    "settings",
    [
        {"model__pooling": "max", "loss__attention_weight": 0.0},
        {"model__neck": "none", "loss__feature": "before_neck", "evaluation__feature": "before_neck"},
        {"model__attention_factorised": True, "model__attention_score_relu": False, "model__attention_gate": "sigmoid"},
        {"loss__center_update": "wen", "loss__osm_detach": True, "loss__osm_temperature": 0.1},
        {"optim__optimizer": "adamw", "optim__schedule": "cosine", "optim__clip_norm": 1.0, "optim__ema_decay": 0.9},
        {"clips__epoch": "tracklets", "clips__sampling": "intelligent", "optim__accumulate": 2},
        {"compute__precision": "bf16", "compute__channels_last": False},
        {"model__backbone": "mobilenet_v2"},
        {"model__backbone": "timm:test_vit", "model__attention_hidden": 8},
    ],
    ids=lambda settings: next(iter(settings)).replace("__", "."),
)
def test_every_option_trains_and_resumes_bit_identically(
    tiny_config: TrialConfig, tmp_path: Path, settings: dict[str, object]
) -> None:
    if str(settings.get("model__backbone")).startswith("timm:"):
        pytest.importorskip("timm", reason="needs the extra [timm]")
    config = changed(tiny_config, clips__identities=2, optim__epochs=2, **settings)
    whole = fit(config, out=tmp_path / "whole")
    with pytest.raises(Interruption):
        fit(config, interrupt_after(1), out=tmp_path / "cut")
    resumed = fit(config, resume_from=tmp_path / "cut/checkpoint/last.pt", out=tmp_path / "cut")
    assert figures(resumed.history) == figures(whole.history)


def test_the_clock_of_an_epoch_runs_until_the_device_is_done(
    tiny_config: TrialConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.training.fit.synchronize", lambda device: time.sleep(0.5))
    result = fit(changed(tiny_config, optim__epochs=1), out=tmp_path).best
    assert result.seconds - result.evaluation_seconds >= 0.5
    assert 0 <= result.data_wait_share < 1


def test_what_is_compiled_is_compiled_under_the_precision_that_trains(
    tiny_config: TrialConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered: list[str] = []

    @contextmanager
    def products(*_: object) -> Iterator[None]:
        entered.append("in")
        yield
        entered.append("out")

    for module in ("training.fit", "training.step_cost"):
        monkeypatch.setattr(f"trainer.{module}.float32_products", products)
    monkeypatch.setattr("trainer.training.learner.compiled", lambda *_: entered.append("compiled"))
    config = changed(tiny_config, optim__epochs=1)
    fit(config, out=tmp_path)
    measure_step(config)
    assert entered == ["in", "compiled", "out"] * 2
