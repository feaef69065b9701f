"""The truth about a search: an append-only file of events, one JSON object per line.

Each line carries its number, the time and a CRC-32 of everything before the checksum. An event counts once the line is
on disk (fsync). The last line of a journal may be cut short by a crash and is then left out, since nobody acted on it;
damage anywhere else is an error that names the line. One process writes, under a lease (`orchestrator.lease`); any
number may read.
"""

from __future__ import annotations

import json
import os
import threading
import time
import zlib
from pathlib import Path
from typing import IO, NamedTuple

from pydantic import ValidationError

from orchestrator.errors import JournalError
from orchestrator.events import EVENT, Event
from trainer.atomic import sync_folder


class Record(NamedTuple):
    """An event and its place in the journal."""

    number: int
    """Counted from 1."""
    time: float
    """When it was written, in seconds since 1970 UTC."""
    event: Event


class Journal:
    """The writing end. Appending is safe from several threads of the one process that holds the lease."""

    def __init__(self, path: Path) -> None:
        """Opens or creates the journal; `records` holds what was there.

        Raises:
            JournalError: the file is damaged before its last line, or cannot be opened.
        """
        self.path = path
        self._lock = threading.Lock()
        self.records, end = _read(path)
        try:
            self._file: IO[bytes] = path.open("r+b" if path.exists() else "w+b", buffering=0)
            self._file.truncate(end)
            self._file.seek(end)
            self._end = end
            sync_folder(path.parent)
        except OSError as error:
            raise JournalError(f"{path}: cannot be written ({error.strerror})") from error
        self._number = len(self.records)

    def append(self, event: Event) -> Record:
        """Writes the event durably; when this returns, the event has happened.

        Raises:
            JournalError: the line could not be written whole and synced; the journal is as it was before.
        """
        with self._lock:
            record = Record(self._number + 1, time.time(), event)
            line = encode(record)
            try:
                written = self._file.write(line)
                if written != len(line):
                    raise OSError(None, "short write")
                os.fsync(self._file.fileno())
            except OSError as error:
                self._file.truncate(self._end)
                self._file.seek(self._end)
                raise JournalError(f"{self.path}: an event could not be written ({error.strerror})") from error
            self._end += len(line)
            self._number = record.number
            return record

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()


def read_journal(path: Path) -> list[Record]:
    """All events that count, in order; an empty list where there is no journal yet.

    Raises:
        JournalError: the file is damaged before its last line.
    """
    return _read(path)[0]


def encode(record: Record) -> bytes:
    """The line that stands for the record, its CRC-32 over all that comes before the checksum's key."""
    fields = {"number": record.number, "time": record.time, **record.event.model_dump(mode="json")}
    body = json.dumps(fields, allow_nan=False, separators=(",", ":")).encode()[:-1]
    return b'%s,"crc":"%08x"}\n' % (body, zlib.crc32(body))


def decode(line: bytes) -> Record:
    """The record that a whole line stands for.

    Raises:
        ValueError: the checksum does not match, or the event is unknown to this version.
    """
    body, separator, checksum = line.rpartition(b',"crc":"')
    if not separator or checksum != b'%08x"}\n' % zlib.crc32(body):
        raise ValueError("its checksum does not match")
    fields = json.loads(body + b"}")
    number, moment = fields.pop("number"), fields.pop("time")
    try:
        return Record(number, moment, EVENT.validate_python(fields))
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"not an event that this version knows ({first['msg']})") from error


def _read(path: Path) -> tuple[list[Record], int]:
    """The records and the number of bytes they take."""
    if not path.exists():
        return [], 0
    records: list[Record] = []
    end = 0
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        try:
            record = decode(line)
            if record.number != number:
                raise ValueError(f"it calls itself line {record.number}")
        except ValueError as error:
            if number == len(lines) and not line.endswith(b"\n"):
                break
            raise JournalError(
                f"{path}:{number}: damaged at byte {end}: {error}; restore the file from a copy, or cut it "
                f"there with `head -c {end}` to go back to what was known before"
            ) from error
        records.append(record)
        end += len(line)
    return records, end
