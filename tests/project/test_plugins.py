"""Plug-ins of installed packages: found, used by name, blamed for what they raise, recorded."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from checkout import ROOT
from miniatures import write_frames
from small_spaces import space_of

from orchestrator.__main__ import run
from orchestrator.algorithms.suggest import Suggestion, find_algorithm
from orchestrator.base import provenance
from orchestrator.base.errors import EnvironmentProblem
from orchestrator.cluster.node_check import Expected, Facts, NodeMismatch, facts, mismatches
from orchestrator.doctor import software
from orchestrator.space.plugins import changed_plugins, plugins_of
from orchestrator.study.study import Study
from trainer import plugins
from trainer.config import TrialConfig
from trainer.data import DataConfig, read_splits
from trainer.data.folder import find_data
from trainer.data.readers import _data_set_of_plugin
from trainer.errors import ConfigError, DataError
from trainer.losses.reid_loss import LossConfig, ReidLoss
from trainer.model.backbones import backbone_geometry
from trainer.model.network import ModelOutput

CACHES = (plugins.find_plugin, plugins.load_plugin, _data_set_of_plugin, backbone_geometry)
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Makes a package with one plug-in importable, as an installation does."""
    for cache in CACHES:
        cache.cache_clear()

    def made(kind: str, name: str, code: str, *, package: str = "lab", version: str = "1.2") -> None:
        site = tmp_path / package
        about = site / f"{package}-{version}.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        (about / "entry_points.txt").write_text(f"[reidsearch.{kind}]\n{name} = {package}_code:made\n")
        (site / f"{package}_code.py").write_text(code)
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.delitem(sys.modules, f"{package}_code", raising=False)

    yield made
    for cache in CACHES:
        cache.cache_clear()


def output_of(vectors: torch.Tensor) -> ModelOutput:
    """Of a network, with these embeddings [B D] and as many scores."""
    weights = torch.full((len(vectors), 2), 0.5)
    return ModelOutput(vectors, vectors, weights, weights, vectors)


def loss_of(config: LossConfig) -> dict[str, torch.Tensor]:
    """The terms for four clips of two identities."""
    vectors = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    erased = torch.zeros(4, 2, dtype=torch.bool)
    return ReidLoss(config, 8, 8)(output_of(vectors), torch.tensor([0, 0, 1, 1]), erased, torch.randn(8, 8))


def test_a_plugin_that_nobody_has_is_named_with_those_that_are_there(install: Install, tmp_path: Path) -> None:
    install("data_sets", "farm", "")
    with pytest.raises(ValueError, match=r"plugin:frm: no installed package has this plug-in - did you mean 'farm'\?"):
        DataConfig(name="plugin:frm")
    with pytest.raises(DataError, match=r"^plugin:frm: no installed"):
        find_data(tmp_path, "plugin:frm")


def test_a_plugin_is_imported_only_when_it_is_named(install: Install) -> None:
    install("data_sets", "farm", "raise RuntimeError('imported')")
    assert "farm" in plugins.installed_plugins("data_sets")
    TrialConfig()
    assert "lab_code" not in sys.modules


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
        ("import a_module_of_nobody", "ModuleNotFoundError: No module named 'a_module_of_nobody'"),
        ("other = 1", "AttributeError: module 'lab_code' has no attribute 'made'"),
        ("made = 7", "lab_code:made cannot be called"),
        ("def made(): ...", "lab_code:made is no trainer.data.DataSet"),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_said_with_its_package(install: Install, code: str, what: str) -> None:
    install("data_sets", "farm", code)
    with pytest.raises(ValueError) as raised:
        DataConfig(name="plugin:farm")
    assert f"plugin:farm (package lab 1.2): {what}" in str(raised.value)


def test_what_a_reader_raises_is_an_error_of_the_data_with_its_package(install: Install, tmp_path: Path) -> None:
    code = "from trainer.data import DataSet\ndef read(root, fold): raise KeyError('row 7')\n"
    install("data_sets", "farm", code + "made = DataSet('Farm', read, lambda root: False, 'no_camera', {})")
    config = TrialConfig.model_validate({"data": {"name": "plugin:farm", "root": str(tmp_path)}})
    assert config.evaluation.protocol == "no_camera"
    with pytest.raises(DataError, match=r"plugin:farm \(package lab 1.2\): KeyError: 'row 7'"):
        read_splits(config.data)


def test_two_packages_with_one_name_are_both_named(install: Install) -> None:
    install("losses", "same", "", package="one")
    install("losses", "same", "", package="two")
    with pytest.raises(ConfigError, match=r"package (one|two) 1.2.*package (one|two) 1.2.* have one name"):
        plugins.installed_plugins("losses")


