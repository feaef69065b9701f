"""What `auto` becomes on machines that are described, and that a trial keeps it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from pretend_gpu import PretendGpu
from trainings import changed, figures

from orchestrator.space.search_space import SearchSpace
from trainer.automatic import Machine, precision, resolved, this_machine, workers
from trainer.checkpoint import load_checkpoint, save_checkpoint
from trainer.config import TrialConfig
from trainer.errors import ConfigError
from trainer.evaluation.evaluate import evaluate
from trainer.training.fit import fit
from trainer.training.step_cost import measure_step

MACHINES = {
    "GPU of 80 GB, capability 9.0, 16 cores": Machine((9, 0), amx=True, cores=16),
    "GPU of 24 GB, capability 8.9, 6 cores": Machine((8, 9), cores=6),
    "T4 (7.5), 4 cores": Machine((7, 5), cores=4),
    "GTX 1080 (6.1), 1 core": Machine((6, 1), cores=1),
    "CPU with AMX, 8 cores": Machine(amx=True, cores=8),
    "CPU without AMX, 8 cores": Machine(cores=8),
}
AMX, NO_AMX, T4 = Machine(amx=True, cores=2), Machine(cores=2), Machine((7, 5), cores=2)
PERFORMANCE = Path(__file__).parents[2] / "docs/performance.md"


def test_the_docs_say_what_a_shipped_space_becomes_on_each_kind_of_machine() -> None:
    space = SearchSpace.load("attn_cl.yaml")
    config = space.config(space.any_sample())
    rows = []
    for name, machine in MACHINES.items():
        found = resolved(config, machine)
        tf32 = {True: "yes", False: "no"}[found.compute.tf32 is True] if machine.capability else "-"
        rows.append(f"| {name} | {found.compute.precision} | {tf32} | {found.clips.worker_count} |\n")
    assert "".join(rows) in PERFORMANCE.read_text()


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((6, 1), "fp32"), ((7, 0), "fp16"), ((7, 5), "fp16"), ((8, 0), "bf16"), ((12, 0), "bf16")],
)
def test_the_precision_of_a_gpu_is_one_that_it_has_tensor_cores_for(capability: tuple[int, int], expected: str) -> None:
    assert precision(Machine(capability)) == expected


@pytest.mark.parametrize(("cores", "on_gpu"), [(1, 1), (2, 1), (5, 4), (9, 8), (64, 8)])
def test_a_gpu_gets_all_cores_but_one_for_decoding_and_a_cpu_keeps_them(cores: int, on_gpu: int) -> None:
    assert workers(Machine((8, 0), cores=cores)) == on_gpu
    assert workers(Machine(cores=cores)) == 0


def test_maps_one_pixel_wide_which_amx_gets_wrong_are_computed_in_fp32(tiny_config: TrialConfig) -> None:
    wide = changed(tiny_config, compute__precision="auto", model__last_stride=1)
    narrow = changed(wide, model__last_stride=2)
    assert resolved(wide, AMX).compute.precision == "bf16"
    assert resolved(narrow, AMX).compute.precision == "fp32"
    assert resolved(narrow, T4).compute.precision == "fp16"
    assert resolved(wide, AMX, recorded={"compute": {"precision": "bf16"}}).compute.precision == "bf16"
    for asked, recorded in (
        (narrow, {"compute": {"precision": "bf16"}}),
        (changed(narrow, compute__precision="bf16"), {}),
    ):
        with pytest.raises(ConfigError, match="bf16 on this processor gives wrong numbers"):
            resolved(asked, AMX, recorded=recorded)


def test_what_is_set_stays_and_the_rest_of_a_trial_does_not_change() -> None:
    told = {"clips": {"workers": 3}, "compute": {"precision": "fp32", "tf32": False}}
    config = TrialConfig.model_validate(told)
    assert resolved(config, Machine((9, 0), cores=16), recorded={"compute": {"precision": "bf16"}}) == config
    once = resolved(TrialConfig(), AMX)
    assert resolved(once, T4) == once
    assert once == changed(TrialConfig(), compute__precision="bf16", compute__tf32=False, clips__workers=0)


def test_this_machine_is_what_torch_tells_of_it() -> None:
    amx = bool(torch.cpu.get_capabilities()["amx_bf16"]) if "amx_bf16" in torch.cpu.get_capabilities() else False
    assert this_machine("cpu") == Machine(None, amx, torch.get_num_threads())
    with PretendGpu(capability=(8, 9)):
        assert this_machine("cuda").capability == (8, 9)


def test_a_training_records_what_auto_became_says_it_once_and_resumes_with_it_elsewhere(
    tiny_config: TrialConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told = {"compute__precision": "auto", "compute__tf32": "auto", "clips__workers": "auto", "optim__epochs": 2}
    config = changed(tiny_config, **told)
    monkeypatch.setattr("trainer.training.fit.this_machine", lambda device: AMX)
    with caplog.at_level(logging.INFO, logger="trainer"):
        whole = fit(config, out=tmp_path / "whole")
    (line,) = [each for each in caplog.messages if "images/s" in each]
    assert line.startswith("CPU, bf16, channels last, 0 processes decode frames, not compiled: ")
    fit(config, out=tmp_path / "cut", until=1)
    monkeypatch.setattr("trainer.training.fit.this_machine", lambda device: NO_AMX)
    last = tmp_path / "cut/checkpoint/last.pt"
    assert figures(fit(config, out=tmp_path / "cut", resume_from=last).history) == figures(whole.history)
    for settings in (
        json.loads((tmp_path / "cut/config.json").read_text()),
        load_checkpoint(last)["config"],
        load_checkpoint(tmp_path / "whole/checkpoint/best.pt")["config"],
    ):
        assert settings["compute"]["precision"] == "bf16"
        assert (settings["compute"]["tf32"], settings["clips"]["workers"]) == (False, 0)
    assert {result.precision for result in whole.history} == {"bf16"}


@pytest.mark.parametrize(
    ("trained_in", "asked", "judged_in"), [("bf16", "auto", "bf16"), ("bf16", "fp32", "fp32"), ("fp16", "auto", "fp32")]
)
def test_an_evaluation_takes_what_auto_became_in_the_training_unless_this_machine_lacks_it(
    tiny_config: TrialConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trained_in: str,
    asked: str,
    judged_in: str,
) -> None:
    monkeypatch.setattr("trainer.evaluation.evaluate.this_machine", lambda device: NO_AMX)
    fit(changed(tiny_config, optim__epochs=1, evaluation__folder=False), out=tmp_path)
    best = tmp_path / "checkpoint/best.pt"
    state = load_checkpoint(best)
    state["config"]["compute"]["precision"] = trained_in
    save_checkpoint(best, state)
    found = evaluate(changed(tiny_config, compute__precision=asked), best, part="validation")
    assert found.config.compute.precision == judged_in


def test_evaluations_and_measured_steps_resolve_a_trial_themselves(
    tiny_config: TrialConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = changed(tiny_config, compute__precision="auto", compute__tf32="auto", clips__workers="auto")
    for module in ("evaluation.evaluate", "training.step_cost"):
        monkeypatch.setattr(f"trainer.{module}.this_machine", lambda device: NO_AMX)
    assert (
        evaluate(config, None, part="validation").evaluation
        == evaluate(tiny_config, None, part="validation").evaluation
    )
    assert measure_step(config).precision == "fp32"
