"""The journal of a search: an append-only file of events, one JSON object per line, and the only source of its state.

Each line carries its number, the time and a CRC-32 of everything before the checksum. An event counts once the line is
on disk (fsync). A last line that a crash cut short is ignored, as nothing acted on it; damage anywhere else is an error
that names the line. One process writes, under a lease (`orchestrator.study.lease`); any number may read.

A reserve of some disk blocks lies beside the journal. It is deleted when the disk is full, so that the line under way
and the end of the session can still be written.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from pydantic import ValidationError

from orchestrator.base.errors import JournalError
from orchestrator.base.process import without_collector
from orchestrator.study.events import EVENT, FORMAT, Event, SessionEnded, TrialReported
from trainer.files import has_small_numbers, loads_checked, open_regular, replacing, sync_folder
from trainer.formatting import one_line

RESERVE_BYTES = 64 * 1024
LATEST = 253402300800.0  # the year 10000
# Of a line: a warm start from ten thousand trials has a few.
MAX_LINE = 32 * 1024**2
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
EPOCH = re.compile(rb'\{"number":(\d{1,18}),"time":(\d{1,11}\.\d+),(?="kind":"trial_reported")')


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
        """Opens or creates the journal and its reserve; `records` holds what was there.

        Raises:
            JournalError: the file is damaged before its last line, or cannot be opened, or the disk is full.
        """
        self.path = path
        self._lock = threading.Lock()
        self._over: str | None = None
        self._is_full = False
        self.records, self._end = _read(path)
        try:
            self._file: IO[bytes] = path.open("r+b" if path.exists() else "w+b", buffering=0)
            self._cut_back()
            self._make_reserve()
            sync_folder(path.parent)
        except OSError as error:
            raise JournalError(f"{path}: cannot be written ({error.strerror})") from error
        self._number = len(self.records)

    @property
    def reserve(self) -> Path:
        """The file whose blocks are given up when the disk is full."""
        return self.path.with_name("journal.reserve")

    def append(self, event: Event) -> Record:
        """Writes the event durably; when this returns, the event has happened.

        Raises:
            JournalError: the line could not be written whole and synced. The journal is as it was before, unless it
                was the sync that failed: then the event may or may not be there when the journal is opened again, and
                until then nothing more is written. On a full disk the reserve takes the line at hand; after it only
                the end of the session is accepted.
        """
        with self._lock:
            self._check_open_for(event)
            record = Record(self._number + 1, time.time(), event)
            line = encode(record)
            try:
                self._write(line)
                self._sync()
            except OSError as error:
                raise JournalError(f"{self.path}: an event could not be written ({error.strerror})") from error
            self._end += len(line)
            self._number = record.number
            return record

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _check_open_for(self, event: Event) -> None:
        if self._over is not None:
            raise JournalError(f"{self.path}: nothing more is written in this session ({self._over})")
        if self._is_full and not isinstance(event, SessionEnded):
            raise JournalError(f"{self.path}: the disk is full; make room, then resume the search")
        if os.fstat(self._file.fileno()).st_size != self._end:
            # This process slept so long that another took its lease for stale.
            self._over = "another process has written to it"
            raise JournalError(f"{self.path}: another process writes this search now; this one must end")

    def _write(self, line: bytes) -> None:
        try:
            self._write_whole(line)
        except OSError as error:
            if error.errno not in NO_SPACE or not self.reserve.exists():
                raise
            self._give_up_reserve()
            self._write_whole(line)

    def _write_whole(self, line: bytes) -> None:
        """Leaves the file as it was if that fails."""
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            self._cut_back_or_end()
            raise

    def _sync(self) -> None:
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            # Never tried again: the kernel may have dropped the pages it could not write and call the next one a
            # success. Only what a new reader finds is known to be there.
            self._cut_back_or_end()
            self._over = f"the disk failed to sync: {error.strerror}"
            raise

    def _cut_back(self) -> None:
        self._file.truncate(self._end)
        self._file.seek(self._end)

    def _cut_back_or_end(self) -> None:
        try:
            self._cut_back()
        except OSError as error:
            # A piece of a line stays behind; another line after it would read as damage.
            self._over = f"a line cut short could not be removed: {error.strerror}"

    def _make_reserve(self) -> None:
        if self.reserve.exists() and self.reserve.stat().st_size == RESERVE_BYTES:
            return
        with replacing(self.reserve) as file:
            # Random bytes take their blocks also where the file system compresses.
            file.write(os.urandom(RESERVE_BYTES))

    def _give_up_reserve(self) -> None:
        self._is_full = True
        with contextlib.suppress(OSError):
            self.reserve.unlink()
            # Some file systems give the blocks back only when the removal is committed.
            sync_folder(self.path.parent)


class OtherFormatError(ValueError):
    """A journal whose events have the vocabulary of another version."""


def read_journal(path: Path) -> list[Record]:
    """All events that count, in order; an empty list where there is no journal yet.

    Raises:
        JournalError: the file is damaged before its last line.
    """
    return _read(path)[0]


class JournalReader:
    """Reads a journal again and again while another process writes to it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._number, self._end = 0, 0

    def is_another(self) -> bool:
        """Whether another file, or a shorter one, stands in the place of the one that was read."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return self._file is not None
        return self._file is not None and (found.st_ino != self._file or found.st_size < self._end)

    def new_records(self) -> list[Record]:
        """The events that were added since the last call, in order.

        Raises:
            JournalError: the file is damaged before its last line.
        """
        with contextlib.suppress(FileNotFoundError):
            self._file = self._path.stat().st_ino
        records, self._end = _read(self._path, self._end, self._number)
        self._number += len(records)
        return records


def encode(record: Record) -> bytes:
    """The line that stands for the record, its CRC-32 over all that comes before the checksum's key."""
    return encode_fields({"number": record.number, "time": record.time, **record.event.model_dump(mode="json")})


