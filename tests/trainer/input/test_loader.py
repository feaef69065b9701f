"""Batches of P identities with K tracklets: what holds for a batch, for an epoch, and for what a loader makes of it."""

from __future__ import annotations

import multiprocessing
import multiprocessing.context
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from trainer.data import Tracklet
from trainer.errors import ConfigError
from trainer.input.clips import ClipConfig, Window
from trainer.input.loader import (
    Batch,
    EvaluationClips,
    TrainingClips,
    evaluation_loader,
    to_device,
    training_loader,
)
from trainer.input.sampler import ClipRequest, IdentityBatches

P, K = 4, 3
CPU = torch.device("cpu")
SIZE = (24, 12)
label_lists = st.lists(st.integers(0, 12), min_size=4, max_size=90).filter(lambda labels: len(set(labels)) >= P)
epochs = pytest.mark.parametrize("epoch_is", ["identities", "tracklets"])


def sampler(labels: list[int], *, epoch_is: str = "identities", seed: int = 0, epoch: int = 0) -> IdentityBatches:
    batches = IdentityBatches(labels, ClipConfig(identities=P, tracklets=K, epoch=epoch_is), seed)
    batches.epoch = epoch
    return batches


def identities_of(batch: list[ClipRequest], labels: list[int]) -> list[int]:
    return [labels[request.tracklet] for request in batch]


@epochs
@given(labels=label_lists, epoch=st.integers(0, 3))
def test_every_batch_holds_p_distinct_identities_with_k_tracklets_side_by_side(
    epoch_is: str, labels: list[int], epoch: int
) -> None:
    batches = sampler(labels, epoch_is=epoch_is, epoch=epoch)
    planned = list(batches)
    assert len(planned) == len(batches) >= 1
    for batch in planned:
        identities = identities_of(batch, labels)
        assert list(Counter(identities).values()) == [K] * P
        assert sum(left != right for left, right in pairwise(identities)) == P - 1


@epochs
@given(labels=label_lists)
def test_tracklets_of_a_batch_repeat_only_where_an_identity_has_fewer_than_k(epoch_is: str, labels: list[int]) -> None:
    available = Counter(labels)
    for batch in sampler(labels, epoch_is=epoch_is):
        for start in range(0, len(batch), K):
            drawn = [request.tracklet for request in batch[start : start + K]]
            if available[labels[drawn[0]]] >= K:
                assert len(set(drawn)) == K


@epochs
@given(labels=label_lists)
def test_every_clip_of_an_epoch_has_a_position_of_its_own(epoch_is: str, labels: list[int]) -> None:
    positions = [request.position for batch in sampler(labels, epoch_is=epoch_is) for request in batch]
    assert positions == list(range(len(positions)))


@epochs
@given(labels=label_lists, first=st.integers(0, 40))
def test_an_epoch_begun_in_the_middle_is_the_rest_of_the_whole_one(
    epoch_is: str, labels: list[int], first: int
) -> None:
    batches = sampler(labels, epoch_is=epoch_is, epoch=1)
    whole, length = list(batches), len(batches)
    batches.first_step = first
    assert list(batches) == whole[first:]
    assert len(batches) == length == len(whole)


@epochs
def test_an_epoch_depends_on_seed_and_epoch_alone(epoch_is: str) -> None:
    labels = [identity for identity in range(8) for _ in range(7)]

    def planned(**which: int) -> list[list[ClipRequest]]:
        return list(sampler(labels, epoch_is=epoch_is, **which))

    assert planned(epoch=2) == planned(epoch=2)
    assert planned(epoch=2) != planned(epoch=3)
    assert planned(seed=1) != planned(seed=2)


@epochs
def test_an_iteration_keeps_the_epoch_it_began_with(epoch_is: str) -> None:
    batches = sampler([identity for identity in range(8) for _ in range(7)], epoch_is=epoch_is)
    expected, begun = list(batches), iter(batches)
    batches.epoch, batches.first_step = 1, 1
    assert list(begun) == expected


@given(labels=label_lists)
def test_an_epoch_of_identities_shows_none_twice_and_leaves_out_fewer_than_p(labels: list[int]) -> None:
    identities = [identity for batch in sampler(labels) for identity in identities_of(batch, labels)[::K]]
    assert len(identities) == len(set(identities)) > len(set(labels)) - P


