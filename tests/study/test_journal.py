"""The journal: what was acknowledged is there, whatever happens to the file or the writer."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Container
from pathlib import Path
from typing import Any

import pytest
from checkout import ROOT
from events import epoch_result

from orchestrator.base.errors import JournalError
from orchestrator.study.events import (
    AttemptFailed,
    Event,
    SearchCreated,
    SessionEnded,
    TrialReported,
    TrialStarted,
    TrialSuggested,
)
from orchestrator.study.journal import RESERVE_BYTES, Journal, JournalReader, decode, read_journal

EVENTS: list[Event] = [
    SearchCreated(search="s", space="0" * 64, seed=1),
    TrialSuggested(
        trial="t0000", index=0, params={"a": 1e-4, "b": True, "c": "x", "d": 3}, source="ax", seed=0, epochs=3
    ),
    TrialStarted(trial="t0000", attempt=1),
    TrialReported(trial="t0000", result=epoch_result(1, 0.5)),
    AttemptFailed(trial="t0000", attempt=1, failure="error", reason='a "quoted"\nline \u2028 and ünïcode \x00'),
    SessionEnded(state="finished", reason=""),
]


@pytest.fixture
def journal_file(tmp_path: Path) -> Path:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    for event in EVENTS:
        journal.append(event)
    journal.close()
    return path


def test_events_come_back_in_order_with_their_types(journal_file: Path) -> None:
    records = read_journal(journal_file)
    assert [record.event for record in records] == EVENTS
    assert [record.number for record in records] == [1, 2, 3, 4, 5, 6]


def test_reopening_appends_where_the_journal_ended(journal_file: Path) -> None:
    journal = Journal(journal_file)
    journal.append(EVENTS[2])
    journal.close()
    assert [record.event for record in read_journal(journal_file)] == [*EVENTS, EVENTS[2]]


def test_a_reader_gives_each_event_once_though_it_came_in_pieces_and_notices_another_file(journal_file: Path) -> None:
    content, reader = journal_file.read_bytes(), JournalReader(journal_file)
    given = []
    for end in (0, 1, 300, 301, 400, len(content) - 1, len(content)):
        journal_file.write_bytes(content[:end])
        assert not reader.is_another()
        given += reader.new_records()
    assert given == read_journal(journal_file) and len(given) == len(EVENTS)
    journal_file.write_bytes(content[:-1])
    assert reader.is_another(), "it is shorter than what was read"
    journal_file.write_bytes(content)
    journal_file.rename(journal_file.with_name("moved"))
    assert reader.is_another(), "it is gone"
    (journal_file.with_name("copy")).write_bytes(content)
    journal_file.with_name("copy").rename(journal_file)
    assert reader.is_another()


def test_every_line_is_json_that_jq_can_read(journal_file: Path) -> None:
    lines = journal_file.read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == [event.kind for event in EVENTS]


def test_a_last_line_cut_anywhere_is_left_out_and_overwritten(journal_file: Path) -> None:
    content = journal_file.read_bytes()
    start = content[:-1].rindex(b"\n") + 1
    for end in range(start, len(content)):
        journal_file.write_bytes(content[:end])
        assert [record.event for record in read_journal(journal_file)] == EVENTS[:-1]
    journal = Journal(journal_file)
    journal.append(EVENTS[-1])
    journal.close()
    assert [record.event for record in read_journal(journal_file)] == EVENTS


def test_a_lost_line_is_noticed_by_its_number(journal_file: Path) -> None:
    lines = journal_file.read_bytes().splitlines(keepends=True)
    journal_file.write_bytes(b"".join(lines[:2] + lines[3:]))
    with pytest.raises(JournalError, match=r"journal\.jsonl:3: .*it calls itself line 4"):
        read_journal(journal_file)


def test_an_event_of_a_later_version_is_refused_not_skipped(journal_file: Path) -> None:
    body = b'{"number":7,"time":0.0,"kind":"trial_teleported"'
    with journal_file.open("ab") as file:
        file.write(b'%s,"crc":"%08x"}\n' % (body, zlib.crc32(body)))
    with pytest.raises(JournalError, match="not an event that this version knows"):
        read_journal(journal_file)


def test_a_journal_of_version_0_1_is_refused_in_a_line_that_calls_it_no_damage(tmp_path: Path) -> None:
    body = b'{"number":1,"time":0.0,"kind":"search_created","format":1,"search":"s","space":"0","seed":1'
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'%s,"crc":"%08x"}\n' % (body, zlib.crc32(body)))
    with pytest.raises(JournalError, match=r"by another version \(format 1, and this version reads 2\); use") as told:
        read_journal(path)
    assert "\n" not in str(told.value) and "damaged" not in str(told.value)


def test_a_byte_that_changes_is_found_and_located(journal_file: Path) -> None:
    content = journal_file.read_bytes()
    for position in range(0, len(content), 3):
        changed = bytes([content[position] ^ (1 + position % 255)])
        journal_file.write_bytes(content[:position] + changed + content[position + 1 :])
        line = content[:position].count(b"\n") + 1
        with pytest.raises(JournalError, match=rf"journal\.jsonl:{line}: damaged at byte"):
            read_journal(journal_file)


class FaultyDisk:
    """Counts writes, syncs and truncations of one journal; those with the given numbers fail, counted from 1."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, fails: Container[int] = (), short: bool = False) -> None:
        self.operations = 0
        self.failed: list[str] = []
        self._fails, self._short = fails, short
        self._sync = os.fsync
        monkeypatch.setattr(os, "fsync", self._fsync)

    def under(self, journal: Journal) -> None:
        self._file, journal._file = journal._file, self  # type: ignore[assignment]

    def _fsync(self, descriptor: int) -> None:
        self._may_fail("fsync")
        self._sync(descriptor)

    def write(self, data: bytes) -> int:
        try:
            self._may_fail("write")
        except OSError:
            if self._short:
                self._file.write(data[: len(data) // 2])
            raise
        return self._file.write(data)

    def truncate(self, end: int) -> int:
        self._may_fail("truncate")
        return self._file.truncate(end)

    def _may_fail(self, operation: str) -> None:
        self.operations += 1
        if self.operations in self._fails:
            self.failed.append(operation)
            raise OSError(5, "Input/output error")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def append_all(path: Path, disk: FaultyDisk) -> list[Event]:
    """Appends every event, trying each once; returns those that were acknowledged."""
    acknowledged = []
    journal = Journal(path)
    disk.under(journal)
    for event in EVENTS:
        with contextlib.suppress(JournalError):
            journal.append(event)
            acknowledged.append(event)
    journal.close()
    return acknowledged


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("in_a_row", [1, 2])
def test_whichever_operation_fails_what_was_acknowledged_is_there_and_at_most_one_event_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: bool, in_a_row: int
) -> None:
    failed: set[str] = set()
    for number in range(1, 100):
        path = tmp_path / str(number) / "journal.jsonl"
        path.parent.mkdir()
        Journal(path).close()
        with monkeypatch.context() as patch:
            disk = FaultyDisk(patch, fails=range(number, number + in_a_row), short=short)
            try:
                acknowledged = append_all(path, disk)
            except JournalError:  # it could not even be opened
                acknowledged = []
        failed |= set(disk.failed)
        kept = [record.event for record in read_journal(path)]
        assert kept[: len(acknowledged)] == acknowledged
        assert len(kept) <= len(acknowledged) + 1
        Journal(path).append(EVENTS[-1])
        assert len(read_journal(path)) == len(kept) + 1
        if not disk.failed:
            break
    assert number > 2 * len(EVENTS)
    assert failed >= ({"write", "fsync"} if in_a_row == 1 else {"write", "fsync", "truncate"})


def test_a_write_that_failed_may_be_tried_again_in_the_same_session(
    journal_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(journal_file)
    before = journal_file.read_bytes()
    FaultyDisk(monkeypatch, fails=[1], short=True).under(journal)
    with pytest.raises(JournalError, match="could not be written"):
        journal.append(EVENTS[2])
    assert journal_file.read_bytes() == before
    journal.append(EVENTS[2])
    assert [record.event for record in read_journal(journal_file)] == [*EVENTS, EVENTS[2]]


def test_after_a_sync_that_failed_nothing_is_written_until_the_journal_is_opened_again(
    journal_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(journal_file)
    disk = FaultyDisk(monkeypatch, fails=[2])
    disk.under(journal)
    with pytest.raises(JournalError, match="could not be written"):
        journal.append(EVENTS[2])
    operations = disk.operations
    with pytest.raises(JournalError, match="the disk failed to sync"):
        journal.append(EVENTS[2])
    assert disk.operations == operations
    assert Journal(journal_file).append(EVENTS[2]).number == len(EVENTS) + 1


def test_a_writer_that_slept_while_another_took_over_writes_nothing_more(journal_file: Path) -> None:
    sleeper, other = Journal(journal_file), Journal(journal_file)
    other.append(EVENTS[2])
    content = journal_file.read_bytes()
    for _ in range(2):
        with pytest.raises(JournalError, match="another process"):
            sleeper.append(EVENTS[3])
    assert journal_file.read_bytes() == content


FILL_UP = """
import itertools, sys
from pathlib import Path
from orchestrator.base.errors import JournalError
from orchestrator.study.events import AttemptFailed, SessionEnded
from orchestrator.study.journal import Journal
journal = Journal(Path(sys.argv[1]))
try:
    for attempt in itertools.count(1):
        journal.append(AttemptFailed(trial="t0000", attempt=attempt, failure="error", reason="x" * 1000))
except JournalError as error:
    print(error)
journal.append(SessionEnded(state="failed", reason="disk full"))
print(attempt - 1)
"""


def test_on_a_full_disk_the_line_at_hand_and_the_end_of_the_session_are_still_written(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    script = (
        f'mount -t tmpfs -o size=256k tmpfs "{disk}" && "$0" -c "$1" "{disk}/journal.jsonl" && cat "{disk}"/*.jsonl'
    )
    command = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", script, sys.executable, FILL_UP]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"a disk of its own cannot be had here: {done.stderr.strip()}")
    message, acknowledged, *lines = done.stdout.splitlines(keepends=True)
    assert "the disk is full; make room, then resume the search" in message
    events = [decode(line.encode()).event for line in lines]
    assert len(events) == int(acknowledged) + 1
    assert int(acknowledged) > 100
    assert events[-1] == SessionEnded(state="failed", reason="disk full")


def test_the_reserve_is_made_anew_when_there_is_room_again(journal_file: Path) -> None:
    reserve = journal_file.with_name("journal.reserve")
    assert reserve.stat().st_blocks * 512 >= RESERVE_BYTES
    reserve.unlink()
    Journal(journal_file).close()
    assert reserve.stat().st_size == RESERVE_BYTES


def test_a_writer_killed_fifty_times_loses_nothing_that_it_acknowledged() -> None:
    command = [sys.executable, str(ROOT / "tests/helpers/chaos.py"), "journal", "--kills", "50", "--seed", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = re.search(r"(\d+) events acknowledged, .* 0 lost", done.stdout)
    assert counts is not None and int(counts[1]) >= 25
