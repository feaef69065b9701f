"""How a training is asked to stop: by a function that it calls after every step, or by signals."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

Stop = Callable[[], bool]
"""Called after every step and every batch that is evaluated; True ends the training with its state saved."""


def never() -> bool:
    """Always False: the training runs to its end."""
    return False


class StopSignal:
    """A `Stop` that is False until a signal arrives, and remembers which."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.received is not None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The handler: the first signal asks, a second one does not wait for the end of the step."""
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)


@contextmanager
def stop_on_signals() -> Iterator[StopSignal]:
    """While it lasts SIGTERM and SIGINT only ask to stop; call it from the main thread."""
    stop = StopSignal()
    before = {number: signal.signal(number, stop.handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
