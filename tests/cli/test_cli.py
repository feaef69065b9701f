"""The command line: one clear line for every mistake, the right exit code, and nothing started or written."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from miniatures import write_miniature
from searches import a_search, completed, write_search

from orchestrator import load
from orchestrator.__main__ import GROUPS, cli, run
from orchestrator.base.errors import SearchError
from orchestrator.base.hints import command_line
from orchestrator.runner.prepare_space import (
    MINI_MARS,
    SMALL_SIZES,
    SMALL_SPLIT,
    _name_override,
    any_config,
    prepare_space,
    small_settings,
)
from orchestrator.show.report.formats import write_report
from orchestrator.space.layers import builtin_files
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores import open_store
from orchestrator.stores.base import SearchFolder
from orchestrator.stores.local import local_search
from orchestrator.stores.uri import is_uri
from orchestrator.study.events import SessionEnded, TrialFailed
from trainer.config import TrialConfig
from trainer.data import read_splits
from trainer.data.packing import pack_data_set
from trainer.errors import DataError
from trainer.settings import differing_settings

HEAVY = ("ray", "ax", "mlflow", "torch", "scipy", "pandas")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def write(name: str, text: str | bytes) -> str:
    Path(name).write_bytes(text.encode() if isinstance(text, str) else text)
    return name


GOOD = """\
version: 1
name: small
budget: {trials: 2}
parameters:
  loss.triplet_margin: {type: float, low: 0.1, high: 0.8}
trainer:
  data: {root: nowhere}
  model: {backbone: tiny, weights: none}
