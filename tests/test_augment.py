"""Augmentation: what is said to be erased is erased, and nothing else happens unasked."""

from __future__ import annotations

import numpy as np
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from trainer.augment import ERASED_PIXEL, augment, erased_rectangle, normalised
from trainer.clips import ClipConfig

QUIET = ClipConfig(flip=0, pad=0, erase=0)


def frames(seed: int = 0, count: int = 6, height: int = 32, width: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_without_any_augmentation_frames_stay_as_they_are() -> None:
    before = frames()
    after, erased = augment(before, QUIET, draws())
    assert np.array_equal(after, before)
    assert not erased.any()


def test_a_certain_flip_mirrors_every_frame() -> None:
    before = frames()
    after, _ = augment(before, QUIET.model_copy(update={"flip": 1.0}), draws())
    assert np.array_equal(after, before[:, :, ::-1])


@given(seed=st.integers(0, 1000))
def test_padding_and_cropping_move_a_frame_and_fill_with_black(seed: int) -> None:
    before = frames(count=1) // 2 + 100
    (after,), _ = augment(before, QUIET.model_copy(update={"pad": 5}), draws(seed))
    rows, columns = np.nonzero(after.any(axis=2))
    inside = after[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert inside.all(axis=2).all()
    height, width = inside.shape[:2]
    assert height >= 32 - 5 and width >= 16 - 5
    moved = [
        np.array_equal(inside, before[0, top : top + height, left : left + width])
        for top in range(32 - height + 1)
        for left in range(16 - width + 1)
    ]
    assert any(moved)


@given(seed=st.integers(0, 1000))
def test_frames_marked_as_erased_hold_the_fill_and_the_others_are_untouched(seed: int) -> None:
    before = np.full((6, 32, 16, 3), 7, dtype=np.uint8)
    after, erased = augment(before, QUIET.model_copy(update={"erase": 0.5}), draws(seed))
    for frame, is_erased in zip(after, erased, strict=True):
        assert (frame == ERASED_PIXEL).all(axis=2).any() == is_erased
        assert is_erased or np.array_equal(frame, before[0])


def test_each_frame_of_a_clip_is_drawn_on_its_own() -> None:
    _, erased = augment(frames(count=200), ClipConfig(), draws())
    assert 60 < erased.sum() < 140


def test_erased_rectangles_are_distributed_as_in_the_papers_code() -> None:
    label, top, h, left, w = reference.cases("random_erasing_stats.npz")["draws_label_top_h_left_w"].T.astype(float)
    erased = label == 1
    top, h, left, w = top[erased], h[erased], left[erased], w[erased]
    mine = [rectangle for seed in range(4000) if (rectangle := erased_rectangle(224, 112, draws(seed)))]
    for own, theirs in [
        ([r.height * r.width for r in mine], h * w),
        ([r.height / r.width for r in mine], h / w),
        ([r.top / (224 - r.height + 1) for r in mine], top / (224 - h + 1)),
        ([r.left / (112 - r.width + 1) for r in mine], left / (112 - w + 1)),
    ]:
        assert ks_2samp(own, theirs).pvalue > 1e-3


def test_a_frame_too_small_for_any_rectangle_is_left_alone() -> None:
    assert erased_rectangle(1, 1, draws()) is None


def test_the_fill_is_the_mean_colour_after_normalisation() -> None:
    fill = torch.from_numpy(ERASED_PIXEL.copy()).view(3, 1, 1)
    assert normalised(fill).abs().max() < 0.01
