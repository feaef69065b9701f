"""LS-VID: tracklets by the beginnings of names, and a list of queries that a process of its own reads."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from miniatures import write_frames, write_hdf5, write_ls_vid
from strategies import mutated, mutations, quick

from trainer.data.readers import hdf5_child, ls_vid
from trainer.data.readers.ls_vid import QUERY_FILE, TEST_LIST, TRAIN_LIST, read_ls_vid
from trainer.data.readers.matlab import read_matrix
from trainer.errors import DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_ls_vid(tmp_path / "LS-VID")
    return tmp_path / "LS-VID"


@pytest.fixture
def known_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first and the fourth line, without the process that reads them."""
    monkeypatch.setattr(ls_vid, "read_matrix", lambda path, name: np.array([[1, 4]]))


def refused(root: Path, place: str, *said: str) -> None:
    with pytest.raises(DataError) as failure:
        read_ls_vid(root)
    message = str(failure.value)
    assert message.startswith(place)
    assert message.isprintable()
    for part in said:
        assert part in message


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


# The lists


def test_gallery_is_what_is_neither_query_nor_junk(root: Path) -> None:
    splits = read_ls_vid(root)
    assert [item[1:] for item in splits.query] == [(3, 1), (4, 2)]
    assert [item[1:] for item in splits.gallery] == [(3, 1), (3, 4), (4, 10), (5, 7)]


@pytest.mark.usefixtures("known_queries")
def test_frames_are_all_that_begin_as_listed(root: Path) -> None:
    first = read_ls_vid(root).train[0]
    folder = root / "tracklet_train" / "0000"
    assert first.frames == tuple(str(folder / f"0000_0001_01_{number:06d}.jpg") for number in (7, 8, 9))


@pytest.mark.usefixtures("known_queries")
def test_identities_counted_from_0_are_numbered_one_up_so_that_none_is_a_distractor(root: Path) -> None:
    assert [item.identity for item in read_ls_vid(root).train] == [1, 1, 2, 2]


@pytest.mark.usefixtures("known_queries")
def test_identities_counted_from_1_keep_their_numbers(root: Path) -> None:
    for old, new in (("_ 0", "_ 9"), ("_ 0", "_ 9")):
        edit(root / TRAIN_LIST, old, new)
    splits = read_ls_vid(root)
    assert [item.identity for item in splits.train] == [9, 9, 1, 1]
    assert [item.identity for item in splits.query] == [2, 3]


@pytest.mark.usefixtures("known_queries")
def test_windows_line_ends_and_a_missing_last_one_make_no_difference(root: Path) -> None:
    unix = read_ls_vid(root)
    for name in (TRAIN_LIST, TEST_LIST):
        (root / name).write_bytes((root / name).read_bytes().replace(b"\n", b"\r\n").rstrip())
    assert read_ls_vid(root) == unix


@pytest.mark.usefixtures("known_queries")
def test_a_number_at_the_end_of_a_beginning_is_a_whole_number(root: Path) -> None:
    edit(root / TRAIN_LIST, "0000_0001_01_ ", "0000_1 ")
    edit(root / TRAIN_LIST, "0000_0002_15_ ", "0000_10 ")
    write_frames(root / "tracklet_train" / "0000", ["0000_1_03_7.jpg", "0000_10_04_7.jpg", "0000_10_04_8.jpg"])
    train = read_ls_vid(root).train
    assert [len(item.frames) for item in train[:2]] == [1, 2]
    assert [item.camera for item in train[:2]] == [3, 4]


@pytest.mark.usefixtures("known_queries")
def test_files_that_are_no_images_are_left_out(root: Path) -> None:
    before = read_ls_vid(root)
    for name in (".DS_Store", "0000_0001_01_000007.jpg.part", "._0000_0001_01_000007.jpg", "0000_0001_01_list.txt"):
        (root / "tracklet_train" / "0000" / name).touch()
    assert read_ls_vid(root) == before


@pytest.mark.usefixtures("known_queries")
def test_frames_claimed_by_two_lines_are_refused(root: Path) -> None:
    edit(root / TRAIN_LIST, "0000_0002_15_ ", "0000_0001_ ")
    refused(root, f"{root / TRAIN_LIST}: line 2: ", "tracklet_train/0000/0000_0001_", "belong to another line")