"""

MISTAKES = {
    "misspelt path": (
        GOOD.replace("triplet_margin", "triplet_margn"),
        "s.yaml:5:3: parameters.loss.triplet_margn: unknown trainer setting - did you mean 'loss.triplet_margin'?",
    ),
    "unknown key": (GOOD.replace("budget", "bugdet"), "did you mean 'budget'?"),
    "missing data folder": (GOOD, "no data set at "),
    "empty file": ("", "s.yaml: is empty"),
    "binary file": (bytes(range(256)) * 4, "s.yaml: is not a text file"),
    "broken YAML": ("version: [1\nname: x", "s.yaml:2:"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_bad_space_is_one_line_exit_3_and_nothing_is_written(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], mistake: str
) -> None:
    text, expected = MISTAKES[mistake]
    space = write("s.yaml", text)
    assert run(["launch", "--space", space, "--storage", "runs"]) == 3
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if "nothing started" not in line]
    assert any(expected in line for line in lines), printed.err
    assert len(lines) <= 2, "one line per problem"
    assert "Traceback" not in printed.err
    assert printed.out == ""
    assert [path.name for path in elsewhere.iterdir()] == ["s.yaml"]


def test_where_mars_is_not_found_the_answer_names_the_place_and_both_ways_on(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["launch", "--space", "attn_cl.yaml"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert str(elsewhere / "data/mars") in line
    assert "--data DIR" in line
    assert "reidsearch launch attn_cl.yaml --data mini-mars" in line
    assert list(elsewhere.iterdir()) == []


def test_a_dry_run_measures_a_step_estimates_the_search_and_writes_nothing(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.cluster.ray.connect", lambda _: pytest.fail("a dry run needs no Ray"))
    assert run(["launch", "--space", "smoke.yaml", "--set", "replicates=3", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line[:9].strip() for line in lines if not line.startswith("   ")]
    assert names[-7:] == ["largest", "measured", "time", "GPU hours", "memory", "disk", "nothing w"]
    text = "\n".join(lines)
    assert "SYNTHETIC" in text
    assert "clips.identities=4" in text
    assert "that are not counted" in text
    assert "4 trials and 6 repeats" in text
    assert "a trial: 3 epochs of 1 batch (" in text
    assert list(elsewhere.iterdir()) == []


def test_any_space_can_be_tried_on_generated_data(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def rehearsed(config: TrialConfig, **_: object) -> None:
        tried.append(read_splits(config.data))
        raise DataError("stop here")

    monkeypatch.setattr("orchestrator.show.dry_run.run_smoke_test", rehearsed)
    assert run(["launch", "--space", "attn_cl.yaml", "--data", "mini-mars", "--dry-run"]) == 3
    printed = capsys.readouterr().out
    assert "SYNTHETIC" in printed
    assert "11 searched parameters" in printed
    assert len({tracklet.identity for tracklet in tried[0].train}) == 48
    assert not Path(tried[0].train[0].frames[0]).exists(), "what it was tried on is gone again"
    assert list(elsewhere.iterdir()) == []


def test_a_dry_run_checks_the_storage_and_the_name_before_it_tries_anything(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.show.dry_run.run_smoke_test", lambda *_, **__: pytest.fail("not reached"))
    (elsewhere / "file").touch()
    dry_run = ["launch", "--space", "smoke.yaml", "--dry-run"]
    assert run([*dry_run, "--storage", "file/runs"]) == 3
    assert "file/runs: cannot hold a search" in capsys.readouterr().err
    assert run([*dry_run, "--name", "../x"]) == 3
    assert "cannot name a search" in capsys.readouterr().err
    assert run([*dry_run, "--cpus-per-trial", "9999"]) == 3
    assert "no node can hold a trial of 9999 CPU cores: this machine has" in capsys.readouterr().err


def test_gpus_that_this_machine_lacks_are_refused_before_ray_starts_and_nothing_is_written(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("orchestrator.runner.session.connect", lambda *_, **__: pytest.fail("Ray is not needed"))
    write_search(elsewhere / "runs/first", SearchSpace.load("smoke.yaml"), [])
    before = (elsewhere / "runs/first/journal.jsonl").read_bytes()
    for command in (["launch", "--space", "smoke.yaml", "--name", "n"], ["resume", "first"]):
        assert run([*command, "--gpus-per-trial", "1"]) == 3
        said = "no node can hold a trial of 1 CPU core and 1 GPU: this machine has 0 GPUs; ask for less with --gpus-per"
        assert said in capsys.readouterr().err.splitlines()[-1]
    assert (elsewhere / "runs/first/journal.jsonl").read_bytes() == before
    assert not (elsewhere / "runs/n").exists()


def test_a_space_of_another_data_set_reads_generated_data_as_what_they_are() -> None:
    space = SearchSpace.load("attn_cl_prid.yaml")
    small = SearchSpace.load("attn_cl_prid.yaml", overrides=small_settings(space))
    assert any_config(space).data.name == "prid2011"
    assert (any_config(small).data.name, any_config(small).data.fold) == ("mars", 0)


@pytest.mark.parametrize("recipe", ["fixed", "paper"])
@pytest.mark.parametrize("name", sorted(set(builtin_files()) - {"smoke"}))
def test_a_space_tried_on_generated_data_keeps_what_it_is_about(name: str, recipe: str) -> None:
    space = SearchSpace.load(name, overrides=[f"recipe={recipe}"])
    small = SearchSpace.load(name, overrides=[*small_settings(space), f"recipe={recipe}"])
    before, after = (any_config(each).model_dump(mode="json") for each in (space, small))
    of_the_data = {"data.name", "data.fold", "data.validation.folds", "data.validation.fold", "evaluation.protocol"}
    sizes = {*SMALL_SPLIT, *SMALL_SIZES, *of_the_data}
    assert set(differing_settings(before, after)) <= sizes
    assert small.parameters == space.parameters


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("clips.identities=64", "clips.identities: 64 identities per batch, but the validation split leaves"),
        ("compute.precision=fp16", "compute.precision: fp16 needs a CUDA GPU, and this is a CPU"),
    ],
)
def test_what_data_or_machine_can_never_follow_is_refused_before_anything_is_written(
    elsewhere: Path,
    mini_mars: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
    said: str,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert run(["launch", "smoke.yaml", setting, "--data", str(mini_mars)]) == 3
    assert said in capsys.readouterr().err
    assert not (elsewhere / "runs").exists()


def test_imagenet_weights_that_cannot_be_had_stop_a_launch_before_anything_is_written(
    elsewhere: Path, mini_mars: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from urllib.error import URLError

    from torchvision.models._api import WeightsEnum

    def offline(*_: object, **__: object) -> None:
        raise URLError("Network is unreachable")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", offline)
    launch = ["launch", "attn_cl.yaml", "clips.identities=4", "--data", str(mini_mars), "--storage", "runs"]
    for command in (launch, ["weights", "fetch", "attn_cl.yaml"]):
        assert run(command) == 3
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("model.weights: imagenet: cannot download")
        assert "set model.weights to none or to the path" in line
    assert list(elsewhere.iterdir()) == []


def test_weights_that_are_there_are_not_fetched_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from torchvision.models import get_model, get_model_weights

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = Path(get_model_weights("resnet18")["IMAGENET1K_V1"].url).name
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(get_model("resnet18", weights=None).state_dict(), tmp_path / "hub" / "checkpoints" / file)
    monkeypatch.setattr(torch.hub, "download_url_to_file", None)
    assert run(["weights", "fetch", "attn_cl.yaml", "demo.yaml", "--set", "model.backbone=resnet18"]) == 0
    fetched, random = capsys.readouterr().out.splitlines()
    assert fetched == f"attn_cl: resnet18 has its weights (imagenet); torch keeps them in {tmp_path}/hub"
    assert random == "demo: resnet18 has random weights, there is nothing to fetch"


def test_frames_that_are_not_there_stop_a_launch_with_the_first_and_no_search_is_left(
    elsewhere: Path, mini_mars: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(mini_mars / "info", "data/info")
    assert run(["launch", "--space", "smoke.yaml", "--data", "data", "--storage", "runs", "--name", "x"]) == 3
    _, line = capsys.readouterr().err.splitlines()
    root = elsewhere / "data"
    assert line.startswith(f"{root / 'bbox_train'}/0")
    hint = command_line("data", "check", root)
    assert line.endswith(f"(No such file or directory); `{hint}` tells what is missing")
    assert not Path("runs/x").exists()


def test_a_folder_one_level_too_high_stops_a_launch_with_the_one_that_would_do(
    elsewhere: Path, mini_mars: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(mini_mars, "all/mars")
    assert run(["launch", "--space", "smoke.yaml", "--data", "all", "--storage", "runs", "--name", "x"]) == 3
    _, line = capsys.readouterr().err.splitlines()
    assert line.endswith(f"; {elsewhere / 'all/mars'} holds MARS: name that folder")
    assert not Path("runs/x").exists()


@pytest.mark.parametrize("name", ["tracklets", "prid2011", "packed"])
def test_the_data_set_in_a_named_folder_is_recognised_and_a_setting_of_its_name_wins(
    elsewhere: Path, name: str
) -> None:
    write_miniature("prid2011" if name == "packed" else name, Path("data"))
    if name == "packed":
        pack_data_set("prid2011", Path("data"), Path("pack"))
    folder, expected = ("pack", "prid2011") if name == "packed" else ("data", name)
    prepare = functools.partial(prepare_space, "smoke.yaml", data=folder, storage=open_store("runs"), dry_run=True)
    assert any_config(prepare(overrides=())).data.name == expected
    assert any_config(prepare(overrides=["data.name=mars"])).data.name == "mars"


def test_a_data_set_that_a_plug_in_reads_stays_its_own(elsewhere: Path) -> None:
    write_miniature("tracklets", Path("data"))
    plain = SearchSpace.parse("smoke.yaml", overrides=["data.name=plugin:zoo"])
    assert _name_override(plain, Path("data")) == []


def weights_file(name: str, backbone: str = "tiny") -> str:
    """A checkpoint of a network as DataParallel would write it."""
    import torch

    from trainer.model.network import ModelConfig, TemporalAttentionResNet

    config = ModelConfig(backbone=backbone, weights="none", height=32, width=16)  # type: ignore[arg-type]
    state = TemporalAttentionResNet(config, num_classes=3).state_dict()
    torch.save({"state_dict": {f"module.{key}": tensor for key, tensor in state.items()}}, name)
    return name


@pytest.mark.parametrize("data", ["given", "generated"])
@pytest.mark.parametrize("dry_run", [True, False])
def test_weights_that_do_not_fit_stop_a_launch_in_one_line_before_anything_is_written(
    elsewhere: Path, mini_mars: Path, capsys: pytest.CaptureFixture[str], data: str, dry_run: bool
) -> None:
    launch = ["launch", "--space", "smoke.yaml", "--storage", "runs", "--set", "model.backbone=resnet18"]
    launch += ["--data", str(mini_mars)] if data == "given" else []
    launch += ["--dry-run"] if dry_run else []
    assert run([*launch, "--set", f"model.weights={weights_file('tiny.pt')}"]) == 3
    _, line = capsys.readouterr().err.splitlines()
    assert line.startswith("model.weights: ")
    assert "tiny.pt: does not fit model.backbone resnet18" in line
    assert "The file begins with module.backbone.0.0.weight" in line
    assert not Path("runs").exists()


def test_weights_are_fitted_to_every_backbone_that_a_space_searches(
    elsewhere: Path, mini_mars: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    searched = "parameters.model.backbone={type: choice, values: [tiny, resnet18]}"
    launch = ["launch", "--space", "smoke.yaml", "--data", str(mini_mars), "--set", "start=[]", "--set", searched]
    assert run([*launch, "--set", f"model.weights={weights_file('tiny.pt')}", "--dry-run"]) == 3
    assert "does not fit model.backbone resnet18" in capsys.readouterr().err


def test_weights_that_fit_are_let_through(elsewhere: Path, mini_mars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[TrialConfig] = []

    def rehearsed(config: TrialConfig, **_: object) -> None:
        tried.append(config)
        raise DataError("stop here")

    monkeypatch.setattr("orchestrator.show.dry_run.run_smoke_test", rehearsed)
    launch = ["launch", "--space", "smoke.yaml", "--data", str(mini_mars), "--dry-run"]
    assert run([*launch, "--set", f"model.weights={weights_file('tiny.pt')}"]) == 3
    assert [config.model.weights for config in tried] == [str(elsewhere / "tiny.pt")]


def test_damaged_data_are_named_before_weights_and_no_search_is_left(
    elsewhere: Path, mini_mars: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(mini_mars, "data")
    write("data/info/query_IDX.mat", b"garbage")
    launch = ["launch", "--space", "smoke.yaml", "--data", "data", "--set", "model.weights=gone.pt"]
    assert run(launch) == 3
    _, line = capsys.readouterr().err.splitlines()
    assert "query_IDX.mat" in line
    shutil.rmtree("data")
    shutil.copytree(mini_mars, "data")
    assert run(launch) == 3
    _, line = capsys.readouterr().err.splitlines()
    assert "gone.pt: no such file" in line
    assert not Path("runs").exists()


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "x" * 65, "new\nline", "ä"])
def test_a_name_that_is_no_plain_folder_name_is_refused(
    elsewhere: Path, mini_mars: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert run(["launch", "--space", "smoke.yaml", "--data", str(mini_mars), "--name", name]) in (2, 3)
    assert "Traceback" not in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_misspelt_search_is_answered_with_those_that_are_there_and_the_nearest_by_every_verb(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["status", "frist"]) == 3
    assert "no search 'frist' in runs (there: none)" in capsys.readouterr().err
    a_search(Path("runs/first"))
    a_search(Path("runs/other"))
    verbs = ("status", "resume", "stop", "logs", "extend", "sync", "report", "purge", "simulate", "finalize")
    for verb in verbs:
        assert run([verb, "frist"]) == 3
        told = capsys.readouterr().err
        assert "no search 'frist' in runs (there: " in told and told.endswith(" - did you mean 'first'?\n"), verb


@pytest.mark.parametrize("verb", ["status", "resume", "extend", "sync", "report", "purge", "simulate", "finalize"])
def test_a_trial_where_a_search_is_asked_for_leads_to_its_logs(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    a_search(Path("runs/first"))
    assert run([verb, "first/t0001"]) == 3
    assert "reidsearch logs first/t0001`" in capsys.readouterr().err
    assert run(["status", "first/"]) == 0, "as shells complete a folder"


def test_logs_and_stop_know_the_best_trial(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a_search(Path("runs/first"))
    assert run(["logs", "first/t0001"]) == 0
    of_the_best = capsys.readouterr().out
    assert "t0001" in of_the_best
    assert run(["logs", "first/best"]) == 0
    assert capsys.readouterr().out == of_the_best
    assert run(["stop", "first/best"]) == 3
    assert "first/t0001: is over already (completed)" in capsys.readouterr().err


@pytest.mark.parametrize("storage", ["s3:/bucket/x", "s3:bucket/x", "S3:/bucket/x", "s3//bucket/x"])
def test_a_storage_that_was_meant_to_be_a_uri_is_refused_with_what_was_meant(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], storage: str
) -> None:
    for arguments in (["launch", "--space", "smoke.yaml"], ["status"], ["resume", "first"]):
        assert run([*arguments, "--storage", storage]) == 3
        assert f"{storage}: no URI; write s3://bucket/x, or ./{storage} for a folder" in capsys.readouterr().err
    assert run(["launch", "--space", "smoke.yaml", "--stage-data", storage]) == 3
    assert "write s3://bucket/x" in capsys.readouterr().err
    assert list(elsewhere.iterdir()) == []
    assert run(["status", "--storage", f"./{storage}"]) == 0


@pytest.mark.parametrize(
    "uri", ["ftp://host/x", "s3:/bucket", "mlruns", "file:///tmp/mlruns", "localhost:5000", "http://"]
)
def test_a_place_where_mlflow_keeps_no_runs_is_refused_before_anything_starts(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], uri: str
) -> None:
    for arguments in (["launch", "smoke.yaml"], ["sync", "first"], ["purge", "first", "--yes"]):
        assert run([*arguments, "--tracking-uri", uri]) == 2
        assert f"MLflow keeps no runs in '{uri}'; name a server, such as http://" in capsys.readouterr().err
    assert list(elsewhere.iterdir()) == []


def test_a_report_for_mlflow_without_a_file_is_refused_before_it_is_made(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a_search(Path("runs/first"))
    assert run(["report", "first", "--format", "md", "--to-mlflow"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "--to-mlflow needs a file: name one with --out" in printed.err


def test_a_relative_path_after_file_is_not_taken_for_one_below_the_root() -> None:
    with pytest.raises(SearchError, match="write the path runs, or"):
        is_uri("file:runs")
    with pytest.raises(SearchError, match="write file:///tmp/runs, or"):
        is_uri("file:/tmp/runs")


@given(st.sampled_from(["s3", "gs", "gcs", "file", "GS"]), st.text("abc/:-._ ", max_size=12))
def test_no_folder_begins_like_a_uri(scheme: str, rest: str) -> None:
    for text in (f"{scheme}:{rest}", f"{scheme}//{rest}"):
        if text.startswith(f"{scheme}://"):
            assert is_uri(text)
        else:
            with pytest.raises(SearchError, match=f"write ({scheme.lower()}://|the path )"):
                is_uri(text)
    assert not is_uri(f"./{scheme}:{rest}")
    assert not is_uri(f"{scheme}_{rest}"), "no scheme holds an underscore"


@pytest.mark.parametrize("failed", [False, True])
def test_the_resume_of_a_finished_search_says_so_and_writes_nothing(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], failed: bool
) -> None:
    found = finished_with_a_failure(Path("runs/first")) if failed else a_search(Path("runs/first"))
    before = {path: path.read_bytes() for path in found.path.rglob("*")}
    assert run(["resume", "first"]) == (4 if failed else 0)
    told = capsys.readouterr().out
    assert told.startswith("first is finished (2 trials): nothing is left to run\n")
    assert "reidsearch extend first --trials +10 --storage runs" in told.replace(str(elsewhere) + "/", "")
    assert ("--errored retry" in told) == failed
    assert run(["resume", "first", "--strict"]) == (1 if failed else 0)
    assert {path: path.read_bytes() for path in found.path.rglob("*")} == before


def finished_with_a_failure(folder: Path) -> SearchFolder:
    lost = [*completed(1, 0.6)[:2], TrialFailed(trial="t0001", failure="error", reason="out of luck")]
    ending = SessionEnded(state="finished", reason="2 trials")
    space = SearchSpace.load("smoke.yaml", overrides=["budget.trials=2"])
    return write_search(folder, space, [*completed(0, 0.4), *lost, ending])


def test_a_warm_start_from_a_search_that_is_not_there_is_refused_before_anything_is_written(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["launch", "smoke.yaml", "--warm-start", "gone"]) == 3
    assert "no search 'gone' in runs" in capsys.readouterr().err
    assert list(elsewhere.iterdir()) == []


def test_a_misspelt_command_and_a_misspelt_option_are_answered_with_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["lanch"]) == 2
    assert "Did you mean 'launch'?" in capsys.readouterr().err
    assert run(["launch", "--spaec", "x"]) == 2
    assert "--space" in capsys.readouterr().err


@pytest.mark.parametrize(("word", "verb"), [("run", "launch"), ("ls", "status"), ("fit", "train"), ("rm", "purge")])
def test_commands_of_other_tools_are_answered_with_ours(
    word: str, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([word, "demo.yaml"]) == 2
    assert f"Did you mean {verb!r}?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (
            "--epochs 10",
            "No such option '--epochs'. A setting is written --set PATH=VALUE - did you mean 'optim.epochs'?",
        ),
        ("--lr 0.1", "A setting is written --set PATH=VALUE - did you mean 'optim.learning_rate'?"),
        ("--optim.epochs=10", "A setting is written --set PATH=VALUE, such as --set optim.epochs=10."),
        ("--n-trials 9", "No such option '--n-trials'. Did you mean '--trials'?"),
        ("--config x.yaml", "Did you mean '--space'?"),
        ("--gpus 2", "Did you mean '--gpus-per-trial'?"),
        ("--dry_run", "Did you mean '--dry-run'?"),
        ("--resume", "'resume' is a command."),
        ("--multirun", "Every launch is a search; its space says what is searched."),
        ("++optim.epochs=10", "unknown setting '++optim.epochs' - did you mean 'optim.epochs'?"),
        ("+x=1", "unknown setting '+x'; `config show SPACE` lists all"),
        ("--scheduler asha", "A setting is written --set PATH=VALUE - did you mean 'stopping.rule'?"),
        ("optim.learning_rate=loguniform(1e-4,.1)", "{type: float, low: 0.0001, high: 0.1, log: true}'"),
        ("data=/data/mars", "; --data DIR names the data set's folder"),
    ],
)
def test_what_is_typed_in_other_tools_is_answered_with_what_to_type(
    words: str, answer: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["launch", "demo.yaml", *words.split()]) in (2, 3)
    assert answer in capsys.readouterr().err
    assert list(elsewhere.iterdir()) == []


def test_settings_are_taken_without_set_and_names_in_the_place_of_others_are_answered(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["space", "check", "demo.yaml", "optim.epochs=0"]) == 3
    assert "--set optim.epochs=0: trainer.optim.epochs: must be at least 1" in capsys.readouterr().err
    assert run(["space", "check", "demo.yaml", "epochs"]) == 2
    assert "epochs: is no setting, which is written PATH=VALUE, such as optim.epochs=10" in capsys.readouterr().err
    assert run(["status", "--name", "first"]) == 2
    assert "NAME is given without an option." in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["demo.yaml", "optim.epochs=1", "budget.trials=2"],
        ["--space", "demo.yaml", "optim.epochs=1", "budget.trials=2"],
        ["demo.yaml", "--set", "optim.epochs=1", "budget.trials=2"],
        ["--space", "demo.yaml", "--set", "budget.trials=2", "optim.epochs=1"],
    ],
)
def test_settings_follow_the_search_space_as_they_follow_set(
    words: list[str], monkeypatch: pytest.MonkeyPatch, elsewhere: Path
) -> None:
    asked = []
    monkeypatch.setattr("orchestrator.cli.launch.say_where_runs_are", lambda *_: None)
    monkeypatch.setattr("orchestrator.runner.prepare_space.prepare_space", lambda *_, **given: asked.append(given))
    with pytest.raises(AttributeError):  # nothing was prepared
        run(["launch", *words])
    assert set(asked[0]["overrides"]) == {"optim.epochs=1", "budget.trials=2"}


def test_a_word_that_is_no_setting_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["launch", "demo.yaml", "optim.epochs", "10"]) == 2
    assert "optim.epochs: is no setting; after the search space come settings as PATH=VALUE" in capsys.readouterr().err


def test_the_environment_names_the_storage_and_an_option_wins(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a_search(Path("far/first"))
    monkeypatch.setenv("REIDSEARCH_STORAGE", "far")
    assert run(["status", "first"]) == 0
    assert load("first").name == "first"
    assert run(["status", "first", "--storage", "runs"]) == 3
    assert "no search 'first' in runs" in capsys.readouterr().err


def test_a_project_file_names_the_storage_and_the_environment_wins(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a_search(Path("far/first"))
    assert run(["init"]) == 0
    assert run(["init"]) == 3
    write("reidsearch.yaml", "storage: far\n")
    assert run(["status", "first"]) == 0
    monkeypatch.setenv("REIDSEARCH_STORAGE", "runs")
    assert run(["status", "first"]) == 3
    monkeypatch.delenv("REIDSEARCH_STORAGE")
    write("reidsearch.yaml", "storge: far\n")
    assert run(["status", "--help"]) == 0
    capsys.readouterr()
    assert run(["status", "first"]) == 3
    assert "reidsearch.yaml:1: storge: unknown key" in capsys.readouterr().err


def test_data_of_the_environment_are_for_spaces_that_generate_none_and_an_option_wins(
    elsewhere: Path, mini_mars: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("REIDSEARCH_DATA", "mars")
    for folder in ("mars", "other"):
        Path(folder).symlink_to(mini_mars)
    prepare = functools.partial(prepare_space, storage=open_store("runs"), dry_run=True)
    tiny = ("model.backbone=tiny", "model.weights=none")
    assert any_config(prepare("attn_cl.yaml", data=None, overrides=tiny)).data.root == elsewhere / "mars"
    assert caplog.messages == ["data      mars (REIDSEARCH_DATA)"]
    assert any_config(prepare("attn_cl.yaml", data="other", overrides=tiny)).data.root == elsewhere / "other"
    named = any_config(prepare("attn_cl.yaml", data=None, overrides=(*tiny, "data.root=other")))
    assert named.data.root == elsewhere / "other"
    assert prepare("smoke.yaml", data=None, overrides=()).synthetic == "tiny"
    assert len(caplog.messages) == 1


def test_a_space_tried_on_generated_data_says_which_settings_are_replaced(elsewhere: Path) -> None:
    said: list[str] = []
    prepare = functools.partial(
        prepare_space, data=MINI_MARS, storage=open_store("runs"), dry_run=True, say=said.append
    )
    prepare("attn_cl.yaml", overrides=("optim.epochs=3",))
    assert "model.backbone 'tiny' (was 'resnet50'), " in said[-1]
    assert "optim.epochs" not in said[-1], "which the user has set"
    prepare("demo.yaml", overrides=())
    assert "was" not in said[-1]


def test_without_a_command_the_searches_are_shown_and_what_to_do_next(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([]) == 0
    origins, alone = (part.splitlines() for part in capsys.readouterr().out.split("\n\n"))
    assert origins[:2] == ["storage   runs  (default)", "data      as each space says  (default)"]
    assert origins[2].startswith("notify    nothing at a search's end; `")
    assert [line.split("reidsearch ")[-1] for line in alone] == [
        *("demo", "launch attn_cl.yaml --data /data/mars", "--help")
    ]
    a_search(Path("runs/first"))
    assert run([]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("first ")


def test_help_lists_every_command_once_under_a_heading(capsys: pytest.CaptureFixture[str]) -> None:
    listed = [each.name for commands in GROUPS.values() for each in commands]
    assert sorted(listed) == sorted(cli.commands)
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in listed)
    assert "..." not in shown.partition("Search:")[2]


@pytest.mark.parametrize("group", [name for name, each in cli.commands.items() if isinstance(each, click.Group)])
def test_the_help_of_a_group_has_whole_sentences(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([group, "--help"]) == 0
    assert "..." not in capsys.readouterr().out.partition("Commands:")[2]


def all_commands() -> list[tuple[str, click.Command]]:
    found = []
    for name, command in cli.commands.items():
        if isinstance(command, click.Group):
            found += [(f"{name} {sub}", c) for sub, c in command.commands.items()]
        else:
            found.append((name, command))
    return found


def test_all_options_that_are_missing_are_named_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cluster", "slurm", "smoke.yaml", "--time", "1:00:00"]) == 2
    assert "Missing options '--nodes', '--storage', '--cpus-per-node'" in capsys.readouterr().err
    assert run(["embed", "model"]) == 2
    assert "Missing argument 'SOURCE'" in capsys.readouterr().err


def test_the_commands_are_those_that_are_documented() -> None:
    assert {name for name, _ in all_commands()} == {
        *("demo", "launch", "resume", "status", "stop", "logs", "extend", "sync", "simulate", "train", "evaluate"),
        *("report", "dashboard", "export", "reproduce", "purge", "doctor", "completion", "config show"),
        *("init", "support", "weights fetch", "cluster check"),
        *("compare", "ui", "finalize", "ablate", "tables", "embed", "match"),
        *("data synth", "data check", "data stats", "data preview", "data pack", "data import"),
        *("space check", "space show", "space sample", "space diff", "space schema"),
        *("cluster plan", "cluster slurm", "cluster k8s", "cluster ray-up"),
    }


@pytest.mark.parametrize(("name", "command"), all_commands(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_command_has_help_and_an_example(name: str, command: click.Command) -> None:
    assert command.help
    assert command.epilog is not None
    assert command.epilog.startswith(f"Example: reidsearch {name}")
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


@pytest.mark.parametrize("arguments", [["--help"], ["launch", "--help"], ["--version"], ["status"]])
def test_help_and_status_import_nothing_heavy(elsewhere: Path, arguments: list[str]) -> None:
    program = (
        "import sys; from orchestrator.__main__ import run; code = run(sys.argv[1:]); "
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr.strip().splitlines()[-1] == "[]"


def test_the_command_line_is_parsed_without_the_types_of_spaces_and_searches() -> None:
    program = "import sys, orchestrator.__main__; print('pydantic' in sys.modules, 'yaml' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


# Ordinary mistakes, a line of each; the folder holds a search `first` and a broken space.
SLIPS = (
    "launch --space gone.yaml",
    "launch --space broken.yaml",
    "launch --space wrong.yaml",
    "launch --space demo.yaml --set optim.lr=3",
    "launch --space demo.yaml --name first",
    "launch --space demo.yaml --name .hidden",
    "launch --space attn_cl.yaml --data gone",
    "launch --space attn_cl.yaml",
    "launch --space demo.yaml --warm-start gone",
    "launch --space demo.yaml --storage s3:/bucket/x",
    "launch --dry-run --space demo.yaml --set budget.trial=3",
    "space check wrong.yaml",
    "config show wrong.yaml",
    "ablate --row gone.yaml",
    "ablate --data gone",
    "resume gone",
    "finalize gone",
    "simulate gone",
    "stop first/t0009",
    "logs gone",
    "compare gone first",
    "export gone/best --out x",
    "train gone.json --out x",
    "evaluate gone.json",
    "data preview gone --out x.png",
)


def test_mistakes_in_names_paths_and_spaces_are_answered_without_torch_and_ray(elsewhere: Path) -> None:
    a_search(Path("runs/first"))
    write("broken.yaml", "version: [1")
    write("wrong.yaml", GOOD.replace("triplet_margin", "margin").replace("trials", "trails"))
    program = (
        "import json, sys; from orchestrator.__main__ import run; "
        "heavy = ('torch', 'ray', 'ax', 'mlflow'); "
        "print(json.dumps([[run(line.split()), [name for name in heavy if name in sys.modules]] "
        "for line in json.loads(sys.argv[1])]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(SLIPS)], capture_output=True, text=True, check=True
    )
    found = dict(zip(SLIPS, json.loads(done.stdout), strict=True))
    assert found == {line: [3, []] for line in SLIPS}, done.stderr
    assert {path.name for path in elsewhere.iterdir()} == {"runs", "broken.yaml", "wrong.yaml"}


def test_data_synth_and_data_check_agree(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", "synth", "mini", "--size", "tiny"]) == 0
    assert "SYNTHETIC" in capsys.readouterr().out
    assert run(["data", "check", "mini", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["synthetic"] is True
    assert found["train"][0] == 8
    assert run(["data", "check", "mini"]) == 0
    assert "queries have no match" in capsys.readouterr().out
    Path("mini/info/tracks_test_info.mat").unlink()
    assert run(["data", "check", "mini"]) == 3
    assert "tracks_test_info.mat" in capsys.readouterr().err


def test_space_show_prints_a_space_that_space_check_accepts(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["space", "show"]) == 0
    assert "attn_cl" in capsys.readouterr().out
    assert run(["space", "show", "demo.yaml", "--set", "budget.trials=3"]) == 0
    write("shown.yaml", capsys.readouterr().out)
    assert run(["space", "check", "shown.yaml"]) == 0
    assert "3 trials" in capsys.readouterr().out


OUTPUTS = (
    *("report first --out", "tables first --out", "export first/best --out", "reproduce first/best --out"),
    *("compare first/t0000 first/t0001 --sheet", "train config.json --out", "evaluate config.json --out"),
    *("evaluate config.json --cache", "data synth", "data pack mini", "data preview mini --out"),
)


@pytest.mark.parametrize("command", OUTPUTS)
def test_a_place_that_cannot_be_written_is_refused_before_any_work(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    a_search(Path("runs/first"))
    write("file", "")
    monkeypatch.setattr("orchestrator.stores.base.existing_search", lambda *_: pytest.fail("work"))
    assert run([*command.split(), "file/below/out"]) == 5
    assert capsys.readouterr().err == f"{elsewhere / 'file'}: cannot be written (Not a directory)\n"


@pytest.mark.parametrize("command", ["tables first --out", "report first --format csv --out", "support first --out"])
def test_a_file_in_a_folder_that_is_not_there_is_refused(
    command: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a_search(Path("runs/first"))
    assert run([*command.split(), "new/file"]) == 3
    assert capsys.readouterr().err == "new: no such folder; make it first, or write file somewhere else\n"
    assert not Path("new").exists()


def test_a_report_into_a_folder_that_cannot_be_written_fails_before_the_search_is_read(elsewhere: Path) -> None:
    write("file", "")
    with pytest.raises(OSError, match="cannot be written"):
        write_report(local_search(elsewhere / "file"), "html", None, model=True, images=False)


@pytest.mark.parametrize("arguments", ["space show attn_cl.yaml", "status first --json", "status", "logs first"])
def test_output_into_a_closed_pipe_ends_quietly_with_0(elsewhere: Path, arguments: str) -> None:
    a_search(Path("runs/first"))
    read, write_end = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", *arguments.split()],
        stdout=write_end,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write_end)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["status", "--storage", ""], "'--storage': is empty; give a value, or leave it out"),
        (["launch", "smoke", "--data", ""], "'--data': is empty"),
        (["launch", "smoke", "--name", ""], "'--name': is empty"),
        (["launch", "smoke", "--set", "budget.trials=1", "--set", ""], "'--set': is empty"),
        (["launch", "smoke", "--storage", "memory://x"], "memory:// lives in one process only"),
        (["report", "first", "--out", ""], "'--out': is empty"),
        (["data", "synth", ""], "is empty"),
        (["data", "check", ""], "is empty"),
    ],
)
def test_a_place_that_is_empty_or_that_no_other_command_finds_is_refused(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(words) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_current_folder_that_was_deleted_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert run(["status"]) == 5
    assert capsys.readouterr().err.strip() == "the current folder was deleted; change to another one"
