"""The wish to stop a search: asked for by a signal, by a user, or by an error that makes going on pointless."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType, TracebackType

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopRequest:
    """Set once, never unset. As a context it listens to SIGINT, SIGTERM and SIGUSR1.

    The first signal lets the searcher hand out nothing more and the running attempts end after their next step, with
    their state saved; the second ends the process at once.
    """

    def __init__(self) -> None:
        self.since: float | None = None
        """When it was set, on the monotonic clock."""
        self.signal: signal.Signals | None = None
        self.wish: str | None = None
        """Who wants the search to end, in a word; None for an error."""
        self._before: dict[signal.Signals, object] = {}

    @property
    def requested(self) -> bool:
        """Whether it is set."""
        return self.since is not None

    def __enter__(self) -> StopRequest:
        for number in HANDLED:
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before = {}

    def listen_again(self) -> None:
        """Takes the signals back from a library that took them; does nothing where it did not listen."""
        for number in self._before:
            signal.signal(number, self._on_signal)

    def request(self, wish: str | None = None) -> None:
        """Asks for the end without a signal."""
        self.wish = self.wish or wish
        self.since = self.since or time.monotonic()

    def lasts(self, seconds: float) -> bool:
        """Whether it was set at least so many seconds ago."""
        return self.since is not None and time.monotonic() - self.since >= seconds

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = signal.Signals(number)
        self.request(self.signal.name)
