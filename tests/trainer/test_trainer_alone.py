"""The trainer without the orchestrator: importable, runnable and clear where nothing of the search is installed."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from trainer.__main__ import run
from trainer.config import TrialConfig

# What a GPU node without the orchestrator has; these and what they require themselves.
NEEDED = (
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "Pillow",
    "pydantic",
    "jaxtyping",
    "PyYAML",
    "simplejpeg",
    "h5py",
    "matplotlib",
)
ALONE = """
import sys

class Present:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in ABSENT else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Present(finder) for finder in sys.meta_path]
from trainer.__main__ import main
main()
"""


def required(names: Iterable[str]) -> set[str]:
    """Names of the distributions, and of all that they require on this machine, normalised."""
    found: set[str] = set()
    waiting = [canonicalize_name(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            for text in metadata.requires(name) or []:
                requirement = Requirement(text)
                if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                    waiting.append(canonicalize_name(requirement.name))
    return found


def absent_alone() -> set[str]:
    """Top-level modules of everything that is installed here and that the trainer does not need."""
    needed = required(NEEDED)
    absent = {
        module
        for module, distributions in metadata.packages_distributions().items()
        if not needed & {canonicalize_name(distribution) for distribution in distributions}
    }
    return (absent | {"orchestrator"}) - {"trainer"}


def trainer(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m trainer ARGUMENTS` where only the trainer's own needs can be imported."""
    script = f"ABSENT = {absent_alone()!r}\n{ALONE}"
    return subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)


def test_a_node_without_the_orchestrator_lacks_everything_of_the_search() -> None:
    search = {"ray", "ax", "botorch", "mlflow", "click", "rich", "pandas", "orchestrator", "psutil", "pytest"}
    assert search <= absent_alone()


@pytest.fixture
def config_file(tiny_config: TrialConfig, tmp_path: Path) -> Path:
    path = tmp_path / "trial.json"
    path.write_text(tiny_config.model_dump_json())
    return path


def test_a_node_without_the_orchestrator_trains_resumes_evaluates_and_embeds(config_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = trainer("fit", str(config_file), "--out", str(out), "--set", "optim.epochs=2")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["epoch"] for line in done.stdout.splitlines()] == [1, 2]
    again = trainer("fit", str(config_file), "--out", str(out))
    assert again.returncode == 3
    assert "continue it with --resume" in again.stderr
    network = (str(config_file), "--checkpoint", str(out / "checkpoint/best.pt"))
    figures = trainer("evaluate", *network)
    assert figures.returncode == 0, figures.stderr
    assert json.loads(figures.stdout)["protocol"] == "mars"
    embedded = trainer("embed", *network, "--out", str(tmp_path / "test.npz"))
    assert embedded.returncode == 0, embedded.stderr
    with np.load(tmp_path / "test.npz", allow_pickle=False) as arrays:
        tracklets = len(arrays["identity"])
        assert arrays["embedding"].shape == (tracklets, 64)
        assert set(arrays["part"]) == {"query", "gallery"}
        assert {len(arrays[name]) for name in arrays} == {tracklets}


def test_a_resume_says_where_it_continues_and_prints_the_epochs_that_are_new(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from trainer.__main__ import run
    from trainer.config_file import read_trial_config
    from trainer.training.fit import fit

    told, out = "optim.epochs=3", tmp_path / "run"
    fit(read_trial_config(config_file, [told]), out=out, until=2)
    assert run(["fit", str(config_file), "--set", told, "--out", str(out), "--resume"]) == 0
    printed = capsys.readouterr()
    assert [json.loads(line)["epoch"] for line in printed.out.splitlines()] == [3]
    assert "continued after epoch 2" in printed.err.splitlines()


def mistakes(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    from trainer.__main__ import run

    assert run(arguments) == 3
    return capsys.readouterr().err.strip()


def test_a_setting_that_does_not_exist_is_named_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("loss:\n  triplet_margn: 0.3\n")
    printed = mistakes(capsys, "fit", str(path), "--out", str(tmp_path / "o"))
    assert printed == f"{path}:2:3: loss.triplet_margn: unknown setting - did you mean 'triplet_margin'?"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("[1]\n", "1:1: must be a mapping of names to values (is a list)"), ('"": 1\n', "1:1: '': unknown setting")],
)
def test_a_whole_file_and_an_empty_key_have_names_in_messages(
    text: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text(text)
    assert mistakes(capsys, "fit", str(tmp_path / "c.yaml"), "--out", "o") == f"{tmp_path / 'c.yaml'}:{expected}"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optim.epochs=0", "optim.epochs: must be at least 1"),
        ("optim.epochs=many", "optim.epochs: must be a whole number"),
        ("clips.frames=100000000", "clips.frames: must be at most 1024"),
        ("checkpoint.every=0", "checkpoint.every: must be auto, or a whole number of at least 1"),
        ("clips.workers=true", "clips.workers: must be auto, or a whole number of at least 0"),
        ("compute.tf32=yes please", "compute.tf32: must be auto, or true or false"),
        (": : [", "--set ': : [': write PATH=VALUE"),
        ("data.root=", "--set data.root=: a value is missing after '='; write null or '' if that is meant"),
        ("seed.x=1", "seed is a value, not a group"),
    ],
)
def test_a_bad_override_is_one_line(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, expected: str
) -> None:
    printed = mistakes(capsys, "fit", str(config_file), "--out", str(tmp_path / "o"), "--set", override)
    assert expected in printed
    assert len(printed.splitlines()) == 1
    assert not (tmp_path / "o").exists()


def test_settings_that_contradict_each_other_are_one_line_at_the_one_to_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("clips: {erase: 0}\nloss:\n  attention_weight: 1.0\n")
    printed = mistakes(capsys, "fit", str(path), "--out", str(tmp_path / "o"))
    assert printed.startswith(f"{path}:3:3: loss.attention_weight: no frame is ever erased; set clips.erase above 0")
    assert len(printed.splitlines()) == 1


def test_a_precision_that_this_machine_does_not_have_leaves_nothing_behind(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU has it")
    printed = mistakes(capsys, "fit", str(config_file), "--out", str(tmp_path / "o"), "--set", "compute.precision=fp16")
    assert printed.startswith("compute.precision: fp16 needs a CUDA GPU")
    assert not (tmp_path / "o").exists()


def test_a_full_disk_ends_a_training_with_one_line(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, state: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("trainer.checkpoint.save_checkpoint", full)
    assert run(["fit", str(config_file), "--out", str(tmp_path / "o")]) == 5
    assert capsys.readouterr().err.splitlines()[-1].endswith("pt: No space left on device")


def test_a_missing_data_set_and_a_missing_checkpoint_are_named(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = str(tmp_path / "gone")
    assert gone in mistakes(capsys, "fit", str(config_file), "--out", str(tmp_path / "o"), "--set", f"data.root={gone}")
    assert gone in mistakes(capsys, "evaluate", str(config_file), "--checkpoint", gone)
    assert "nothing to resume" in mistakes(capsys, "fit", str(config_file), "--out", gone, "--resume")


def test_a_file_in_place_of_the_output_folder_is_refused(
    tiny_config: TrialConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "trial.json").write_text(tiny_config.model_dump_json())
    (tmp_path / "out").touch()
    assert run(["fit", str(tmp_path / "trial.json"), "--out", str(tmp_path / "out")]) == 3
    assert "is a file, and --out names a folder" in capsys.readouterr().err
