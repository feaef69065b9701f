"""Batches of P persons with K tracklets: what holds for each batch and for each epoch."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.batches import IdentityBatches
from trainer.clips import ClipConfig
from trainer.errors import ConfigError

label_lists = st.lists(st.integers(0, 12), min_size=4, max_size=60).filter(lambda labels: len(set(labels)) >= 4)


def planned(labels: list[int], *, persons: int = 4, tracklets: int = 3, seed: int = 0, epoch: int = 0):
    batches = IdentityBatches(labels, ClipConfig(persons=persons, tracklets=tracklets), seed)
    batches.epoch = epoch
    return list(batches), len(batches)


@given(labels=label_lists, epoch=st.integers(0, 3))
def test_every_batch_holds_p_persons_with_k_tracklets_each(labels: list[int], epoch: int) -> None:
    batches, count = planned(labels, epoch=epoch)
    assert len(batches) == count == len(set(labels)) // 4
    for batch in batches:
        drawn = Counter(labels[request.tracklet] for request in batch)
        assert list(drawn.values()) == [3] * 4


@given(labels=label_lists)
def test_no_person_appears_twice_in_an_epoch(labels: list[int]) -> None:
    batches, _ = planned(labels)
    persons = [labels[batch[clip].tracklet] for batch in batches for clip in range(0, 12, 3)]
    assert len(persons) == len(set(persons))


@given(labels=label_lists)
def test_tracklets_repeat_only_where_a_person_has_fewer_than_k(labels: list[int]) -> None:
    available = Counter(labels)
    for batch in planned(labels)[0]:
        for start in range(0, len(batch), 3):
            drawn = [request.tracklet for request in batch[start : start + 3]]
            if available[labels[drawn[0]]] >= 3:
                assert len(set(drawn)) == 3


@given(labels=label_lists)
def test_every_clip_of_an_epoch_has_a_position_of_its_own(labels: list[int]) -> None:
    positions = [request.position for batch in planned(labels)[0] for request in batch]
    assert positions == list(range(len(positions)))


def test_an_epoch_depends_on_seed_and_epoch_alone() -> None:
    labels = [person for person in range(8) for _ in range(4)]
    assert planned(labels, epoch=2) == planned(labels, epoch=2)
    assert planned(labels, epoch=2) != planned(labels, epoch=3)
    assert planned(labels, seed=1) != planned(labels, seed=2)


def test_every_person_is_shown_sooner_or_later() -> None:
    labels = list(range(5)) * 2
    shown = {labels[request.tracklet] for e in range(20) for batch in planned(labels, epoch=e)[0] for request in batch}
    assert shown == set(range(5))


def test_too_few_persons_are_refused_with_both_numbers() -> None:
    with pytest.raises(ConfigError, match="8 persons per batch, but only 3"):
        IdentityBatches([0, 1, 2], ClipConfig(persons=8), 0)
