"""Augmentation: what is planned is done, what is said to be erased is erased, and nothing else happens unasked."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from scipy.ndimage import gaussian_filter
from scipy.stats import ks_2samp

from trainer.input.augment import FILLS, IMAGENET_MEAN, FramePlan, augmented, draw_plan, enlarged, normalised
from trainer.input.clips import ClipConfig
from trainer.input.erasing import ERASED_AREA, ERASED_ASPECT, Erasure, draw_erasures, erased_rectangle

SIZE = (32, 16)
PAPER_SIZE = (224, 112)
QUIET = ClipConfig(frames=6, flip=0, pad=0, erase=0)
KEEP = Erasure((), False)


def changed(**settings: object) -> ClipConfig:
    return QUIET.model_copy(update=settings)


def noise(seed: int = 0, count: int = 6, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def smooth(seed: int = 0, count: int = 6, size: tuple[int, int] = PAPER_SIZE) -> np.ndarray:
    blurred = gaussian_filter(np.random.default_rng(seed).normal(size=(count, *size, 3)), (0, 4, 4, 0))
    return ((blurred - blurred.min()) / np.ptp(blurred) * 255).astype(np.uint8)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def result(frames: np.ndarray, config: ClipConfig, seed: int = 0) -> tuple[np.ndarray, list[FramePlan]]:
    plan = draw_plan(config, frames.shape[1:3], draws(seed))
    return augmented(frames, plan, config), plan


@pytest.mark.parametrize("crop", ["pad", "translate"])
def test_frames_stay_as_they_are_where_nothing_is_asked_for(crop: str) -> None:
    config, frames = changed(crop=crop), noise()
    plan = [FramePlan(False, False, 0, 0, KEEP)] * 6
    assert np.array_equal(augmented(frames, plan, config), frames)


def test_no_augmentation_is_planned_where_none_is_configured() -> None:
    assert draw_plan(QUIET, SIZE, draws()) == [FramePlan(False, False, 0, 0, KEEP)] * 6


@pytest.mark.parametrize("crop", ["pad", "translate"])
def test_a_flip_mirrors_a_frame_before_anything_else(crop: str) -> None:
    config, frames = changed(crop=crop, pad=5), smooth(size=SIZE)
    plan = draw_plan(config, SIZE, draws())
    mirrored = [planned._replace(flip=True) for planned in plan]
    expected = augmented(np.ascontiguousarray(frames[:, :, ::-1]), plan, config)
    assert np.array_equal(augmented(frames, mirrored, config), expected)


@given(seed=st.integers(0, 1000))
def test_padding_and_cropping_move_a_frame_and_fill_with_black(seed: int) -> None:
    before = noise(count=6) // 2 + 100
    after, plan = result(before, changed(pad=5), seed)
    for frame, moved, planned in zip(before, after, plan, strict=True):
        padded = np.pad(frame, ((5, 5), (5, 5), (0, 0)))
        assert np.array_equal(moved, padded[planned.top : planned.top + 32, planned.left : planned.left + 16])


def test_every_place_of_a_padded_crop_is_drawn() -> None:
    plan = draw_plan(changed(pad=2, frames=1000), SIZE, draws())
    assert {(planned.top, planned.left) for planned in plan} == {(top, left) for top in range(5) for left in range(5)}


def papers_translation(frame: np.ndarray, planned: FramePlan, pad: int) -> np.ndarray:
    """Pad, resize and crop with Pillow, as the paper's code does."""
    height, width = frame.shape[:2]
    image = ImageOps.expand(Image.fromarray(frame[:, ::-1] if planned.flip else frame), pad)
    target = enlarged((height, width)) if planned.enlarge else (height, width)
    resized = image.resize(target[::-1], Image.Resampling.BILINEAR)
    return np.asarray(resized)[planned.top : planned.top + height, planned.left : planned.left + width]


@pytest.mark.parametrize("size", [PAPER_SIZE, (256, 128)])
@pytest.mark.parametrize("picture", [smooth, noise])
def test_translation_gives_pillows_pixels_up_to_rounding(picture, size: tuple[int, int]) -> None:
    frames = picture(size=size)
    after, plan = result(frames, changed(crop="translate", pad=10, flip=0.5))
    assert {planned.enlarge for planned in plan} == {False, True}
    expected = np.stack([papers_translation(*pair, 10) for pair in zip(frames, plan, strict=True)])
    gap = np.abs(after.astype(int) - expected)
    assert gap.max() <= 1
    assert gap.mean() < 0.15


