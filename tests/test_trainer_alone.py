"""The trainer without the orchestrator: importable, runnable and clear where nothing of the search is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.config import TrialConfig

# Everything that the orchestrator needs and a node that only trains does not have.
ABSENT = ("ray", "ax", "botorch", "mlflow", "click", "rich", "pandas", "orchestrator", "psutil")
BLOCKED = f"""
import sys
sys.modules.update(dict.fromkeys({ABSENT!r}))
from trainer.__main__ import run
sys.exit(run(sys.argv[1:]))
"""


def trainer(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m trainer ARGUMENTS` where only the trainer's own needs can be imported."""
    return subprocess.run([sys.executable, "-c", BLOCKED, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def config_file(tiny_config: TrialConfig, tmp_path: Path) -> Path:
    path = tmp_path / "trial.json"
    path.write_text(tiny_config.model_dump_json())
    return path


@pytest.mark.timeout(120)
def test_a_node_without_the_orchestrator_trains_resumes_and_evaluates(config_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = trainer("fit", str(config_file), "--out", str(out), "--set", "optim.epochs=2", "--json")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["epoch"] for line in done.stdout.splitlines()] == [1, 2]
    again = trainer("fit", str(config_file), "--out", str(out))
    assert again.returncode == 3
    assert "continue it with --resume" in again.stderr
    figures = trainer("evaluate", str(config_file), "--checkpoint", str(out / "checkpoint/best.pt"))
    assert figures.returncode == 0, figures.stderr
    assert "standard protocol" in figures.stdout
    assert "dropped" in figures.stdout


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
    ("override", "expected"),
    [
        ("optim.epochs=0", "optim.epochs: must be at least 1"),
        ("optim.epochs=many", "optim.epochs: must be a whole number"),
        ("epochs", "--set epochs: write PATH=VALUE"),
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


def test_a_missing_data_set_and_a_missing_checkpoint_are_named(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = str(tmp_path / "gone")
    assert gone in mistakes(capsys, "fit", str(config_file), "--out", str(tmp_path / "o"), "--set", f"data.root={gone}")
    assert gone in mistakes(capsys, "evaluate", str(config_file), "--checkpoint", gone)
    assert "nothing to resume" in mistakes(capsys, "fit", str(config_file), "--out", gone, "--resume")
