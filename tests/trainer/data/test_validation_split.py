"""The validation split: what every split promises, and the file it is saved in."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from strategies import quick

from trainer.data.dataset import NO_CAMERA, Tracklet, fingerprint
from trainer.data.splits import (
    FEW_QUERIES,
    ValidationConfig,
    ValidationSplit,
    cut_validation,
    read_validation,
    write_validation,
)
from trainer.errors import DataError


def tracklet(identity: int, camera: int, number: int = 1, folder: str = "data", frames: int = 2) -> Tracklet:
    stem = f"{folder}/{identity:04d}C{camera}T{number:04d}F"
    return Tracklet(tuple(f"{stem}{frame:03d}.jpg" for frame in range(1, frames + 1)), identity, camera)


def crowd(identities: int, cameras: int, each: int = 1) -> list[Tracklet]:
    return [
        tracklet(identity, camera, number)
        for identity in range(1, identities + 1)
        for camera in range(1, cameras + 1)
        for number in range(1, each + 1)
    ]


# For each identity, the cameras of their tracklets; the first six are seen by two cameras.
sightings = st.tuples(
    st.lists(st.lists(st.integers(1, 6), min_size=2).filter(lambda c: len(set(c)) > 1), min_size=6, max_size=9),
    st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=4), max_size=3),
).map(lambda both: both[0] + both[1])
trains = sightings.map(
    lambda identities: [
        tracklet(identity, camera, number)
        for identity, cameras in enumerate(identities, start=1)
        for number, camera in enumerate(cameras)
    ]
).flatmap(st.permutations)
others = {"distractors": st.floats(0, 1), "seed": st.integers(0, 2**40)}
shares = st.builds(ValidationConfig, share=st.floats(0.01, 0.4), **others)
configs = shares | st.builds(ValidationConfig, folds=st.just(3), fold=st.integers(0, 2), **others)


@settings(max_examples=50, deadline=None)
@given(train=trains, config=configs)
def test_no_held_out_identity_is_trained_on_and_each_is_asked_for_once_per_camera_and_can_be_found_by_another(
    train: list[Tracklet], config: ValidationConfig
) -> None:
    split = cut_validation(train, config)
    trained, query, gallery = ([train[index] for index in part] for part in (split.train, split.query, split.gallery))
    assert not {item.identity for item in trained} & set(split.identities)
    assert {item.identity for item in query} == set(split.identities)
    assert len({item[1:] for item in query}) == len(query)
    for asked in query:
        assert any(item.identity == asked.identity and item.camera != asked.camera for item in gallery)


@settings(max_examples=50, deadline=None)
@given(train=trains, config=configs)
def test_parts_are_complete_and_only_distractors_are_shared(train: list[Tracklet], config: ValidationConfig) -> None:
    split = cut_validation(train, config)
    parts = [set(split.train), set(split.query), set(split.gallery)]
    assert set.union(*parts) == set(range(len(train)))
    assert parts[0] & parts[2] == set(split.distractors)
    assert not parts[1] & (parts[0] | parts[2])
    assert len(split.distractors) == round(config.distractors * len(split.train))
    assert cut_validation(list(train), config) == split


def test_another_seed_draws_other_identities() -> None:
    train = crowd(identities=40, cameras=3)
    drawn = {cut_validation(train, ValidationConfig(seed=seed)).identities for seed in range(8)}
    assert len(drawn) > 1


def test_share_counts_all_identities() -> None:
    assert len(cut_validation(crowd(identities=40, cameras=2), ValidationConfig(share=0.25)).identities) == 10


def test_small_shares_still_hold_out_two_identities() -> None:
    assert len(cut_validation(crowd(identities=10, cameras=2), ValidationConfig(share=0.01)).identities) == 2


def test_one_tracklet_per_camera_leaves_one_query_per_identity_and_pair_of_cameras() -> None:
    split = cut_validation(crowd(identities=10, cameras=2), ValidationConfig(share=0.3, distractors=0))
    assert len(split.query) == len(split.gallery) == 3


def test_two_tracklets_per_camera_make_every_camera_a_query() -> None:
    split = cut_validation(crowd(identities=10, cameras=3, each=2), ValidationConfig(share=0.2))
    assert len(split.query) == 2 * 3


def test_identities_under_one_camera_are_never_held_out() -> None:
    train = crowd(identities=4, cameras=2) + [tracklet(identity, 1) for identity in range(5, 30)]
    assert set(cut_validation(train, ValidationConfig(share=0.13)).identities) == {1, 2, 3, 4}


@quick
@given(st.lists(st.integers(2, 6), min_size=6, max_size=9), shares)
def test_without_cameras_one_tracklet_of_each_held_out_identity_is_a_query(
    tracklets: list[int], config: ValidationConfig
) -> None:
    train = [tracklet(who, NO_CAMERA, each) for who, count in enumerate(tracklets, 1) for each in range(count)]
    split = cut_validation(train, config)
    assert sorted(train[index].identity for index in split.query) == list(split.identities)
    assert {train[index].identity for index in split.gallery} >= set(split.identities)


def test_without_cameras_identities_of_one_tracklet_are_never_held_out() -> None:
    alone = [tracklet(identity, NO_CAMERA) for identity in range(1, 6)]
    again = [tracklet(identity, NO_CAMERA, 2) for identity in (2, 4)]
    assert cut_validation([*alone, *again], ValidationConfig(share=0.4)).identities == (2, 4)
    with pytest.raises(DataError, match="but only 2 have two tracklets or more"):
        cut_validation([*alone, *again], ValidationConfig(share=0.6))
    with pytest.raises(DataError, match="every identity has one tracklet only"):
        cut_validation(alone, ValidationConfig())


def test_too_few_identities_under_two_cameras_are_refused_with_their_number() -> None:
    train = [tracklet(identity, 1) for identity in range(1, 30)] + [tracklet(1, 2)]
    with pytest.raises(DataError, match="only 1 are seen by two cameras"):
        cut_validation(train, ValidationConfig())


@pytest.mark.parametrize("config", [ValidationConfig(), ValidationConfig(folds=3)], ids=["share", "folds"])
@pytest.mark.parametrize("cameras", [(2,), (1, 2, 3)])
def test_people_seen_by_one_camera_are_refused_without_advice_that_cannot_help(
    config: ValidationConfig, cameras: tuple[int, ...]
) -> None:
    train = [
        tracklet(identity, cameras[identity % len(cameras)], number) for identity in range(1, 30) for number in (1, 2)
    ]
    said = "by camera 2 only" if cameras == (2,) else "by one camera only"
    with pytest.raises(DataError, match=f"training tracklets: every identity is seen {said}") as caught:
        cut_validation([*train, tracklet(0, 5)], config)
    assert "lower" not in str(caught.value)
    assert len(cut_validation(train, ValidationConfig(share=0)).train) == len(train), "without validation it can train"


@pytest.mark.parametrize("train", [[], crowd(identities=1, cameras=2), crowd(identities=3, cameras=2)])
def test_splits_that_leave_no_identity_to_train_on_are_refused(train: list[Tracklet]) -> None:
    with pytest.raises(DataError, match="training tracklets"):
        cut_validation(train, ValidationConfig())


# Folds


@quick
@given(train=trains, seed=st.integers(0, 2**40), folds=st.integers(2, 3))
def test_folds_are_disjoint_and_hold_out_every_identity_that_two_cameras_saw(
    train: list[Tracklet], seed: int, folds: int
) -> None:
    splits = [cut_validation(train, ValidationConfig(seed=seed, folds=folds, fold=fold)) for fold in range(folds)]
    held = [identity for split in splits for identity in split.identities]
    cameras = {identity: {item.camera for item in train if item.identity == identity} for _, identity, _ in train}
    assert sorted(held) == [identity for identity in sorted(cameras) if len(cameras[identity]) > 1]
    assert max(len(split.identities) for split in splits) - min(len(split.identities) for split in splits) <= 1


def test_share_has_no_effect_on_folds() -> None:
    train = crowd(identities=12, cameras=2)
    assert cut_validation(train, ValidationConfig(folds=3, share=0.9)) == cut_validation(
        train, ValidationConfig(folds=3)
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"fold": 1}, "folds is not set"),
        ({"folds": 3, "fold": 3}, "of 3 folds the last one is 2"),
        ({"folds": 1}, "greater than or equal to 2"),
        ({"folds": 3, "fold": -1}, "greater than or equal to 0"),
    ],
)
def test_folds_that_are_not_there_are_refused(settings: dict[str, int], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ValidationConfig.model_validate(settings)


def test_more_folds_than_pairs_of_identities_are_refused_with_both_numbers() -> None:
    with pytest.raises(DataError, match=r"6 folds .* only 10 .* lower data\.validation\.folds"):
        cut_validation(crowd(identities=10, cameras=2), ValidationConfig(folds=6))


# Coarse objectives


def test_few_queries_are_warned_of_once_with_what_one_is_worth(caplog: pytest.LogCaptureFixture) -> None:
    cut_validation(crowd(identities=89, cameras=2), ValidationConfig())
    (record,) = caplog.records
    assert (record.levelno, record.name) == (logging.WARNING, "trainer.data.splits")
    assert "9 queries only" in record.getMessage()
    assert "one query is worth 11.1 points of rank-1; data.validation.folds" in record.getMessage()


def test_enough_queries_are_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    assert len(cut_validation(crowd(identities=100, cameras=2), ValidationConfig(share=0.5)).query) == FEW_QUERIES
    assert not caplog.records


def test_the_89_training_identities_of_prid2011_can_be_cut_into_ten_folds() -> None:
    train = crowd(identities=89, cameras=2)
    splits = [cut_validation(train, ValidationConfig(folds=10, fold=fold)) for fold in range(10)]
    assert sorted(len(split.query) for split in splits) == [8] + [9] * 9
    assert sum(len(split.query) for split in splits) == 89


# The fingerprint and the file


def test_fingerprint_survives_a_move() -> None:
    here, there = [tracklet(1, 2, folder="here")], [tracklet(1, 2, folder="far/away")]
    assert fingerprint(here) == fingerprint(there)


@pytest.mark.parametrize(
    "other",
    [
        [tracklet(2, 1)],
        [tracklet(1, 2)],
        [tracklet(1, 1, number=2)],
        [tracklet(1, 1, frames=3)],
        [tracklet(1, 1), tracklet(1, 1)],
        [],
    ],
)
def test_fingerprint_tells_tracklets_apart(other: Sequence[Tracklet]) -> None:
    assert fingerprint(other) != fingerprint([tracklet(1, 1)])


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, ValidationSplit, list[Tracklet]]:
    train = crowd(identities=10, cameras=3, each=2)
    split = cut_validation(train, ValidationConfig())
    write_validation(tmp_path / "split.json", split, train)
    return tmp_path / "split.json", split, train


def test_saved_split_reads_back_equal(saved: tuple[Path, ValidationSplit, list[Tracklet]]) -> None:
    path, split, train = saved
    assert read_validation(path, train) == split


def test_saving_leaves_no_other_file(saved: tuple[Path, ValidationSplit, list[Tracklet]]) -> None:
    path, split, train = saved
    write_validation(path, split, train)
    assert list(path.parent.iterdir()) == [path]


def test_failed_save_keeps_the_old_file(
    saved: tuple[Path, ValidationSplit, list[Tracklet]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, split, train = saved
    before = path.read_bytes()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        write_validation(path, split, train)
    assert list(path.parent.iterdir()) == [path]
    assert path.read_bytes() == before


def test_split_of_other_tracklets_is_refused(saved: tuple[Path, ValidationSplit, list[Tracklet]]) -> None:
    path, _, train = saved
    with pytest.raises(DataError, match=r"split\.json: cut from other"):
        read_validation(path, train[:-1])


def test_edited_split_is_refused(saved: tuple[Path, ValidationSplit, list[Tracklet]]) -> None:
    path, _, train = saved
    content = json.loads(path.read_text())
    content["query"].pop()
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"split\.json: changed"):
        read_validation(path, train)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b"null"])
def test_damaged_split_is_refused(saved: tuple[Path, ValidationSplit, list[Tracklet]], damage: bytes) -> None:
    path, _, train = saved
    path.write_bytes(damage)
    with pytest.raises(DataError, match=r"split\.json"):
        read_validation(path, train)


def test_missing_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"split\.json: cannot be read"):
        read_validation(tmp_path / "split.json", [])
