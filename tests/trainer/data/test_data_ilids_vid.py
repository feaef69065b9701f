"""iLIDS-VID: identities by their place in the sorted list, the first half tested on, folders that may stand
elsewhere."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from miniatures import IDENTITIES, write_ilids_splits, write_miniature
from scipy.io import loadmat, savemat

from trainer.data.dataset import Splits, dataset_fingerprint
from trainer.data.readers.ilids_vid import ILIDS_VID, LAYOUT, VARIABLE
from trainer.data.readers.matlab import read_matrix
from trainer.data.readers.two_cameras import FOLDS
from trainer.errors import DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_miniature("ilids_vid", tmp_path / "iLIDS-VID")
    return tmp_path / "iLIDS-VID"


@pytest.fixture
def images(root: Path) -> Path:
    return root / "i-LIDS-VID" / "sequences"


def refused(root: Path, place: Path, *said: str) -> None:
    with pytest.raises(DataError) as failure:
        ILIDS_VID(root)
    message = str(failure.value)
    assert message.startswith(f"{place}: ")
    assert message.isprintable()
    for part in said:
        assert part in message


def identities(splits: Splits) -> tuple[set[int], set[int]]:
    return {item.identity for item in splits.train}, {item.identity for item in splits.query}


def test_the_first_half_of_a_row_is_tested_on_and_the_rest_trained_on(root: Path) -> None:
    write_ilids_splits(root, np.array([[8, 2, 4, 6, 1, 3, 5, 7]] + [list(range(1, 9))] * 9))
    trained, tested = identities(ILIDS_VID(root))
    assert tested == {34, 2, 5, 13}  # IDENTITIES in places 8, 2, 4 and 6
    assert trained == set(IDENTITIES) - tested
    assert identities(ILIDS_VID(root, 3)) == (set(IDENTITIES[4:]), set(IDENTITIES[:4]))


def test_places_count_into_the_sorted_folders_whatever_the_file_system_lists_first(root: Path, images: Path) -> None:
    before = ILIDS_VID(root)
    first = images / "cam1" / "person001"
    shutil.copytree(first, images / "cam1" / "new")
    shutil.rmtree(first)
    (images / "cam1" / "new").rename(first)
    assert ILIDS_VID(root) == before


def test_queries_are_camera_1_and_the_gallery_camera_2(root: Path) -> None:
    splits = ILIDS_VID(root)
    assert {item.camera for item in splits.query} == {1}
    assert {item.camera for item in splits.gallery} == {2}
    assert [item.identity for item in splits.query] == [item.identity for item in splits.gallery]
    assert [item.camera for item in splits.train] == [1, 2] * 4


def test_files_that_are_no_frames_are_left_out(root: Path, images: Path) -> None:
    before = ILIDS_VID(root)
    for name in ("Thumbs.db", "._cam1_person001_00317.png", "cam1_person001_00317.png.part"):
        (images / "cam1" / "person001" / name).touch()
    (images / "cam1" / ".DS_Store").touch()
    assert ILIDS_VID(root) == before


def test_the_folder_above_and_the_folder_of_the_images_are_understood_too(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = dataset_fingerprint(ILIDS_VID(root))
    for other in (root / "i-LIDS-VID", root.parent):
        if other == root.parent:
            assert not (other / Path(LAYOUT.splits_file).parent).exists()
        assert dataset_fingerprint(ILIDS_VID(other)) == expected
    monkeypatch.chdir(root / "i-LIDS-VID")
    assert dataset_fingerprint(ILIDS_VID(Path())) == expected
    assert not caplog.records


def test_without_the_published_file_halves_are_drawn_with_a_warning(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (root / LAYOUT.splits_file).unlink()
    halves = [identities(ILIDS_VID(root, fold)) for fold in range(FOLDS)]
    assert all(trained | tested == set(IDENTITIES) and len(tested) == 4 for trained, tested in halves)
    assert len({frozenset(tested) for _, tested in halves}) > 1
    (record,) = caplog.records  # one for all partitions
    assert record.levelno == logging.WARNING
    place = root / LAYOUT.splits_file
    assert record.getMessage().startswith(f"{place}: no such file; splits are drawn here from 8")
    assert "NOT the published ones" in record.getMessage()


def test_an_identity_that_one_camera_lacks_is_named(root: Path, images: Path) -> None:
    shutil.rmtree(images / "cam2" / "person005")
    refused(root, images / "cam2" / "person005", "no such folder", "unpack iLIDS-VID again")


def test_missing_cameras_and_frames_are_named(root: Path, images: Path) -> None:
    for frame in (images / "cam1" / "person005").iterdir():
        frame.unlink()
    refused(root, images / "cam1" / "person005", "is empty; unpack iLIDS-VID again")
    shutil.rmtree(images / "cam2")
    refused(root, images / "cam2", "no such folder")
    shutil.rmtree(images)
    refused(root, images, "nor", "data.root must be the folder that holds iLIDS-VID's i-LIDS-VID/")


def test_an_identity_listed_twice_is_named_with_the_row(root: Path) -> None:
    table = np.tile(np.arange(1, 9), (10, 1))
    table[6, 0] = 5
    write_ilids_splits(root, table)
    refused(root, root / LAYOUT.splits_file, "row 7: identity 5 is listed twice")


@pytest.mark.parametrize("shape", [(9, 8), (10, 7), (8, 10)])
def test_tables_of_another_shape_are_refused(root: Path, shape: tuple[int, int]) -> None:
    write_ilids_splits(root, np.ones(shape))
    refused(root, root / LAYOUT.splits_file, f"shape {shape}", "[10 8] is expected")


@pytest.mark.parametrize("compressed", [False, True])
def test_mutated_tables_of_the_published_size_are_read_or_named(tmp_path: Path, compressed: bool) -> None:
    """scipy's reader crashes the process on some of such files."""
    generator = np.random.default_rng(0)
    table = np.stack([generator.permutation(300) + 1 for _ in range(FOLDS)])
    path = tmp_path / "splits.mat"
    savemat(path, {VARIABLE: table.astype(np.float64)}, do_compression=compressed)
    np.testing.assert_array_equal(read_matrix(path, VARIABLE), loadmat(path)[VARIABLE])
    content = path.read_bytes()
    refusals = 0
    for number in range(500):
        mutated = bytearray(content)
        span = len(content) if number % 2 else 200  # half of the changes hit the headers
        for place in generator.integers(124, span, int(generator.integers(1, 6))):
            mutated[place] = generator.integers(256)
        path.write_bytes(mutated)
        try:
            read_matrix(path, VARIABLE)
        except DataError as error:
            refusals += 1
            assert str(error).startswith(f"{path}: ")
            assert str(error).isprintable()
    assert refusals
