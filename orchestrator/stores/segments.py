"""A journal in a bucket: whole lines in numbered objects, each written on the condition that nobody else wrote.

Only the last segment grows, up to `SEGMENT_BYTES`: a journal of n bytes costs a few times n to send, and a reader
fetches the segments that have changed. The storage refuses every write of a driver whose search another one has taken
over, because the successor begins by appending a comment to the last segment, or by creating the next one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from orchestrator.base.errors import JournalError
from orchestrator.stores.objects import ConflictError, Listed, Object, Objects, Version
from orchestrator.study.journal import verified

FOLDER = "journal"
"""Folder of the segments, in a search."""
SEGMENT_BYTES = 256 * 1024
AT_ONCE = 8
NUMBER = re.compile(rb'\{"number":([0-9]+),')
COMMENT = re.compile(rb"^#.*\n", re.MULTILINE)
RESTORE = "restore it from a copy of the storage, or from the machine that drove the search"


class Known(NamedTuple):
    """A segment that this machine has."""

    e_tag: str | None
    bytes: int
    """Of the journal's lines in it, comments left out."""


class Tail(NamedTuple):
    """The last segment as it was read."""

    number: int
    """1 where there is none yet."""
    content: bytes
    version: Version | None
    """None where there is none yet."""


def segment_path(search: str, number: int) -> str:
    """The object of a segment; counted from 1."""
    return f"{search}/{FOLDER}/{number:06d}.jsonl"


def read_segments(
    objects: Objects, search: str, listed: Sequence[Listed], known: dict[str, Known], here: bytes
) -> tuple[bytes, dict[str, Known]]:
    """Reads the segments that the reader does not have.

    Args:
        objects: the storage.
        search: name of the search.
        listed: its segments.
        known: those that were read before.
        here: the journal on this machine.

    Returns:
        The journal, and all its segments as they are known now.

    Raises:
        JournalError: a segment is missing or damaged; names it.
        StorageProblem: the storage cannot be reached.
    """
    for number, each in enumerate(listed, 1):
        if each.path != segment_path(search, number):
            raise JournalError(f"{objects.uri}/{segment_path(search, number)}: is missing; {RESTORE}")
    count = next((index for index, each in enumerate(listed) if not _is_known(each, known)), len(listed))
    same = sum(known[each.path].bytes for each in listed[:count])
    if same > len(here):
        count, same = 0, 0
    with ThreadPoolExecutor(AT_ONCE) as readers:
        found = list(readers.map(lambda each: _get(objects, each.path), listed[count:]))
    now = {each.path: known[each.path] for each in listed[:count]}
    line, pieces = here.count(b"\n", 0, same) + 1, [here[:same]]
    for each, segment in zip(listed[count:], found, strict=True):
        lines = COMMENT.sub(b"", segment.content)
        try:
            line = check_lines(lines, line)
        except ValueError as error:
            raise JournalError(f"{objects.uri}/{each.path}: damaged: {error}; {RESTORE}") from error
        pieces.append(lines)
        now[each.path] = Known(segment.version.e_tag, len(lines))
    return b"".join(pieces), now


def read_tail(objects: Objects, search: str, known: dict[str, Known]) -> Tail:
    """The last segment.

    Raises:
        ConflictError: it is not the one that is known.
        StorageProblem: the storage cannot be reached.
    """
    if not known:
        return Tail(1, b"", None)
    path = segment_path(search, len(known))
    try:
        found = objects.get(path)
    except FileNotFoundError as error:
        raise ConflictError(path) from error
    if found.version.e_tag != known[path].e_tag:
        raise ConflictError(path)
    return Tail(len(known), found.content, found.version)


def _get(objects: Objects, path: str) -> Object:
    try:
        return objects.get(path)
    except FileNotFoundError as error:
        raise JournalError(f"{objects.uri}/{path}: is missing; {RESTORE}") from error


def _is_known(listed: Listed, known: dict[str, Known]) -> bool:
    found = known.get(listed.path)
    return found is not None and found.e_tag is not None and found.e_tag == listed.e_tag


def check_lines(lines: bytes, first: int) -> int:
    """The number of the line that follows these, whose first should have the number `first`.

    Raises:
        ValueError: a line is damaged, missing or cut short; says which.
    """
    number = first
    for line in lines.splitlines(keepends=True):
        try:
            found = NUMBER.match(verified(line))
        except ValueError as error:
            raise ValueError(f"line {number} of the journal: {error}") from error
        if found is None or int(found[1]) != number:
            raise ValueError(f"line {number} of the journal is not there")
        number += 1
    return number


class SegmentWriter:
    """Appends lines after the tail of a journal that was read; the storage refuses it once anybody else has."""

    def __init__(self, objects: Objects, search: str, tail: Tail) -> None:
        self._objects, self._search, self._tail = objects, search, tail
        self._sending: Tail | None = None
        self._sent = 0
        """Bytes that the write under way adds."""

    def append(self, lines: bytes) -> int:
        """Writes as many whole lines from the front as fit into a segment; returns their number of bytes.

        After a StorageProblem the same write is repeated first, as it may have succeeded.

        Raises:
            ConflictError: another process has written.
            StorageProblem: the storage cannot be reached.
        """
        if self._sending is None:
            if len(self._tail.content) >= SEGMENT_BYTES:
                self._tail = Tail(self._tail.number + 1, b"", None)
            piece = _first_lines(lines, SEGMENT_BYTES - len(self._tail.content))
            self._sent = len(piece)
            self._sending = self._tail._replace(content=self._tail.content + piece)
        path = segment_path(self._search, self._sending.number)
        if self._sending.version is None:
            version = self._objects.create(path, self._sending.content)
        else:
            version = self._objects.replace(path, self._sending.content, self._sending.version)
        self._tail, self._sending = self._sending._replace(version=version), None
        return self._sent

    def fence(self, driver: str) -> None:
        """Appends a comment that names the driver, so that the writes of an earlier one are refused.

        Raises:
            ConflictError: another process has written since the journal was read.
            StorageProblem: the storage cannot be reached.
        """
        self.append(f"# {driver}\n".encode())


def _first_lines(lines: bytes, size: int) -> bytes:
    """Whole lines from the front: those that begin within `size` bytes, one at least."""
    end = lines.find(b"\n", max(0, size - 1))
    return lines if end < 0 else lines[: end + 1]
