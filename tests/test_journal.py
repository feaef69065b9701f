"""The journal: what was acknowledged is there, whatever happens to the file or the writer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import JournalError
from orchestrator.events import AttemptFailed, SearchCreated, SessionEnded, TrialStarted, TrialSuggested
from orchestrator.journal import Journal, Record, decode, encode, read_journal

EVENTS = [
    SearchCreated(search="s", space="0" * 64, seed=1),
    TrialSuggested(trial="t0000", index=0, params={"a": 1e-4, "b": True, "c": "x", "d": 3}, source="ax", seed=0),
    TrialStarted(trial="t0000", attempt=1),
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
    assert [record.number for record in records] == [1, 2, 3, 4, 5]


def test_reopening_appends_where_the_journal_ended(journal_file: Path) -> None:
    journal = Journal(journal_file)
    journal.append(EVENTS[2])
    journal.close()
    assert [record.event for record in read_journal(journal_file)] == [*EVENTS, EVENTS[2]]


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


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_is_found_and_located(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("flip") / "journal.jsonl"
    content = bytearray(b"".join(encode(Record(number, 1e9, event)) for number, event in enumerate(EVENTS, 1)))
    position = data.draw(st.integers(0, 8 * len(content) - 1))
    content[position // 8] ^= 1 << position % 8
    path.write_bytes(content)
    before = content[: position // 8].count(b"\n")
    try:
        kept = [record.event for record in read_journal(path)]
    except JournalError as error:
        # A line end that turned into something else joins two lines; one made of something else splits one.
        assert f"{path}:{before + 1}: damaged at byte" in str(error)
    else:
        assert position // 8 == len(content) - 1, "only the very last byte may look like a line cut short"
        assert kept == EVENTS[:-1]


def test_a_lost_line_is_noticed_by_its_number(journal_file: Path) -> None:
    lines = journal_file.read_bytes().splitlines(keepends=True)
    journal_file.write_bytes(b"".join(lines[:2] + lines[3:]))
    with pytest.raises(JournalError, match=r"journal\.jsonl:3: .*it calls itself line 4"):
        read_journal(journal_file)


def test_an_event_of_a_later_version_is_refused_not_skipped(journal_file: Path) -> None:
    import zlib

    body = b'{"number":6,"time":0.0,"kind":"trial_teleported"'
    with journal_file.open("ab") as file:
        file.write(b'%s,"crc":"%08x"}\n' % (body, zlib.crc32(body)))
    with pytest.raises(JournalError, match="not an event that this version knows"):
        read_journal(journal_file)


def test_encode_and_decode_are_inverse(journal_file: Path) -> None:
    for record in read_journal(journal_file):
        assert decode(encode(record)) == record


@pytest.mark.parametrize("failure", ["fsync", "write", "short write"])
def test_a_write_that_fails_raises_and_leaves_the_journal_as_it_was(
    journal_file: Path, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    journal = Journal(journal_file)
    whole = journal_file.read_bytes()
    if failure == "fsync":
        monkeypatch.setattr(os, "fsync", _disk_full)
    else:
        journal._file = _FullFile(journal._file, 0 if failure == "write" else 7)
    with pytest.raises(JournalError, match="could not be written"):
        journal.append(EVENTS[0])
    monkeypatch.undo()
    assert journal_file.read_bytes() == whole


def _disk_full(descriptor: int) -> None:
    raise OSError(28, "No space left on device")


class _FullFile:
    """A file on a disk with room for a few more bytes."""

    def __init__(self, file, room: int) -> None:
        self._file, self._room = file, room

    def write(self, data: bytes) -> int:
        if not self._room:
            raise OSError(28, "No space left on device")
        return self._file.write(data[: self._room])

    def __getattr__(self, name: str):
        return getattr(self._file, name)


WRITER = """
import sys
from pathlib import Path
from orchestrator.events import TrialStarted
from orchestrator.journal import Journal
journal = Journal(Path(sys.argv[1]))
for attempt in range(1, 10**9):
    print(journal.append(TrialStarted(trial="t", attempt=attempt)).number, flush=True)
"""


def test_what_a_killed_writer_acknowledged_is_there(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    for round_ in range(5):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            first = writer.stdout.readline()
            time.sleep(0.02 + 0.03 * round_)
            writer.send_signal(signal.SIGKILL)
            acknowledged = [int(line) for line in [first, *writer.stdout.read().splitlines()] if line.strip()]
        records = read_journal(path)
        assert acknowledged[-1] <= len(records) <= acknowledged[-1] + 1
