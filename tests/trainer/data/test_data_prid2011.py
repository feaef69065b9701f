"""PRID2011: the published partitions, drawn ones that say so, and one clear error for each way to be wrong."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkout import ROOT
from PIL import Image
from pydantic import ValidationError

from trainer.data import DataConfig, read_splits
from trainer.data.dataset import fingerprint
from trainer.data.frames import read_frame
from trainer.data.readers.prid2011 import LAYOUT, PRID2011
from trainer.data.readers.two_cameras import FOLDS
from trainer.errors import DataError

PUBLISHED = ROOT.parent / "shared" / "data" / "prid2011" / "splits_prid2011.json"
SPLITS_FILE = LAYOUT.splits_file
CAMERAS, LEAST_FRAMES = LAYOUT.cameras, LAYOUT.least_frames
IDENTITIES = 12
LENGTHS = [LEAST_FRAMES + number % 3 for number in range(IDENTITIES)]
SHORT = {"cam_a": 3, "cam_b": 8}  # identities that a camera saw for one frame less than is needed to be drawn


def identity(number: int) -> str:
    return f"person_{number:04d}"


def write_identities(images: Path, identities: Sequence[str], frames: int) -> None:
    for camera in CAMERAS:
        for name in identities:
            folder = images / camera / name
            folder.mkdir(parents=True)
            for frame in range(1, frames + 1):
                (folder / f"{frame:04d}.png").touch()


@pytest.fixture(scope="session")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve identities under both cameras and one under camera b only, with real images and ten partitions."""
    root = tmp_path_factory.mktemp("prid") / "prid2011"
    generator = np.random.default_rng(0)
    picture = Image.fromarray(generator.integers(0, 256, (8, 4, 3), dtype=np.uint8))
    for camera in CAMERAS:
        for number, length in enumerate(LENGTHS, start=1):
            folder = root / "multi_shot" / camera / identity(number)
            folder.mkdir(parents=True)
            missing = number == SHORT[camera]
            for frame in range(1, (LEAST_FRAMES - 1 if missing else length) + 1):
                picture.save(folder / f"{frame:04d}.png")
    shutil.copytree(root / "multi_shot" / "cam_b" / identity(1), root / "multi_shot" / "cam_b" / identity(700))
    (root / SPLITS_FILE).write_text(json.dumps(partitions()))
    return root


def partitions() -> list[Any]:
    """Ten partitions; the first trains on identities 1, 3, 5... and tests on 2, 4, 6..., both listed backwards."""
    made = []
    for fold in range(FOLDS):
        numbers = np.roll(np.arange(IDENTITIES, 0, -1), fold).tolist()
        made.append({"test": [identity(n) for n in numbers[::2]], "train": [identity(n) for n in numbers[1::2]]})
    return made


@pytest.fixture
def root(intact: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(intact, tmp_path / "prid2011"))


@pytest.fixture
def without_file(root: Path) -> Path:
    (root / SPLITS_FILE).unlink()
    return root


def refused(root: Path, place: Path, *said: str) -> None:
    """Reading fails with one line that begins with the file and says what is wrong and what to do."""
    with pytest.raises(DataError) as failure:
        PRID2011(root)
    message = str(failure.value)
    assert message.startswith(f"{place}: ")
    assert message.isprintable()
    for part in said:
        assert part in message


# The layout


def test_the_published_queries_are_camera_a_and_the_gallery_camera_b_of_the_same_identities(
    intact: Path, caplog: pytest.LogCaptureFixture
) -> None:
    splits = PRID2011(intact)
    assert not caplog.records
    assert [item[1:] for item in splits.query] == [(number, 1) for number in range(2, IDENTITIES + 1, 2)]
    assert [item[1:] for item in splits.gallery] == [(number, 2) for number in range(2, IDENTITIES + 1, 2)]


def test_training_identities_are_seen_by_both_cameras(intact: Path) -> None:
    train = PRID2011(intact).train
    assert [item[1:] for item in train] == [(n, camera) for n in range(1, IDENTITIES + 1, 2) for camera in (1, 2)]


