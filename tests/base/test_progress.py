"""Progress of long work where nothing can be redrawn."""

from __future__ import annotations

import itertools

import pytest

from orchestrator.base import progress


def test_lines_say_the_time_left_once_it_can_be_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = itertools.count(0.0, 11.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.step_progress() as advance:
        for done in (100, 300, 500):
            advance("packing frames", done, 1000, "slowly")
    assert capsys.readouterr().err.splitlines() == [
        "packing frames: 100/1000, slowly",
        "packing frames: 300/1000, 38 s left, slowly",
        "packing frames: 500/1000, 28 s left, slowly",
    ]
