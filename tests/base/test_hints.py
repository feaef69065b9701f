"""Command lines in messages: they can be pasted, whatever the storage is called, and one function writes them all."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
from hypothesis import given
from hypothesis import strategies as st

import orchestrator
from orchestrator.__main__ import cli
from orchestrator.base.hints import DEFAULT_STORAGE, command_line, hint

SOURCE = Path(orchestrator.__file__).parent
WITH_STORAGE = sorted(
    name
    for name, command in cli.commands.items()
    if any("--storage" in option.opts for option in command.params if isinstance(option, click.Option))
)
# Who asked for something, as it stands in journals: no command to be given.
WHO_ASKED = ("reidsearch stop", "asked for by `reidsearch stop`")

# Documents that are read elsewhere, where a storage of this machine means nothing.
DOCUMENTS = ("show/card.py", "reference.py")


@given(storage=st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_a_hint_is_a_command_line_that_a_shell_takes_apart_again(storage: str) -> None:
    program, *arguments = shlex.split(hint("resume", "first", "--errored", "retry", storage=str(Path("/", storage))))
    assert program.endswith("reidsearch")
    assert arguments == ["resume", "first", "--errored", "retry", "--storage", str(Path("/", storage))]


@given(path=st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_a_hint_at_a_file_is_a_command_line_that_a_shell_takes_apart_again(path: str) -> None:
    program, *arguments = shlex.split(command_line("data", "check", Path("/", path)))
    assert program.endswith("reidsearch")
    assert arguments == ["data", "check", str(Path("/", path))]


def test_a_uri_is_named_quoted_for_a_shell() -> None:
    command = hint("status", "first", storage="s3://bucket/some runs")
    assert command.endswith(" status first --storage 's3://bucket/some runs'")


def test_the_storage_that_a_command_takes_by_itself_is_left_out() -> None:
    assert hint("status", "first", storage=str(DEFAULT_STORAGE)).endswith("reidsearch status first")


def test_every_hint_is_written_by_these_functions() -> None:
    command = re.compile(rf"reidsearch ({'|'.join(cli.commands)})\b")
    found = [
        f"{name}:{line}: {text}"
        for path in sorted(SOURCE.rglob("*.py"))
        if (name := str(path.relative_to(SOURCE))) not in DOCUMENTS
        for line, text in _texts(ast.parse(path.read_text(encoding="utf-8")))
        if command.search(text) and text not in WHO_ASKED
    ]
    assert found == [], "hints go through orchestrator.base.hints, so that they name the storage and can be pasted"


def test_every_hint_names_a_command_that_takes_a_storage() -> None:
    verbs = re.compile(r"\bhint\(\s*['\"]([a-z]+)['\"]")
    named = {verb for path in SOURCE.rglob("*.py") for verb in verbs.findall(path.read_text(encoding="utf-8"))}
    assert {"resume", "status", "stop"} <= named <= set(WITH_STORAGE)


def _texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Strings of a module that people may see, with their lines: no docstrings, no examples in a command's help."""
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    bare |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "example"}
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare
        if is_text and not node.value.startswith("Example: "):
            yield node.lineno, node.value
