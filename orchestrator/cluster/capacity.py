"""What becomes of a cluster while a search runs: how many trials it can hold now, and whether its head is lost."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from orchestrator.cluster.authentication import answers
from orchestrator.cluster.ray import LiveNode, live_nodes, placed_workers
from orchestrator.cluster.resources import Allocation, capacity, why_waiting

log = logging.getLogger(__name__)

LOOK_PERIOD_S = 5.0
# Why a trial is pending is said after this long, and again at such intervals if the reason has changed.
WAITING_AFTER_S = 20.0

Say = Callable[[str, str], None]
"""Called with a label and a line of output; must not block."""


class Capacity:
    """Polls the cluster in a thread; `now` is the number of trials that it could hold at the last look.

    If Ray does not answer, the number stays; the session finds out that the head is lost.
    """

    def __init__(
        self,
        allocation: Allocation,
        concurrent: int | None,
        nodes: Sequence[LiveNode],
        say: Say,
        *,
        look: Callable[[], list[LiveNode]] = live_nodes,
        waiting: Callable[[], int] = lambda: 0,
        on_join: Callable[[LiveNode], str | None] = lambda _: None,
    ) -> None:
        """Starts from the nodes that the allocation was computed for.

        Args:
            allocation: what one trial gets.
            concurrent: most trials at once, if the user gave it.
            nodes: those that are alive.
            say: called when nodes join and are lost, and with the reason why trials wait.
            look: returns the nodes that are alive.
            waiting: number of trials that Ray has not placed yet.
            on_join: checks a new node; returns why no trial can run there, or None.
        """
        self._allocation = allocation
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
        """Starts the thread."""
        self._thread.start()

    def close(self) -> None:
        """Ends the thread, after a look that is under way."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(LOOK_PERIOD_S)

    def look(self, moment: float) -> None:
        """Looks once.

        Args:
            moment: in seconds, of a monotonic clock.
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
        held = capacity([node.all], self._allocation)
        return f"holds {held} trial{'' if held == 1 else 's'} at once"

    def _capacity(self) -> int:
        there = capacity([node.all for node in self._nodes.values() if node.id not in self._unfit], self._allocation)
        # Never 0: an autoscaling cluster grows only when a trial is pending.
        return max(1, there if self._most is None else min(there, self._most))

    def _explain(self, moment: float) -> None:
        """Says why trials wait, once they have waited for `WAITING_AFTER_S`."""
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
        if capacity(free, self._allocation):
            return  # there is room, and the worker starts
        why = why_waiting([node.all for node in nodes], free, self._allocation)
        self._since = moment
        if why != self._said:
            self._said = why
            self._say("waiting", f"{pending} trial{'' if pending == 1 else 's'}: {why}")

    def _run(self) -> None:
        while not self._over.wait(LOOK_PERIOD_S):
            try:
                self.look(time.monotonic())
            except Exception as error:  # noqa: BLE001  # Ray raises various errors while the cluster ends
                log.warning("the nodes of the cluster cannot be read: %s", error)


def unplaced(handed_out: int) -> int:
    """Of the trials that were handed to Ray, those that it has not placed yet.

    A worker is kept for the next trial: until that is suggested, there are more workers than trials.
    """
    return max(0, handed_out - placed_workers())


class HeadHealth:
    """Connects to the head's port at intervals; silence of `LOST_AFTER_S` means that it is lost.

    Ray itself retries for a minute and then ends the calling process without warning.
    """

    LOST_AFTER_S = 15.0  # a busy head, or one whose network restarts, may be silent for a moment
    LOOK_PERIOD_S = 3.0

    def __init__(
        self,
        address: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        answers: Callable[[str, int], bool] = answers,
    ) -> None:
        """Watches HOST:PORT."""
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._clock = clock
        self._answers = answers
        self._looked = float("-inf")
        self._answered = clock()

    def is_lost(self) -> bool:
        """Whether it has been silent for too long; takes up to 3 seconds."""
        now = self._clock()
        if now - self._looked >= self.LOOK_PERIOD_S:
            self._looked = now
            if self._answers(self._host, self._port):
                self._answered = now
        return self._clock() - self._answered >= self.LOST_AFTER_S
