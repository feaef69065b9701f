"""The files of one trial in a storage with a URI: sent from the node that trains it, fetched wherever they are wanted.

Beside them lies a note (`NOTE`) that names every file with its SHA-256. While a file is being replaced the note names
the old and the new content, so that at every instant what is there can be verified, and a file that was cut short or
damaged is not taken for one. A node that holds the same note or a later one holds these files or later ones of its own.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from pydantic import Field, ValidationError

from orchestrator.base.locking import exclusive
from orchestrator.stores.base import SearchFolder
from orchestrator.stores.cache import remote_of
from orchestrator.stores.remote import Remote, StorageProblem
from trainer.files import write_atomically
from trainer.settings import FrozenConfig

log = logging.getLogger(__name__)

NOTE = "uploaded.json"
STOP_FILE = "stop"
LOCK_FILE = "lock"
WAITING = ".uploading"
"""Folder of the files that are being sent, as they were at one moment."""
DIGEST = ".sha256"
# Sent while the trial runs; everything else at its end. The best network goes before the state that knows of it, and
# the results after the state from which they can be reached again.
WHILE_RUNNING = ("config.json", "checkpoint/best.pt", "checkpoint/last.pt", "log.txt", "results.jsonl")
# Never sent: locks, requests, what is half written, what stands for itself elsewhere.
OWN = re.compile(rf"{LOCK_FILE}|{STOP_FILE}|{re.escape(NOTE)}|{re.escape(WAITING)}/.*|.*\.tmp|.*\.damaged|.*{DIGEST}")
SAFE = re.compile(r"(?!.*(^|/)\.{1,2}(/|$))[A-Za-z0-9._-]{1,128}(/[A-Za-z0-9._-]{1,128}){0,4}")
LONGEST_PAUSE_S = 15.0
STOP_PERIOD_S = 2.0
TELL_ALIVE_S = 1.0
SHA_256 = r"^[0-9a-f]{64}$"


class Noted(FrozenConfig):
    """One file."""

    sha256: tuple[str, ...] = Field(min_length=1, max_length=4)
    """The content that it has; while it is replaced first the new one, then what was there."""


class Note(FrozenConfig):
    """What was sent of a trial."""

    start: int = 0
    """Number of the journal's event that began the attempt; grows from attempt to attempt."""
    count: int = 0
    """Notes of this attempt so far."""
    files: dict[str, Noted] = Field(default_factory=dict)

    def follows(self, other: Note) -> bool:
        """Whether it is that note, or was written later."""
        return (self.start, self.count) >= (other.start, other.count)


class Stamp(NamedTuple):
    """A file as it was when it was looked at; another one after any change."""

    inode: int
    size: int
    changed: int


def bring_trial(folder: SearchFolder, trial: str, *wanted: str) -> None:
    """Brings down files of a trial that match one of the patterns, unless those here are the same or later.

    Does nothing in an ordinary storage, and nothing while an attempt of the trial runs on this machine.

    Raises:
        StorageProblem: the storage cannot be reached, or a file there is damaged; names it.
    """
    remote = remote_of(folder.path.parent)
    if remote is None:
        return
    out = folder.trial(trial)
    note = read_note(remote, folder.name, trial)
    if note is None or is_here(out, note):
        return
    out.mkdir(parents=True, exist_ok=True)
    try:
        with exclusive(out / LOCK_FILE, 0):
            damaged = fetch(remote, folder, trial, note, lambda path: any(fnmatch(path, each) for each in wanted))
    except TimeoutError:
        return
    if damaged:
        raise StorageProblem(
            f"{remote.uri}/{folder.name}/trials/{trial}/{damaged[0]}: damaged; its SHA-256 is not its own"
        )


def fetch(remote: Remote, folder: SearchFolder, trial: str, note: Note, wanted: Callable[[str], bool]) -> list[str]:
    """Fetches the wanted files of a note that are not here with the same content; returns those that are damaged.

    A file that does not match is fetched once more, with what the note says by then: it may have been replaced
    meanwhile.

    Raises:
        StorageProblem: the storage cannot be reached.
    """
    damaged = [path for path in note.files if wanted(path) and not _fetched(remote, folder, trial, path, note)]
    if damaged:
        later = read_note(remote, folder.name, trial) or note
        damaged = [path for path in damaged if not _fetched(remote, folder, trial, path, later)]
    return damaged


