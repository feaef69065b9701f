"""How long a device waits for frames, on a host and a device of our own making."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.input.loader import FrameWait


class Host:
    """A clock, and a device that works through its queue."""

    def __init__(self) -> None:
        self.now = 100.0
        self.busy_until = 0.0

    def event(self) -> Point:
        return Point(self)

    def give(self, seconds: float) -> None:
        """Puts work into the device's queue."""
        self.busy_until = max(self.busy_until, self.now) + seconds


class Point:
    """An event of this device."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.time = 0.0

    def record(self) -> None:
        self.time = max(self._host.now, self._host.busy_until)

    def query(self) -> bool:
        return self._host.now >= self.time

    def elapsed_time(self, end_event: Point) -> float:
        assert end_event.query(), "the host would have to wait"
        return 1000 * (end_event.time - self.time)


class Step(NamedTuple):
    """What one step takes, in seconds."""

    frames: float
    """That the host waits for them."""
    launch: float
    """That the host takes to give the work to the device."""
    work: float
    """Of the device."""


def waited(monkeypatch: pytest.MonkeyPatch, steps: Sequence[Step], device: str = "cuda") -> tuple[float, float]:
    """Seconds counted, and those for which the device had nothing to do while the host waited for frames."""
    host = Host()
    monkeypatch.setattr(time, "monotonic", lambda: host.now)
    wait = FrameWait(torch.device(device), host.event if device == "cuda" else None)
    counted = idle = 0.0
    for step in steps:
        wait.ask()
        idle += max(0.0, host.now + step.frames - max(host.now, host.busy_until))
        host.now += step.frames
        counted += wait.came()
        host.give(step.work)
        host.now += step.launch
    host.now = max(host.now, host.busy_until)
    return counted + wait.known(), idle


def test_frames_that_come_while_the_device_works_were_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [Step(1.0, 0.0, 1.0), *[Step(frames=0.9, launch=0.1, work=3.0)] * 5]
    counted, _ = waited(monkeypatch, steps)
    assert counted == pytest.approx(1.0)  # before the first step alone
    on_cpu, _ = waited(monkeypatch, steps, "cpu")
    assert on_cpu == pytest.approx(1.0 + 5 * 0.9)


amounts = st.integers(0, 400).map(lambda hundredths: hundredths / 100)


@given(st.lists(st.builds(Step, amounts, amounts, amounts), max_size=12))
def test_what_is_counted_is_the_time_in_which_the_device_had_nothing_and_frames_were_missing(steps: list[Step]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        counted, idle = waited(monkeypatch, steps)
    assert counted == pytest.approx(idle)
