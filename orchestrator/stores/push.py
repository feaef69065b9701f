"""What a driver keeps equal in a storage with a URI while its search runs, without the search ever waiting for it."""

from __future__ import annotations

import contextlib
import logging
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.base.errors import LeaseError, SearchError
from orchestrator.base.hints import hint
from orchestrator.stores.base import SearchFolder
from orchestrator.stores.cache import remote_of
from orchestrator.stores.pull import SET_ASIDE, SMALL, bring_search, note_equal
from orchestrator.stores.remote import Remote, StorageProblem
from orchestrator.stores.remote_lease import LeaseLost, RemoteLease
from orchestrator.stores.requests import REQUESTS
from orchestrator.stores.segments import FOLDER, PART_BYTES, first_part, part_name
from orchestrator.study.events import NAME
from orchestrator.study.journal import Journal
from orchestrator.study.lease import Lease
from orchestrator.study.recorder import Recorder

log = logging.getLogger(__name__)

# Events of so many seconds are sent together.
INTERVAL_S = 1.0
# After a refusal the next try comes later and later, up to this.
LONGEST_PAUSE_S = 15.0
# How often the storage is asked what other machines want.
REQUESTS_PERIOD_S = 2.0
CLOSE_PATIENCE_S = 20.0


class Uplink:
    """Sends the journal and what else is asked to, and fetches requests, from a thread of its own."""

    def __init__(self, remote: Remote, folder: SearchFolder, lease: RemoteLease) -> None:
        self._remote, self._folder, self._lease = remote, folder, lease
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="storage", daemon=True)
        self._queue: deque[tuple[str, bytes]] = deque()
        self._known = self._sent = 0
        self._part, self._start = 1, 0
        self._brought: set[str] = set()
        self._looked = float("-inf")
        self.lost: str | None = None
        """Why nothing may be written any more."""
        self.problem: str | None = None
        """Why something is not sent yet."""

    def open(self) -> None:
        """Finds out where the storage's copy ends; the lease is held, and the search has been brought down.

        Raises:
            StorageProblem: the storage cannot be reached.
        """
        for entry in self._remote.entries(f"{self._folder.name}/{REQUESTS}"):
            if not entry.is_folder:
                self._remote.delete(entry.path)  # meant for an earlier driver
        parts = self._remote.entries(f"{self._folder.name}/{FOLDER}")
        self._sent = sum(part.size for part in parts)
        if parts:
            full = parts[-1].size >= PART_BYTES
            self._part = len(parts) + full
            self._start = self._sent - (0 if full else parts[-1].size)
        self.journaled()
        self._thread.start()

    def journaled(self) -> None:
        """Hears that the journal has grown, durably, to what it is now."""
        self._known = self._folder.journal.stat().st_size

    def put(self, path: str, content: bytes) -> None:
        """Sends a small object, its path relative to the search, as soon as that is possible."""
        self._queue.append((path, content))

    def check(self) -> None:
        """Whether the search is still ours.

        Raises:
            LeaseError: another process has taken it over.
        """
        if self.lost is not None:
            raise LeaseError(self.lost)

    @property
    def unsent(self) -> int:
        """Bytes of the journal that the storage does not have yet."""
        return max(0, self._known - self._sent)

    def close(self, patience: float | None = None) -> bool:
        """Sends the rest; False where that did not succeed within `patience` seconds."""
        self._closing.set()
        self._thread.join(CLOSE_PATIENCE_S if patience is None else patience)
        return not self._thread.is_alive() and not self._is_behind() and self.lost is None

    def finish(self, patience: float | None = None) -> None:
        """Sends the rest and gives the lease back; says on standard error what could not be done in that time."""
        sent = self.close(patience)
        if self.lost is None and sent:
            try:
                send_small(self._remote, self._folder)
                self._lease.release()
            except StorageProblem as error:
                sent, self.problem = False, str(error)
        if not sent:
            resume = hint("resume", self._folder.name, storage=self._folder.path.parent)
            print(
                f"{self._folder.name}: {self._remote.uri} lacks {self.unsent} bytes of the journal "
                f"({self.lost or self.problem or 'it did not answer'}); `{resume}` on this machine sends them",
                file=sys.stderr,
            )

    def _is_behind(self) -> bool:
        return bool(self.unsent or self._queue)

    def _work(self) -> None:
        pause, end = INTERVAL_S, float("inf")
        while True:
            closing = self._closing.wait(pause)
            if closing:
                end = min(end, time.monotonic() + CLOSE_PATIENCE_S)
            try:
                self._turn()
                self.problem, pause = None, INTERVAL_S
            except LeaseLost as error:
                self.lost = str(error)
                return
            except (StorageProblem, OSError) as error:
                if self.problem is None:
                    log.warning("%s: %s; tried again until it works", self._folder.name, error)
                self.problem = str(error)
                pause = min(2 * pause, LONGEST_PAUSE_S)
            if closing:
                if not self._is_behind() or time.monotonic() > end:
                    return
                time.sleep(min(pause, INTERVAL_S))

    def _turn(self) -> None:
        self._lease.keep()
        while self.unsent:
            # Nothing is written by one who lost the search more than a heartbeat ago.
            self._lease.keep()
            self._send_part()
        while self._queue:
            self._lease.keep()
            path, content = self._queue[0]
            self._remote.write(f"{self._folder.name}/{path}", content)
            self._queue.popleft()
        if time.monotonic() - self._looked > REQUESTS_PERIOD_S:
            self._looked = time.monotonic()
            self._carry_requests()

    def _send_part(self) -> None:
        with self._folder.journal.open("rb") as file:
            file.seek(self._start)
            content = first_part(file.read(self._known - self._start))
        self._remote.write(f"{self._folder.name}/{FOLDER}/{part_name(self._part)}", content)
        self._sent = self._start + len(content)
        if len(content) >= PART_BYTES:
            self._part, self._start = self._part + 1, self._sent

    def _carry_requests(self) -> None:
        """Requests of other machines become files here; those that were done here vanish there."""
        folder = self._folder.path / REQUESTS
        for name in [name for name in self._brought if not (folder / name).exists()]:
            self._remote.delete(f"{self._folder.name}/{REQUESTS}/{name}")
            self._brought.discard(name)
        for entry in self._remote.entries(f"{self._folder.name}/{REQUESTS}"):
            name = entry.path.rpartition("/")[2]
            if not entry.is_folder and name not in self._brought and NAME.fullmatch(name):
                folder.mkdir(exist_ok=True)
                (folder / name).touch()
                self._brought.add(name)