@pytest.mark.usefixtures("known_queries")
@pytest.mark.parametrize(
    ("frame", "said"),
    [
        ("0000_0001_16_000009.jpg", "cameras 1 to 15"),
        ("0000_0001_00_000009.jpg", "cameras 1 to 15"),
        ("0000_0001_xx_000009.jpg", "not the name of a frame"),
        ("0000_0001_.jpg", "not the name of a frame"),
        ("0000_0001_01_\n.jpg", "not the name of a frame"),
        ("0000_0001_02_000009.jpg", "of two cameras"),
    ],
)
def test_frames_whose_names_are_wrong_are_named(root: Path, frame: str, said: str) -> None:
    edit(root / TRAIN_LIST, "0000_0001_01_ ", "0000_0001_ ")
    (root / "tracklet_train" / "0000" / frame).touch()
    refused(root, str(root / "tracklet_train" / "0000"), said)


@pytest.mark.usefixtures("known_queries")
def test_tracklets_and_folders_without_frames_are_named_with_the_line(root: Path) -> None:
    edit(root / TRAIN_LIST, "0000_0001_01_ ", "0000_0009_01_ ")
    refused(root, str(root / "tracklet_train/0000/0000_0009_01_"), f"no such frames, but {root / TRAIN_LIST}: line 1")
    edit(root / TRAIN_LIST, "tracklet_train/0000/", "tracklet_train/0099/")
    refused(root, str(root / "tracklet_train/0099"), "cannot be read", "line 1 lists it")


@pytest.mark.usefixtures("known_queries")
def test_identities_in_both_lists_and_junk_to_train_on_are_refused(root: Path) -> None:
    edit(root / TRAIN_LIST, "_02_ 1", "_02_ 2")
    refused(root, f"{root / TRAIN_LIST}: line 3: identity 2 is a test identity, too")
    edit(root / TRAIN_LIST, "_02_ 2", "_02_ -1")
    refused(root, f"{root / TRAIN_LIST}: line 3: junk")


@pytest.mark.usefixtures("known_queries")
@pytest.mark.parametrize("prefix", ["/etc/passwd", "../0000/x", "a/../b", "./a/b", "a//b", "a/b\0c", "nofolder", "a/é"])
def test_beginnings_that_leave_the_folder_are_refused(root: Path, prefix: str) -> None:
    (root / TRAIN_LIST).write_text(f"{prefix} 1\n", encoding="utf-8")
    refused(root, f"{root / TRAIN_LIST}: line 1: ", "copy the file again")


@pytest.mark.parametrize(
    ("queries", "said"),
    [
        ([[1, 6]], "entry 2: line 6 of list_seq_test.txt is junk"),
        ([[1, 4, 1]], "entry 3: 1 is listed before, in entry 1"),
        ([[1, 2], [3, 4]], "shape (2, 2)"),
    ],
)
def test_wrong_queries_are_named_with_the_entry(root: Path, queries: list[list[int]], said: str) -> None:
    write_hdf5(root / QUERY_FILE, {"query": np.array(queries)})
    refused(root, f"{root / QUERY_FILE}: ", said)


@pytest.mark.usefixtures("known_queries")
@pytest.mark.parametrize("name", [TRAIN_LIST, TEST_LIST])
def test_mutated_lists_are_read_or_named(root: Path, name: str) -> None:
    content = (root / name).read_bytes()

    @quick
    @given(mutations)
    def check(mutation: tuple[list[tuple[float, int]], float]) -> None:
        (root / name).write_bytes(mutated(content, mutation))
        try:
            read_ls_vid(root)
        except DataError as error:
            assert str(error).startswith(str(root))
            assert str(error).isprintable()

    check()


@pytest.mark.usefixtures("known_queries")
def test_every_folder_is_listed_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[str] = []
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: listed.append(str(folder)) or real(folder))
    read_ls_vid(root)
    assert len(listed) == len(set(listed)) == 5  # of two and four identities, one of them junk


# The process that reads HDF5


@pytest.mark.parametrize("kind", ["f8", "f4", "i4", "u2", "u8", ">i4"])
def test_matrices_of_any_number_type_are_read(tmp_path: Path, kind: str) -> None:
    matrix = np.arange(12).reshape(3, 4).astype(kind)
    write_hdf5(tmp_path / "a.mat", {"x": matrix})
    assert hdf5_child.read(str(tmp_path / "a.mat"), "x") == {"shape": [3, 4], "values": list(range(12))}


