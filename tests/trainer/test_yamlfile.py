"""Strict YAML: what is read, where it stood, and that nothing else ever escapes than one line of error."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import JsonValue

from trainer.yaml_file import MAX_BYTES, MAX_NODES, YamlError, dump_yaml, parse_yaml, read_yaml

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(min_value=-(10**17), max_value=10**17)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.sampled_from(["1e-4", "yes", "~", "null", ".inf", "0x10", "2024-01-31", "1:30", "0" + "9" * 20, "<<", ""])
)
DATA = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text("aé:# -.1"), inner), max_leaves=15)
YAML_LIKE = st.text(st.sampled_from("ab1:-?[]{},&*!|>'\"%@`#~ \n\t\\é\0\ud800\u2028x0eE.+_=<"), max_size=60)


def value(text: str) -> JsonValue:
    data = parse_yaml(f"key: {text}", name="f").data
    assert isinstance(data, dict)
    return data["key"]


def message(text: str) -> str:
    with pytest.raises(YamlError) as caught:
        parse_yaml(text, name="f.yaml")
    return str(caught.value)


def file_message(path: Path) -> str:
    with pytest.raises(YamlError) as caught:
        read_yaml(path, name=path.name)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "number"),
    [("1e-4", 1e-4), ("1.0e-4", 1e-4), ("1E3", 1e3), (".5", 0.5), ("-2.", -2.0), ("-.inf", -math.inf)],
)
def test_floats_follow_the_core_schema(text: str, number: float) -> None:
    read = value(text)
    assert isinstance(read, float)
    assert read == number


@pytest.mark.parametrize("text", ["yes", "no", "on", "off", "Y", "2024-01-31", "1:30", "0x1F", "0o17", "1_0"])
def test_yaml_1_1_habits_are_text(text: str) -> None:
    assert value(text) == text


@pytest.mark.parametrize(("text", "number"), [("12", 12), ("-3", -3), ("010", 10), ("+7", 7)])
def test_whole_numbers_are_decimal(text: str, number: int) -> None:
    read = value(text)
    assert isinstance(read, int)
    assert read == number


@pytest.mark.parametrize(("text", "data"), [("true", True), ("FALSE", False), ("null", None), ("~", None), ("", None)])
def test_booleans_and_null_follow_the_core_schema(text: str, data: bool | None) -> None:
    assert value(text) is data


@pytest.mark.parametrize("text", ["'1'", '"true"', "|-\n  1e-4"])
def test_quoted_scalars_and_blocks_are_text(text: str) -> None:
    assert isinstance(value(text), str)


def test_places_are_lines_and_columns_of_keys_and_items() -> None:
    places = parse_yaml("a:\n  b: {c: 1}\n  d:\n    - x\n    - e: 2\n", name="f").places
    assert places == {
        (): (1, 1),
        ("a",): (1, 1),
        ("a", "b"): (2, 3),
        ("a", "b", "c"): (2, 7),
        ("a", "d"): (3, 3),
        ("a", "d", 0): (4, 7),
        ("a", "d", 1): (5, 7),
        ("a", "d", 1, "e"): (5, 7),
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "f.yaml: is empty; write at least 'version: 1'"),
        ("# nothing\n", "f.yaml: is empty; write at least 'version: 1'"),
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3:1: 'a' is given twice, first on line 1; keep one"),
        ("a: b: c\n", "f.yaml:1:5: a ':' does not fit here; indent keys alike, quote text that holds ': '"),
        ("a: [1, 2\nb: 3\n", "f.yaml:2:2: a list is not closed here; add ',' or ']'"),
        ("a:\n\tb: 1\n", "f.yaml:2:1: a tab cannot indent; use spaces"),
        ("a: 'x", "f.yaml:1:6: quoted text is not closed; add the quote"),
        ("a: &x 1\n", "f.yaml:1:4: anchors such as &x are not allowed; write the value out"),
        ("a: *x\n", "f.yaml:1:4: aliases such as *x are not allowed; write the value out"),
        (
            "a: !!python/name:os.system\n",
            "f.yaml:1:4: tags such as tag:yaml.org,2002:python/",
        ),
        ("a: 1\n---\nb: 1\n", "f.yaml:2:1: a second document starts here; keep one"),
        ("1: x\n", "f.yaml:1:1: a key must be text; put it in quotes"),
        ("a: {<<: {b: 1}, c: 2}\n", "f.yaml:1:5: merge keys are not allowed; write the values out"),
        ("a:\n  <<: {b: 1}\n", "f.yaml:2:3: merge keys are not allowed; write the values out"),
        ("a: {low: 1e-4, high: 0,01}\n", "f.yaml:1:22: 0,01 in braces is two values; write 0.01"),
        ("a: {low: -1,5, high: 3}\n", "f.yaml:1:10: -1,5 in braces is two values; write -1.5"),
        ("a: {low: 1,5e-3}\n", "f.yaml:1:10: 1,5e-3 in braces is two values; write 1.5e-3"),
        ("a: {high: 1,000}\n", "f.yaml:1:11: 1,000 in braces is two values; write 1.000 or 1000"),
        ("a: [0,01, 0,02]\n", "f.yaml:1:5: 0,01 in brackets is two values; write 0.01"),
        ("? [a]\n: x\n", "f.yaml:1:3: a key must be text; put it in quotes"),
        ("a: 1234567890123456789\n", "f.yaml:1:4: a whole number of more than 18 digits; put it in quotes"),
        ("a: 1\nb: \x07\n", "f.yaml:2:4: character 0x7 is not text; remove it"),
        ('a: "\\ud800"\n', "f.yaml:1:4: half of a surrogate pair is not text; remove it"),
        ('a: "\\UFFFFFFFF"\n', "f.yaml:1:1: not valid YAML ("),
        ("[" * 50, "f.yaml:1:22: nested deeper than 20 levels; flatten it"),
        ("- a\n" * (MAX_NODES + 1), "f.yaml:10000:3: more than 10,000 values; shorten the file"),
    ],
)
def test_an_error_is_one_line_with_place_and_way_out(text: str, expected: str) -> None:
    assert message(text).startswith(expected)
    assert "\n" not in message(text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert file_message(tmp_path / "x.yaml") == "x.yaml: no such file; check the path"


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert file_message(tmp_path) == f"{tmp_path.name}: is a folder; name a YAML file in it"


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert file_message(tmp_path / "pipe") == "pipe: is not a regular file; name a YAML file"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\x7fELF\0\0\0", "f: is not a text file; name a YAML file in UTF-8"),
        ("a: ä".encode("utf-16"), "f: is not a text file; name a YAML file in UTF-8"),
        ("ä: 1\nb: ä".encode("latin-1"), "f:1:1: is not UTF-8 text here; save the file as UTF-8"),
        ("ä: 1\näb: ".encode() + b"\xff", "f:2:5: is not UTF-8 text here; save the file as UTF-8"),
        (b"#" * (MAX_BYTES + 1), "f: is larger than 256 KiB; is this a configuration?"),
    ],
)
def test_a_file_that_is_not_yaml_is_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "f").write_bytes(content)
    assert file_message(tmp_path / "f") == expected


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"\xef\xbb\xbfa: 1")
    assert read_yaml(tmp_path / "f").data == {"a": 1}


@pytest.mark.parametrize(
    "pattern",
    ["[", "{", "? ", "- ", "a\n", '"\\x41', "# a\n", "%A b\n", "&a", "a: b\n", "|\n \n", "\x85"],
)
def test_the_largest_hostile_text_takes_no_quadratic_time(pattern: str) -> None:
    text = (pattern * MAX_BYTES)[:MAX_BYTES]
    start = time.process_time()
    try:
        parse_yaml(text, name="f")
    except YamlError as error:
        assert "\n" not in str(error)
    assert time.process_time() - start < 60, "less than a second on a quiet machine; hours where it is quadratic"


@given(st.text() | YAML_LIKE)
@settings(max_examples=400, deadline=None)
def test_any_text_is_data_or_one_line_of_error(text: str) -> None:
    try:
        parse_yaml(text, name="f")
    except YamlError as error:
        assert str(error).startswith(("f: ", "f:"))
        assert str(error).isprintable()


@given(DATA.filter(lambda data: data is not None))
@settings(max_examples=200, deadline=None)
def test_dumped_data_is_read_back_equal(data: JsonValue) -> None:
    assert parse_yaml(dump_yaml(data), name="f").data == data
