"""Who may write a search in an object store: one process at a time.

Object stores know no lock, and the library that we reach them with has no conditional write; but what was written is
listed from then on. Each process that wants the lease therefore writes an object of its own, never another's, and then
lists all: it has the lease if nobody else who lives is there. Of two at least the one that wrote later sees the other,
so that two never get it at the same time; where both see each other both take their objects away and try again.

A holder that has not been heard of for `STALE_AFTER_S`, by the storage's own clock, is deposed by name. One that lives
on all the same, because only it could not reach the storage, finds that out with its next heartbeat, and it writes
nothing that was not preceded by one (`Uplink`).
"""

from __future__ import annotations

import json
import random
import secrets
import time
from typing import NamedTuple

from orchestrator.base.errors import LeaseError
from orchestrator.base.hints import hint
from orchestrator.base.process import start_of
from orchestrator.stores.base import SearchFolder
from orchestrator.stores.cache import remote_of
from orchestrator.stores.remote import Remote
from orchestrator.study.lease import HEARTBEAT_S, STALE_AFTER_S, Holder, current_holder, this_process

LEASES = "lease"
"""Folder of the objects, in a search."""
# Against others that ask at the very same time, after a pause of up to so many seconds.
TRIES = 8
PAUSE_S = 0.5


class LeaseLost(LeaseError):
    """Another process has taken the search over."""


class _Claim(NamedTuple):
    """What an object says of the process that wrote it."""

    token: str
    holder: Holder
    held: bool
    """Whether it has the lease, or asks for it."""
    deposed: tuple[str, ...]
    """Tokens of those whom it took the lease from."""
    time: float
    """When it was written, in seconds since 1970 by the storage's clock."""


class RemoteLease:
    """The lease of one search; `acquire`, then `keep` now and then, then `release`."""

    def __init__(self, remote: Remote, search: str) -> None:
        self._remote = remote
        self._search = search
        self._token = secrets.token_hex(8)
        self._deposed: tuple[str, ...] = ()
        self._kept = float("-inf")

    def acquire(self) -> None:
        """Takes the lease.

        Raises:
            LeaseError: another process holds it, or too many ask for it.
            StorageProblem: the storage cannot be reached.
        """
        for _ in range(TRIES):
            self._write(held=False)
            claims = _claims(self._remote, self._search)
            mine = next((claim for claim in claims if claim.token == self._token), None)
            others = [claim for claim in claims if claim.token != self._token]
            live = [claim for claim in others if mine is None or _lives(claim, mine.time)]
            if mine is not None and not live:
                self._deposed = tuple(claim.token for claim in others)
                self._write(held=True)
                self._kept = time.monotonic()
                for claim in others:
                    self._remote.delete(self._path(claim.token))
                return
            self._remote.delete(self._path(self._token))
            for claim in live:
                if claim.held:
                    self._refuse(claim, live)
            time.sleep(random.uniform(0, PAUSE_S))
        raise LeaseError(f"{self._search}: other processes want to drive it at the same time; try again in a minute")

    def keep(self) -> None:
        """Makes sure that the lease was ours at most one heartbeat ago, and says that we live.

        Raises:
            LeaseLost: it is not ours any more; nothing may be written.
            StorageProblem: the storage cannot be reached.
        """
        if time.monotonic() - self._kept < HEARTBEAT_S:
            return
        asked = time.monotonic()
        claims = _claims(self._remote, self._search)
        if is_gone := not any(claim.token == self._token for claim in claims):
            # Who took it wrote so before deleting ours, maybe after we read their object and before we read ours.
            claims = _claims(self._remote, self._search)
        heir = next((claim for claim in claims if self._token in claim.deposed), None)
        if heir is not None or is_gone:
            whose = "was removed" if heir is None else f"is that of process {heir.holder.pid} on {heir.holder.host}"
            raise LeaseLost(f"{self._search}: its lease in {self._remote.uri} {whose} now; this process must end")
        self._write(held=True)
        self._kept = asked

    def release(self) -> None:
        """Gives it back.

        Raises:
            StorageProblem: the storage cannot be reached.
        """
        self._remote.delete(self._path(self._token))

    def _path(self, token: str) -> str:
        return f"{self._search}/{LEASES}/{token}"

    def _write(self, *, held: bool) -> None:
        claim = {"holder": this_process()._asdict(), "held": held, "deposed": self._deposed}
        self._remote.write(self._path(self._token), json.dumps(claim).encode() + b"\n")

    def _refuse(self, claim: _Claim, live: list[_Claim]) -> None:
        if any(claim.token in other.deposed for other in live):
            return
        holder, age = claim.holder, max(0.0, time.time() - claim.time)
        raise LeaseError(
            f"{self._search}: already driven by process {holder.pid} on {holder.host}, last heard of {age:.0f} s ago; "
            f"watch it with `{hint('status', self._search, storage=self._remote.uri)}`, or stop that process first "
            f"(one that died without a word is given up after {STALE_AFTER_S:.0f} s)"
        )


def driver_of(folder: SearchFolder) -> Holder | None:
    """The live process that drives a search, on this machine or, where the storage has a URI, on any.

    The age of a heartbeat from another machine is judged by this machine's clock.

    Raises:
        StorageProblem: the storage cannot be reached.
    """
    here = current_holder(folder.lease)
    remote = remote_of(folder.path.parent)
    if here is not None or remote is None:
        return here
    live = [claim for claim in _claims(remote, folder.name) if claim.held and _lives(claim, time.time())]
    deposed = {token for claim in live for token in claim.deposed}
    return next((claim.holder for claim in live if claim.token not in deposed), None)


def _lives(claim: _Claim, now: float) -> bool:
    """Whether a process is taken to live, at a moment of the storage's clock."""
    mine = this_process()
    if (claim.holder.host, claim.holder.boot) == (mine.host, mine.boot):
        return start_of(claim.holder.pid) == claim.holder.started
    return now - claim.time < STALE_AFTER_S


def _claims(remote: Remote, search: str) -> list[_Claim]:
    found = []
    for entry in remote.entries(f"{search}/{LEASES}"):
        if entry.is_folder:
            continue
        try:
            content = remote.read(entry.path)
        except FileNotFoundError:
            continue  # given back meanwhile
        found.append(_claim(entry.path.rpartition("/")[2], content, entry.time))
    return found


def _claim(token: str, content: bytes, moment: float) -> _Claim:
    try:
        fields = json.loads(content)
        deposed = tuple(map(str, fields["deposed"]))
        return _Claim(token, Holder(**fields["holder"]), bool(fields["held"]), deposed, moment)
    except (ValueError, TypeError, KeyError):
        # Damaged: nobody can be recognised, so only its age counts.
        return _Claim(token, Holder("an unknown host", "", 0, 0), True, (), moment)