def test_frames_are_all_of_the_folder_in_temporal_order(intact: Path) -> None:
    tracklet = PRID2011(intact).train[0]
    folder = intact / "multi_shot" / "cam_a" / "person_0001"
    assert tracklet.frames == tuple(str(folder / f"{number:04d}.png") for number in range(1, LENGTHS[0] + 1))
    assert read_frame(tracklet.frames[0], 8, 4).shape == (8, 4, 3)


def test_the_folder_of_the_archive_may_stand_in_between(root: Path) -> None:
    before = PRID2011(root)
    (root / "prid_2011").mkdir()
    (root / "multi_shot").rename(root / "prid_2011" / "multi_shot")
    after = PRID2011(root)
    assert [item[1:] for item in after.train] == [item[1:] for item in before.train]
    assert fingerprint(after.train) == fingerprint(before.train)


def test_the_configured_fold_is_read(intact: Path) -> None:
    config = DataConfig(name="prid2011", root=intact, fold=3)
    assert read_splits(config) == PRID2011(intact, 3)


# The configuration


@pytest.mark.parametrize("fold", [-1, FOLDS])
def test_a_fold_that_is_not_there_is_refused(fold: int) -> None:
    with pytest.raises(ValidationError, match="fold"):
        DataConfig(name="prid2011", fold=fold)


def test_a_fold_of_a_data_set_without_folds_is_refused() -> None:
    with pytest.raises(ValidationError, match="fold: 1, but data set mars has one partition only; leave fold at 0"):
        DataConfig(name="mars", fold=1)


# Partitions drawn here


def test_without_the_published_file_identities_that_both_cameras_saw_long_enough_are_halved(without_file: Path) -> None:
    splits = PRID2011(without_file)
    trained = {item.identity for item in splits.train}
    tested = {item.identity for item in splits.query}
    assert trained | tested == set(range(1, IDENTITIES + 1)) - set(SHORT.values())
    assert len(trained) == len(tested) == 5
    assert not trained & tested


def test_drawn_partitions_repeat_and_differ_from_each_other(without_file: Path) -> None:
    tested = [tuple(item.identity for item in PRID2011(without_file, fold).query) for fold in range(FOLDS)]
    again = [tuple(item.identity for item in PRID2011(without_file, fold).query) for fold in range(FOLDS)]
    assert tested == again
    assert len(set(tested)) == FOLDS


