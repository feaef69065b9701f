"""YAML read strictly, with the line and column of every key.

The subset is that of a configuration: one document, UTF-8, no anchors, aliases or tags, no duplicate keys,
and the scalars of YAML 1.2's core schema with decimal integers. So `1e-4` is a number; `yes`, `off` and
`2024-01-31` are text. Nothing is ever constructed: plain data is built from the parser's events.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeGuard

import yaml
from pydantic import JsonValue

from trainer.formatting import KeyPath, one_line, shown

MAX_BYTES = 256 * 1024
MAX_DEPTH = 20
MAX_NODES = 10_000
MAX_DIGITS = 18  # every such integer fits into 64 bits

INTEGER = re.compile(r"[-+]?[0-9]+")
DIGITS = re.compile(r"[0-9]+([eE][-+]?[0-9]+)?")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
WAYS_OUT = (
    (
        "mapping values are not allowed",
        "a ':' does not fit here; indent keys alike, quote text that holds ': '",
    ),
    ("'\\t' that cannot start", "a tab cannot indent; use spaces"),
    ("expected <block end>", "this does not line up with the lines above; indent keys alike"),
    ("could not find expected ':'", "a key lacks its ':'; write 'key: value'"),
    ("expected ',' or ']'", "a list is not closed here; add ',' or ']'"),
    ("expected ',' or '}'", "a mapping is not closed here; add ',' or '}'"),
    ("found unexpected end of stream", "quoted text is not closed; add the quote"),
    ("expected the node content", "a value is missing here; add it, or quote the text"),
)
"""What to do about PyYAML's commonest complaints."""


class YamlError(ValueError):
    """YAML that cannot be used; one line, `file:line:column: what is wrong and what to do`."""

    def __init__(self, name: str, what: str, line: int = 0, column: int = 0) -> None:
        super().__init__(name, what, line, column)
        self.what = one_line(what)
        self.line = line
        """From 1; 0 where the whole document is meant."""
        self._where = one_line(f"{name}:{line}:{column}" if line else name)

    def __str__(self) -> str:
        return f"{self._where}: {self.what}"


class Document(NamedTuple):
    """One YAML document as plain data."""

    data: JsonValue
    places: dict[KeyPath, tuple[int, int]]
    """Line and column, from 1, of every key and list item; the path of the whole document is ()."""


def read_yaml(path: Path, *, name: str | None = None) -> Document:
    """The document in a file. Errors call the file `name`, by default its path."""
    name = name or str(path)
    try:
        if not path.is_file():
            raise YamlError(name, _not_a_file(path))
        if path.stat().st_size > MAX_BYTES:
            raise YamlError(name, f"is larger than {MAX_BYTES // 1024} KiB; is this a configuration?")
        content = path.read_bytes()
    except OSError as error:
        raise YamlError(name, f"cannot be read: {error.strerror}") from error
    document = parse_yaml(_decoded(content, name), name=name)
    if document.data is None:
        raise YamlError(name, "is empty; write at least 'version: 1'")
    return document


def parse_yaml(text: str, *, name: str) -> Document:
    """The document in a text. Errors call the text `name`."""
    if len(text) > MAX_BYTES:
        raise YamlError(name, f"is longer than {MAX_BYTES // 1024} Ki characters; shorten it")
    builder = _Builder(text, name)
    try:
        data = builder.document()
    except YamlError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise YamlError(name, _way_out(error.problem or "not valid YAML"), line, column) from error
    except yaml.reader.ReaderError as error:
        line, column = _line_and_column(text, error.position)
        what = f"character {ord(text[error.position]):#x} is not text; remove it"
        raise YamlError(name, what, line, column) from error
    except Exception as error:  # whatever else PyYAML leaks: OverflowError for "\UFFFFFFFF", for one
        what = f"not valid YAML ({type(error).__name__}: {error}); correct it"
        raise YamlError(name, what, *builder.here) from error
    return Document(data, builder.places)


def dump_yaml(data: JsonValue) -> str:
    """The data as YAML that `parse_yaml` reads back equal."""
    text: str = yaml.dump(data, Dumper=_CoreDumper, sort_keys=False, allow_unicode=True, width=100)
    return text


