"""A journal in a storage that cannot append: whole lines in numbered parts, of which only the last one ever changes.

A journal of n bytes thus costs a few times n to send, however often it is sent, and a reader fetches what is new.
"""

from __future__ import annotations

import re

from orchestrator.study.journal import verified

FOLDER = "journal"
"""Of the parts, within a search."""
# A part that is full is never sent again; one that is not is sent whole with each batch of events.
PART_BYTES = 256 * 1024
NUMBER = re.compile(rb'\{"number":([0-9]+),')


def part_name(number: int) -> str:
    """Name of a part within its folder; counted from 1."""
    return f"{number:06d}.jsonl"


def first_part(lines: bytes) -> bytes:
    """As many whole lines from the front as make up a part."""
    if len(lines) < PART_BYTES:
        return lines
    return lines[: lines.find(b"\n", PART_BYTES - 1) + 1] or lines


def check_part(lines: bytes, first: int) -> int:
    """The number of the line that follows a part whose first line should have the number `first`.

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