def test_drawn_partitions_say_once_that_they_are_not_the_published_ones(
    without_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for fold in range(FOLDS):
        PRID2011(without_file, fold)
    (record,) = caplog.records  # one for all partitions
    assert (record.levelno, record.name) == (logging.WARNING, "trainer.data.readers.two_cameras")
    assert record.getMessage().startswith(f"{without_file / SPLITS_FILE}: no such file; splits are drawn here from 10")
    assert "NOT the published ones" in record.getMessage()


def test_too_few_identities_to_draw_from_are_counted(without_file: Path) -> None:
    images = without_file / "multi_shot"
    for number in range(1, IDENTITIES):
        shutil.rmtree(images / "cam_a" / identity(number))
    refused(without_file, images, f"1 identities with at least {LEAST_FRAMES} frames in both", "two are needed")


# Mistakes


def test_missing_folders_are_named(tmp_path: Path, root: Path) -> None:
    refused(tmp_path / "absent", tmp_path / "absent", "no such folder", "data.root")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", tmp_path / "empty" / "multi_shot", "nor", "prid_2011/multi_shot", "data.root")
    shutil.rmtree(root / "multi_shot" / "cam_b")
    refused(root, root / "multi_shot" / "cam_b", "unpack PRID2011 again")


def test_a_listed_identity_without_folder_is_named(root: Path) -> None:
    folder = root / "multi_shot" / "cam_b" / identity(4)
    shutil.rmtree(folder)
    refused(root, folder, SPLITS_FILE, "unpack PRID2011 again")


def test_an_identity_without_frames_is_named(root: Path) -> None:
    folder = root / "multi_shot" / "cam_a" / identity(5)
    for frame in folder.iterdir():
        frame.unlink()
    refused(root, folder, "is empty; unpack PRID2011 again")


@pytest.mark.parametrize("ending", [".PNG", ".jpg"])
def test_frames_of_another_ending_are_counted_and_the_first_is_named(root: Path, ending: str) -> None:
    for frame in root.glob("multi_shot/*/*/*.png"):
        frame.rename(frame.with_suffix(ending))
    folder = root / "multi_shot" / "cam_a" / min(partitions()[0]["train"])
    held = len(list(folder.iterdir()))
    said = f"holds {held} files, none named like 0001.png; the first is 0001{ending}; "
    with pytest.raises(DataError, match=said):
        PRID2011(root)
    (root / SPLITS_FILE).unlink()
    drawn = rf"0 identities with .*person_0001 holds \d+ files, none named like 0001\.png; the first is 0001\{ending}"
    with pytest.raises(DataError, match=drawn):
        PRID2011(root)


def test_the_split_file_beside_the_folder_prid_2011_is_read_where_that_folder_is_named(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (root / "prid_2011").mkdir()
    (root / "multi_shot").rename(root / "prid_2011" / "multi_shot")
    assert PRID2011(root / "prid_2011") == PRID2011(root)
    assert not caplog.records


def first_partition(**lists: Any) -> list[Any]:
    return [partitions()[0] | lists, *partitions()[1:]]


TRAIN = partitions()[0]["train"]
MISTAKES = {
    "no list": ({"train": [], "test": []}, "must be a list"),
    "too few": (partitions()[:9], "9 splits, 10 are expected"),
    "too many": ([*partitions(), partitions()[0]], "11 splits, 10 are expected"),
    "part missing": ([{"train": TRAIN}, *partitions()[1:]], "[0].test: is missing"),
    "part too many": (first_partition(val=[]), "[0].val"),
    "empty part": (first_partition(train=[]), "[0].train: needs at least 1"),
    "no name": (first_partition(train=["0001"]), "[0].train[0]: must be a name like person_0001 (is '0001')"),
    "path": (first_partition(train=["person_0001/../x"]), "[0].train[0]: must be a name like person_0001"),
    "number": (first_partition(train=[1]), "[0].train[0]: "),
    "name twice": (first_partition(train=[*TRAIN, TRAIN[0]]), f"[0].train: {TRAIN[0]} is listed twice"),
    "in both parts": (first_partition(test=TRAIN[:1]), f"[0]: {TRAIN[0]} is listed under train and under test"),
}


@pytest.mark.parametrize(("content", "said"), MISTAKES.values(), ids=MISTAKES.keys())
def test_wrong_partitions_are_named_with_their_place(root: Path, content: Any, said: str) -> None:
    (root / SPLITS_FILE).write_text(json.dumps(content))
    refused(root, root / SPLITS_FILE, said, "published file")


@pytest.mark.parametrize(
    "content", [b"", b"\x00\xff" * 99, b"<html>not found</html>", b"[" * 99_999, b"[{}", b"null", b" " * (2**20 + 1)]
)
def test_files_that_hold_something_else_are_named(root: Path, content: bytes) -> None:
    (root / SPLITS_FILE).write_bytes(content)
    refused(root, root / SPLITS_FILE)


def test_a_pipe_in_place_of_the_partitions_is_named_and_not_waited_for(without_file: Path) -> None:
    os.mkfifo(without_file / SPLITS_FILE)
    refused(without_file, without_file / SPLITS_FILE, "is no regular file")


# The published file


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real partitions, with a folder of one empty frame per identity and camera."""
    if not PUBLISHED.is_file():
        pytest.skip("the published splits of PRID2011 are not here")
    root = tmp_path_factory.mktemp("published")
    shutil.copy(PUBLISHED, root / SPLITS_FILE)
    first = json.loads(PUBLISHED.read_text())[0]
    write_identities(root / "multi_shot", [*first["train"], *first["test"]], frames=1)
    return root


def test_published_partitions_are_ten_times_89_and_89_of_the_same_178_identities(published: Path) -> None:
    everyone = set()
    for fold in range(FOLDS):
        splits = PRID2011(published, fold)
        assert [len(part) for part in splits] == [178, 89, 89]
        trained, tested = {item.identity for item in splits.train}, {item.identity for item in splits.query}
        assert (len(trained), len(tested), len(trained | tested)) == (89, 89, 178)
        everyone |= trained | tested
    assert len(everyone) == 178
    assert {1, 198} <= everyone
    assert not everyone & {6, 19, 31, 52, 57, 62, 71, 94, 106, 120, 136, 138, 139, 142, 145, 158, 159, 166, 183, 190}