def test_an_extra_loss_is_a_term_with_its_weight(install: Install) -> None:
    install("losses", "two", "def made(output, labels): return 0 * output.embedding.sum() + 2")
    torch.manual_seed(0)
    plain = loss_of(LossConfig())
    torch.manual_seed(0)
    with_extra = loss_of(LossConfig(extra="plugin:two", extra_weight=0.25))
    assert float(with_extra["extra"]) == 2
    torch.testing.assert_close(with_extra["total"], plain["total"] + 0.5)


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("def made(output, labels): return output.embedding", r"gave a tensor of shape \[4, 8\] where a loss is"),
        ("def made(output, labels): return 1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_loss_that_fails_is_said_with_its_package(install: Install, code: str, what: str) -> None:
    install("losses", "bad", code)
    with pytest.raises(ConfigError, match=rf"plugin:bad \(package lab 1.2\): {what}"):
        loss_of(LossConfig(extra="plugin:bad", extra_weight=1))


def test_an_extra_loss_without_prefix_and_a_weight_without_loss_are_refused() -> None:
    with pytest.raises(ValueError, match="as plugin:NAME"):
        LossConfig(extra="ring")
    with pytest.raises(ValueError, match="extra_weight has no effect"):
        LossConfig(extra_weight=1)


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("def made(size, last_stride): return 7", "made int where a backbone is a torch.nn.Module"),
        ("def made(size, last_stride): raise ValueError('too small')", "ValueError: too small"),
    ],
)
def test_a_backbone_that_fails_is_said_with_its_package(install: Install, code: str, what: str) -> None:
    install("backbones", "net", code)
    with pytest.raises(ValueError) as raised:
        TrialConfig.model_validate({"model": {"backbone": "plugin:net", "weights": "none"}})
    assert f"plugin:net (package lab 1.2): {what}" in str(raised.value)
    assert str(raised.value).count("plugin:net") == 1 + len(raised.value.errors())  # and in what was given


SUGGESTS = "from orchestrator.algorithms.suggest import Suggestion\ndef made(space, seed, study): return "


def test_an_algorithm_of_a_package_proposes_after_the_points_under_start(install: Install) -> None:
    install("algorithms", "mine", SUGGESTS + "Suggestion({'loss.label_smoothing': 0.25}, 'random')")
    space = space_of(
        {"loss.label_smoothing": {"type": "float", "low": 0, "high": 0.5}}, algorithm={"name": "plugin:mine"}
    )
    proposal = find_algorithm("plugin:mine")(space, 0, Study("s"))
    assert isinstance(proposal, Suggestion)
    assert (proposal.params, proposal.source) == ({"loss.label_smoothing": 0.25}, "plugin")


@pytest.mark.parametrize(
    ("returned", "what"),
    [
        ("Suggestion({'loss.osm_alpha': 1.0}, 'plugin')", "loss.osm_alpha"),
        ("Suggestion({'loss.label_smoothing': 7.0}, 'plugin')", "loss.label_smoothing"),
        ("[0.5]", "proposed list, neither Suggestion nor Exhausted"),
    ],
)
def test_what_is_no_point_of_the_space_is_refused_with_the_package(install: Install, returned: str, what: str) -> None:
    install("algorithms", "mine", SUGGESTS + returned)
    space = space_of(
        {"loss.label_smoothing": {"type": "float", "low": 0, "high": 0.5}}, algorithm={"name": "plugin:mine"}
    )
    with pytest.raises(ConfigError, match=rf"plugin:mine \(package lab 1.2\): .*{what}"):
        find_algorithm("plugin:mine")(space, 0, Study("s"))


def test_a_search_knows_the_packages_of_its_plugins_and_says_when_one_changed_or_is_gone(install: Install) -> None:
    space = space_of(
        {"loss.label_smoothing": {"type": "float", "low": 0, "high": 0.5}}, algorithm={"name": "plugin:mine"}
    )
    with pytest.raises(EnvironmentProblem, match="plugin:mine: no installed package has this plug-in"):
        plugins_of(space)
    install("algorithms", "mine", "def made(): ...")
    assert provenance.versions(plugin.package for plugin in plugins_of(space))["lab"] == "1.2"
    assert changed_plugins(space, {"lab": "1.2"}) == []
    (line,) = changed_plugins(space, {"lab": "1.0"})
    assert "package lab 1.2" in line
    assert "launched with version 1.0" in line


