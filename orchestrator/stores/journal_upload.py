"""Sends the journal of a running search to its bucket, without the search ever waiting for it."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque

from orchestrator.base.errors import LeaseError
from orchestrator.base.hints import hint
from orchestrator.stores.base import SearchFolder, StorageProblem
from orchestrator.stores.object_lease import LeaseLost, ObjectLease
from orchestrator.stores.objects import ConflictError, Objects
from orchestrator.stores.segments import SegmentWriter
from orchestrator.stores.trial_files import stop_name
from orchestrator.study.events import NAME

log = logging.getLogger(__name__)

# Events of so many seconds are sent together.
INTERVAL_S = 1.0
# After a refusal the next try comes later and later, up to this.
LONGEST_PAUSE_S = 15.0
# How often the storage is asked for requests of other machines.
REQUESTS_PERIOD_S = 2.0
CLOSE_PATIENCE_S = 20.0


class ObjectUpload:
    """See `JournalUpload`: sends what is new and fetches requests, in a thread of its own."""

    def __init__(
        self, objects: Objects, search: SearchFolder, lease: ObjectLease, writer: SegmentWriter, sent: int
    ) -> None:
        """`sent` is the number of the journal's bytes that the storage has."""
        self._objects, self._search, self._lease, self._writer = objects, search, lease, writer
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="storage", daemon=True)
        self._queue: deque[str] = deque()
        self._known, self._sent = 0, sent
        self._requested: set[str] = set()
        self._looked = float("-inf")
        self.lost: str | None = None
        """Why nothing may be written any more."""
        self.problem: str | None = None
        """Why something is not sent yet."""

    def open(self) -> None:
        """Starts sending; the lease is held.

        Raises:
            StorageProblem: the storage cannot be reached.
        """
        # Requests that are there were meant for an earlier driver.
        self._objects.delete([each.path for each in self._objects.listing(self._requests)])
        self.journaled()
        self._thread.start()

    @property
    def _requests(self) -> str:
        return f"{self._search.name}/{self._search.requests.name}"

    def journaled(self) -> None:
        """Called after each fsynced append; schedules the upload."""
        self._known = self._search.journal.stat().st_size

    def stop_attempt(self, trial: str, start: int) -> None:
        """Leaves an object that the attempt looks for."""
        self._queue.append(f"{self._search.name}/trials/{trial}/{stop_name(start)}")

    def check(self) -> None:
        """Raises LeaseError if another process has taken the search over."""
        if self.lost is not None:
            raise LeaseError(self.lost)

    @property
    def unsent(self) -> int:
        """Bytes of the journal that the storage does not have yet."""
        return max(0, self._known - self._sent)

    def finish(self, patience: float | None = None) -> None:
        """Sends the rest and releases the lease; says on standard error what could not be sent in that time."""
        self._closing.set()
        self._thread.join(CLOSE_PATIENCE_S if patience is None else patience)
        sent = not self._thread.is_alive() and not self._is_behind() and self.lost is None
        if sent:
            try:
                self._lease.release()
            except StorageProblem as error:
                sent, self.problem = False, str(error)
        if not sent:
            resume = hint("resume", self._search.name, storage=self._search.storage)
            print(
                f"{self._search.name}: {self._objects.uri} lacks {self.unsent} bytes of the journal "
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
                    log.warning("%s: %s; tried again until it works", self._search.name, error)
                self.problem = str(error)
                pause = min(2 * pause, LONGEST_PAUSE_S)
            if closing:
                if not self._is_behind() or time.monotonic() > end:
                    return
                time.sleep(min(pause, INTERVAL_S))

    def _turn(self) -> None:
        self._lease.keep()
        while self.unsent:
            self._lease.keep()
            self._send_lines()
        while self._queue:
            self._objects.write(self._queue[0], b"")
            self._queue.popleft()
        if time.monotonic() - self._looked > REQUESTS_PERIOD_S:
            self._looked = time.monotonic()
            self._carry_requests()

    def _send_lines(self) -> None:
        with self._search.journal.open("rb") as file:
            file.seek(self._sent)
            lines = file.read(self._known - self._sent)
        try:
            self._sent += self._writer.append(lines)
        except ConflictError as error:
            raise self._lease.lost() from error

    def _carry_requests(self) -> None:
        """Requests of other machines become files here; those that were answered here are deleted there."""
        folder = self._search.requests
        answered = [name for name in self._requested if not (folder / name).exists()]
        self._objects.delete([f"{self._requests}/{name}" for name in answered])
        self._requested -= set(answered)
        for each in self._objects.listing(self._requests):
            name = each.path.rpartition("/")[2]
            if name not in self._requested and NAME.fullmatch(name):
                folder.mkdir(exist_ok=True)
                (folder / name).touch()
                self._requested.add(name)