@pytest.mark.parametrize("enlarge", [False, True])
def test_translation_shifts_nothing_by_half_a_pixel(enlarge: bool) -> None:
    height, pad = 224, 10
    ramp = np.broadcast_to(np.arange(height, dtype=np.uint8)[:, None, None], (1, height, 112, 3)).copy()
    top = 17 if enlarge else 0
    (frame,) = augmented(ramp, [FramePlan(False, enlarge, top, 3 * enlarge, KEEP)], changed(crop="translate", pad=pad))
    scale = (height + 2 * pad) / (252 if enlarge else 224)
    expected = (np.arange(height) + top + 0.5) * scale - 0.5 - pad
    inside = (expected > 2) & (expected < height - 3)
    assert np.abs(frame[:, 56, 0] - expected)[inside].max() <= 0.75  # a grey level is a row; two roundings to half one


def test_translation_resizes_half_of_the_frames_and_crops_the_others_as_the_papers_code_does() -> None:
    plan = draw_plan(changed(crop="translate", pad=10, frames=4000), PAPER_SIZE, draws())
    crops = [(planned.top, planned.left) for planned in plan if planned.enlarge]
    assert 1900 < len(crops) < 2100
    tops, counts = np.unique([top for top, _ in crops], return_counts=True)
    assert tops.tolist() == list(range(29))
    assert counts[[0, -1]].mean() < 0.75 * counts[1:-1].mean()  # rounded draws: the ends are half as likely
    assert {(planned.top, planned.left) for planned in plan if not planned.enlarge} == {(0, 0)}


@pytest.mark.parametrize("fill", FILLS)
@given(seed=st.integers(0, 1000))
def test_what_is_erased_holds_the_fill_and_the_rest_is_untouched(fill: str, seed: int) -> None:
    before = np.full((6, *SIZE, 3), 7, dtype=np.uint8)
    after, plan = result(before, changed(erase=0.5, second_erase=0.5, erase_fill=fill), seed)
    for frame, planned in zip(after, plan, strict=True):
        inside = np.zeros(SIZE, dtype=bool)
        for top, left, height, width in planned.erasure.rectangles:
            inside[top : top + height, left : left + width] = True
        assert (frame[inside] == FILLS[fill]).all()
        assert (frame[~inside] == 7).all()
        assert planned.erasure.erased == inside.any()


def test_the_fills_are_the_mean_and_the_light_grey_of_the_papers_code() -> None:
    mean, grey = (torch.tensor(FILLS[name], dtype=torch.uint8).view(3, 1, 1) for name in ("mean", "light_grey"))
    assert normalised(mean).abs().max() < 0.01
    assert torch.allclose(normalised(grey).flatten(), torch.tensor(IMAGENET_MEAN), atol=0.01)
    assert [value / 255 for value in FILLS["light_grey"]] == pytest.approx([0.596, 0.558, 0.497], abs=0.002)


def test_pixels_are_normalised_as_torchvision_does() -> None:
    frames = torch.from_numpy(noise()).permute(0, 3, 1, 2)
    mean, std = torch.tensor(IMAGENET_MEAN).view(3, 1, 1), torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)
    assert torch.allclose(normalised(frames), (frames / 255 - mean) / std, atol=1e-5)
    assert normalised(frames).is_contiguous(memory_format=torch.channels_last)


def test_erased_rectangles_are_distributed_as_in_the_papers_code() -> None:
    stats = reference.cases("random_erasing_stats.npz")
    label, top, h, left, w = stats["draws_label_top_h_left_w"].T.astype(float)
    theirs = label == 1
    top, h, left, w = top[theirs], h[theirs], left[theirs], w[theirs]
    erasures = draw_erasures(ClipConfig(), PAPER_SIZE, 4000, draws())
    mine = [erasure.rectangles[0] for erasure in erasures if erasure.erased]
    # Three standard errors of the difference of two samples of 2,000.
    assert len(mine) / 4000 == pytest.approx(float(stats["p_erased"]), abs=0.034)
    for own, other in [
        ([r.height * r.width for r in mine], h * w),
        ([r.height / r.width for r in mine], h / w),
        ([r.top / (224 - r.height + 1) for r in mine], top / (224 - h + 1)),
        ([r.left / (112 - r.width + 1) for r in mine], left / (112 - w + 1)),
    ]:
        assert ks_2samp(own, other).pvalue > 1e-3


