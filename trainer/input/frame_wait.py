"""For how long a device that trains has nothing to do because frames have not come."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch


class Event(Protocol):
    """A point in a device's queue of work, such as `torch.cuda.Event`."""

    def record(self) -> None:
        """Puts the point behind all work that was given to the device."""

    def query(self) -> bool:
        """Whether the device got there; waits for nothing."""

    def elapsed_time(self, end_event: Any) -> float:
        """Milliseconds from here to another point."""


class _Pause(NamedTuple):
    """From the end of a step on the device to the start of the next."""

    host_s: float
    """What the host waited meanwhile."""
    end: Event
    start: Event


class FrameWait:
    """Adds up the time that a device waits for frames, step by step.

    A host that is ahead of a GPU may wait for frames while the GPU computes, which costs nothing. What counts is the
    shorter of two: the host's wait, and the pause between the work of two steps, which events on the GPU tell once both
    have passed. On a CPU it is the host's wait.
    """

    def __init__(self, device: torch.device, event: Callable[[], Event] | None = None) -> None:
        """Waits on `device`; `event` makes its events."""
        self._event = _cuda_event if device.type == "cuda" and event is None else event
        self._asked = 0.0
        self._end: Event | None = None
        self._pauses: deque[_Pause] = deque()

    def ask(self) -> None:
        """To be called when the work of a step was given to the device, and the next frames are asked for."""
        self._end = self._recorded()
        self._asked = time.monotonic()

    def came(self) -> float:
        """To be called when frames have come; seconds of waiting that have become known, none of them told before."""
        host_s = time.monotonic() - self._asked
        start = self._recorded()
        if self._end is None or start is None:
            return host_s
        self._pauses.append(_Pause(host_s, self._end, start))
        return self.known()

    def known(self) -> float:
        """As `came` returns: of the steps that a GPU has started meanwhile."""
        seconds = 0.0
        while self._pauses and self._pauses[0].start.query():
            host_s, end, start = self._pauses.popleft()
            seconds += min(host_s, end.elapsed_time(start) / 1000)
        return seconds

    def _recorded(self) -> Event | None:
        if self._event is None:
            return None
        event = self._event()
        event.record()
        return event


def _cuda_event() -> Event:
    event: Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    return event
