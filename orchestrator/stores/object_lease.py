"""The lease of a search in a bucket: one object, changed only on the condition that nobody else changed it."""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from typing import NamedTuple

from orchestrator.base.errors import LeaseError
from orchestrator.base.hints import hint
from orchestrator.stores.objects import ConflictError, Objects, Version
from orchestrator.study.lease import HEARTBEAT_S, STALE_AFTER_S, Holder, this_process

NAME = "lease.json"
# Somebody else takes or gives back the lease between our read and our write.
TRIES = 8


class LeaseLost(LeaseError):
    """Another process has taken the search over."""


class _State(NamedTuple):
    """The object as it was read."""

    holder: Holder | None
    """The process that has the lease; None if it was given back."""
    token: str
    """Tells one taking of the lease from others."""
    version: Version
    modified: float


class ObjectLease:
    """The lease of one search: `acquire`, then `keep` now and then, then `release`.

    The object names its holder. It is created, or replaced on the condition that it is still the object that was read,
    so that of all processes that try at once the storage lets one succeed. A holder writes a heartbeat the same way
    every `HEARTBEAT_S`; one that was silent for `STALE_AFTER_S`, by the storage's clock, may be replaced, and its next
    heartbeat is refused.
    """

    def __init__(self, objects: Objects, search: str) -> None:
        self._objects, self._search = objects, search
        self.path = f"{search}/{NAME}"
        self.token = secrets.token_hex(8)
        self._beats = 0
        self._version: Version | None = None
        self._kept = float("-inf")

    def acquire(self) -> None:
        """Takes the lease.

        Raises:
            LeaseError: another process holds it, or takes it at this moment.
            StorageProblem: the storage cannot be reached.
        """
        for _ in range(TRIES):
            state = _read(self._objects, self.path)
            if state is not None and state.holder is not None:
                self._refuse_if_alive(state, state.holder)
            with contextlib.suppress(ConflictError):
                self._write(this_process(), None if state is None else state.version)
                return
        raise LeaseError(f"{self._search}: other processes take its lease at the same time; try again in a minute")

    def keep(self) -> None:
        """Writes a heartbeat if the last one is `HEARTBEAT_S` ago.

        Raises:
            LeaseLost: another process has the lease.
            StorageProblem: the storage cannot be reached.
        """
        if time.monotonic() - self._kept < HEARTBEAT_S:
            return
        try:
            self._write(this_process(), self._version)
        except ConflictError as error:
            state = _read(self._objects, self.path)
            if state is None or state.token != self.token:
                raise self.lost() from error
            # A heartbeat whose answer was lost had arrived.
            self._version, self._kept = state.version, time.monotonic()

    def release(self) -> None:
        """Gives the lease back, if it is still ours.

        Raises:
            StorageProblem: the storage cannot be reached.
        """
        with contextlib.suppress(ConflictError):
            self._write(None, self._version)

    def lost(self) -> LeaseLost:
        """The error that says who has the lease now."""
        state = _read(self._objects, self.path)
        holder = None if state is None else state.holder
        whose = "was removed" if holder is None else f"is that of process {holder.pid} on {holder.host}"
        return LeaseLost(f"{self._search}: its lease in {self._objects.uri} {whose} now; this process must end")

    def _write(self, holder: Holder | None, version: Version | None) -> None:
        asked = time.monotonic()
        # A heartbeat must change the content: some stores derive the version from it.
        self._beats += 1
        fields = {} if holder is None else holder._asdict()
        content = json.dumps({"token": self.token, "beat": self._beats, **fields}).encode() + b"\n"
        if version is None:
            self._version = self._objects.create(self.path, content)
        else:
            self._version = self._objects.replace(self.path, content, version)
        self._kept = asked

    def _refuse_if_alive(self, state: _State, holder: Holder) -> None:
        now = time.time() if holder.is_here else self._objects.now()
        if not holder.lives(now - state.modified):
            return
        raise LeaseError(
            f"{self._search}: already driven by process {holder.pid} on {holder.host}, last heard of "
            f"{max(0.0, now - state.modified):.0f} s ago; watch it with "
            f"`{hint('status', self._search, storage=self._objects.uri)}`, or stop that process first "
            f"(one that died without a word is given up after {STALE_AFTER_S:.0f} s)"
        )


def live_holder(objects: Objects, search: str) -> Holder | None:
    """The live process that has the lease of a search; the age of a heartbeat is judged by this machine's clock.

    Raises:
        StorageProblem: the storage cannot be reached.
    """
    state = _read(objects, f"{search}/{NAME}")
    if state is None or state.holder is None:
        return None
    return state.holder if state.holder.lives(time.time() - state.modified) else None


def _read(objects: Objects, path: str) -> _State | None:
    try:
        found = objects.get(path)
    except FileNotFoundError:
        return None
    holder = Holder.parse(found.content)
    try:
        fields = json.loads(found.content)
        token, is_held = str(fields["token"]), "host" in fields
    except (ValueError, TypeError, LookupError, RecursionError):
        token, is_held = "", True
    return _State(holder if is_held else None, token, found.version, found.modified)