@given(numbers=st.lists(st.floats(0, 1, exclude_max=True, width=32), min_size=4, max_size=4))
def test_a_rectangle_lies_inside_the_frame_with_the_share_and_aspect_drawn(numbers: list[float]) -> None:
    rectangle = erased_rectangle(PAPER_SIZE, numbers)
    if rectangle is not None:
        top, left, height, width = rectangle
        assert 0 <= top <= 224 - height and 0 <= left <= 112 - width
        area = 224 * 112 * np.interp(numbers[0], (0, 1), ERASED_AREA)
        aspect = np.interp(numbers[1], (0, 1), ERASED_ASPECT)
        assert abs(height - np.sqrt(area * aspect)) <= 0.5 + 1e-6
        assert abs(width - np.sqrt(area / aspect)) <= 0.5 + 1e-6


def test_the_second_eraser_labels_half_of_the_frames_and_a_quarter_is_erased_unlabelled() -> None:
    config = ClipConfig(erase=0.5, second_erase=0.5, erased_labels="second")
    erasures = draw_erasures(config, PAPER_SIZE, 4000, draws())
    labelled = np.mean([erasure.erased for erasure in erasures])
    unlabelled = np.mean([bool(erasure.rectangles) and not erasure.erased for erasure in erasures])
    assert labelled == pytest.approx(0.5, abs=0.025)  # three standard errors
    assert unlabelled == pytest.approx(0.25, abs=0.021)


def test_labels_of_every_eraser_mark_all_that_is_erased_with_the_same_draws() -> None:
    second = ClipConfig(second_erase=0.5, erased_labels="second")
    every = second.model_copy(update={"erased_labels": "every"})
    ours, theirs = (draw_erasures(config, SIZE, 200, draws()) for config in (every, second))
    assert [erasure.rectangles for erasure in ours] == [erasure.rectangles for erasure in theirs]
    assert all(erasure.erased == bool(erasure.rectangles) for erasure in ours)


def test_a_frame_too_small_for_any_rectangle_is_left_alone_and_not_labelled() -> None:
    config = ClipConfig(erase=1, second_erase=1, erased_labels="second")
    assert draw_erasures(config, (1, 1), 3, draws()) == [KEEP] * 3


def test_geometry_per_clip_moves_all_frames_alike_and_erasing_stays_their_own() -> None:
    plan = draw_plan(ClipConfig(frames=16, geometry_per="clip", crop="translate"), SIZE, draws())
    assert len({planned[:4] for planned in plan}) == 1
    assert len({planned.erasure for planned in plan}) > 1


def test_erasing_per_clip_wipes_the_same_rectangle_out_of_every_frame_and_labels_all() -> None:
    config = ClipConfig(frames=16, erase_per="clip", erase=1)
    plan = draw_plan(config, SIZE, draws())
    assert len({planned.erasure for planned in plan}) == 1
    assert all(planned.erasure.erased for planned in plan)
    assert len({planned[:4] for planned in plan}) > 1


@given(seed=st.integers(0, 1000))
def test_geometry_does_not_depend_on_the_settings_of_erasing(seed: int) -> None:
    with_erasing, without = (draw_plan(changed(erase=p, pad=5, flip=0.5), SIZE, draws(seed)) for p in (1.0, 0.0))
    assert [planned[:4] for planned in with_erasing] == [planned[:4] for planned in without]


@pytest.mark.parametrize("shape", [(2, 4, 3, 8, 5), (3, 3, 3), (1, 3, 2, 2), (2, 3, 2, 7)])
def test_normalised_values_do_not_depend_on_the_order_in_memory(shape: tuple[int, ...]) -> None:
    frames = torch.randint(256, shape, dtype=torch.uint8, generator=draws())
    channels_last = frames.movedim(-3, -1).contiguous().movedim(-1, -3)
    assert torch.equal(normalised(frames), normalised(channels_last))
    assert normalised(channels_last).stride() == channels_last.stride()
