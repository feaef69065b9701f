"""Which frames form a clip."""

from __future__ import annotations

import json
from typing import Literal

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.input.clips import Window, frame_windows, windows_of_tracklets

lengths = st.integers(1, 8)
counts = st.integers(1, 300)


@given(n=counts, length=lengths)
def test_dense_clips_show_every_frame_and_repeat_only_in_the_last(n: int, length: int) -> None:
    windows = frame_windows("dense", n, length)
    assert windows.shape == (-(-n // length), length)
    assert windows.flatten()[:n].tolist() == list(range(n))
    tail = windows[-1].tolist()
    fresh = n - length * (len(windows) - 1)
    assert tail == [tail[0] + position % fresh for position in range(length)]


@given(n=st.lists(counts, max_size=12), length=lengths, clips=st.integers(1, 5), cap=st.none() | st.integers(1, 50))
@pytest.mark.parametrize("sampling", ["dense", "even"])
def test_clips_of_all_tracklets_are_those_of_one_after_the_other(
    sampling: Literal["dense", "even"], n: list[int], length: int, clips: int, cap: int | None
) -> None:
    together = windows_of_tracklets(sampling, torch.tensor(n, dtype=torch.int64), length, clips=clips, max_clips=cap)
    assert list(together) == [
        Window(index, tuple(window))
        for index, frames in enumerate(n)
        for window in frame_windows(sampling, frames, length, clips=clips, max_clips=cap).tolist()
    ]
    assert list(together[1:3]) == list(together)[1:3]


CASES = {int(n): case for n, case in json.loads((reference.CASES / "clip_indices.json").read_text()).items()}
PAPER_CAP = 41  # the paper's code stops there
DRAWS = 300


@pytest.mark.parametrize("n", CASES)
def test_dense_clips_equal_those_of_the_papers_code(n: int) -> None:
    assert frame_windows("dense", n, 4, max_clips=PAPER_CAP).tolist() == CASES[n]["paper_dense"]


@given(n=counts, length=lengths, cap=st.integers(1, 50))
def test_a_cap_leaves_the_first_dense_clips_as_they_are(n: int, length: int, cap: int) -> None:
    capped = frame_windows("dense", n, length, max_clips=cap)
    assert capped.tolist() == frame_windows("dense", n, length)[:cap].tolist()


def drawn_clips(sampling: str, n: int) -> torch.Tensor:
    draws = torch.Generator().manual_seed(n)
    return torch.cat([frame_windows(sampling, n, 4, draws) for _ in range(DRAWS)])


@pytest.mark.parametrize("n", CASES)
def test_the_papers_consecutive_sampling_reaches_what_the_papers_code_reaches(n: int) -> None:
    clips = drawn_clips("consecutive_paper", n)
    lowest, highest = CASES[n]["paper_random_starts"]  # seen in 200 draws
    assert int(clips[:, 0].max()) <= max(0, n - 5)
    if n <= 13:
        assert (int(clips[:, 0].min()), int(clips[:, 0].max())) == (lowest, highest)
        assert sorted(set(range(n)) - set(clips.flatten().tolist())) == CASES[n]["paper_random_frames_never_seen"]
    else:
        assert highest <= n - 5
        assert int(clips.max()) < n - 1


@pytest.mark.parametrize("n", CASES)
def test_intelligent_sampling_reaches_what_the_papers_code_reaches(n: int) -> None:
    clips = drawn_clips("intelligent", n)
    expected = CASES[n]["paper_inderase"]["intelligent"]
    if n <= 13:
        assert clips.amin(0).tolist() == expected["example_min"]
        assert clips.amax(0).tolist() == expected["example_max"]
    if n <= 10:  # beyond, the recorded number is itself of a few draws
        assert len(clips.unique(dim=0)) == expected["distinct"]


@given(n=counts, length=lengths, seed=st.integers(0, 2**31))
def test_the_last_intelligent_part_takes_the_remainder(n: int, length: int, seed: int) -> None:
    (window,) = frame_windows("intelligent", n, length, torch.Generator().manual_seed(seed)).tolist()
    part = max(1, n // length)
    for position, frame in enumerate(window):
        last = n if position == length - 1 else (position + 1) * part
        assert min(position * part, n - 1) <= frame < max(last, min(position * part, n - 1) + 1)


@given(n=counts, length=lengths, clips=st.integers(1, 4))
def test_even_clips_span_the_tracklet_in_order(n: int, length: int, clips: int) -> None:
    windows = frame_windows("even", n, length, clips=clips)
    assert windows.shape == (clips, length)
    assert int(windows.min()) >= 0 and int(windows.max()) < n
    assert bool((windows[:, 1:] >= windows[:, :-1]).all())
    if n >= clips * length:
        assert windows.flatten().unique().numel() == clips * length


@given(n=counts, length=lengths, seed=st.integers(0, 2**31))
def test_consecutive_frames_are_in_a_row_and_repeat_the_last_of_a_short_tracklet(
    n: int, length: int, seed: int
) -> None:
    (window,) = frame_windows("consecutive", n, length, torch.Generator().manual_seed(seed)).tolist()
    start = window[0]
    assert window == [min(start + step, n - 1) for step in range(length)]
    assert start <= max(0, n - length)


def test_consecutive_sampling_reaches_the_last_frame_unlike_the_papers_code() -> None:
    draws = torch.Generator().manual_seed(0)
    starts = {int(frame_windows("consecutive", 6, 4, draws)[0, 0]) for _ in range(100)}
    assert starts == {0, 1, 2}


@given(n=counts, length=lengths, seed=st.integers(0, 2**31))
def test_chunks_give_one_frame_from_each_of_t_equal_parts(n: int, length: int, seed: int) -> None:
    (window,) = frame_windows("chunks", n, length, torch.Generator().manual_seed(seed)).tolist()
    assert all(0 <= frame < n for frame in window)
    if n >= length:
        for part, frame in enumerate(window):
            assert part * n // length <= frame < (part + 1) * n // length


@pytest.mark.parametrize("sampling", ["consecutive", "chunks", "intelligent", "consecutive_paper"])
def test_the_same_generator_state_gives_the_same_frames(sampling: str) -> None:
    first = frame_windows(sampling, 50, 4, torch.Generator().manual_seed(3))
    second = frame_windows(sampling, 50, 4, torch.Generator().manual_seed(3))
    assert torch.equal(first, second)


@pytest.mark.parametrize(("n", "length"), [(0, 4), (4, 0)])
def test_an_empty_tracklet_or_clip_is_refused(n: int, length: int) -> None:
    with pytest.raises(ValueError, match="cannot give a clip"):
        frame_windows("dense", n, length)


def test_a_cap_that_leaves_no_clip_is_refused() -> None:
    with pytest.raises(ValueError, match="leave none"):
        frame_windows("dense", 10, 4, max_clips=0)


def test_random_sampling_without_a_generator_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a generator"):
        frame_windows("chunks", 10, 4)