def encode_fields(fields: Mapping[str, Any]) -> bytes:
    """The line of a record's number, time and event."""
    body = json.dumps(fields, allow_nan=False, separators=(",", ":")).encode()[:-1]
    return b'%s,"crc":"%08x"}\n' % (body, zlib.crc32(body))


def decode(line: bytes) -> Record:
    """The record that a whole line stands for.

    Raises:
        OtherFormatError: the journal was written by another version.
        ValueError: the checksum does not match, or the event is unknown to this version.
    """
    body = verified(line)
    try:
        # Nearly all lines are epochs; in one step they take half of the time.
        if (head := EPOCH.match(body)) and has_small_numbers(body):
            event = TrialReported.model_validate_json(b"{%s}" % body[head.end() :])
            return Record(int(head[1]), float(head[2]), event)
    except ValidationError:
        pass  # below it is accepted, or refused with the reason
    try:
        fields = loads_checked(body + b"}")
        number, moment = int(fields.pop("number")), float(fields.pop("time"))
    except (LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        # A checksum detects accidents only; anyone who can write the file can compute it.
        raise ValueError(f"not an event ({type(error).__name__})") from error
    if not 0 <= moment < LATEST:
        raise ValueError(f"its time is {moment:g}, which is no moment of our calendar")
    try:
        return Record(number, moment, EVENT.validate_python(fields))
    except ValidationError as error:
        if fields.get("kind") == "search_created" and fields.get("format") != FORMAT:
            raise OtherFormatError(f"format {fields.get('format')}, and this version reads {FORMAT}") from error
        first = error.errors(include_url=False, include_input=False)[0]
        raise ValueError(f"not an event that this version knows ({one_line(first['msg'])})") from error


def verified(line: bytes) -> bytes:
    """All of a whole line that its checksum covers.

    Raises:
        ValueError: the checksum does not match.
    """
    body, separator, checksum = line.rpartition(b',"crc":"')
    if not separator or checksum != b'%08x"}\n' % zlib.crc32(body):
        raise ValueError("its checksum does not match")
    return body


def _read(path: Path, begin: int = 0, known: int = 0) -> tuple[list[Record], int]:
    """The records from byte `begin` on, before which stand so many known ones, and the byte at which they end."""
    try:
        with open_regular(path) as file, without_collector():
            file.seek(begin)
            return _records(path, iter(lambda: file.readline(MAX_LINE + 1), b""), begin, known)
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise JournalError(f"{path}: cannot be read ({error.strerror})") from error


def _records(path: Path, lines: Iterator[bytes], end: int, known: int) -> tuple[list[Record], int]:
    records: list[Record] = []
    for number, line in enumerate(lines, known + 1):
        try:
            if len(line) > MAX_LINE:
                raise ValueError(f"longer than {MAX_LINE // 1024**2} MiB")
            record = decode(line)
            if record.number != number:
                raise ValueError(f"it calls itself line {record.number}")
        except OtherFormatError as error:
            raise JournalError(f"{path}: was written by another version ({error}); use that one for it") from error
        except ValueError as error:
            if len(line) <= MAX_LINE and _is_cut_short(line):
                break
            raise JournalError(
                f"{path}:{number}: damaged at byte {end}: {error}; restore the file from a copy, or cut it "
                f"there with `head -c {end}` to go back to what was known before"
            ) from error
        records.append(record)
        end += len(line)
    return records, end


def _is_cut_short(line: bytes) -> bool:
    """Whether a last line that means nothing was never finished, rather than finished and then damaged."""
    if line.endswith(b"\n"):
        return False
    try:
        decode(line[:-1] + b"\n")
    except ValueError:
        return True
    return False
