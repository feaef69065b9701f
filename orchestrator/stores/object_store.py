"""A storage that is a bucket: every machine works on a copy of its own, and the bucket decides who may write."""

from __future__ import annotations

import json
import logging
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from orchestrator.base.errors import LeaseError, SearchError
from orchestrator.base.process import exclusive
from orchestrator.stores.base import SearchFolder, StorageProblem, can_name_a_search
from orchestrator.stores.journal_upload import ObjectUpload
from orchestrator.stores.local import LocalStore
from orchestrator.stores.object_lease import ObjectLease, live_holder
from orchestrator.stores.objects import ConflictError, Listed, objects_at
from orchestrator.stores.segments import FOLDER, Known, SegmentWriter, Tail, read_segments, read_tail
from orchestrator.stores.trial_files import TrialObjects, TrialUpload, pull_trial
from orchestrator.stores.uri import copy_folder, parsed
from orchestrator.study.journal import Journal
from orchestrator.study.lease import Holder, Lease, current_holder, this_process
from orchestrator.study.recorder import Recorder
from trainer.files import read_regular, replacing, write_atomically

log = logging.getLogger(__name__)

# Files of a search besides its journal that everything needs; written once, at the launch or when it is extended.
SMALL = re.compile(r"search\.yaml|split(-fold-[0-9]+)?\.json|code\.diff")
NOTES = "pulled.json"
"""File in this machine's copy of a search: versions of the objects that it holds."""
LOCKS = ".locks"
SET_ASIDE = ".set-aside"
# Asked again sooner, the answer is that of a moment ago.
FRESH_S = 1.0
LOCK_PATIENCE_S = 120.0
# An earlier driver that lives on may write between our read and our write.
FENCE_TRIES = 8

_pulled: dict[Path, float] = {}