class _Builder:
    """Builds plain data from the parser's events, and remembers where each key stood."""

    def __init__(self, text: str, name: str) -> None:
        self.places: dict[KeyPath, tuple[int, int]] = {(): (1, 1)}
        self.here = (1, 1)
        self._name = name
        self._text = text
        self._last: tuple[yaml.Event | None, yaml.Event | None] = None, None
        self._events: Iterator[yaml.Event] = yaml.parse(text, Loader=yaml.SafeLoader)
        self._nodes = 0

    def document(self) -> JsonValue:
        self._next()  # start of the stream
        if isinstance(self._next(), yaml.StreamEndEvent):
            raise YamlError(self._name, "is empty; write at least 'version: 1'")
        data = self._node(self._next(), ())
        self._next()  # end of the document
        if not isinstance(self._next(), yaml.StreamEndEvent):
            raise self._error("a second document starts here; keep one")
        return data

    def _node(self, event: yaml.Event, path: KeyPath) -> JsonValue:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise self._error(f"more than {MAX_NODES:,} values; shorten the file")
        if len(path) > MAX_DEPTH:
            raise self._error(f"nested deeper than {MAX_DEPTH} levels; flatten it")
        match event:
            case yaml.AliasEvent():
                raise self._error(f"aliases such as *{event.anchor} are not allowed; write the value out")
            case yaml.NodeEvent(anchor=str(anchor)):
                raise self._error(f"anchors such as &{anchor} are not allowed; write the value out")
            case yaml.ScalarEvent(tag=str(tag)) | yaml.CollectionStartEvent(tag=str(tag)):
                raise self._error(f"tags such as {tag} are not allowed; remove the tag")
            case yaml.MappingStartEvent():
                return self._mapping(path)
            case yaml.SequenceStartEvent():
                return self._sequence(path)
            case yaml.ScalarEvent():
                return self._value(event)
        raise AssertionError(event)

    def _mapping(self, path: KeyPath) -> JsonValue:
        mapping: dict[str, JsonValue] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            here = self.here
            self._check_decimal_comma("braces")
            key = self._node(event, path) if isinstance(event, yaml.ScalarEvent | yaml.AliasEvent) else None
            if key == "<<" and isinstance(event, yaml.ScalarEvent) and event.implicit[0]:
                raise self._error("merge keys are not allowed; write the values out")
            if not isinstance(key, str):
                raise self._error("a key must be text; put it in quotes")
            if key in mapping:
                first = self.places[(*path, key)][0]
                raise self._error(f"{shown(key)} is given twice, first on line {first}; keep one")
            self.places[(*path, key)] = here
            mapping[key] = self._node(self._next(), (*path, key))
        return mapping

    def _sequence(self, path: KeyPath) -> JsonValue:
        items: list[JsonValue] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            here = (*path, len(items))
            self.places[here] = self.here
            if isinstance(event, yaml.ScalarEvent) and event.value.startswith("0"):  # [1,2] is a list, [0,01] hardly
                self._check_decimal_comma("brackets")
            items.append(self._node(event, here))
        return items

    def _check_decimal_comma(self, where: str) -> None:
        """Refuses digits that follow those of the event before after a comma and nothing else: `0,01` for 0.01."""
        before, event = self._last
        if not (_is_digits(before, INTEGER) and _is_digits(event, DIGITS)):
            return
        assert before.start_mark is not None and before.end_mark is not None and event.start_mark is not None
        if self._text[before.end_mark.index : event.start_mark.index] != ",":
            return
        halves = before.value, event.value
        # 1,000 may be a thousand.
        whole = f" or {''.join(halves)}" if len(event.value) == 3 and int(before.value) != 0 else ""
        what = f"{','.join(halves)} in {where} is two values; write {'.'.join(halves)}{whole}"
        raise YamlError(self._name, what, before.start_mark.line + 1, before.start_mark.column + 1)

    def _value(self, event: yaml.ScalarEvent) -> JsonValue:
        text: str = event.value
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise self._error("half of a surrogate pair is not text; remove it")
        if not event.implicit[0]:  # quoted, or a block
            return text
        if INTEGER.fullmatch(text) and len(text.lstrip("+-")) > MAX_DIGITS:
            raise self._error(f"a whole number of more than {MAX_DIGITS} digits; put it in quotes if it is text")
        return _resolved(text)

    def _next(self) -> yaml.Event:
        event = next(self._events)
        assert event.start_mark is not None
        self._last = self._last[1], event
        self.here = (event.start_mark.line + 1, event.start_mark.column + 1)
        return event

    def _error(self, what: str) -> YamlError:
        return YamlError(self._name, what, *self.here)


class _CoreDumper(yaml.SafeDumper):
    """Writes shared values out, and quotes text that the core schema would read as something else."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        style = None
        if not text.replace("\n", "").isprintable():
            style = '"'  # escapes what other styles would fold into a line break
        elif "\n" in text:
            style = "|"
        elif INTEGER.fullmatch(text) or not isinstance(_resolved(text), str):
            style = "'"
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_CoreDumper.add_representer(str, _CoreDumper.represent_text)


def _resolved(text: str) -> bool | int | float | str | None:
    """What an unquoted scalar means in YAML 1.2's core schema, with decimal integers only."""
    if text in WORDS:
        return WORDS[text]
    if INTEGER.fullmatch(text):
        return int(text)
    if FLOAT.fullmatch(text):
        lowered = text.lower()  # Python spells `.inf` and `.nan` without the dot
        return float(lowered.replace(".", "") if lowered[-1] in "fn" else lowered)
    return text


def _is_digits(event: yaml.Event | None, pattern: re.Pattern[str]) -> TypeGuard[yaml.ScalarEvent]:
    return isinstance(event, yaml.ScalarEvent) and event.implicit[0] and pattern.fullmatch(event.value) is not None


def _decoded(content: bytes, name: str) -> str:
    if b"\0" in content:
        raise YamlError(name, "is not a text file; name a YAML file in UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8-sig")
        line, column = _line_and_column(before, len(before))
        raise YamlError(name, "is not UTF-8 text here; save the file as UTF-8", line, column) from error


def _line_and_column(text: str, index: int) -> tuple[int, int]:
    return text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index)


def _not_a_file(path: Path) -> str:
    if path.is_dir():
        return "is a folder; name a YAML file in it"
    return "is not a regular file; name a YAML file" if path.exists() else "no such file; check the path"


def _way_out(problem: str) -> str:
    for complaint, words in WAYS_OUT:
        if complaint in problem:
            return words
    return f"{problem}; correct the YAML here"
