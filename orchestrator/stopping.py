"""The wish to stop a search: asked for by a signal, or by an error that makes going on pointless."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopRequest:
    """Set once, never unset. As a context it listens to SIGINT, SIGTERM and SIGUSR1.

    The first signal lets the searcher hand out nothing more and Tune end the running attempts, whose last finished
    epochs are on disk; the second ends the process at once.
    """

    def __init__(self) -> None:
        self.requested = False
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopRequest:
        for number in HANDLED:
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def listen_again(self) -> None:
        """Takes the signals back from a library that took them."""
        for number in HANDLED:
            signal.signal(number, self._on_signal)

    def request(self) -> None:
        """Asks for the end without a signal."""
        self.requested = True

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = signal.Signals(number)
        self.requested = True