class ObjectStore:
    """See `Store`. The copy lies in the user's cache and may be deleted at any time when nothing runs.

    Raises:
        SearchError: the URI is not valid.
        EnvironmentProblem: the folder of the copy cannot be made, or belongs to another user.
    """

    def __init__(self, uri: str) -> None:
        self.uri: str | None = parsed(uri).uri
        self.objects = objects_at(self.uri)
        self.path = copy_folder(self.uri)
        self._local = LocalStore(self.path)

    @property
    def name(self) -> str:
        """The URI."""
        return self.objects.uri

    def check(self) -> None:
        """Raises StorageProblem if the bucket is not there, SearchError if the copy cannot be written."""
        self.objects.check()
        self._local.check()

    def pull(self, search: SearchFolder, *, journal: bool = True) -> None:
        """See `Store`; does nothing to a search that a process of this machine drives: its copy is the latest.

        A journal here that continues where the storage's ends stays as it is. One that says something else is set
        aside, as other machines continued with the storage's.
        """
        if search.journal.is_file() and time.monotonic() - _pulled.get(search.path, float("-inf")) < FRESH_S:
            return
        with self._locked(search):
            if current_holder(search.lease) is not None:
                return
            _Copy(self, search).update(journal=journal)
        if journal:
            _pulled[search.path] = time.monotonic()

    def pull_all(self) -> None:
        """See `Store`."""
        for name in self.objects.folders():
            if can_name_a_search(name) and self.objects.listing(f"{name}/{FOLDER}"):
                self.pull(SearchFolder(self.path.absolute() / name, self))

    def pull_trial(self, search: SearchFolder, trial: str, *patterns: str) -> None:
        """See `Store`; does nothing while an attempt of the trial runs on this machine."""
        pull_trial(self._trial(search, trial), patterns)

    def delete_file(self, search: SearchFolder, trial: str, path: str) -> None:
        """See `Store`."""
        self._local.delete_file(search, trial, path)
        try:
            self._trial(search, trial).delete_file(path)
        except ConflictError as error:
            raise StorageProblem(f"{self.name}: an attempt of {trial} was still sending") from error

    def upload(self, search: SearchFolder, trial: str, start: int) -> TrialUpload:
        """What copies the files of a trial."""
        return TrialUpload(self._trial(search, trial), start)

    def _trial(self, search: SearchFolder, trial: str) -> TrialObjects:
        return TrialObjects(self.objects, search.name, trial, search.trial(trial))

    def publish(self, search: SearchFolder) -> None:
        """See `Store`; raises StorageProblem also where the storage has no conditional writes."""
        self.objects.probe()
        lease = ObjectLease(self.objects, search.name)
        lease.acquire()
        try:
            if self.objects.listing(f"{search.name}/{FOLDER}"):
                raise SearchError(f"{search.name}: there is already a search of this name in {self.name}")
            copy = _Copy(self, search)
            copy.send_small(anew=True)
            writer, lines = SegmentWriter(self.objects, search.name, Tail(1, b"", None)), search.journal.read_bytes()
            while lines:
                lines = lines[writer.append(lines) :]
            copy.update()
        except ConflictError as error:
            raise LeaseError(f"{search.name}: another process makes a search of this name") from error
        finally:
            lease.release()

    @contextmanager
    def record(self, search: SearchFolder) -> Iterator[Recorder]:
        """See `Store`; at the end the rest is sent, and what could not be is said on standard error."""
        with (
            Lease(search.lease, search.storage),
            self._uploaded(search) as upload,
            closing(Journal(search.journal)) as journal,
        ):
            yield Recorder(journal, upload)

    @contextmanager
    def _uploaded(self, search: SearchFolder) -> Iterator[ObjectUpload]:
        lease = ObjectLease(self.objects, search.name)
        lease.acquire()
        try:
            writer, sent = self.take_over(search, lease.token)
            upload = ObjectUpload(self.objects, search, lease, writer, sent)
            upload.open()
        except BaseException:
            with suppress(StorageProblem):  # the error under way says more
                lease.release()
            raise
        try:
            yield upload
        finally:
            upload.finish()

    def take_over(self, search: SearchFolder, token: str) -> tuple[SegmentWriter, int]:
        """Updates the copy and shuts out an earlier driver; returns the writer and the bytes that the storage has."""
        me, copy = this_process(), _Copy(self, search)
        for _ in range(FENCE_TRIES):
            with suppress(ConflictError), self._locked(search):
                known = copy.update()
                copy.send_small()
                writer = SegmentWriter(self.objects, search.name, read_tail(self.objects, search.name, known))
                writer.fence(f"{me.host} {me.pid} {token}")
                return writer, sum(each.bytes for each in known.values())
        raise LeaseError(f"{search.name}: another process still writes its journal; try again in a minute")

    def driver(self, search: SearchFolder) -> Holder | None:
        """The live process that drives a search, on this machine or another."""
        return self._local.driver(search) or live_holder(self.objects, search.name)

    def delete(self, search: SearchFolder) -> None:
        """See `Store`; deletes what was set aside of it on this machine as well."""
        lease = ObjectLease(self.objects, search.name)
        lease.acquire()
        paths = [each.path for each in self.objects.listing(search.name)]
        self.objects.delete([path for path in paths if path != lease.path])
        self.objects.delete([lease.path])
        aside = self.path / SET_ASIDE
        for copy in aside.glob(f"{search.name}-" + "[0-9a-f]" * 8):
            if not aside.is_symlink() and not copy.is_symlink():
                shutil.rmtree(copy)

    def request(self, search: SearchFolder, name: str) -> None:
        """See `Store`; a file if a process of this machine drives the search, else an object."""
        if self._local.driver(search) is not None:
            self._local.request(search, name)
        else:
            self.objects.write(f"{search.name}/{search.requests.name}/{name}", b"")

    def is_requested(self, search: SearchFolder, name: str) -> bool:
        """See `Store`."""
        there = self.objects.exists(f"{search.name}/{search.requests.name}/{name}")
        return there or self._local.is_requested(search, name)

    def read(self, path: str) -> bytes:
        """A small object; FileNotFoundError where there is none."""
        return self.objects.read(path)

    def write(self, path: str, content: bytes) -> None:
        """Writes a small object."""
        self.objects.write(path, content)

    def remove(self, path: str) -> None:
        """Deletes an object, if it is there."""
        self.objects.delete([path])

    def _locked(self, search: SearchFolder) -> Any:
        locks = self.path / LOCKS
        locks.mkdir(exist_ok=True, mode=0o700)
        return exclusive(locks / search.name, LOCK_PATIENCE_S)