def read_note(remote: Remote, search: str, trial: str) -> Note | None:
    """What was sent of a trial; None where nothing was, or where the note is damaged.

    Raises:
        StorageProblem: the storage cannot be reached.
    """
    try:
        note = Note.model_validate_json(remote.read(f"{search}/trials/{trial}/{NOTE}"))
    except FileNotFoundError:
        return None
    except ValidationError:
        log.warning("%s/%s/trials/%s/%s: damaged; the files there are not used", remote.uri, search, trial, NOTE)
        return None
    return note.model_copy(update={"files": {path: file for path, file in note.files.items() if SAFE.fullmatch(path)}})


def note_here(out: Path) -> Note | None:
    """The note that this machine sent or fetched last."""
    try:
        return Note.model_validate_json((out / NOTE).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def is_here(out: Path, note: Note) -> bool:
    """Whether this machine has what the note names, or later files."""
    here = note_here(out)
    return here is not None and here.follows(note)


def write_note_here(out: Path, note: Note) -> None:
    """Remembers that this machine has all that the note names, or later files."""
    write_atomically(out / NOTE, note.model_dump_json() + "\n")


def _fetched(remote: Remote, folder: SearchFolder, trial: str, path: str, note: Note) -> bool:
    known = note.files[path].sha256 if path in note.files else ()
    target = folder.trial(trial) / path
    if target.is_file() and sha256_of(target) in known:
        return True
    target.parent.mkdir(parents=True, exist_ok=True)
    arriving = target.with_name(target.name + ".tmp")
    try:
        digest = remote.read_to(f"{folder.name}/trials/{trial}/{path}", arriving)
        if digest not in known:
            return False
        if target.suffix == ".pt":
            # Names both states until the new one is in place, as the trainer does.
            beside = target.with_name(target.name + DIGEST)
            before = beside.read_text(encoding="utf-8") if beside.is_file() else ""
            write_atomically(beside, f"{digest}  {target.name}\n{before}")
        arriving.replace(target)
        return True
    except FileNotFoundError:
        return False
    finally:
        arriving.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """Digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class TrialUpload:
    """Sends what an attempt leaves, from a thread of its own; hears, too, whether the attempt is asked to stop."""

    def __init__(self, remote: Remote, folder: SearchFolder, trial: str, start: int) -> None:
        self._remote, self._folder, self._trial = remote, folder, trial
        self._out, self._start = folder.trial(trial), start
        self._note = Note(start=start)
        self._sent: dict[str, Stamp] = {}
        self._closing, self._changed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="upload", daemon=True)
        self.problem: str | None = None
        """Why something is not sent yet."""

    def bring(self, note: Note | None) -> list[str]:
        """Fetches what the attempt goes on from, unless this machine has it or later files; returns what is damaged.

        Args:
            note: what the storage has; None where it has nothing.

        Raises:
            StorageProblem: the storage cannot be reached.
        """
        # One that another history of the search knew, which its driver could not send, may have come later.
        number = self._start if note is None else max(self._start, note.start + 1)
        self._note = Note(start=number, files={} if note is None else note.files)
        if note is None or is_here(self._out, note):
            return []
        damaged = fetch(self._remote, self._folder, self._trial, note, lambda path: path != "config.json")
        write_note_here(self._out, note)
        return damaged

    def begin(self) -> None:
        """Sends from here on what is told to have changed."""
        self._thread.start()

    def changed(self) -> None:
        """Hears that there is something new; it is sent while the training goes on. Never waits."""
        self._changed.set()

    def finish(self, patience: float, alive: Callable[[], None]) -> None:
        """Sends all that is there, and says meanwhile that the attempt is `alive`.

        Raises:
            StorageProblem: it did not succeed within `patience` seconds.
        """
        end = time.monotonic() + patience
        self._closing.set()
        self._changed.set()
        while self._thread.is_alive() and time.monotonic() < end:
            self._thread.join(min(TELL_ALIVE_S, max(0.0, end - time.monotonic())))
            alive()
        if self._thread.is_alive() or self.problem is not None:
            why = self.problem or f"{self._remote.uri}: is too slow"
            raise StorageProblem(f"not everything of {self._trial} could be sent within {patience:.0f} s: {why}")

    def _work(self) -> None:
        pause = 0.0
        while True:
            asked = self._changed.wait(STOP_PERIOD_S)
            closing = self._closing.is_set()
            self._changed.clear()
            try:
                if not closing:
                    self._look_for_stop()
                if asked or closing or self.problem is not None:
                    self.send(WHILE_RUNNING if not closing else None)
                self.problem, pause = None, 0.0
                if closing:
                    return
            except (StorageProblem, OSError) as error:
                if self.problem is None:
                    log.warning("%s; tried again until it works", error)
                self.problem = str(error)
                pause = min(max(1.0, 2 * pause), LONGEST_PAUSE_S)
                self._closing.wait(pause) if not closing else time.sleep(pause)

    def _look_for_stop(self) -> None:
        if not (self._out / STOP_FILE).exists() and self._remote.entry(self._path(stop_name(self._start))):
            (self._out / STOP_FILE).touch()

    def send(self, only: Iterable[str] | None) -> None:
        """Sends what has changed since it was last sent: the named files in this order, or all.

        Raises:
            StorageProblem: the storage cannot be reached, or has not got what was sent.
            OSError: a file cannot be read.
        """
        waiting = self._out / WAITING
        shutil.rmtree(waiting, ignore_errors=True)
        stamps: dict[str, Stamp] = {}
        digests: dict[str, str] = {}
        try:
            for path in self._paths() if only is None else only:
                stamp = stamp_of(self._out / path)
                if stamp is None or stamp == self._sent.get(path):
                    continue
                stamps[path] = stamp
                digest = _frozen(self._out / path, waiting / path)
                if self._note.files.get(path) != Noted(sha256=(digest,)):
                    digests[path] = digest
            if digests:
                self._replace(digests, waiting)
        finally:
            shutil.rmtree(waiting, ignore_errors=True)
        self._sent |= stamps

    def _replace(self, digests: dict[str, str], waiting: Path) -> None:
        known = self._note.files
        before = {path: known[path].sha256[:3] if path in known else () for path in digests}
        self._tell({path: Noted(sha256=(digest, *before[path])) for path, digest in digests.items()})
        for path, digest in digests.items():
            if self._remote.write_from(self._path(path), waiting / path) != digest:
                raise StorageProblem(f"{self._remote.uri}/{self._path(path)}: changed while it was sent")
            if path.endswith(".pt"):
                line = f"{digest}  {path.rpartition('/')[2]}\n"
                self._remote.write(self._path(path + DIGEST), line.encode())
        self._tell({path: Noted(sha256=(digest,)) for path, digest in digests.items()})

    def _tell(self, files: dict[str, Noted]) -> None:
        note = self._note
        note = Note(start=note.start, count=note.count + 1, files={**note.files, **files})
        # Whatever becomes of the rest, what is here is not older.
        write_note_here(self._out, note)
        self._remote.write(self._path(NOTE), note.model_dump_json().encode() + b"\n")
        self._note = note

    def _paths(self) -> list[str]:
        """All files, those that are sent while the trial runs in their order, the results last."""
        found = {str(path.relative_to(self._out)) for path in self._out.rglob("*") if path.is_file()}
        others = sorted(path for path in found if not OWN.fullmatch(path) and SAFE.fullmatch(path))
        order = {path: place for place, path in enumerate(WHILE_RUNNING, 1)} | {WHILE_RUNNING[-1]: len(others) + 9}
        return sorted(others, key=lambda path: order.get(path, len(WHILE_RUNNING) + 1))

    def _path(self, path: str) -> str:
        return f"{self._folder.name}/trials/{self._trial}/{path}"


def stop_name(start: int) -> str:
    """The object that asks one attempt of a trial to stop; a later attempt has another one."""
    return f"{STOP_FILE}-{start}"


def stamp_of(path: Path) -> Stamp | None:
    """What tells a file from later ones; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return Stamp(found.st_ino, found.st_size, found.st_mtime_ns)


def _frozen(path: Path, copy: Path) -> str:
    """Keeps the file as it is now, whatever happens to it, and returns its SHA-256."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".pt":
        # The trainer never writes into a checkpoint that is there; a new one takes its place.
        try:
            os.link(path, copy)
        except OSError:  # a file system that knows no second names
            shutil.copyfile(path, copy)
    else:
        content = path.read_bytes()
        # A line that is being written is left for the next time.
        copy.write_bytes(content[: content.rfind(b"\n") + 1] if path.suffix == ".jsonl" else content)
    return sha256_of(copy)
