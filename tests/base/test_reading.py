"""What is read of a folder that somebody else may have written: nothing is waited for, everything has a limit."""

from __future__ import annotations

import errno
import json
import math
import os
import resource
import socket
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from events import epoch_result
from hypothesis import given
from hypothesis import strategies as st
from searches import a_search

from orchestrator.__main__ import run
from orchestrator.base.errors import JournalError
from orchestrator.study import journal as journals
from orchestrator.study.events import TrialReported
from orchestrator.study.journal import Record, decode, encode, read_journal
from trainer.errors import DataError
from trainer.files import LARGEST_FLOAT, loads_checked, read_regular, write_atomically
from trainer.result import read_results


def socket_at(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


KINDS: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to a pipe": lambda path: (os.mkfifo(path.with_name("pipe")), path.symlink_to("pipe")),
    "a socket": socket_at,
    "a folder": Path.mkdir,
}


@pytest.mark.parametrize("kind", KINDS)
def test_only_regular_files_are_read(kind: str, tmp_path: Path) -> None:
    KINDS[kind](tmp_path / "file")
    with pytest.raises(OSError, match=r"is no regular file|No such device or address"):
        read_regular(tmp_path / "file")


FILES = [
    "lease",
    "search.yaml",
    "split.json",
    "trials/t0001/config.json",
    "trials/t0001/results.jsonl",
    "report.html.tmp",
    "logs/report.log",
]
COMMANDS = [
    *(["status", "first"], ["status", "first", "--json"], ["status"], ["logs", "first"], ["logs", "first/t0001"]),
    *(["resume", "first"], ["extend", "first", "--trials", "+1"], ["stop", "first"], ["purge", "first", "--yes"]),
    *(["compare", "first/t0000", "first/t0001"], ["tables", "first"], ["finalize", "first"]),
    ["report", "first", "--without-model"],
]


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", ["a pipe", "a link to a device"])
@pytest.mark.parametrize("file", FILES)
def test_no_command_waits_for_a_pipe_or_a_device_in_place_of_a_file(
    file: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("orchestrator.cli.launch.drive_and_show", lambda *_, **__: 0)
    monkeypatch.setattr("orchestrator.cli.finalize.drive_and_show", lambda *_, **__: 0)
    for number, command in enumerate(COMMANDS):
        folder = a_search(tmp_path / str(number) / "first")
        path = folder.path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        KINDS[kind](path)
        run([*command, "--storage", str(folder.path.parent)])
        assert "Traceback" not in capsys.readouterr().err


def forged(fields: str) -> bytes:
    """A line of a journal with these fields and the checksum of its author."""
    body = fields.encode()
    return b'%s,"crc":"%08x"}\n' % (body, zlib.crc32(body))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_regular_file_is_never_replaced(kind: str, tmp_path: Path) -> None:
    KINDS[kind](tmp_path / "out")
    before = (tmp_path / "out").lstat().st_ino
    with pytest.raises(OSError, match="is no regular file"):
        write_atomically(tmp_path / "out", "text")
    assert (tmp_path / "out").lstat().st_ino == before


def test_a_line_without_an_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "MAX_LINE", 1024**2)
    path = tmp_path / "journal.jsonl"
    with path.open("wb") as file:
        file.truncate(4 * 1024**3)  # takes no room on the disk
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(JournalError, match=r"journal\.jsonl:1: damaged at byte 0: longer than 1 MiB"):
        read_journal(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


NUMBERS = ["1e308", "-1e308", "1e999", "1" + "0" * 400, "-1" + "0" * 5000, "NaN", "Infinity", "-Infinity", "1e39"]
NUMBERS += ["1E+39", str(2**63 + 1), str(-(2**63) - 1)]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_to_which_nothing_can_be_added_is_refused_where_it_enters(number: str, tmp_path: Path) -> None:
    for before, after in (('{"x":', "}"), ('{"x": [', "]}"), ("[0,", "]"), ("[\n", "]")):
        with pytest.raises(ValueError, match="number"):
            loads_checked(before + number + after)
    line = encode(Record(1, 1e9, TrialReported(trial="t0000", result=epoch_result(1, 0.5)))).decode()
    body = line.rpartition(',"crc":')[0]
    for name in ("mAP", "queries", "seconds", "epoch", "learning_rate"):
        begin, _, rest = body.partition(f'"{name}":')
        end = min(index for index in (rest.find(","), rest.find("}")) if index >= 0)
        with pytest.raises(ValueError, match=r"number|not an event"):
            decode(forged(f'{begin}"{name}":{number}{rest[end:]}'))
    results = tmp_path / "results.jsonl"
    results.write_text(epoch_result(1, 0.5).model_dump_json().replace('"mAP":0.5', f'"mAP":{number}') + "\n")
    with pytest.raises(DataError, match=r"results.jsonl:1: damaged"):
        read_results(results)


@pytest.mark.parametrize("value", [-0.1, 1.1, 1e6])
def test_a_share_is_between_0_and_1(value: float) -> None:
    with pytest.raises(ValueError, match="mAP"):
        epoch_result(1, value)


NUMBERS_OF_SIZE = st.integers(-(2**63), 2**63) | st.floats(width=32, allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS_OF_SIZE | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES)
def test_numbers_that_can_be_calculated_with_are_read_as_they_are(value: object) -> None:
    for text in (json.dumps(value), json.dumps(value).encode()):
        assert repr(loads_checked(text)) == repr(json.loads(text))  # to the last bit, and of the same type
    assert math.isfinite(LARGEST_FLOAT**2)


def test_a_report_elsewhere_needs_no_storage_that_can_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = a_search(tmp_path / "runs/first")
    folder.logs.mkdir()
    refused: list[str] = []

    def as_read_only(event: str, arguments: tuple[object, ...]) -> None:
        """What root may do all the same is refused here."""
        changes = event in ("os.mkdir", "os.remove", "os.rename", "os.link", "os.symlink")
        if event == "open" and isinstance(arguments[2], int):
            changes = bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if changes and is_watched and str(arguments[0]).startswith(str(folder.path.parent)):
            refused.append(f"{event} {arguments[0]}")
            raise PermissionError(errno.EROFS, "Read-only file system", str(arguments[0]))

    is_watched = True
    sys.addaudithook(as_read_only)
    try:
        for kind in ("html", "md", "csv", "json"):
            out = tmp_path / f"report.{kind}"
            words = ["report", "first", "--format", kind, "--out", str(out)]
            assert run([*words, "--storage", str(folder.path.parent)]) == 0, capsys.readouterr().err
            assert out.stat().st_size > 0
    finally:
        is_watched = False
    assert [line for line in refused if "/logs" not in line] == []


def shell(command: str, storage: Path) -> subprocess.CompletedProcess[str]:
    """The command line with `reidsearch` in it, run by a shell."""
    words = f"{sys.executable} -m orchestrator"
    text = command.replace("reidsearch", words).replace("STORAGE", str(storage))
    return subprocess.run(["bash", "-c", text], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("reidsearch status first --storage STORAGE > /dev/full", 5),
        ("reidsearch status first --json --storage STORAGE > /dev/full", 5),
        ("reidsearch logs first --storage STORAGE > /dev/full", 5),
        ("reidsearch status none --storage STORAGE 2> /dev/full", 3),
        ("reidsearch status --none 2> /dev/full", 2),
        ("reidsearch status none --storage STORAGE 2>&-", 3),
        ("reidsearch status first --storage STORAGE >&-", 0),
        ("reidsearch status first --storage STORAGE <&- >&- 2>&-", 0),
        ("reidsearch logs first --storage STORAGE | true; exit ${PIPESTATUS[0]}", 0),
    ],
)
def test_streams_that_cannot_be_written_end_in_a_line_and_an_exit_code(command: str, code: int, tmp_path: Path) -> None:
    folder = a_search(tmp_path / "first")
    done = shell(command, tmp_path)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    if "> /dev/full" in command and code == 5:
        assert "standard output: No space left on device" in done.stderr
    assert folder.journal.is_file()