class _Copy:
    """This machine's copy of description, splits and journal of a search."""

    def __init__(self, store: ObjectStore, search: SearchFolder) -> None:
        self._objects, self._search = store.objects, search

    def update(self, *, journal: bool = True) -> dict[str, Known]:
        """Fetches what has changed; returns the segments of the journal.

        Raises:
            JournalError: a segment is damaged or missing; names it.
            StorageProblem: the storage cannot be reached.
        """
        search = self._search
        small = [each for each in self._objects.files(search.name) if SMALL.fullmatch(_base(each))]
        segments = self._objects.listing(f"{search.name}/{FOLDER}")
        known = self._known()
        if not segments:
            if known:
                self._set_aside()  # it was purged from another machine
            return {}
        if self._is_another(small, known):
            self._set_aside()
            known = {}
        search.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        now = dict(known)
        for each in small:
            if known.get(each.path) != Known(each.e_tag, each.size) or not (search.path / _base(each)).is_file():
                self._objects.fetch(each.path, search.path / _base(each))
                now[each.path] = Known(each.e_tag, each.size)
        parts = self._update_journal(segments, known) if journal else {}
        now |= parts
        if now != known:
            write_atomically(search.path / NOTES, json.dumps(now) + "\n")
        return parts

    def _update_journal(self, segments: list[Listed], known: dict[str, Known]) -> dict[str, Known]:
        journal = self._search.journal
        here = journal.read_bytes() if journal.is_file() else b""
        here = here[: here.rfind(b"\n") + 1]
        whole, parts = read_segments(self._objects, self._search.name, segments, known, here)
        if not here.startswith(whole):
            if not whole.startswith(here):
                self._keep_other(here)
            with replacing(journal) as file:
                file.write(whole)
        return parts

    def send_small(self, *, anew: bool = False) -> None:
        """Sends description and splits that the storage does not have; with `anew` all, as a failed launch left some.

        Raises:
            StorageProblem: the storage cannot be reached.
        """
        name = self._search.name
        there = set() if anew else {each.path for each in self._objects.files(name)}
        for path in sorted(self._search.path.iterdir()):
            if SMALL.fullmatch(path.name) and f"{name}/{path.name}" not in there:
                self._objects.write(f"{name}/{path.name}", path.read_bytes())

    def _is_another(self, there: list[Listed], known: dict[str, Known]) -> bool:
        """Whether the storage holds another search of the same name than this machine."""
        path = f"{self._search.name}/{self._search.description.name}"
        described = next((each for each in there if each.path == path), None)
        if described is None or not self._search.description.is_file():
            return False
        if known.get(path) == Known(described.e_tag, described.size):
            return False
        return self._objects.read(path) != self._search.description.read_bytes()

    def _known(self) -> dict[str, Known]:
        try:
            fields = json.loads(read_regular(self._search.path / NOTES))
            return {str(path): Known(e_tag, int(size)) for path, (e_tag, size) in fields.items()}
        except (FileNotFoundError, ValueError, TypeError, AttributeError):
            return {}

    def _keep_other(self, content: bytes) -> None:
        other = self._search.path / f"journal.other-{secrets.token_hex(4)}.jsonl"
        other.write_bytes(content)
        log.warning(
            "%s: its last events were never sent, and another machine went on; they are in %s", self._search.name, other
        )

    def _set_aside(self) -> None:
        search = self._search
        place = search.path.parent / SET_ASIDE / f"{search.name}-{secrets.token_hex(4)}"
        place.parent.mkdir(exist_ok=True, mode=0o700)
        search.path.rename(place)
        log.warning(
            "%s: the storage holds no such search any more, or another one; this machine's is in %s", search.name, place
        )


def _base(listed: Listed) -> str:
    return listed.path.rpartition("/")[2]


def forget_when() -> None:
    """Lets the next `pull` ask the storage, however recent the last one was."""
    _pulled.clear()
