"""Text from files in documents and on the screen: what it is, and nothing that a reader or a terminal obeys."""

from __future__ import annotations

import csv
import html
import io
import re
from html.parser import HTMLParser

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table as RichTable

from orchestrator.base.escaping import (
    csv_cell,
    harmless,
    html_text,
    latex_text,
    markdown_code,
    markdown_text,
    terminal_text,
)
from orchestrator.show.tables import FORMATS, Line, Table

NASTY = [
    *("<script>alert(1)</script>", "\x1b[31mred\x1b]0;title\x07", "a\0b", "abc\u202edcba", "\u2066x\u2069", "a\u2028b"),
    *("# heading", "- item", "1. item", "> quote", "a|b|c", "=cmd|' /C calc'!A0", "+1", "@SUM(A1)", " =1", "＝1"),
    *("[link](javascript:x)", "`code`", "``", "*bold* _it_", "&lt;b&gt;", "a\n\n# b", "a\r\n=b", "\\input{x}", "[2cm]"),
    *("* star", "100% $x$ #1 ^~", "---", "===", "\ud800", ""),
]
texts = st.one_of(
    st.sampled_from(NASTY), st.text(max_size=30), st.text("<>|`*_#\\[]&=+-@\n\r\t\0\x1b\u202e a1.", max_size=12)
)


def all_visible(text: str) -> bool:
    return text.isprintable()


@given(texts)
def test_a_terminal_gets_one_line_that_prints(text: str) -> None:
    assert all_visible(terminal_text(text))


class Read(HTMLParser):
    """What a browser sees."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts = ""
        self.attribute: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attribute = dict(attrs).get("title")

    def handle_data(self, data: str) -> None:
        self.texts += data


@given(texts)
def test_html_shows_the_text_in_an_element_and_in_an_attribute(text: str) -> None:
    reader = Read()
    reader.feed(f'<p title="{html_text(text)}">{html_text(text)}</p>')
    reader.close()
    assert reader.tags == ["p"]
    assert all(map(all_visible, reader.texts.split("\n")))
    if text.isprintable():
        assert reader.texts == text
        assert reader.attribute == text


def shown_by_markdown(line: str) -> str:
    """What a line of Markdown without markup shows: backslashes before punctuation are gone."""
    return html.unescape(re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", line))


@given(texts)
def test_markdown_sees_no_markup_and_no_column(text: str) -> None:
    line = markdown_text(text)
    assert all_visible(line)
    bare = re.sub(r"\\[!-/:-@\[-`{-~]|&(lt|gt|amp);", "", line)
    assert not set(bare) & set("`*_[]<>|&~$\\"), "each is escaped"
    assert not re.match(r"#{1,6}(\s|$)|=|>|[+-]\s|--|:-|\d+[.)](\s|$)", line), "nothing begins a block"
    if text.isprintable():
        assert shown_by_markdown(line) == " ".join(text.split())


@given(texts)
def test_code_in_markdown_ends_where_it_is_said_to_end(text: str) -> None:
    line = markdown_code(text)
    assert all_visible(line)
    fence = re.match("`+", line)
    assert fence is not None
    inside = line[len(fence[0]) : -len(fence[0])]
    assert line == f"{fence[0]}{inside}{fence[0]}"
    assert fence[0] not in re.findall("`+", inside)
    assert not inside.startswith("`") and not inside.endswith("`")


@given(st.lists(texts, min_size=1, max_size=4))
@example(["=1", "＝1"])
def test_no_spreadsheet_runs_a_cell_and_every_row_is_one(row: list[str]) -> None:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(map(csv_cell, row))
    (cells,) = csv.reader(io.StringIO(buffer.getvalue()))
    assert len(cells) == len(row)
    for cell, text in zip(cells, row, strict=True):
        assert all_visible(cell)
        assert not cell.strip().startswith(("=", "+", "-", "@", "＝", "＋", "－", "＠"))
        if text.isprintable():
            assert cell in (text, f"'{text}")


def test_a_number_in_csv_stays_one() -> None:
    assert [csv_cell(value) for value in (-1.5, 0, None, True)] == [-1.5, 0, "", True]


@given(texts)
def test_latex_sees_no_command_no_comment_and_no_column(text: str) -> None:
    line = latex_text(text)
    assert all_visible(line)
    bare = re.sub(r"\\text(backslash|asciitilde|asciicircum)\{\}|\\[&%$#_{}]", "", line)
    assert not set(re.sub(r"^\{[\[*]\}", "", bare)) & set("\\&%$#_{}~^")
    assert not line.startswith(("[", "*")), "which would belong to the end of the row before"


@given(texts)
def test_rich_prints_texts_and_the_terminal_obeys_none(text: str) -> None:
    out = io.StringIO()
    console = harmless(Console(file=out, highlight=False, markup=False, emoji=False, width=200))
    table = RichTable(text or "-", title=text)
    table.add_row(text)
    console.print(table)
    console.print(text, soft_wrap=True)
    assert all(map(all_visible, out.getvalue().split("\n")))


def line_with(text: str) -> Line:
    return Line(text, text, {}, text, text, queries=1, dropped_queries=0, seeds=1, epochs=1, note=text)


@pytest.mark.parametrize("form", FORMATS)
@given(text=texts)
def test_tables_in_every_format_have_their_rows_whatever_stands_in_them(form: str, text: str) -> None:
    made, plain = (FORMATS[form]([Table("T", ("mAP",), [line_with(each)])]) for each in (text, "x"))
    assert made.count("\n") == plain.count("\n")
    assert all(map(all_visible, made.split("\n")))
    assert form != "md" or "<script" not in made
