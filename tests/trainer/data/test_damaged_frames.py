"""The tally of damaged frames: what is counted, what is said, and when a run stops."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import quick

from trainer.data.frames import DamagedFrames
from trainer.errors import DataError


def test_a_frame_counts_once_however_often_it_is_met() -> None:
    tally = DamagedFrames(10_000)
    for paths in (["a", "b"], ["b"], [], ("a", "b")):
        tally.add(paths)
    assert tally.count == 2


def test_a_tally_goes_on_from_a_saved_state() -> None:
    before, after = DamagedFrames(10_000), DamagedFrames(10_000)
    before.add(["a", "b"])
    after.add(before.state())
    after.add(["b", "c"])
    assert after.state() == ["a", "b", "c"]
    assert before.count == 2


def test_every_damaged_frame_is_named_in_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    tally = DamagedFrames(10_000)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            tally.add(["a.jpg", "b.jpg"])
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["a.jpg", "b.jpg"]


@quick
@given(frames=st.integers(1, 5000), allowed=st.sampled_from([0.0, 0.001, 0.01, 1.0]))
def test_a_run_stops_at_the_first_frame_beyond_the_allowed_share(frames: int, allowed: float) -> None:
    tally = DamagedFrames(frames, allowed)
    bearable = next(count for count in range(frames + 1) if count + 1 > allowed * frames)
    tally.add(map(str, range(bearable)))
    with pytest.raises(DataError):
        tally.add(["one more"])


def test_the_error_names_five_frames_and_the_number_of_the_others() -> None:
    with pytest.raises(DataError) as caught:
        DamagedFrames(1000).add([f"{number}.jpg" for number in range(8)])
    message = str(caught.value)
    assert message.startswith(
        "8 of 1000 frames are damaged, more than 0.1 % (0.jpg, 1.jpg, 2.jpg, 3.jpg, 4.jpg and 3 more)"
    )
    assert "\n" not in message


def test_the_error_counts_no_others_where_it_names_all() -> None:
    with pytest.raises(DataError, match=r"\(a\.jpg, b\.jpg\)"):
        DamagedFrames(10).add(["a.jpg", "b.jpg"])
