"""What `make` would run, in a folder that holds nothing but the files it depends on."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from checkout import ROOT

INPUTS = ("Makefile", "setup.cfg", "constraints.txt", "pyproject.toml")


@pytest.fixture(params=["plain", "with blanks"])
def installed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder in which `make install` has ended just now."""
    folder = tmp_path / request.param
    (folder / ".venv").mkdir(parents=True)
    for name in INPUTS:
        shutil.copy(ROOT / name, folder / name)
        os.utime(folder / name, (1, 1))
    (folder / ".venv" / "ready").write_text(f"{folder}\n")
    return folder


def plan(folder: Path, *goals: str) -> str:
    """The commands of `make -n`, as if called from a shell: without what an outer `make` would hand down."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["make", "-n", *goals], cwd=folder, env=environment, capture_output=True, text=True, timeout=30, check=True
    )
    return done.stdout


@pytest.mark.parametrize("goal", ["demo", "test", "install"])
def test_nothing_is_installed_again_where_nothing_changed(installed: Path, goal: str) -> None:
    assert "pip" not in plan(installed, goal)


@pytest.mark.parametrize("name", INPUTS)
def test_a_changed_input_is_installed_anew(installed: Path, name: str) -> None:
    os.utime(installed / name)
    os.utime(installed / ".venv" / "ready", (2, 2))
    assert "pip install" in plan(installed, "demo")


def test_a_moved_folder_is_installed_anew(installed: Path) -> None:
    moved = installed.rename(installed.with_name("elsewhere"))
    assert "pip install" in plan(moved, "demo")


def test_an_installation_that_did_not_end_is_done_again(installed: Path) -> None:
    (installed / ".venv" / "ready").unlink()
    assert "pip install" in plan(installed, "demo")