@given(labels=label_lists)
def test_an_epoch_of_tracklets_shows_no_tracklet_twice(labels: list[int]) -> None:
    available = Counter(labels)
    shown = [request.tracklet for batch in sampler(labels, epoch_is="tracklets") for request in batch]
    assert max(Counter(t for t in shown if available[labels[t]] >= K).values(), default=1) == 1


@given(labels=label_lists)
def test_an_epoch_of_tracklets_ends_when_fewer_than_p_identities_have_a_group_left(labels: list[int]) -> None:
    groups = Counter({identity: max(1, count // K) for identity, count in Counter(labels).items()})
    for batch in sampler(labels, epoch_is="tracklets"):
        groups.subtract(set(identities_of(batch, labels)))
    assert min(groups.values()) >= 0
    assert sum(count > 0 for count in groups.values()) < P


@epochs
def test_every_identity_is_shown_sooner_or_later(epoch_is: str) -> None:
    labels = list(range(5)) * 2
    shown = {
        identity
        for epoch in range(20)
        for batch in sampler(labels, epoch_is=epoch_is, epoch=epoch)
        for identity in identities_of(batch, labels)
    }
    assert shown == set(range(5))


def test_too_few_identities_are_refused_with_both_numbers() -> None:
    with pytest.raises(ConfigError, match="8 identities per batch, but only 3"):
        IdentityBatches([0, 1, 2], ClipConfig(identities=8), 0)


@pytest.fixture(scope="module")
def tracklets(tmp_path_factory: pytest.TempPathFactory) -> list[Tracklet]:
    """Two tracklets of five frames of each of four identities."""
    folder, random = tmp_path_factory.mktemp("frames"), np.random.default_rng(0)

    def frame(name: str) -> str:
        path = folder / f"{name}.png"
        Image.fromarray(random.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(path)
        return str(path)

    return [
        Tracklet(tuple(frame(f"{identity}-{camera}-{t}") for t in range(5)), identity, camera)
        for identity in range(4)
        for camera in (1, 2)
    ]


@pytest.fixture(params=["forkserver", "spawn"])
def start_method(request: pytest.FixtureRequest) -> Iterator[str]:
    """How Python starts processes unless told otherwise; from 3.14 on it is forkserver."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(request.param, force=True)
    yield request.param
    multiprocessing.set_start_method(before, force=True)


def loaded(tracklets: list[Tracklet], *, workers: int = 0, steps: list[tuple[int, int]], **settings: object):
    """Batches of each (epoch, first step), from one loader."""
    config = ClipConfig(identities=2, tracklets=2, pad=2, second_erase=0.5, **settings)
    labels = [tracklet.identity for tracklet in tracklets]
    batches = IdentityBatches(labels, config, 0)
    clips = TrainingClips(tracklets, labels, config, size=SIZE, seed=0)
    loader = training_loader(clips, batches, workers=workers, device=CPU)
    out: list[Batch] = []
    for batches.epoch, batches.first_step in steps:
        out += [to_device(batch, CPU, config) for batch in loader]
    return out


def assert_same(left: list[Batch], right: list[Batch]) -> None:
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert torch.equal(one.frames, other.frames)
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.erased, other.erased)


def test_a_batch_holds_8_bit_frames_whose_channels_come_last_in_memory(tracklets: list[Tracklet]) -> None:
    batch = loaded(tracklets, steps=[(0, 0)])[0]
    assert batch.frames.shape == (4, 4, 3, *SIZE)
    assert batch.frames.dtype == torch.uint8
    assert batch.frames.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
    assert batch.labels.shape == (4,)
    assert batch.erased.shape == (4, 4)
    assert batch.erased.dtype == torch.bool
    assert batch.pending is None
    assert batch.damaged == ()


@pytest.mark.parametrize("crop", ["pad", "translate"])
@pytest.mark.parametrize("per", ["frame", "clip"])
def test_batches_do_not_depend_on_where_frames_are_augmented(tracklets: list[Tracklet], crop: str, per: str) -> None:
    worker, device = (
        loaded(tracklets, steps=[(0, 0), (1, 0)], augment_on=where, crop=crop, geometry_per=per, erase_per=per)
        for where in ("worker", "device")
    )
    assert_same(worker, device)


def test_an_epoch_loaded_from_the_middle_is_bit_identical(tracklets: list[Tracklet]) -> None:
    whole = loaded(tracklets, steps=[(0, 0), (1, 0)], epoch="tracklets")
    resumed = loaded(tracklets, steps=[(0, 1), (1, 0)], epoch="tracklets")
    assert_same(resumed, whole[1:])


def test_persistent_workers_follow_epoch_and_first_step(tracklets: list[Tracklet]) -> None:
    steps = [(0, 1), (1, 0), (2, 0)]
    assert_same(loaded(tracklets, steps=steps, workers=1), loaded(tracklets, steps=steps))


@pytest.mark.parametrize("part", ["training", "evaluation"])
def test_workers_are_forked_whatever_python_takes_by_itself(
    tracklets: list[Tracklet], start_method: str, part: str
) -> None:
    labels = [tracklet.identity for tracklet in tracklets]
    config = ClipConfig(identities=2, tracklets=2, pad=2)
    clips = TrainingClips(tracklets, labels, config, size=SIZE, seed=0)
    shown = EvaluationClips(tracklets, [Window(0, (0, 2))], size=SIZE)
    assert multiprocessing.get_start_method() == start_method
    others = multiprocessing.active_children()
    batches = iter(
        training_loader(clips, IdentityBatches(labels, config, 0), workers=1, device=CPU)
        if part == "training"
        else evaluation_loader(shown, batch=1, workers=1, device=CPU)
    )
    (worker,) = set(multiprocessing.active_children()) - set(others)
    assert isinstance(worker, multiprocessing.context.ForkProcess)
    next(batches)


def test_a_batch_of_clips_is_what_the_clips_are_one_by_one(tracklets: list[Tracklet]) -> None:
    clips = TrainingClips(tracklets, [0] * 8, ClipConfig(pad=2), size=SIZE, seed=0)
    requests = [ClipRequest(tracklet, 1, tracklet) for tracklet in range(8)]
    for request, together in zip(requests, clips.__getitems__(requests), strict=True):
        alone = clips[request]
        assert np.array_equal(alone.frames, together.frames)
        assert (alone.label, alone.plan) == (together.label, together.plan)


def test_evaluated_clips_come_in_order_unchanged(tracklets: list[Tracklet]) -> None:
    windows = [Window(tracklet, (0, 2)) for tracklet in range(5)]
    clips = EvaluationClips(tracklets, windows, size=SIZE)
    batches = list(evaluation_loader(clips, batch=2, workers=0, device=CPU))
    assert [len(batch.frames) for batch in batches] == [2, 2, 1]
    expected = np.asarray(Image.open(tracklets[3].frames[2]))
    assert np.array_equal(torch.cat([batch.frames for batch in batches])[3, 1].permute(1, 2, 0).numpy(), expected)


@pytest.fixture
def partly_damaged(tracklets: list[Tracklet], tmp_path: Path) -> list[Tracklet]:
    """The tracklets, with the middle frame of each empty."""
    damaged = []
    for number, tracklet in enumerate(tracklets):
        empty = tmp_path / f"{number}.png"
        empty.touch()
        damaged.append(tracklet._replace(frames=(*tracklet.frames[:2], str(empty), *tracklet.frames[3:])))
    return damaged


@pytest.mark.parametrize("where", ["worker", "device"])
def test_a_batch_names_its_damaged_frames_once_and_shows_their_neighbours(
    tracklets: list[Tracklet], partly_damaged: list[Tracklet], where: str
) -> None:
    mended = [
        tracklet._replace(frames=(*tracklet.frames[:2], tracklet.frames[1], *tracklet.frames[3:]))
        for tracklet in tracklets
    ]
    settings = {"steps": [(0, 0)], "augment_on": where, "sampling": "consecutive"}
    batches = loaded(partly_damaged, **settings)
    assert_same(batches, loaded(mended, **settings))
    named = [path for batch in batches for path in batch.damaged]
    assert set(named) <= {tracklet.frames[2] for tracklet in partly_damaged}
    assert len(named) == len(set(named)) > 0


def test_evaluated_batches_name_their_damaged_frames(partly_damaged: list[Tracklet]) -> None:
    windows = [Window(tracklet, (1, 2)) for tracklet in (0, 0, 1, 2)]
    clips = EvaluationClips(partly_damaged, windows, size=SIZE)
    first, second = evaluation_loader(clips, batch=2, workers=0, device=CPU)
    assert first.damaged == (partly_damaged[0].frames[2],)
    assert second.damaged == (partly_damaged[1].frames[2], partly_damaged[2].frames[2])
    assert torch.equal(first.frames[:, 0], first.frames[:, 1])
