"""What other machines wrote of a search, brought down into the folder that stands for it here."""

from __future__ import annotations

import json
import logging
import re
import secrets
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from orchestrator.base.errors import JournalError
from orchestrator.base.locking import exclusive
from orchestrator.stores.base import SearchFolder, can_name_a_search
from orchestrator.stores.cache import remote_of
from orchestrator.stores.remote import Entry, Remote
from orchestrator.stores.segments import FOLDER, check_part, part_name
from orchestrator.study.lease import current_holder
from trainer.files import read_regular, replacing, write_atomically

log = logging.getLogger(__name__)

# Files of a search besides its journal that everything needs; all of them are written once, at the launch or when it
# is extended.
SMALL = re.compile(r"search\.yaml|split(-fold-[0-9]+)?\.json|code\.diff")
NOTES = "brought.json"
"""File in a mirrored search: which objects its files were brought from, or sent to."""
LOCKS = ".locks"
SET_ASIDE = ".set-aside"
# Asked again sooner, the answer is that of a moment ago.
FRESH_S = 1.0
LOCK_PATIENCE_S = 120.0
AT_ONCE = 8

_brought: dict[Path, float] = {}


class Seen(NamedTuple):
    """An object as it was when it was last brought, or sent."""

    name: str
    size: int
    time: float


def bring_search(folder: SearchFolder, *, owned: bool = False, journal: bool = True) -> None:
    """Brings down what is new of a search: description, splits and, unless told otherwise, journal.

    Does nothing in an ordinary storage, and nothing to a search that a process of this machine drives: what that has
    here is the latest. A journal here that goes on where the storage's ends stays as it is; one that says something
    else is set aside, for the storage's is what others went on with.

    Args:
        folder: the search; need not be here yet.
        owned: whether the caller holds its lease.
        journal: whether the journal is wanted.

    Raises:
        JournalError: a part of the journal is damaged or missing; names it.
        StorageProblem: the storage cannot be reached.
    """
    remote = remote_of(folder.path.parent)
    if remote is None or (not owned and _is_fresh(folder)):
        return
    with exclusive(_lock(folder), LOCK_PATIENCE_S):
        if not owned and current_holder(folder.lease) is not None:
            return
        _bring(remote, folder, journal=journal)
    if journal:
        _brought[folder.path] = time.monotonic()


def _is_fresh(folder: SearchFolder) -> bool:
    return folder.journal.is_file() and time.monotonic() - _brought.get(folder.path, float("-inf")) < FRESH_S


def bring_searches(storage: Path) -> None:
    """Brings down what is new of all searches of a storage.

    Raises:
        JournalError, StorageProblem: see `bring_search`.
    """
    remote = remote_of(storage)
    if remote is None:
        return
    for entry in remote.entries():
        if entry.is_folder and can_name_a_search(entry.path) and remote.entries(f"{entry.path}/{FOLDER}"):
            bring_search(SearchFolder(storage.absolute() / entry.path))


def note_equal(folder: SearchFolder) -> None:
    """Remembers that description, splits and journal here are those in the storage, so that they need not be fetched.

    Only for the holder of the lease, who knows that.

    Raises:
        StorageProblem: the storage cannot be reached.
    """
    remote = remote_of(folder.path.parent)
    assert remote is not None
    small = [_seen(entry) for entry in remote.entries(folder.name) if SMALL.fullmatch(_base(entry))]
    parts = [_seen(part, FOLDER) for part in remote.entries(f"{folder.name}/{FOLDER}")]
    _note(folder, [*small, *parts])


def _note(folder: SearchFolder, seen: Sequence[Seen]) -> None:
    known = {each.name: each for each in _notes(folder)} | {each.name: each for each in seen}
    write_atomically(folder.path / NOTES, json.dumps([*known.values()]) + "\n")


