"""The origin of each value of a space."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.__main__ import run
from orchestrator.space.config_provenance import Setting, settings_of
from orchestrator.space.schema import trainer_settings

PARENT = """\
version: 1
name: parent
budget: {trials: 2}
parameters:
  loss.triplet_margin: {type: float, low: 0.1, high: 0.8}
trainer:
  model: {backbone: tiny, weights: none}
  optim: {epochs: 60}
"""
CHILD = """\
extends: parent.yaml
name: child
replicates: 3
parameters:
  loss.triplet_margin: {high: 0.9}
derived:
  optim.learning_rate: 1e-3 * loss.triplet_margin
trainer:
  recipe: paper
  optim: {epochs: 10}
"""


@pytest.fixture
def spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("parent.yaml").write_text(PARENT)
    Path("child.yaml").write_text(CHILD)


def origins(*overrides: str) -> dict[str, Setting]:
    return {setting.path: setting for setting in settings_of("child.yaml", overrides)}


@pytest.mark.usefixtures("spaces")
@pytest.mark.parametrize(
    ("path", "value", "origin"),
    [
        ("name", "child", "child.yaml:2:1"),
        ("budget.trials", 2, "parent.yaml:3:10"),
        ("budget.hours", None, "default"),
        ("replicates.seeds", 3, "child.yaml:3:1"),
        ("replicates.leaders", 2, "default"),
        ("parameters.loss.triplet_margin.low", 0.1, "parent.yaml:5:38"),
        ("parameters.loss.triplet_margin.high", 0.9, "child.yaml:5:25"),
        ("derived.optim.learning_rate", "1e-3 * loss.triplet_margin", "child.yaml:7:3"),
        ("loss.triplet_margin", "searched", "child.yaml:5:3"),
        ("optim.learning_rate", "= 1e-3 * loss.triplet_margin", "child.yaml:7:3"),
        ("optim.epochs", 10, "child.yaml:10:11"),
        ("model.backbone", "tiny", "parent.yaml:7:11"),
        ("model.height", 256, "default"),
        ("clips.sampling", "consecutive_paper", "default of recipe paper"),
        ("evaluation.protocol", "mars", "default of data.name mars"),
        ("data.root", "data/mars", "default"),
    ],
)
def test_each_value_is_said_to_come_from_the_file_that_gives_it(path: str, value: object, origin: str) -> None:
    assert origins()[path] == (path, value, origin)


@pytest.mark.usefixtures("spaces")
def test_a_set_wins_over_every_file_and_is_named() -> None:
    found = origins("optim.epochs=5", "parameters.loss.triplet_margin.low=0.2", "budget.trials=7", "clips.frames=3")
    assert found["optim.epochs"][1:] == (5, "--set optim.epochs=5")
    assert found["parameters.loss.triplet_margin.low"][1:] == (0.2, "--set parameters.loss.triplet_margin.low=0.2")
    assert found["parameters.loss.triplet_margin.high"].origin == "child.yaml:5:25"
    assert found["budget.trials"].origin == "--set budget.trials=7"
    assert found["clips.frames"].origin == "--set clips.frames=3"


@pytest.mark.usefixtures("spaces")
def test_a_setting_that_a_set_fixes_is_no_longer_searched() -> None:
    found = origins(
        "loss.triplet_margin=0.5", "parameters.optim.gamma={type: float, low: 0.1, high: 0.5}", "optim.learning_rate=1"
    )
    assert found["loss.triplet_margin"][1:] == (0.5, "--set loss.triplet_margin=0.5")
    assert "parameters.loss.triplet_margin.low" not in found


@pytest.mark.usefixtures("spaces")
def test_every_setting_of_the_trainer_is_there_once() -> None:
    paths = [setting.path for setting in settings_of("child.yaml")]
    assert len(paths) == len(set(paths))
    assert set(trainer_settings()) <= set(paths)


@pytest.mark.usefixtures("spaces")
def test_config_show_prints_values_and_with_origin_where_they_come_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "show", "child.yaml"]) == 0
    assert "optim.epochs: 10\n" in capsys.readouterr().out
    assert run(["config", "show", "child.yaml", "--origin", "--set", "optim.epochs=4"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("optim.epochs:")]
    assert line.split() == ["optim.epochs:", "4", "#", "--set", "optim.epochs=4"]
    assert run(["config", "show", "child.yaml", "--json"]) == 0
    assert {"path": "seed", "value": 0, "origin": "default"} in json.loads(capsys.readouterr().out)
    assert run(["config", "show", "gone.yaml"]) == 3
    assert "gone.yaml: no such file" in capsys.readouterr().err
