"""The commands that the documentation shows."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from checkout import ROOT

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
LANGUAGES = ("sh", "console", "text", "yaml", "python")
PROGRAMS = ("reidsearch", "python", "pytest", "make", "eval", "source")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^|(?<=\n\n))((?:    .*\n)+)")
INLINE = re.compile(r"`([^`]+)`")


class Command(NamedTuple):
    """A command line of the documentation."""

    page: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join(self.words)


def fences(page: Path) -> list[tuple[str, str]]:
    """Language and text of every fenced block."""
    return FENCE.findall(page.read_text("utf-8"))


def block_commands(page: Path) -> list[Command]:
    """The command lines in fenced and indented blocks, in their order."""
    text = page.read_text("utf-8")
    found: list[tuple[int, list[str]]] = []
    for match in FENCE.finditer(text):
        language, body = match.groups()
        if language == "sh":
            found.append((match.start(), _lines(body)))
        elif language == "console":
            prompts = [line.removeprefix("$ ") for line in body.splitlines() if line.startswith("$ ")]
            found.append((match.start(), prompts))
    blank = FENCE.sub(lambda match: "\n" * match.group().count("\n"), text)
    for match in INDENTED.finditer(blank):
        lines = _lines("".join(line[4:] for line in match.group(1).splitlines(keepends=True)))
        found.append((match.start(), [line for line in lines if line.split()[0] in PROGRAMS]))
    return [_command(page, line) for _, lines in sorted(found) for line in lines]


class Step(NamedTuple):
    """A command line as a page shows it, and the lines of its output that the page shows."""

    line: str
    shown: tuple[str, ...]


def steps(page: Path) -> list[Step]:
    """The command lines in fenced blocks, in their order."""
    found = []
    for language, body in fences(page):
        if language == "sh":
            found += [Step(line, ()) for line in _lines(body)]
        elif language == "console":
            for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
                line, *shown = part.splitlines()
                found.append(Step(line, tuple(each for each in shown if each.strip() not in ("", "..."))))
    return found


def comparable(line: str) -> str:
    """A line of output without what differs between machines: durations, sizes, commits, folders, widths of columns."""
    for pattern, stands in (
        (r"\S*runs/", "runs/"),
        (r"\b[0-9a-f]{40}\b", "COMMIT"),
        (r"\b[\d.]+ (ms|s|min|h)\b", "TIME"),
        (r"\b[\d.]+ [kMG]B\b", "SIZE"),
        (r"-{3,}", "---"),
        (r"\s+", " "),
    ):
        line = re.sub(pattern, stands, line)
    return line.strip()


def inline_commands(page: Path) -> list[Command]:
    """The commands in the running text that are given with arguments."""
    blank = FENCE.sub("", page.read_text("utf-8"))
    found = [" ".join(text.split()) for text in INLINE.findall(blank)]
    return [_command(page, text) for text in found if text.split()[0] in PROGRAMS and " " in text]


def _command(page: Path, line: str) -> Command:
    return Command(page.name, tuple(shlex.split(line.removeprefix(".venv/bin/"), comments=True)))


def _lines(body: str) -> list[str]:
    """Logical lines without comments."""
    joined = body.replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def named_places(page: Path) -> Iterator[tuple[str, str]]:
    """Files of the repository that a page names, with the name that a table says is in them, or an empty one."""
    text = page.read_text("utf-8")
    for file, name in re.findall(r"^\| `([\w/]+\.py)` \| `(\w+)` \|", text, re.MULTILINE):
        yield file, name
    for file in re.findall(r"`((?:trainer|orchestrator|tests|search_spaces|benchmarks|docs)/[\w/]+\.\w+)`", text):
        if "NAME" not in file:
            yield file, ""