def _bring(remote: Remote, folder: SearchFolder, *, journal: bool) -> None:
    there = [entry for entry in remote.entries(folder.name) if SMALL.fullmatch(_base(entry))]
    parts = remote.entries(f"{folder.name}/{FOLDER}")
    known = {seen.name: seen for seen in _notes(folder)}
    if not parts:
        if known:
            _set_aside(folder)  # it was purged from elsewhere
        return
    if folder.description.is_file():
        described = next((entry for entry in there if _base(entry) == folder.description.name), None)
        if described is not None and _seen(described) != known.get(_base(described)):
            text = remote.read(described.path)
            if text != folder.description.read_bytes():
                _set_aside(folder)  # another search of the same name
                known = {}
    folder.path.mkdir(parents=True, exist_ok=True, mode=0o700)
    seen = []
    for entry in there:
        if _seen(entry) != known.get(_base(entry)) or not (folder.path / _base(entry)).is_file():
            remote.read_to(entry.path, folder.path / _base(entry))
            seen.append(_seen(entry))
    if journal:
        seen += _bring_journal(remote, folder, parts, known)
    if seen:
        _note(folder, seen)


def _bring_journal(remote: Remote, folder: SearchFolder, parts: Sequence[Entry], known: dict[str, Seen]) -> list[Seen]:
    names = [_base(part) for part in parts]
    for number, name in enumerate(names, 1):
        if name != part_name(number):
            raise JournalError(
                f"{remote.uri}/{folder.name}/{FOLDER}/{part_name(number)}: is missing; restore it from a copy of the "
                "storage, or from the machine that drove the search"
            )
    here = folder.journal.read_bytes() if folder.journal.is_file() else b""
    here = here[: here.rfind(b"\n") + 1]
    same = 0
    while same < len(parts) and _seen(parts[same], FOLDER) == known.get(f"{FOLDER}/{names[same]}"):
        same += 1
    length = sum(part.size for part in parts[:same])
    if length > len(here):
        same, length = 0, 0
    if same == len(parts):
        return []
    with ThreadPoolExecutor(AT_ONCE) as readers:
        contents = list(readers.map(lambda part: remote.read(part.path), parts[same:]))
    number = here.count(b"\n", 0, length) + 1
    for part, content in zip(parts[same:], contents, strict=True):
        try:
            number = check_part(content, number)
        except ValueError as error:
            raise JournalError(
                f"{remote.uri}/{part.path}: damaged: {error}; restore that object from a copy of the storage, or from "
                "the machine that drove the search"
            ) from error
    whole = here[:length] + b"".join(contents)
    if not here.startswith(whole):
        if not whole.startswith(here):
            _keep_other(folder, here)
        with replacing(folder.journal) as file:
            file.write(whole)
    # What was read may be more than what was listed.
    return [
        Seen(f"{FOLDER}/{name}", len(content), part.time)
        for name, part, content in zip(names[same:], parts[same:], contents, strict=True)
    ]


def _keep_other(folder: SearchFolder, content: bytes) -> None:
    """A journal whose last events nobody else has heard of, while another machine went on without them."""
    other = folder.path / f"journal.other-{secrets.token_hex(4)}.jsonl"
    other.write_bytes(content)
    log.warning("%s: its last events were never sent, and another machine went on; they are in %s", folder.name, other)


def _set_aside(folder: SearchFolder) -> None:
    place = folder.path.parent / SET_ASIDE / f"{folder.name}-{secrets.token_hex(4)}"
    place.parent.mkdir(exist_ok=True, mode=0o700)
    folder.path.rename(place)
    log.warning(
        "%s: the storage holds no such search any more, or another one; this machine's is in %s", *(folder.name, place)
    )


def _notes(folder: SearchFolder) -> list[Seen]:
    try:
        return [Seen(*each) for each in json.loads(read_regular(folder.path / NOTES))]
    except (FileNotFoundError, ValueError, TypeError):
        return []


def _seen(entry: Entry, prefix: str = "") -> Seen:
    return Seen(f"{prefix}/{_base(entry)}" if prefix else _base(entry), entry.size, entry.time)


def _base(entry: Entry) -> str:
    return entry.path.rpartition("/")[2]


def _lock(folder: SearchFolder) -> Path:
    locks = folder.path.parent / LOCKS
    locks.mkdir(exist_ok=True, mode=0o700)
    return locks / folder.name


def forget_when() -> None:
    """Asks the storage again whatever it said a moment ago."""
    _brought.clear()
