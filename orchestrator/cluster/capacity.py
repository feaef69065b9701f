"""How many trials the cluster holds now: nodes join and are lost while a search runs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from orchestrator.cluster.ray import LiveNode, live_nodes, placed_workers
from orchestrator.cluster.resources import Allocation, capacity, why_waiting

log = logging.getLogger(__name__)

LOOK_PERIOD_S = 5.0
# A trial that Ray has not placed after this long is explained; and again after each further such time, if it changed.
WAITING_AFTER_S = 20.0

Say = Callable[[str, str], None]
"""Told a label and a line for people; must not block."""


class Capacity:
    """Looks at the cluster from a thread of its own; `now` is what it last saw.

    Ray gone silent changes nothing here: that it is lost is for the session to find out.
    """

    def __init__(
        self,
        share: Allocation,
        concurrent: int | None,
        nodes: Sequence[LiveNode],
        say: Say,
        *,
        look: Callable[[], list[LiveNode]] = live_nodes,
        waiting: Callable[[], int] = lambda: 0,
        on_join: Callable[[LiveNode], str | None] = lambda _: None,
    ) -> None:
        """Begins with the nodes that the share was reckoned from.

        Args:
            share: what one trial gets.
            concurrent: trials at once at most, where the user said so.
            nodes: those there are now.
            say: hears of nodes that come and go, and why trials wait.
            look: reads the nodes.
            waiting: trials that were handed to Ray and have no place yet.
            on_join: examines a new node; returns why no trial should run there.
        """
        self._share = share
        self._most = concurrent
        self._say = say
        self._look = look
        self._waiting = waiting
        self._on_join = on_join
        self._nodes = {node.id: node for node in nodes}
        self._unfit: set[str] = set()
        self._since: float | None = None
        self._said = ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="capacity", daemon=True)
        self.now = self._capacity()

    def start(self) -> None:
        """Begins to look."""
        self._thread.start()

    def close(self) -> None:
        """Ends it; waits for a look that is under way."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(LOOK_PERIOD_S)

    def look(self, moment: float) -> None:
        """Looks once.

        Args:
            moment: seconds on a clock that never goes back.
        """
        found = {node.id: node for node in self._look()}
        for node in [node for key, node in self._nodes.items() if key not in found]:
            self._say("node", f"{node.name} is lost; its trials go on elsewhere from their last checkpoints")
        joined = [node for key, node in found.items() if key not in self._nodes]
        self._nodes = found
        for node in joined:
            reason = self._on_join(node)
            if reason is None:
                self._say("node", f"{node.name} has joined: {self._holds(node)}")
            else:
                self._unfit.add(node.id)
                self._say("node", f"{node.name} has joined and is unfit: {reason}")
        self.now = self._capacity()
        self._explain(moment)

    def _holds(self, node: LiveNode) -> str:
        held = capacity([node.all], self._share)
        return f"holds {held} trial{'' if held == 1 else 's'} at once"

    def _capacity(self) -> int:
        there = capacity([node.all for node in self._nodes.values() if node.id not in self._unfit], self._share)
        # Never 0: a trial that is handed to Ray is what lets a cluster that grows by itself grow.
        return max(1, there if self._most is None else min(there, self._most))

    def _explain(self, moment: float) -> None:
        """Says why trials wait, once they do for a while."""
        pending = self._waiting()
        if not pending:
            self._since, self._said = None, ""
            return
        if self._since is None:
            self._since = moment
        if moment - self._since < WAITING_AFTER_S:
            return
        nodes = list(self._nodes.values())
        free = [node.free for node in nodes]
        if capacity(free, self._share):
            return  # there is room: the worker is being started
        why = why_waiting([node.all for node in nodes], free, self._share)
        self._since = moment
        if why != self._said:
            self._said = why
            self._say("waiting", f"{pending} trial{'' if pending == 1 else 's'}: {why}")

    def _run(self) -> None:
        while not self._over.wait(LOOK_PERIOD_S):
            try:
                self.look(time.monotonic())
            except Exception as error:  # noqa: BLE001  # whatever Ray raises when the cluster is going away
                log.warning("the cluster cannot be looked at: %s", error)


def unplaced(handed_out: int) -> int:
    """Of the trials that Ray was given, those that it has found no place for yet.

    A worker whose trial is over is kept for the next one: while that is still to be proposed, more live than hold one.
    """
    return max(0, handed_out - placed_workers())
