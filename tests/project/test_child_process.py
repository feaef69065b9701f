"""No child of ours imports anything from the current folder, whatever lies there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from current_folder import EVERY_NAME, plant
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.algorithms import ax_process
from orchestrator.runner import smoke_test, worker
from orchestrator.show.report import model
from orchestrator.tracking import server
from trainer import child_process
from trainer.child_process import checkout, python_command, python_environment, start_child

HOME = child_process.HOME
ANY_NAME = st.sampled_from(EVERY_NAME) | st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)
# Python itself imports these, and private ones with them, before the first line of a module that `-m` names: out of the
# current folder. The command `reidsearch` is not started so.
BEFORE_US = {
    *("types", "warnings", "contextlib", "functools", "operator", "keyword", "reprlib", "collections", "importlib"),
    *("runpy", "pkgutil", "enum", "re", "copyreg", "typing", "sitecustomize", "usercustomize"),
}
# Whether each module would be taken from the folder that the child runs in.
FOUND_HERE = (
    "import importlib.util, json, os, sys\n"
    "def here(name):\n"
    "    found = importlib.util.find_spec(name)\n"
    "    places = [] if found is None else [found.origin, *(found.submodule_search_locations or [])]\n"
    "    return any(str(place).startswith(os.getcwd()) for place in places)\n"
    "print(json.dumps([name for name in json.loads(sys.argv[1]) if here(name)]))\n"
)


def said_by(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> str:
    with start_child(command, environment, cwd=folder, stdout=subprocess.PIPE, text=True) as child:
        said, _ = child.communicate()
    assert child.returncode == 0
    return str(said)


@settings(max_examples=8, deadline=None)
@given(st.lists(ANY_NAME, min_size=1, max_size=60, unique=True))
def test_a_child_finds_no_module_in_the_current_folder_whatever_its_name(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        mark = plant(Path(folder), names)
        assert said_by(python_command("-c", FOUND_HERE, json.dumps(names)), Path(folder)) == "[]\n"
        assert not mark.exists()


def test_neither_does_a_child_of_a_child_that_somebody_else_starts(tmp_path: Path) -> None:
    mark = plant(tmp_path, ["trainer", "random", "ax", "types"])
    program = (
        "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import random, trainer, types'], check=True)"
    )
    said_by(python_command("-c", program), tmp_path)
    said_by([sys.executable, "-c", "import random, trainer, types"], tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize(
    "command",
    [
        smoke_test.CHILD,
        worker.SERVER,
        model.WORKER,
        ax_process.WORKER,
        server.server_command(1, Path("files"))[: len(python_command())],
    ],
    ids=lambda command: command[-1],
)
def test_every_command_of_a_child_is_made_in_one_place(command: list[str]) -> None:
    # That none is made elsewhere is what tests/project/test_forbidden_code.py holds.
    assert list(command[: len(python_command())]) == python_command()


def test_a_real_child_answers_in_a_folder_full_of_modules(tmp_path: Path) -> None:
    names = EVERY_NAME
    mark = plant(tmp_path, names)
    child = start_child(smoke_test.CHILD, cwd=tmp_path, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    _, errors = child.communicate("no order")
    assert "JSONDecodeError" in errors
    assert not mark.exists()


@pytest.mark.parametrize(("package", "arguments"), [("orchestrator", ["--version"]), ("trainer", ["--help"])])
def test_python_m_leaves_out_the_current_folder_before_it_imports_anything_else(
    tmp_path: Path, package: str, arguments: list[str]
) -> None:
    names = {*EVERY_NAME} - {package} - BEFORE_US
    mark = plant(tmp_path, sorted(name for name in names if not name.startswith("_")))
    environment = {**os.environ, "PYTHONPATH": str(HOME)}
    command = [sys.executable, "-m", package, *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert not mark.exists()


def test_a_folder_of_pythonpath_is_searched_and_an_empty_entry_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "named").mkdir()
    (tmp_path / "named" / "own_readers.py").write_text("print('own')\n")
    mark = plant(tmp_path, ["random"])
    for path in (f":{tmp_path / 'named'}", f"{tmp_path / 'named'}:", f"::{tmp_path / 'named'}"):
        environment = {**os.environ, "PYTHONPATH": path}
        assert said_by(python_command("-c", "import own_readers, random"), tmp_path, environment) == "own\n"
    assert not mark.exists()


def test_a_child_finds_our_packages_where_only_the_current_folder_of_its_parent_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "import json, sys; from trainer.child_process import *; print(python_environment({})['PYTHONPATH'])"
    monkeypatch.delenv("PYTHONPATH", raising=False)
    done = subprocess.run([sys.executable, "-c", program], cwd=HOME, capture_output=True, text=True, check=True)
    assert done.stdout == f"{HOME}\n"


def test_installed_packages_are_not_put_before_those_of_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "site-packages"
    monkeypatch.setattr(child_process, "HOME", installed)
    monkeypatch.syspath_prepend(installed)
    assert checkout() is None
    assert python_environment({})["PYTHONPATH"] == ""
