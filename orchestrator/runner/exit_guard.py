"""The end of a session's process where Ray does not return: after a stop, or when its node or head is lost."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Self

from orchestrator.base.errors import Exit
from orchestrator.base.hints import hint
from orchestrator.base.process import Process, children
from orchestrator.cluster.capacity import HeadHealth
from orchestrator.cluster.ray import Connection
from orchestrator.runner.stop_request import StopRequest
from orchestrator.stores.base import SearchFolder
from orchestrator.study.events import SessionEnded
from orchestrator.study.recorder import Recorder

WATCH_PERIOD_S = 0.5
# From the request of a stop to the end of the process. A signal to the whole process group, as Slurm sends it, kills
# Ray's own servers too, and Ray then hangs for a minute and aborts.
STOP_PATIENCE_S = 20.0
# For a storage with a URI to take the last events.
UPLOAD_PATIENCE_S = 5.0
NODE_DIED = "Ray's node on this machine died"
HEAD_LOST = "the head of the Ray cluster is gone"


def exit_after(stop: StopRequest) -> Exit:
    """The exit code of a search that stopped before it was finished.

    75 asks a batch system to requeue the job; a user who stops the search does not want that.
    """
    is_preempted = stop.signal not in (None, signal.SIGINT) or stop.wish in (NODE_DIED, HEAD_LOST)
    return Exit.PREEMPTED if is_preempted else Exit.INTERRUPTED


class ExitGuard:
    """Ends this process, with the journal in good order, where waiting for Ray is pointless.

    In the `with` block a thread waits for a stop, and asks for one when the node that was started here, or the head of
    the cluster that was joined, is lost: Tune would wait for its workers for ever.
    """

    def __init__(self, folder: SearchFolder, recorder: Recorder, stop: StopRequest) -> None:
        self._folder = folder
        self._recorder = recorder
        self._stop = stop
        self._over = threading.Event()
        self._is_connecting = False
        self._node: tuple[Process, ...] = ()
        self._head: HeadHealth | None = None

    def __enter__(self) -> Self:
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    @contextlib.contextmanager
    def connecting(self) -> Iterator[None]:
        """While Ray starts, a stop ends the process at once.

        No trial runs yet, and Ray would answer after half a minute at best, with errors of its own.
        """
        self._is_connecting = True
        try:
            yield
        finally:
            self._is_connecting = False

    @contextlib.contextmanager
    def connected(self, connection: Connection) -> Iterator[None]:
        """Watches the node and the head of the connection."""
        self._node = connection.node
        self._head = None if connection.head is None else HeadHealth(connection.head)
        try:
            yield
        finally:
            self._node = ()  # it is about to be ended

    def stop_requested(self) -> None:
        """To be called as soon as a stop was requested."""
        if self._is_connecting:
            self._leave()

    def _watch(self) -> None:
        while self._stop.wish is None:
            if self._over.wait(WATCH_PERIOD_S):
                return
            if not all(process.is_alive() for process in self._node):
                self._stop.request(NODE_DIED)
            elif self._head is not None and self._head.is_lost():
                self._stop.request(HEAD_LOST)
        if not self._over.wait(STOP_PATIENCE_S):
            self._leave()

    def _leave(self) -> None:
        """Ends the process here and now; the next session continues from the journal."""
        self._recorder.record(SessionEnded(state="interrupted", reason=self._stop.wish))
        self._recorder.upload.finish(UPLOAD_PATIENCE_S)
        resume = hint("resume", self._folder.name, storage=self._folder.storage)
        print(f"{self._folder.name}: stopped; `{resume}` continues it", file=sys.stderr, flush=True)
        for process in children() if self._is_connecting else ():  # those that Ray has started so far
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        os._exit(exit_after(self._stop))
