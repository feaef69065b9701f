"""Whether the head of a cluster is still there."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

# A head that is busy or restarts its network may not answer for a moment.
LOST_AFTER_S = 15.0
LOOK_PERIOD_S = 3.0
PATIENCE_S = 3.0


class HeadWatch:
    """Asks the head's port now and then; silence for `LOST_AFTER_S` means that it is lost.

    Ray itself goes on trying for a minute and then ends the process that asked, whatever it is in the middle of.
    """

    def __init__(
        self,
        address: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        answers: Callable[[str, int], bool] | None = None,
    ) -> None:
        """Watches HOST:PORT."""
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._clock = clock
        self._answers = answers or _answers
        self._looked = float("-inf")
        self._answered = clock()

    def is_lost(self) -> bool:
        """Whether it has been silent for too long; takes up to `PATIENCE_S`."""
        now = self._clock()
        if now - self._looked >= LOOK_PERIOD_S:
            self._looked = now
            if self._answers(self._host, self._port):
                self._answered = now
        return self._clock() - self._answered >= LOST_AFTER_S


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=PATIENCE_S).close()
    except OSError:
        return False
    return True
