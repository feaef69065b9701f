"""What a shell is told, how fast, and the script that asks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from searches import a_search

from orchestrator.__main__ import cli, run
from orchestrator.cli import shell_complete
from orchestrator.cli.shell_complete import script
from orchestrator.space.problems import SpaceError
from orchestrator.space.schema import trainer_settings
from orchestrator.space.search_space import SearchSpace

# A completion that takes longer is felt as a pause.
HEAVY = ("ray", "ax", "mlflow", "torch", "numpy", "yaml", "pandas", "rich")


def answers(*words: str) -> list[str]:
    *before, incomplete = words
    return [item.value for item in ShellComplete(cli, {}, "reidsearch", "X").get_completions(before, incomplete)]


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    for name in ("first", "fine"):
        folder = a_search(tmp_path / name)
        for key in ("t0000", "t0001"):
            folder.trial(key).mkdir(parents=True)
    return tmp_path


def test_names_of_searches_are_those_of_the_storage_on_the_command_line(storage: Path) -> None:
    assert set(answers("status", "--storage", str(storage), "")) == {"first", "fine"}
    assert answers("resume", "--storage", str(storage), "fir") == ["first"]
    assert answers("status", "--storage", str(storage / "nowhere"), "") == []


def test_after_a_slash_come_the_trials_of_the_search(storage: Path) -> None:
    found = answers("logs", "--storage", str(storage), "first/")
    assert found == ["first/best", "first/t0000", "first/t0001"]
    assert answers("logs", "--storage", str(storage), "first/t0001") == ["first/t0001"]
    assert answers("logs", "--storage", str(storage), "gone/") == []


def test_a_trial_is_not_offered_where_only_a_search_is_taken(storage: Path) -> None:
    assert answers("purge", "--storage", str(storage), "first/") == []


def test_the_paths_of_set_are_all_settings_of_the_trainer_and_of_the_space() -> None:
    found = answers("launch", "--set", "")
    assert {f"{path}=" for path in trainer_settings()} <= set(found)
    assert {"budget.trials=", "stopping.rule=", "replicates.seeds=", "parameters.loss.osm_alpha.high="} <= set(found)
    assert answers("launch", "--set", "optim.lea") == ["optim.learning_rate="]
    assert answers("launch", "--set", "optim.learning_rate=") == []


def test_no_path_is_offered_that_set_does_not_know() -> None:
    for path in answers("launch", "--set", ""):
        if not path.startswith("parameters."):
            try:
                SearchSpace.load("smoke.yaml", overrides=[f"{path}null"])
            except SpaceError as error:
                assert "unknown setting" not in str(error), path


def test_spaces_are_files_folders_and_the_built_in_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("spaces").mkdir()
    Path("spaces/demanding.yaml").touch()
    Path("spaces/notes.txt").touch()
    assert answers("launch", "--space", "")[0] == "attn_cl.yaml"
    assert answers("space", "check", "dem") == ["demo.yaml"]
    assert answers("space", "check", "spa") == ["spaces/"]
    assert answers("space", "check", "spaces/") == ["spaces/demanding.yaml"]


def commands(group: click.Group) -> Iterable[click.Command]:
    for command in group.commands.values():
        yield from commands(command) if isinstance(command, click.Group) else (command,)


def test_every_name_of_a_search_and_every_set_is_completed() -> None:
    for command in commands(cli):
        for parameter in command.params:
            is_search = parameter.name in ("name", "names") and isinstance(parameter, click.Argument)
            if is_search or (parameter.name == "overrides" and parameter.metavar == "PATH=VALUE"):
                context = click.Context(command)
                context.params["storage"] = Path("nowhere")
                offered = parameter.shell_complete(context, "optim.")
                assert offered or is_search, f"{command.name} {parameter.name}"
                assert parameter._custom_shell_complete is not None, f"{command.name} {parameter.name}"


@pytest.mark.parametrize(
    "words",
    [["status", "--storage", "STORAGE", "f"], ["logs", "--storage", "STORAGE", "first/"], ["launch", "--set", "o"]],
)
def test_an_answer_imports_nothing_heavy(storage: Path, words: list[str]) -> None:
    asked = [word.replace("STORAGE", str(storage)) for word in ["reidsearch", *words]]
    program = (
        "import sys, atexit; atexit.register(lambda: print("
        f"[name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)); "
        "from orchestrator.__main__ import run; run([])"
    )
    environment = os.environ | {
        "_REIDSEARCH_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(asked),
        "COMP_CWORD": str(len(asked) - 1),
    }
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.stdout.startswith("plain,"), done.stderr
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_script_that_asks_the_program(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == 0
    assert f"_REIDSEARCH_COMPLETE={shell}_complete" in capsys.readouterr().out


def test_bash_completes_a_setting_without_a_space_after_its_equals_sign(storage: Path) -> None:
    ask = """
compopt() { local IFS=" "; echo "compopt $*"; }
SCRIPT
COMP_WORDS=(reidsearch launch --set optim.lea); COMP_CWORD=3
_reidsearch_completion "$PROGRAM"
echo "${COMPREPLY[@]}"
"""
    text = ask.replace("SCRIPT", script(cli, "bash")).replace("complete -o nosort", "true -o nosort")
    program = storage / "reidsearch"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m orchestrator "$@"\n')
    program.chmod(0o700)
    environment = os.environ | {"PROGRAM": str(program)}
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=False, env=environment)
    assert done.stdout.split("\n")[:2] == ["compopt -o nospace", "optim.learning_rate="], done.stderr


def test_trials_of_a_search_without_any_are_none(tmp_path: Path) -> None:
    assert shell_complete.trial_names(a_search(tmp_path / "empty")) == []