def test_a_node_without_the_package_of_a_plugin_cannot_run_trials(tmp_path: Path) -> None:
    data = '{"name": "plugin:farm", "root": "."}'
    expected = Expected({"farm-lab": "1.2"}, "", str(tmp_path), "token", data, "")
    seen = facts(expected)
    assert seen.versions == {"farm-lab": "not installed"}
    assert seen.data is not None
    assert "plugin:farm" in seen.data
    found = mismatches(Facts(seen.versions, "", None, None), 0.0, expected)
    assert found == [NodeMismatch("farm-lab", "not installed", "1.2")]


def test_the_doctor_lists_plugins_and_names_those_that_do_not_load(install: Install) -> None:
    install("losses", "good", "def made(output, labels): ...", package="one")
    install("algorithms", "bad", "raise OSError('broken')", package="two")
    lines = {(finding.level, finding.text) for finding in software.plugins()}
    assert ("ok", "plugin:good (package one 1.2), of losses") in lines
    assert ("problem", "plugin:bad (package two 1.2): OSError: broken") in lines


# The example package, installed in an environment of its own


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a fresh environment that has this package, what it needs, and `examples/plugin`; without a network."""
    for needed in ("pip", "setuptools"):  # not imported: setuptools refuses a process that has imported distutils
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"no {needed} here")
    folder = tmp_path_factory.mktemp("fresh")
    shutil.copytree(ROOT / "examples" / "plugin", folder / "plugin")
    venv.create(folder / "env")
    python = folder / "env" / "bin" / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    installed = [path for path in sys.path if path.endswith("site-packages")]
    (Path(site) / "shared.pth").write_text("\n".join([str(ROOT), *installed]) + "\n")
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--no-build-isolation", "--quiet"]
    subprocess.run([*pip, "--target", site, str(folder / "plugin")], check=True, timeout=300)
    return python


ZOO = """
version: 1
name: zoo
budget: {trials: 2, concurrent: 1}
algorithm: {name: "plugin:hill"}
replicates: {seeds: 0}
parameters:
  loss.extra_weight: {type: float, low: 0.01, high: 1, log: true}
trainer:
  data: {name: "plugin:zoo", validation: {share: 0.5}}
  clips: {identities: 2, tracklets: 2, frames: 2}
  model: {backbone: "plugin:patches", weights: none, height: 32, width: 16}
  loss: {extra: "plugin:uniformity"}
  optim: {epochs: 1}
  evaluation: {reranking: false}
"""


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the example's data set and a space for it, the current folder."""
    animals = {"train": ("lion", "tiger", "bear", "wolf"), "query": ("otter",), "gallery": ("otter", "seal")}
    cameras = {"train": (1, 2), "query": (1,), "gallery": (2,)}
    names = [
        f"{part}/{animal}_{camera}_a/{frame}.jpg"
        for part in animals
        for animal in animals[part]
        for camera in cameras[part]
        for frame in range(4)
    ]
    write_frames(tmp_path / "data", names)
    (tmp_path / "zoo.yaml").write_text(ZOO)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_fresh(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A module of this package in the fresh environment."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [python, "-m", *arguments], capture_output=True, text=True, check=False, timeout=600, env=environment
    )


def test_without_the_example_package_its_space_is_refused_by_name(
    zoo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["space", "check", str(zoo / "zoo.yaml")]) == 3
    assert "plugin:zoo" in capsys.readouterr().err


def test_with_the_example_package_installed_its_space_is_good_and_a_network_trains(fresh: Path, zoo: Path) -> None:
    checked = run_fresh(fresh, "orchestrator", "space", "check", "zoo.yaml", "--set", "trainer.data.root=data")
    assert checked.returncode == 0, checked.stderr
    trial = "\n".join(line[2:] for line in ZOO.partition("trainer:\n")[2].splitlines())
    (zoo / "trial.yaml").write_text(trial)
    overrides = ("--set", "data.root=data", "--set", "loss.extra_weight=0.1")
    trained = run_fresh(fresh, "trainer", "fit", "trial.yaml", "--out", "run", "--json", *overrides)
    assert trained.returncode == 0, trained.stderr
    assert '"extra":' in trained.stdout


@pytest.mark.e2e
def test_a_search_runs_with_the_plugins_of_the_example(fresh: Path, zoo: Path) -> None:
    arguments = ("--space", "zoo.yaml", "--data", "data", "--name", "z", "--storage", "runs")
    launched = run_fresh(fresh, "orchestrator", "launch", *arguments)
    assert launched.returncode == 0, launched.stderr
    assert "reidsearch-zoo: 0.1.0" in (zoo / "runs" / "z" / "search.yaml").read_text()
    journal = (zoo / "runs" / "z" / "journal.jsonl").read_text()
    assert journal.count('"source":"plugin"') == 2
