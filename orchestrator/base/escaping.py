"""Escapes text for documents and terminals: one function for each format, used by all writers.

A name, a reason or a setting may hold control characters, marks that reverse the direction of writing, or markup of the
format. In all formats, characters that do not print become visible escapes such as `\\x1b`.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderHook, RenderResult
from rich.segment import Segment

from trainer.formatting import one_line

MARKDOWN = re.compile(r"[\\`*_\[\]<>|&~$]")
# Readers that know less of Markdown would take a tag after a backslash for one.
ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
# At the beginning of a line: headings, lists, quotes, rules, underlines of headings.
MARKDOWN_BEGINNING = re.compile(r"^(=|#(?=#*(\s|$))|[+-](?=\s)|[-:](?=-)|\d+(?=[.)](\s|$)))")
LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
# A spreadsheet takes a cell that begins with one of these for a formula.
FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")


def visible(text: str) -> str:
    """The text with line ends kept and everything else that does not print escaped, for HTML."""
    return "\n".join(map(one_line, text.split("\n")))


def terminal_text(text: str) -> str:
    """One line without control characters."""
    return one_line(text)


def html_text(text: object) -> str:
    """Text of an element, or the value of an attribute in double quotes."""
    return html.escape(visible(str(text)))


def markdown_text(text: object) -> str:
    """One line in which Markdown sees no markup, also at the beginning of a line and in a table."""
    escaped = MARKDOWN.sub(lambda found: ENTITIES.get(found[0], f"\\{found[0]}"), one_line(" ".join(str(text).split())))
    return MARKDOWN_BEGINNING.sub(lambda found: f"{found[0]}\\" if found[0].isdigit() else f"\\{found[0]}", escaped)


def markdown_code(text: object) -> str:
    """The text as code within a line, not of a table."""
    plain = one_line(str(text))
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", plain)), default=0))
    around = " " if not plain or plain[0] in "` " or plain[-1] in "` " else ""
    return f"{fence}{around}{plain}{around}{fence}"


def latex_text(text: str) -> str:
    """One line of LaTeX's text, also at the beginning of a row: after `\\\\` a bracket or a star means something."""
    escaped = "".join(
        LATEX.get(sign, f"\\{sign}" if sign in "&%$#_{}" else sign) for sign in one_line(text).lstrip(" ")
    )
    return f"{{{escaped[0]}}}{escaped[1:]}" if escaped[:1] in ("[", "*") else escaped


def csv_cell(value: object) -> object:
    """A cell of a CSV file: a text prints, and no spreadsheet runs it; nothing for None, numbers as they are."""
    if not isinstance(value, str):
        return "" if value is None else value
    text = one_line(value)
    return f"'{text}" if text.lstrip().startswith(FORMULA) else text


class _Harmless:
    """A renderable whose texts hold no control characters."""

    def __init__(self, inner: RenderableType) -> None:
        self._inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Renders with the texts escaped."""
        for segment in console.render(self._inner, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


class _HarmlessTexts(RenderHook):
    def process_renderables(self, renderables: Iterable[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Wraps everything that is printed."""
        return [_Harmless(each) for each in renderables]


def harmless(console: Console) -> Console:
    """The console; escapes control characters in everything that it prints."""
    console.push_render_hook(_HarmlessTexts())
    return console
