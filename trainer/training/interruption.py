"""Signals that ask a training to stop, turned into a question it asks itself after every step."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """False until a signal arrives; remembers which."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.received is not None

    def hear(self, number: int, frame: FrameType | None) -> None:
        """The handler: the first signal asks, a second one does not wait for the end of the step."""
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """While it lasts SIGTERM and SIGINT only ask to stop; call it from the main thread."""
    stop = Stop()
    before = {number: signal.signal(number, stop.hear) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