def test_the_matrix_comes_back_from_the_process(tmp_path: Path) -> None:
    matrix = np.array([[3, -1], [0, 2**40], [5, 6]])
    write_hdf5(tmp_path / "a.mat", {"x": matrix})
    np.testing.assert_array_equal(read_matrix(tmp_path / "a.mat", "x"), matrix.T)  # MATLAB's columns are HDF5's rows


def traps(folder: Path) -> Iterator[tuple[Path, str]]:
    """Files that hold no plain matrix `x`, and what is said of them."""
    matrices = {
        "nan": (np.array([[1.0, np.nan]]), "not integers"),
        "half": (np.array([[0.5]]), "not integers"),
        "complex": (np.array([[1j]]), "not a matrix of numbers"),
        "line": (np.arange(3), "has shape (3,)"),
        "cube": (np.zeros((1, 1, 1)), "has shape (1, 1, 1)"),
        "scalar": (np.float64(1), "has shape ()"),
    }
    for name, (matrix, said) in matrices.items():
        write_hdf5(folder / f"{name}.mat", {"x": matrix})
        yield folder / f"{name}.mat", said
    write_hdf5(folder / "other.mat", {"y": np.zeros((1, 1))})
    yield folder / "other.mat", "has no variable x"
    (folder / "secret").write_bytes(bytes(8))
    for name, said in (("group", "stored in the file"), ("huge", "has shape"), ("soft", "stored in the file")):
        with h5py.File(folder / f"{name}.mat", "w") as file:
            if name == "group":
                file.create_group("x")
            elif name == "huge":
                file.create_dataset("x", (2**20, 2**20), dtype="f8", chunks=(64, 64))
            else:
                file["y"] = np.zeros((1, 1))
                file["x"] = h5py.SoftLink("/y")
        yield folder / f"{name}.mat", said
    with h5py.File(folder / "outside.mat", "w") as file:
        file.create_dataset("x", (1, 1), dtype="i8", external=[(str(folder / "secret"), 0, 8)])
    yield folder / "outside.mat", "stored in the file"
    with h5py.File(folder / "link.mat", "w") as file:
        file["x"] = h5py.ExternalLink(str(folder / "other.mat"), "/y")
    yield folder / "link.mat", "stored in the file"


def test_whatever_is_no_plain_matrix_in_the_file_is_named(tmp_path: Path) -> None:
    for path, said in traps(tmp_path):
        (answer,) = hdf5_child.read(str(path), "x").items()
        assert answer[0] == "error"
        assert said in str(answer[1])
    with pytest.raises(DataError) as failure:
        read_matrix(path, "x")
    assert str(failure.value) == f"{path}: x is not a matrix stored in the file; copy the file again"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("import os; os.kill(os.getpid(), 11)", "the process that read it was killed by SIGSEGV"),
        ("import time; time.sleep(60)", "took more than"),
        ("print('{}]')", "gave no answer"),
        ('print(\'{"shape": [2, 2], "values": [1]}\')', "shape \\(2, 2\\) and 1 values"),
        ('print(\'{"shape": [1, 1], "values": [0.5]}\')', "gave no answer"),
        ('print(\'{"error": "a\\\\nb"}\')', r"a\\nb; copy"),
    ],
)
def test_a_process_that_dies_hangs_or_lies_becomes_one_line(tmp_path: Path, script: str, said: str) -> None:
    write_hdf5(tmp_path / "a.mat", {"x": np.zeros((1, 1))})
    command = [sys.executable, "-c", script]
    with pytest.raises(DataError, match=said) as failure:
        read_matrix(tmp_path / "a.mat", "x", timeout=0.5 if "sleep" in script else 30, hdf5_child=command)
    assert str(failure.value).isprintable()


def test_the_process_limits_its_memory_and_imports_no_torch() -> None:
    script = (
        "import sys, resource\n"
        "from trainer.data.readers import hdf5_child\n"
        "hdf5_child.limit()\n"
        "print(resource.getrlimit(resource.RLIMIT_AS)[0] if sys.platform == 'linux' else 2**31, 'torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True).stdout
    assert said.split() == [str(2**31), "False"]
