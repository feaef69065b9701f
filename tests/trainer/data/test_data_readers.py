"""What every reader of a data set promises, on a miniature of its layout and on damaged ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from miniatures import MINIATURES, write_hdf5, write_ilids_splits, write_miniature
from scipy.io import loadmat, savemat
from strategies import mutated, mutations, quick

from trainer.data import READERS, DataConfig, read_splits, recognised
from trainer.data.banned import refuse_banned
from trainer.data.dataset import JUNK, dataset_fingerprint
from trainer.data.folder import find_data
from trainer.data.frames import read_frame
from trainer.data.packing import pack_data_set
from trainer.errors import DataError

NAMES = tuple(READERS)
TESTED = [name for name in NAMES if READERS[name].tested]
FILES = [(name, file) for name, miniature in MINIATURES.items() for file in miniature.files]
DRAWN_WITHOUT = {"prid2011", "ilids_vid"}  # without their file, partitions are drawn and a warning says so


@pytest.fixture(scope="session")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All miniatures, each in a folder of its name."""
    root = tmp_path_factory.mktemp("miniatures")
    for name in NAMES:
        write_miniature(name, root / name)
    return root


@pytest.fixture
def copy(intact: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Makes a copy to damage."""
    return lambda name: Path(shutil.copytree(intact / name, tmp_path / name))


def refused(name: str, root: Path, place: Path) -> str:
    """Reading fails with lines that begin with the file, one for each fault; returns them."""
    with pytest.raises(DataError) as failure:
        read_splits(DataConfig(name=name, root=root))
    message = str(failure.value)
    assert all(line.startswith(f"{place}: ") and line.isprintable() for line in message.split("\n")), message
    return message


# What is read


@pytest.mark.parametrize("name", NAMES)
def test_every_part_holds_tracklets_whose_frames_are_there(intact: Path, name: str) -> None:
    splits = READERS[name](intact / name)
    assert splits.train
    assert all(splits) == READERS[name].tested
    for part in filter(None, splits):
        assert all(Path(frame).is_file() for tracklet in part for frame in tracklet.frames)
        assert read_frame(part[0].frames[0], 16, 8).shape == (16, 8, 3)


@pytest.mark.parametrize("name", NAMES)
def test_frames_are_in_temporal_order(intact: Path, name: str) -> None:
    for tracklet in sum(READERS[name](intact / name), ()):
        assert len(tracklet.frames) >= 2
        assert list(tracklet.frames) == sorted(set(tracklet.frames))


@pytest.mark.parametrize("name", NAMES)
def test_a_frame_belongs_to_one_tracklet(intact: Path, name: str) -> None:
    frames = [frame for tracklet in sum(READERS[name](intact / name), ()) for frame in tracklet.frames]
    assert len(frames) == len(set(frames))


@pytest.mark.parametrize("name", NAMES)
def test_junk_is_nowhere(intact: Path, name: str) -> None:
    assert all(tracklet.identity > JUNK for tracklet in sum(READERS[name](intact / name), ()))


@pytest.mark.parametrize("name", TESTED)
def test_training_and_test_identities_are_disjoint_and_queries_are_identities(intact: Path, name: str) -> None:
    splits = READERS[name](intact / name)
    train, query, gallery = ({tracklet.identity for tracklet in part} for part in splits)
    assert not train & (query | gallery)
    assert min(train | query) > 0
    assert query & gallery


@pytest.mark.parametrize("name", [name for name in NAMES if not READERS[name].own])
def test_every_published_part_is_one_that_is_read(intact: Path, name: str) -> None:
    assert {*READERS[name].published} in ({*READERS[name](intact / name)._asdict()}, {"all"})


@pytest.mark.parametrize("name", NAMES)
def test_partitions_differ(intact: Path, name: str) -> None:
    data_set = READERS[name]
    assert len({dataset_fingerprint(data_set(intact / name, fold)) for fold in range(data_set.folds)}) == data_set.folds


@pytest.mark.parametrize("name", NAMES)
def test_the_fingerprint_survives_a_move_of_the_folder(intact: Path, copy: Callable[[str], Path], name: str) -> None:
    here, there = READERS[name](intact / name), READERS[name](copy(name))
    assert here != there
    assert dataset_fingerprint(here) == dataset_fingerprint(there)


@pytest.mark.parametrize("name", TESTED)
def test_the_fingerprint_tells_which_part_a_tracklet_belongs_to(intact: Path, name: str) -> None:
    splits = READERS[name](intact / name)
    moved = splits._replace(query=splits.query[:-1], gallery=(splits.query[-1], *splits.gallery))
    assert dataset_fingerprint(moved) != dataset_fingerprint(splits)


# Recognition


@pytest.mark.parametrize("name", NAMES)
def test_a_layout_is_recognised_by_its_reader_and_by_no_other(intact: Path, name: str) -> None:
    assert recognised(intact / name) == name
    assert [key for key, data_set in READERS.items() if data_set.recognises(intact / name)] == [name]


def test_generated_data_is_recognised_as_mars(mini_mars: Path) -> None:
    assert recognised(mini_mars) == "mars"


def test_other_folders_are_not_recognised(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert [recognised(tmp_path / folder) for folder in (".", "file", "absent")] == [None] * 3


@pytest.mark.parametrize("frame", ["0001_C6_F0099_X30823.jpg", "0001C6F0099X30823.jpg", "0407_C2_F0001_D00012.jpg"])
@pytest.mark.parametrize("below", [".", "DukeMTMC-VideoReID"])
def test_the_withdrawn_data_set_is_refused_with_the_reason(tmp_path: Path, frame: str, below: str) -> None:
    folder = tmp_path / below / "gallery" / "0001" / "0001"
    folder.mkdir(parents=True)
    (folder / frame).touch()
    message = refused("mars", tmp_path, tmp_path / below)
    assert "withdrew in 2019 to protect the privacy" in message
    with pytest.raises(DataError, match="withdrew in 2019"):
        find_data(tmp_path)
    assert recognised(tmp_path) is None


def test_no_other_folder_is_taken_for_the_withdrawn_one(intact: Path, tmp_path: Path) -> None:
    for part in ("train", "query", "gallery"):
        folder = tmp_path / part / "0001" / "0001"
        folder.mkdir(parents=True)
        (folder / "0001C1T0001F001.jpg").touch()
    for root in (tmp_path, tmp_path / "absent", folder / "0001C1T0001F001.jpg", *(intact / name for name in NAMES)):
        refuse_banned(root)


# Damage


def test_a_missing_folder_is_named_by_every_reader(tmp_path: Path) -> None:
    for name in NAMES:
        assert "no such folder; data.root" in refused(name, tmp_path / "absent", tmp_path / "absent")


def nearest(root: Path, name: str) -> list[str]:
    """What a reader of the name and a check of an unnamed folder say of a folder that is not the data set's."""
    said = []
    with pytest.raises(DataError) as failure:
        read_splits(DataConfig(name=name, root=root))
    said.append(str(failure.value))
    with pytest.raises(DataError) as failure:
        find_data(root)
    said.append(str(failure.value))
    assert all(message.startswith(str(root)) and message.isprintable() for message in said), said
    return said


@pytest.mark.parametrize("name", NAMES)
def test_one_level_too_high_the_folder_that_would_do_is_named(copy: Callable[[str], Path], name: str) -> None:
    root = copy(name)
    for message in nearest(root.parent, name):
        assert f"; {root} holds {READERS[name].title}: name that folder" in message


@pytest.mark.parametrize("name", TESTED)  # what lies below a joined data set are others
def test_at_any_level_too_low_the_folder_that_would_do_is_named(copy: Callable[[str], Path], name: str) -> None:
    root = copy(name)
    frame, first_list = (root / each for each in (MINIATURES[name].frame, MINIATURES[name].files[0]))
    inside = {*frame.parents, *first_list.parents} - {root, *root.parents}
    below = [folder for folder in inside if not READERS[name].recognises(folder)]
    assert len(below) >= 2
    for folder in below:
        holder = next(above for above in folder.parents if READERS[name].recognises(above))
        for message in nearest(folder, name):
            assert f"; {holder} holds {READERS[name].title}: name that folder" in message


@pytest.mark.parametrize("name", NAMES)
def test_where_another_data_set_lies_its_name_is_said(intact: Path, name: str) -> None:
    other = next(each for each in NAMES if each != name)
    with pytest.raises(DataError, match=f"; {intact / name} holds {READERS[name].title}: its data.name is {name}$"):
        read_splits(DataConfig(name=other, root=intact / name))


@pytest.mark.parametrize("kind", ["generated", "packed"])
def test_generated_and_packed_data_are_found_one_level_below(
    intact: Path, mini_mars: Path, tmp_path: Path, kind: str
) -> None:
    if kind == "generated":
        shutil.copytree(mini_mars / "info", tmp_path / "there" / "info")
    else:
        pack_data_set("mars", intact / "mars", tmp_path / "there")
    for message in nearest(tmp_path, "mars"):
        assert f"; {tmp_path / 'there'} holds MARS: name that folder" in message


def test_lists_that_are_damaged_are_not_looked_for_elsewhere(copy: Callable[[str], Path]) -> None:
    root = copy("mars")
    shutil.copytree(root, root / "more")
    (root / "info" / "query_IDX.mat").write_bytes(b"garbage")
    assert "more" not in refused("mars", root, root / "info" / "query_IDX.mat")


@pytest.mark.parametrize(("name", "file"), [each for each in FILES if each[0] not in DRAWN_WITHOUT])
def test_a_missing_file_is_named(copy: Callable[[str], Path], name: str, file: str) -> None:
    root = copy(name)
    (root / file).unlink()
    assert "no such file" in refused(name, root, root / file)


@pytest.mark.parametrize(("name", "file"), FILES)
@pytest.mark.parametrize(
    "content", [b"", b"\n\n", b"\x00\xff\x80" * 999, b"<html>not found</html>", b"\x1b[2J\r\x07 1"]
)
def test_a_file_that_holds_something_else_is_named(
    copy: Callable[[str], Path], name: str, file: str, content: bytes
) -> None:
    root = copy(name)
    (root / file).write_bytes(content)
    refused(name, root, root / file)


@pytest.mark.parametrize(("name", "file"), FILES)
def test_a_truncated_file_is_named(copy: Callable[[str], Path], name: str, file: str) -> None:
    root = copy(name)
    content = (root / file).read_bytes()
    (root / file).write_bytes(content[: len(content) // 2 + 1])
    refused(name, root, root / file)


@pytest.mark.parametrize(("name", "file"), FILES)
def test_a_folder_in_place_of_a_file_is_named(copy: Callable[[str], Path], name: str, file: str) -> None:
    root = copy(name)
    (root / file).unlink()
    (root / file).mkdir()
    refused(name, root, root / file)


class Damage(NamedTuple):
    name: str
    file: str
    do: Callable[[Path], object]
    """Given the file."""
    said: str


def put(variable: str, value: object) -> Callable[[Path], object]:
    """Overwrites the first number of a MATLAB matrix."""

    def damage(path: Path) -> None:
        matrix = loadmat(path)[variable].astype(np.int32)
        matrix[0, 0] = value
        savemat(path, {variable: matrix})

    return damage


def replaced(old: str, new: str) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(path.read_bytes().replace(old.encode(), new.encode(), 1))


def first_partition(content: object) -> Callable[[Path], object]:
    return lambda path: path.write_text(json.dumps([content, *json.loads(path.read_text())[1:]]))


MARS_TABLE, ILIDS_SPLITS = "info/tracks_train_info.mat", MINIATURES["ilids_vid"].files[0]
TRAIN_LIST, TEST_LIST, QUERIES = MINIATURES["ls_vid"].files
(PAIRS,) = MINIATURES["youtube_faces"].files
DAMAGES = {
    "ilids_vid: identity out of range": Damage("ilids_vid", ILIDS_SPLITS, put("ls_set", 9), "row 1, column 1: 9"),
    "ilids_vid: identity 0": Damage("ilids_vid", ILIDS_SPLITS, put("ls_set", 0), "row 1, column 1: 0"),
    "ilids_vid: text for numbers": Damage(
        "ilids_vid", ILIDS_SPLITS, lambda path: savemat(path, {"ls_set": "abc"}), "not a matrix of numbers"
    ),
    "ilids_vid: other people": Damage(
        "ilids_vid",
        ILIDS_SPLITS,
        lambda path: write_ilids_splits(path.parents[1], np.tile(np.arange(1, 301), (10, 1))),
        "[10 8] is expected",
    ),
    "ls_vid: query out of range": Damage(
        "ls_vid", QUERIES, lambda path: write_hdf5(path, {"query": np.array([[8]])}), "entry 1: 8; lines"
    ),
    "ls_vid: query 0": Damage(
        "ls_vid", QUERIES, lambda path: write_hdf5(path, {"query": np.array([[0]])}), "entry 1: 0; lines"
    ),
    "ls_vid: text for numbers": Damage(
        "ls_vid", QUERIES, lambda path: write_hdf5(path, {"query": np.array([[b"a"]])}), "not a matrix of numbers"
    ),
    "ls_vid: line outside the grammar": Damage("ls_vid", TRAIN_LIST, replaced("_01_ 0", "_01_ x"), "line 1: "),
    "ls_vid: path out of the folder": Damage("ls_vid", TEST_LIST, replaced("tracklet_test/", "../"), "line 1: "),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_wrong_entries_are_named_with_their_place(copy: Callable[[str], Path], damage: Damage) -> None:
    root = copy(damage.name)
    damage.do(root / damage.file)
    assert damage.said in refused(damage.name, root, root / damage.file)


@pytest.mark.parametrize(("name", "file"), [each for each in FILES if each[0] != "ls_vid"])
def test_mutated_files_are_read_or_named(
    intact: Path, tmp_path_factory: pytest.TempPathFactory, name: str, file: str
) -> None:
    content = (intact / name / file).read_bytes()
    root = Path(shutil.copytree(intact / name, tmp_path_factory.mktemp("mutated") / name))

    @quick
    @given(mutations)
    def check(mutation: tuple[list[tuple[float, int]], float]) -> None:
        (root / file).write_bytes(mutated(content, mutation))
        try:
            read_splits(DataConfig(name=name, root=root))
        except DataError as error:
            assert all(line.startswith(str(root)) and line.isprintable() for line in str(error).split("\n"))

    check()
