"""iLIDS-VID: identities by their place in the sorted list, the first half tested on, folders that may stand
elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from miniatures import IDENTITIES, write_ilids_splits, write_miniature

from trainer.data.dataset import Splits, dataset_fingerprint
from trainer.data.readers.ilids_vid import ILIDS_VID, LAYOUT
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


def test_an_identity_that_one_camera_lacks_is_named(root: Path, images: Path) -> None:
    shutil.rmtree(images / "cam2" / "person005")
    refused(root, images / "cam2" / "person005", "no such folder", "unpack iLIDS-VID again")


def test_an_identity_listed_twice_is_named_with_the_row(root: Path) -> None:
    table = np.tile(np.arange(1, 9), (10, 1))
    table[6, 0] = 5
    write_ilids_splits(root, table)
    refused(root, root / LAYOUT.splits_file, "row 7: identity 5 is listed twice")
