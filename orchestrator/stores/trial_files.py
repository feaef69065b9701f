"""The files of one trial in a bucket: sent by the node that trains it, fetched wherever they are needed.

Each content is an object of its own, named by the file and its SHA-256, and never changes. A note (`NOTE`) names the
files of one moment; it is replaced when all of them are there, on the condition that no later attempt replaced it, so
that the files of an attempt that was given up are never seen.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from pydantic import Field, ValidationError

from orchestrator.base.process import exclusive
from orchestrator.stores.base import StorageProblem
from orchestrator.stores.objects import ConflictError, Objects, Version
from trainer.files import write_atomically
from trainer.settings import FrozenConfig

log = logging.getLogger(__name__)

NOTE = "uploaded.json"
STOP_FILE = "stop"
LOCK_FILE = "lock"
DIGEST = ".sha256"
# Sent while the trial runs; everything else at its end.
WHILE_RUNNING = ("config.json", "checkpoint/best.pt", "checkpoint/last.pt", "log.txt", "results.jsonl")
# Never sent: locks, requests, half-written files, digests that the note holds.
OWN = re.compile(rf"{LOCK_FILE}|{STOP_FILE}|{re.escape(NOTE)}|.*\.tmp|.*\.damaged|.*{DIGEST}")
SAFE = re.compile(r"(?!.*(^|/)\.{1,2}(/|$))[A-Za-z0-9._-]{1,128}(/[A-Za-z0-9._-]{1,128}){0,4}")
SHA_256 = re.compile(r"[0-9a-f]{64}")
LONGEST_PAUSE_S = 15.0
STOP_PERIOD_S = 2.0
TELL_ALIVE_S = 1.0


Content = io.BufferedReader | io.BytesIO


class Note(FrozenConfig):
    """The files of a trial at one moment."""

    start: int = 0
    """Number of the journal's event that began the attempt; grows from attempt to attempt."""
    count: int = 0
    """Notes of this attempt so far."""
    token: str = ""
    """Tells the attempt from one of another driver with the same number."""
    files: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of each file."""

    def follows(self, other: Note) -> bool:
        """Whether it is that note, or was written later."""
        return (self.start, self.count) >= (other.start, other.count)


class Stamp(NamedTuple):
    """Identifies the content of a file on disk."""

    inode: int
    size: int
    changed: int


class TrialObjects:
    """The objects of one trial, and its folder on this machine."""

    def __init__(self, objects: Objects, search: str, trial: str, out: Path) -> None:
        self._objects, self.out = objects, out
        self._prefix = f"{search}/trials/{trial}"

    @property
    def uri(self) -> str:
        """The trial, for people."""
        return f"{self._objects.uri}/{self._prefix}"

    def read_note(self) -> tuple[Note | None, Version | None]:
        """The note, and its version; a damaged one counts as none, as do files with names that lead elsewhere.

        Raises:
            StorageProblem: the storage cannot be reached.
        """
        try:
            found = self._objects.get(f"{self._prefix}/{NOTE}")
        except FileNotFoundError:
            return None, None
        try:
            note = Note.model_validate_json(found.content)
        except ValidationError:
            log.warning("%s/%s: damaged; the files there are not used", self.uri, NOTE)
            return None, found.version
        files = {path: sha for path, sha in note.files.items() if SAFE.fullmatch(path) and SHA_256.fullmatch(sha)}
        return note.model_copy(update={"files": files}), found.version

    def write_note(self, note: Note, version: Version | None) -> Version:
        """Replaces the note that has this version, or creates it.

        Raises:
            ConflictError: somebody else has replaced it.
            StorageProblem: the storage cannot be reached.
        """
        path, content = f"{self._prefix}/{NOTE}", note.model_dump_json().encode() + b"\n"
        if version is None:
            return self._objects.create(path, content)
        return self._objects.replace(path, content, version)

    def send(self, path: str, digest: str, file: Content) -> None:
        """Sends a content of a file."""
        self._objects.write(self._object(path, digest), file)

    def sweep(self, note: Note) -> None:
        """Deletes the contents that the note does not name."""
        named = {self._object(path, digest) for path, digest in note.files.items()}
        found = [each.path for each in self._objects.listing(self._prefix)]
        self._objects.delete([path for path in found if path not in named and SHA_256.search(path)])

    def delete_file(self, path: str) -> None:
        """Deletes a file of a trial whose attempts have ended; does nothing where there is none.

        Raises:
            ConflictError: an attempt has sent something meanwhile.
            StorageProblem: the storage cannot be reached.
        """
        note, version = self.read_note()
        if note is None or path not in note.files:
            return
        others = {other: digest for other, digest in note.files.items() if other != path}
        without = note.model_copy(update={"count": note.count + 1, "files": others})
        self.write_note(without, version)
        self.sweep(without)

    def is_asked_to_stop(self, start: int) -> bool:
        """Whether the driver, on another machine, asks this attempt to stop."""
        return self._objects.exists(f"{self._prefix}/{stop_name(start)}")

    def fetch(self, note: Note, wanted: Callable[[str], bool]) -> list[str]:
        """Fetches the wanted files of a note that are not here with the same content; returns those that are damaged.

        One that does not match is fetched once more, by the note of this moment: it may have been replaced meanwhile.

        Raises:
            StorageProblem: the storage cannot be reached.
        """
        damaged = [path for path in note.files if wanted(path) and not self._fetch(path, note)]
        if damaged:
            later = self.read_note()[0] or note
            damaged = [path for path in damaged if not self._fetch(path, later)]
        return damaged

    def _fetch(self, path: str, note: Note) -> bool:
        target, digest = self.out / path, note.files.get(path)
        if digest is None:
            return False
        if target.is_file() and sha256_of(target) == digest:
            return True
        arriving = target.with_name(target.name + ".arriving.tmp")
        try:
            if self._objects.fetch(self._object(path, digest), arriving) != digest:
                return False
            if target.suffix == ".pt":
                # Names both states until the new one is in place, as the trainer does.
                beside = target.with_name(target.name + DIGEST)
                before = beside.read_text(encoding="utf-8") if beside.is_file() else ""
                write_atomically(beside, f"{digest}  {target.name}\n{before}")
            arriving.replace(target)
        except FileNotFoundError:
            return False
        finally:
            arriving.unlink(missing_ok=True)
        return True

    def _object(self, path: str, digest: str) -> str:
        return f"{self._prefix}/{path}.{digest}"


def pull_trial(trial: TrialObjects, patterns: Iterable[str]) -> None:
    """Fetches the files that match one of the patterns, unless those here are the same or later.

    Does nothing while an attempt of the trial runs on this machine.

    Raises:
        StorageProblem: the storage cannot be reached, or a file there is damaged; names it.
    """
    note = trial.read_note()[0]
    if note is None or _is_here(trial.out, note):
        return
    trial.out.mkdir(parents=True, exist_ok=True)
    try:
        with exclusive(trial.out / LOCK_FILE, 0):
            damaged = trial.fetch(note, lambda path: any(fnmatch(path, each) for each in patterns))
    except TimeoutError:
        return
    if damaged:
        raise StorageProblem(f"{trial.uri}/{damaged[0]}: damaged; its SHA-256 is not its own")


class TrialUpload:
    """Sends the files of an attempt from a thread of its own, and looks for the driver's request to stop."""

    def __init__(self, trial: TrialObjects, start: int) -> None:
        self._trial, self._start = trial, start
        self._note = Note(start=start, token=secrets.token_hex(8))
        self._version: Version | None = None
        self._sent: dict[str, Stamp] = {}
        self._closing, self._changed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="upload", daemon=True)
        self._abandoned = False
        self.problem: str | None = None
        """Why something is not sent yet."""

    def pull(self) -> list[str]:
        """Fetches what the attempt continues from, unless this machine has it or later files.

        Returns:
            Files that are damaged.

        Raises:
            StorageProblem: the storage cannot be reached.
        """
        note, self._version = self._trial.read_note()
        # An attempt of a driver that was replaced before it could send its journal may have come later.
        number = self._start if note is None else max(self._start, note.start + 1)
        self._note = self._note.model_copy(update={"start": number, "files": {} if note is None else note.files})
        if note is None or _is_here(self._trial.out, note):
            return []
        damaged = self._trial.fetch(note, lambda path: path != "config.json")
        _write_note_here(self._trial.out, note)
        # What is trained again may be the same to the last bit, and has to be sent all the same.
        self._note = self._note.model_copy(update={"files": {p: s for p, s in note.files.items() if p not in damaged}})
        return damaged

    def begin(self) -> None:
        """Starts sending."""
        self._thread.start()

    def changed(self) -> None:
        """Schedules the sending of what has changed; never waits."""
        self._changed.set()

    def finish(self, patience: float, alive: Callable[[], None]) -> None:
        """Sends the rest, and calls `alive` meanwhile.

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
            self._abandoned = True
            why = self.problem or "the storage is too slow"
            raise StorageProblem(f"{self._trial.uri}: not everything could be sent within {patience:.0f} s: {why}")

    def _work(self) -> None:
        pause = 0.0
        while not self._abandoned:
            asked = self._changed.wait(STOP_PERIOD_S)
            closing = self._closing.is_set()
            self._changed.clear()
            try:
                if not closing:
                    self._look_for_stop()
                if asked or closing or self.problem is not None:
                    self.send(None if closing else WHILE_RUNNING)
                self.problem, pause = None, 0.0
                if closing:
                    return
            except ConflictError:
                self.problem = "a later attempt of the trial has written there"
                (self._trial.out / STOP_FILE).touch()
                return
            except (StorageProblem, OSError) as error:
                if self.problem is None:
                    log.warning("%s; tried again until it works", error)
                self.problem = str(error)
                pause = min(max(1.0, 2 * pause), LONGEST_PAUSE_S)
                self._closing.wait(pause) if not closing else time.sleep(pause)

    def _look_for_stop(self) -> None:
        stop = self._trial.out / STOP_FILE
        if not stop.exists() and self._trial.is_asked_to_stop(self._start):
            stop.touch()

    def send(self, only: Iterable[str] | None) -> None:
        """Sends what has changed since it was last sent: the named files, or all.

        Raises:
            ConflictError: a later attempt has sent something.
            StorageProblem: the storage cannot be reached.
            OSError: a file cannot be read.
        """
        stamps, digests = dict(self._sent), dict(self._note.files)
        with contextlib.ExitStack() as files:
            opened: dict[str, Content] = {}
            for path in self._paths() if only is None else only:
                stamp = stamp_of(self._trial.out / path)
                if stamp is not None and stamp != self._sent.get(path):
                    stamps[path] = stamp
                    opened[path] = _as_it_is(self._trial.out / path)
                    files.callback(opened[path].close)
            for path, file in opened.items():
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                if digest != digests.get(path):
                    file.seek(0)
                    self._trial.send(path, digest, file)
                    digests[path] = digest
        if digests != self._note.files:
            self._replace_note(digests)
        self._sent = stamps

    def _replace_note(self, files: dict[str, str]) -> None:
        note = self._note.model_copy(update={"count": self._note.count + 1, "files": files})
        # Written first: whatever becomes of the note there, the files here are not older.
        _write_note_here(self._trial.out, note)
        try:
            self._version = self._trial.write_note(note, self._version)
        except ConflictError:
            found, self._version = self._trial.read_note()
            if found is not None and found.token == note.token:
                # An earlier note of ours had arrived, though its answer was lost.
                self._version = self._trial.write_note(note, self._version)
            elif found is not None and found.start < note.start:
                # An earlier attempt went on sending, and has deleted what it does not know.
                self._note, self._sent = note.model_copy(update={"files": {}}), {}
                raise StorageProblem(f"{self._trial.uri}: an earlier attempt was still sending") from None
            else:
                raise
        self._note = note
        self._trial.sweep(note)

    def _paths(self) -> list[str]:
        found = {str(path.relative_to(self._trial.out)) for path in self._trial.out.rglob("*") if path.is_file()}
        return sorted(path for path in found if not OWN.fullmatch(path) and SAFE.fullmatch(path))


def stop_name(start: int) -> str:
    """The object that asks one attempt of a trial to stop; a later attempt has another one."""
    return f"{STOP_FILE}-{start}"


def stamp_of(path: Path) -> Stamp | None:
    """The stamp of a file; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return Stamp(found.st_ino, found.st_size, found.st_mtime_ns)


def sha256_of(path: Path) -> str:
    """Digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _as_it_is(path: Path) -> Content:
    """The content of this moment: the trainer replaces checkpoints and never writes into one; other files grow."""
    if path.suffix == ".pt":
        return path.open("rb")
    content = path.read_bytes()
    # A line that is being written is left for the next time.
    return io.BytesIO(content[: content.rfind(b"\n") + 1] if path.suffix == ".jsonl" else content)


def _is_here(out: Path, note: Note) -> bool:
    """Whether this machine has what the note names, or later files."""
    try:
        here = Note.model_validate_json((out / NOTE).read_bytes())
    except (FileNotFoundError, ValidationError):
        return False
    return here.follows(note)


def _write_note_here(out: Path, note: Note) -> None:
    write_atomically(out / NOTE, note.model_dump_json() + "\n")
