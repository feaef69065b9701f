"""Whatever lies in a file or stands on a command line: it is taken in, or refused in a line that names the file.

`python tests/helpers/fuzz.py READER` does the same for as long as one likes, guided by the code that is reached.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import hostile
import pytest
from checkout import ROOT
from events import completed
from hostile import READERS, Fault, Reader, check, mutated
from hypothesis import given, settings
from hypothesis import strategies as st
from searches import a_search, write_search

from orchestrator.__main__ import run
from orchestrator.base.errors import JournalError, SearchError
from orchestrator.runner.prepare_space import MINI_MARS
from orchestrator.show.status import status_document
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import search_folder, searches
from orchestrator.stores.local import LocalStore, local_search
from orchestrator.stores.uri import MARKER
from orchestrator.study.description import read_description
from orchestrator.study.events import TrialCompleted, TrialSuggested
from orchestrator.study.journal import LATEST, Record, decode, encode, read_journal
from orchestrator.study.study import fold_records
from orchestrator.summary import read_summary
from orchestrator.tracking.database import ARTIFACTS, DATABASE
from orchestrator.tracking.server import LOG
from trainer.errors import DataError

REGRESSIONS = sorted(path for path in (ROOT / "tests/helpers/regressions").glob("*-*"))
# Each takes a tenth of a second and more.
SLOW = {"cli": 8, "yaml": 15, "pack": 20, "hdf5": 5}
EXAMPLES = 40

few = settings(deadline=None, derandomize=True, database=None)


class Fed:
    """A reader, its honest inputs and its folder."""

    def __init__(self, name: str, base: Path) -> None:
        self.reader = READERS[name]
        searches, data, self.place = hostile.folders(base)
        self.seeds = self.reader.seeds(searches if name in hostile.OF_SEARCHES else data)

    def __call__(self, content: bytes) -> bool:
        return check(self.reader, content, self.place)


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Fed]:
    """Readers by name, each made once; they share a data set and a search."""
    base = tmp_path_factory.mktemp("hostile")
    made: dict[str, Fed] = {}

    def of(name: str) -> Fed:
        if name not in made:
            made[name] = Fed(name, base)
        return made[name]

    return of


@pytest.mark.parametrize("name", READERS)
def test_an_honest_input_is_taken_in(fed: Callable[[str], Fed], name: str) -> None:
    reader = fed(name)
    assert any([reader(seed) for seed in reader.seeds])


@pytest.mark.parametrize("name", READERS)
def test_a_changed_input_is_taken_in_or_refused_in_a_line_that_names_it(fed: Callable[[str], Fed], name: str) -> None:
    reader = fed(name)

    @settings(few, max_examples=SLOW.get(name, EXAMPLES))
    @given(seed=st.sampled_from(reader.seeds), number=st.integers(0, 2**32), edits=st.integers(1, 4))
    def feed(seed: bytes, number: int, edits: int) -> None:
        reader(mutated(seed, reader.reader.words, random.Random(number), edits))

    feed()


@pytest.mark.parametrize("name", [name for name in READERS if name not in SLOW])
def test_any_bytes_are_taken_in_or_refused(fed: Callable[[str], Fed], name: str) -> None:
    reader = fed(name)

    @settings(few, max_examples=EXAMPLES // 2)
    @given(st.binary(max_size=300))
    def feed(content: bytes) -> None:
        reader(content)

    feed()


@pytest.mark.parametrize("path", REGRESSIONS, ids=lambda path: path.name)
def test_what_was_a_fault_once_is_none_any_more(fed: Callable[[str], Fed], path: Path) -> None:
    fed(path.name.rpartition("-")[0])(path.read_bytes())


@pytest.mark.parametrize(
    "wrong",
    [
        KeyError("x"),
        RecursionError(),
        DataError("no file is named"),
        DataError("{folder}/file: two\nlines"),
        DataError("{folder}/file: \x1b[31mred"),
    ],
)
def test_the_check_finds_faults(wrong: Exception, tmp_path: Path) -> None:
    def feed(content: bytes, folder: Path) -> None:
        raise type(wrong)(str(wrong).format(folder=folder))

    with pytest.raises(Fault):
        check(Reader(lambda _: [], feed), b"", tmp_path)


# --- paths


@pytest.mark.parametrize(
    "key", ["../../x", "..", ".", "/etc", "a/b", "", "a\0b", "t0\n", "x" * 65, ".hidden", "a\\b\x1b"]
)
def test_a_trial_in_a_forged_journal_names_no_other_folder(key: str, tmp_path: Path) -> None:
    folder = write_search(tmp_path / "forged", SearchSpace.load("smoke.yaml"), [])
    event = TrialSuggested(trial="t0000", index=0, params={"a": 0.5}, source="sobol", seed=0, epochs=3)
    forged = Record(2, 1e9, event.model_copy(update={"trial": key}))
    with folder.journal.open("ab") as journal:
        journal.write(encode(forged) + encode(Record(3, 1e9, TrialCompleted.model_construct(trial=key))))
    with pytest.raises(
        JournalError, match=r"journal.jsonl:2: damaged at byte \d+: not an event that this version knows"
    ):
        status_document(read_summary(folder))


def test_an_event_about_a_trial_that_nobody_suggested_is_damage_with_its_line(tmp_path: Path) -> None:
    folder = write_search(tmp_path / "forged", SearchSpace.load("smoke.yaml"), [TrialCompleted(trial="t0007")])
    with pytest.raises(
        JournalError, match=r"forged/journal.jsonl:2: about trial 't0007', which no line before suggests"
    ):
        fold_records(read_journal(folder.journal), folder.journal)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'"time":1000000000.0', b'"time":1e300'),
        (b'"time":1000000000.0', b'"time":-1'),
        (b'"time":1000000000.0', b'"time":NaN'),
        (b'"time":1000000000.0', b'"time":null'),
        (b'"time":1000000000.0', b'"time":{}'),
        (b'"number":1', b'"number":[]'),
        (b'"number":1', b'"number":1e999'),
        (b'"number":1,', b""),
        (b'"trial":"t0000"', b'"trial":' + b"[" * 100_000),
        (b'{"number":1', b'[{"number":1'),
    ],
)
def test_a_line_with_a_right_checksum_and_wrong_content_is_refused(before: bytes, after: bytes) -> None:
    line = encode(Record(1, 1e9, TrialCompleted(trial="t0000")))
    assert before in line
    with pytest.raises(ValueError, match=r"not an event|its time is|JSON|Expecting|delimiter|float|int|number"):
        decode(hostile.with_checksums(line.replace(before, after)))


def test_every_moment_that_a_journal_may_hold_can_be_shown(tmp_path: Path) -> None:
    from orchestrator.show.logs import event_line

    for moment in (0.0, LATEST - 1):
        assert event_line(Record(1, moment, TrialCompleted(trial="t0000")))


NAMES = [
    *(
        "..",
        ".",
        "../x",
        "a/b",
        "/tmp/x",
        "",
        "a\0b",
        "a\nb",
        "-x",
        ".x",
        "x" * 65,
        "a b",
        "ä",
        "a\x1b[31m",
        "~",
        "$HOME",
    )
]


@pytest.mark.parametrize("name", NAMES)
def test_the_name_of_a_search_is_the_name_of_a_folder_and_nothing_else(name: str, tmp_path: Path) -> None:
    with pytest.raises(SearchError):
        search_folder(LocalStore(tmp_path), name)


@given(st.text(max_size=80))
@few
def test_no_name_leaves_the_storage(name: str) -> None:
    try:
        folder = search_folder(LocalStore(Path("/storage")), name)
    except SearchError as error:
        assert "cannot name a search" in str(error)
    else:
        assert Path(os.path.normpath(folder.path)).parent == Path("/storage")


@pytest.mark.parametrize(
    "verb", ["status", "logs", "stop", "resume", "report", "purge", "export", "finalize", "extend"]
)
@pytest.mark.parametrize("name", ["../outside", "..", "inside/../../outside"])
def test_no_verb_looks_outside_of_the_storage(
    verb: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").mkdir()
    outside = write_search(tmp_path / "outside", SearchSpace.load("smoke.yaml"), completed(0, 0.5))
    before = {path: path.read_bytes() for path in outside.path.rglob("*") if path.is_file()}
    assert run([verb, name, "--storage", str(tmp_path / "runs")]) in (2, 3)
    assert {path: path.read_bytes() for path in outside.path.rglob("*") if path.is_file()} == before
    assert "Traceback" not in capsys.readouterr().err


RESERVED_NAMES = [
    *(
        ARTIFACTS,
        DATABASE,
        f"{DATABASE}-wal",
        f"{DATABASE}-journal",
        f"{DATABASE}.new",
        f"{DATABASE}.lock",
        LOG,
        MARKER,
    ),
    *(f"{MARKER}.tmp", f"{MINI_MARS}-tiny", f"{MINI_MARS}-demo", MINI_MARS, "cache", ARTIFACTS.upper()),
]
COMMANDS_WITH_A_NAME = [
    *(["purge", "NAME", "--yes"], ["status", "NAME"], ["resume", "NAME"], ["sync", "NAME"], ["stop", "NAME"]),
    *(["logs", "NAME/t0000"], ["report", "NAME"], ["tables", "NAME"], ["ui", "NAME"], ["compare", "NAME", "NAME/best"]),
    *(["export", "NAME", "--out", "x"], ["finalize", "NAME"], ["extend", "NAME", "--trials", "+1"]),
    ["launch", "--space", "smoke.yaml", "--data", "mini-mars", "--dry-run", "--name", "NAME"],
    ["launch", "--space", "smoke.yaml", "--name", "NAME", "--submit", "http://127.0.0.1:1"],
    ["resume", "NAME", "--submit", "http://127.0.0.1:1"],
]


@pytest.mark.parametrize("name", RESERVED_NAMES)
def test_no_search_has_the_name_of_something_else_in_a_storage(name: str, tmp_path: Path) -> None:
    with pytest.raises(SearchError, match="a storage keeps other things under that name"):
        search_folder(LocalStore(tmp_path), name)
    a_search(tmp_path / "other").path.rename(tmp_path / name)
    assert searches(LocalStore(tmp_path)) == []


@pytest.mark.parametrize("command", COMMANDS_WITH_A_NAME, ids=lambda command: command[0])
def test_no_command_takes_the_name_of_something_else_in_a_storage(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    a_search(tmp_path / "other").path.rename(tmp_path / ARTIFACTS)
    named = [word.replace("NAME", ARTIFACTS) for word in command]
    assert run([*named, "--storage", str(tmp_path)]) == 3
    assert "'mlartifacts' cannot name a search" in capsys.readouterr().err
    assert (tmp_path / ARTIFACTS / "journal.jsonl").is_file()


@pytest.mark.parametrize("name", ["../x", "a/b", "\x1b[31m", ""])
def test_a_description_that_calls_its_search_otherwise_is_refused(name: str, tmp_path: Path) -> None:
    folder = write_search(tmp_path / "forged", SearchSpace.load("smoke.yaml"), [])
    text = folder.description.read_text().replace("search: forged", f"search: {name!r}".replace("'", '"'))
    folder.description.write_text(text)
    with pytest.raises(SearchError, match="search"):
        read_description(local_search(folder.path).description)


def test_what_a_terminal_obeys_is_not_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["data", "check", str(tmp_path / "\x1b[31mred\x07")])
    run(["status", "\x1b]0;title\x07", "--storage", str(tmp_path)])
    run(["launch", "--space", "\x1b[2J.yaml"])
    run(["\x1b[31m"])
    run(["status", "--\x1b[31m"])
    said = capsys.readouterr().err
    assert all(line.isprintable() for line in said.splitlines())
    assert said.count("\\x1b") >= 4
