"""The files of `cluster/` with a search's own numbers in them.

Every shipped file is whole and can be read and used as it is. A line that ends in `# <- NAME` has a value which is
replaced; where there is none, the line goes. All else stays as it is, so that a value can change neither the structure
of a file nor what a shell runs: texts are quoted, and what cannot be quoted in one line is refused.
"""

from __future__ import annotations

import importlib.resources
import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from orchestrator.base.errors import OrchestratorError

Value = str | int | Sequence[str] | None

MARKED = re.compile(r"(?P<lead>.*?)  # <- (?P<name>\w+)")
YAML_KEY = re.compile(r" *(?:- )?(?:[\w./~-]+: |- )")
SHELL_NAME = re.compile(r"\w+=")
DIRECTIVE = re.compile(r"#{1,2}SBATCH --(?P<name>[\w-]+)=.*")
# A directive is words to sbatch; none of its values needs a character that would end one.
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,:@%+-]*")


class UnusableValue(OrchestratorError):
    """A value that cannot stand in a file for a cluster; the message names it."""


def template(name: str) -> str:
    """The shipped file of that name."""
    return Path(str(importlib.resources.files("cluster"))).joinpath(name).read_text("utf-8")


def fill_yaml(text: str, values: Mapping[str, Value], blocks: Mapping[str, str] | None = None) -> str:
    """A YAML file with the values in the place of those that are marked.

    Args:
        text: the shipped file.
        values: by the name in the mark; None removes the line.
        blocks: texts of several lines that replace a literal block (`key: |`), by the name in the mark.

    Raises:
        UnusableValue: a text has characters that do not print.
    """
    blocks = blocks or {}
    lines: list[str] = []
    inside = None  # the indentation of a block that is replaced
    for line in text.splitlines():
        depth = len(line) - len(line.lstrip())
        if inside is not None and (not line.strip() or depth > inside):
            continue
        inside = None
        found = MARKED.fullmatch(line)
        if found is None:
            lines.append(line)
        elif found["name"] in blocks:
            inside = depth
            lines.append(found["lead"])
            block = blocks[found["name"]].removesuffix("\n").split("\n")
            lines += [" " * (depth + 2) + each if each else "" for each in block]
        else:
            lines += _replaced(found, values, YAML_KEY, _yaml_scalar)
    return "\n".join(lines) + "\n"


def fill_script(text: str, values: Mapping[str, Value], directives: Mapping[str, str | int | None]) -> str:
    """A job script for Slurm with the values in the place of those that are marked, and its `#SBATCH` lines set.

    Args:
        text: the shipped file.
        values: of variables, by the name in the mark; a sequence of words becomes an array.
        directives: by the option of `sbatch`; None makes a comment of the line.

    Raises:
        UnusableValue: a text has characters that do not print, or a directive has more than letters and digits.
    """
    lines: list[str] = []
    for line in text.splitlines():
        found, directive = MARKED.fullmatch(line), DIRECTIVE.fullmatch(line)
        if directive is not None and directive["name"] in directives:
            value = directives[directive["name"]]
            lines.append(f"##{line.lstrip('#')}" if value is None else _directive(directive["name"], value))
        elif found is not None:
            lines += _replaced(found, values, SHELL_NAME, _shell_word)
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def _replaced(
    found: re.Match[str], values: Mapping[str, Value], start: re.Pattern[str], spelled: Callable[[str, Value], str]
) -> list[str]:
    name = found["name"]
    value = values[name]
    if value is None:
        return []
    if found["lead"].startswith("# "):
        return [f"# {printable(name, str(value))}"]
    lead = start.match(found["lead"])
    assert lead is not None, found["lead"]
    return [lead.group() + spelled(name, value)]


def _yaml_scalar(name: str, value: Value) -> str:
    if isinstance(value, str):
        return json.dumps(printable(name, value), ensure_ascii=False)
    if isinstance(value, int):
        return str(value)
    assert value is not None
    return json.dumps([printable(name, each) for each in value], ensure_ascii=False)


def _shell_word(name: str, value: Value) -> str:
    if isinstance(value, str):
        return shlex.quote(printable(name, value))
    if isinstance(value, int):
        return str(value)
    assert value is not None
    return f"({shlex.join(printable(name, each) for each in value)})"


def _directive(name: str, value: str | int) -> str:
    return f"#SBATCH --{name}={matching(f'--{name}', str(value), WORD, 'one word of letters and digits')}"


def printable(name: str, text: str) -> str:
    """The text itself.

    Raises:
        UnusableValue: it has characters that do not print, such as a line's end.
    """
    if not text.isprintable():
        raise UnusableValue(f"{name}: {text!r} has characters that do not print; choose another one")
    return text


def matching(name: str, text: str, pattern: re.Pattern[str], meaning: str) -> str:
    """The text itself.

    Args:
        name: of the value, for the message.
        text: what has to match.
        pattern: all of it.
        meaning: what it has to be, in words.

    Raises:
        UnusableValue: it does not match.
    """
    if pattern.fullmatch(text) is None:
        raise UnusableValue(f"{name}: must be {meaning} (is {text!r})")
    return text