@contextmanager
def uplinked(folder: SearchFolder) -> Iterator[Uplink | None]:
    """Holds the lease in the storage, with all that it knows of the search here; None for an ordinary storage.

    At the end the rest is sent, and what could not be is told on standard error.

    Raises:
        LeaseError: another process drives the search.
        JournalError: the storage's copy of the journal is damaged.
        StorageProblem: the storage cannot be reached.
    """
    remote = remote_of(folder.path.parent)
    if remote is None:
        yield None
        return
    lease = RemoteLease(remote, folder.name)
    lease.acquire()
    try:
        bring_search(folder, owned=True)
        send_small(remote, folder)
        uplink = Uplink(remote, folder, lease)
        uplink.open()
    except BaseException:
        with contextlib.suppress(StorageProblem):  # what hindered us is what is to be told
            lease.release()
        raise
    try:
        yield uplink
    finally:
        uplink.finish()


def send_small(remote: Remote, folder: SearchFolder, *, anew: bool = False) -> None:
    """Sends the description and the splits that the storage does not have; one that is there stays as it is.

    With `anew` all are sent: what is there was left by a launch that failed.

    Raises:
        StorageProblem: the storage cannot be reached.
    """
    there = set() if anew else {entry.path for entry in remote.entries(folder.name)}
    for path in sorted(folder.path.iterdir()):
        if SMALL.fullmatch(path.name) and f"{folder.name}/{path.name}" not in there:
            remote.write(f"{folder.name}/{path.name}", path.read_bytes())
    note_equal(folder)


def forget(folder: SearchFolder) -> None:
    """Deletes all of a search from its storage, and what was set aside of it here; an ordinary storage is left alone.

    Raises:
        LeaseError: a process drives the search.
        StorageProblem: the storage cannot be reached.
    """
    remote = remote_of(folder.path.parent)
    if remote is None:
        return
    RemoteLease(remote, folder.name).acquire()
    remote.delete_folder(folder.name)
    aside = folder.path.parent / SET_ASIDE
    for copy in aside.glob(f"{folder.name}-" + "[0-9a-f]" * 8):
        if not aside.is_symlink() and not copy.is_symlink():
            shutil.rmtree(copy)


def publish(folder: SearchFolder) -> None:
    """Sends a search that has just been made; it is there for others once its journal is.

    Raises:
        SearchError: there is a search of this name.
        LeaseError: another process makes one, or drives it.
        StorageProblem: the storage cannot be reached.
    """
    remote = remote_of(folder.path.parent)
    if remote is None:
        return
    remote.check()
    lease = RemoteLease(remote, folder.name)
    lease.acquire()
    try:
        if remote.entries(f"{folder.name}/{FOLDER}"):
            raise SearchError(f"{folder.name}: there is already a search of this name in {remote.uri}")
        send_small(remote, folder, anew=True)
        rest, number = folder.journal.read_bytes(), 1
        while rest:
            part = first_part(rest)
            remote.write(f"{folder.name}/{FOLDER}/{part_name(number)}", part)
            rest, number = rest[len(part) :], number + 1
        note_equal(folder)
    finally:
        lease.release()


@contextmanager
def open_recorder(folder: SearchFolder) -> Iterator[Recorder]:
    """The recorder of a search for the one process that may write it, for as long as the block runs.

    Raises:
        LeaseError: another process drives the search.
        JournalError: the journal is damaged or cannot be opened.
        StorageProblem: the storage has a URI and cannot be reached.
    """
    with Lease(folder.lease), uplinked(folder) as uplink:
        journal = Journal(folder.journal)
        try:
            yield Recorder(journal, uplink)
        finally:
            journal.close()
