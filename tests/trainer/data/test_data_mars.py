"""MARS: the published counts, and one clear error for each way in which its files can be wrong."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from checkout import ROOT
from full_mars import TABLES, write_lists
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from jaxtyping import Int
from scipy.io import loadmat, savemat

from trainer.data import READERS, Splits, Tracklet
from trainer.data.dataset import PROTOCOLS, ProtocolName
from trainer.data.folder import find_data
from trainer.data.readers.mars import read_mars
from trainer.data.readers.matlab import read_matrix
from trainer.data.synthetic.dataset import write_synthetic
from trainer.errors import DataError

PUBLISHED = ROOT.parent / "shared" / "data" / "mars" / "info"


@pytest.fixture(scope="session")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mars") / "intact"
    write_synthetic(root, size="tiny", seed=0, workers=1)
    return root


@pytest.fixture
def root(intact: Path, tmp_path: Path) -> Path:
    """A copy to damage; frames are not read, so they are not there."""
    shutil.copytree(intact / "info", tmp_path / "mars" / "info")
    return tmp_path / "mars"


def load(root: Path, file: str) -> Int[np.ndarray, "rows columns"]:
    matrix: Int[np.ndarray, "rows columns"] = loadmat(root / "info" / file)[TABLES[file]]
    return matrix


def refused(root: Path, file: str, *said: str) -> None:
    """Reading fails with one line that names the file and says what is wrong."""
    with pytest.raises(DataError) as failure:
        read_mars(root)
    message = str(failure.value)
    assert message.startswith(str(root / "info" / file) if file else str(root))
    assert "\n" not in message
    for part in said:
        assert part in message


def test_gallery_is_what_is_neither_query_nor_junk(root: Path) -> None:
    test, queries = load(root, "tracks_test_info.mat"), load(root, "query_IDX.mat").ravel() - 1
    splits = read_mars(root)
    assert [item[1:] for item in splits.query] == [tuple(row) for row in test[queries, 2:].tolist()]
    rest = np.delete(test, queries, axis=0)
    rest = rest[rest[:, 2] != -1]
    assert [item[1:] for item in splits.gallery] == [tuple(row) for row in rest[:, 2:].tolist()]
    assert any(item.identity == 0 for item in splits.gallery)


def test_frames_are_the_lines_of_both_ends_of_the_range(root: Path) -> None:
    lines = (root / "info" / "train_name.txt").read_text().splitlines()
    frames = [frame for tracklet in read_mars(root).train for frame in tracklet.frames]
    assert frames == [str(root / "bbox_train" / line[:4] / line) for line in lines]


def test_windows_line_ends_make_no_difference(root: Path) -> None:
    unix = read_mars(root)
    for part in ("train", "test"):
        path = root / "info" / f"{part}_name.txt"
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_mars(root) == unix


def test_a_missing_last_line_end_makes_no_difference(root: Path) -> None:
    whole = read_mars(root)
    path = root / "info" / "test_name.txt"
    path.write_bytes(path.read_bytes().rstrip())
    assert read_mars(root) == whole


def test_rows_may_stand_in_any_order(root: Path) -> None:
    before = read_mars(root).train
    table = load(root, "tracks_train_info.mat")[::-1]
    savemat(root / "info" / "tracks_train_info.mat", {"track_train_info": table})
    assert read_mars(root).train == before[::-1]


def test_matrices_of_doubles_are_read_as_matlab_writes_them(root: Path) -> None:
    before = read_mars(root)
    for file, name in TABLES.items():
        matrix = load(root, file).astype(float)
        savemat(root / "info" / file, {name: matrix}, do_compression=True)
    assert read_mars(root) == before


@pytest.mark.parametrize("folder", ["bbox_train", "bbox_test"])
def test_where_the_frames_are_without_their_lists_it_is_said_that_these_are_published_apart(
    tmp_path: Path, folder: str
) -> None:
    (tmp_path / folder).mkdir()
    for read in (read_mars, lambda root: find_data(root).read()):
        with pytest.raises(DataError, match="info: no such folder; the lists of MARS, info/, are published apart"):
            read(tmp_path)


def test_first_wrong_line_of_a_name_list_is_numbered(root: Path) -> None:
    path = root / "info" / "train_name.txt"
    lines = path.read_text().splitlines()
    for line in (lines[4][:-1], lines[4] + " ", "", lines[4].replace("C", "c", 1), "00-2" + lines[4][4:]):
        path.write_text("\n".join([*lines[:4], line, *lines[5:]]))
        refused(root, "train_name.txt", "line 5:")


def test_a_frame_listed_twice_is_numbered(root: Path) -> None:
    path = root / "info" / "test_name.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[2]]))
    refused(root, "test_name.txt", f"line {len(lines) + 1}:", "in line 3")


def test_a_name_list_that_is_too_short_is_noticed(root: Path) -> None:
    path = root / "info" / "train_name.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]))
    refused(root, "tracks_train_info.mat", "row 30", f"train_name.txt has {len(lines) - 1} lines only")


Damage = Callable[[Int[np.ndarray, "rows columns"]], object]


def put(row: int, column: int, value: int) -> Damage:
    """Overwrite one value; the row is counted from 1."""

    def damage(matrix: Int[np.ndarray, "rows columns"]) -> Int[np.ndarray, "rows columns"]:
        matrix = matrix.astype(np.int32)
        matrix[row - 1, column] = value
        return matrix

    return damage


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (put(1, 0, 0), "row 1 [0,"),
        (put(3, 0, -5), "row 3"),
        (put(2, 1, 1), "row 2"),
        (put(2, 1, 10**6), "row 2"),
        (put(2, 0, 1), "row 2"),
        (put(4, 2, 9), "row 4"),
        (put(4, 3, 7), "row 4"),
        (put(4, 3, 0), "row 4"),
        (lambda matrix: matrix[:, :3], "shape"),
        (lambda matrix: matrix[:0], "shape"),
        (lambda matrix: matrix.astype(float) + 0.5, "not integers"),
        (lambda matrix: np.where(matrix == 1, np.nan, matrix), "not integers"),
        (lambda matrix: np.where(matrix == 1, np.inf, matrix), "not integers"),
        (lambda matrix: matrix.astype(complex), "not a matrix of numbers"),
        (lambda matrix: np.array(["a", "b"]), "not a matrix of numbers"),
        (lambda matrix: np.array([[{}]], dtype=object), "not a matrix of numbers"),
        (lambda matrix: matrix[None], "shape"),
    ],
)
@pytest.mark.parametrize("file", ["tracks_train_info.mat", "tracks_test_info.mat"])
def test_wrong_tables_are_named_with_the_row(root: Path, file: str, damage: Damage, said: str) -> None:
    savemat(root / "info" / file, {TABLES[file]: damage(load(root, file))})
    refused(root, file, said)


def test_identity_that_disagrees_with_the_names_is_shown_with_both(root: Path) -> None:
    table = load(root, "tracks_train_info.mat")
    savemat(root / "info" / "tracks_train_info.mat", {"track_train_info": put(4, 2, 999)(table)})
    line = (root / "info" / "train_name.txt").read_text().splitlines()[table[3, 0] - 1]
    refused(root, "tracks_train_info.mat", "identity 999", f"line {table[3, 0]} of train_name.txt is {line}")


def test_another_variable_name_is_named(root: Path) -> None:
    savemat(root / "info" / "query_IDX.mat", {"query": load(root, "query_IDX.mat")})
    refused(root, "query_IDX.mat", "has no variable query_IDX")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (lambda queries, test: 0, "rows of tracks_test_info.mat are 1 to"),
        (lambda queries, test: len(test) + 1, "rows of tracks_test_info.mat are 1 to"),
        (lambda queries, test: queries[0], "listed before"),
        (lambda queries, test: np.flatnonzero(test[:, 2] == -1)[0] + 1, "junk"),
        (lambda queries, test: np.flatnonzero(test[:, 2] == 0)[0] + 1, "distractor"),
    ],
)
def test_wrong_queries_are_named_with_the_entry(root: Path, entry: Callable[..., int], said: str) -> None:
    queries = load(root, "query_IDX.mat").astype(np.int32)
    queries[0, 1] = entry(queries[0], load(root, "tracks_test_info.mat"))
    savemat(root / "info" / "query_IDX.mat", {"query_IDX": queries})
    refused(root, "query_IDX.mat", "entry 2", said)


def test_identities_in_training_and_test_are_refused(root: Path) -> None:
    for kind in ("name.txt", "info.mat"):
        prefix = "tracks_" if kind == "info.mat" else ""
        shutil.copy(root / "info" / f"{prefix}test_{kind}", root / "info" / f"{prefix}train_{kind}")
    table = loadmat(root / "info" / "tracks_train_info.mat")["track_test_info"]
    savemat(root / "info" / "tracks_train_info.mat", {"track_train_info": table[table[:, 2] > 0]})
    refused(root, "tracks_train_info.mat", "test identity")
    savemat(root / "info" / "tracks_train_info.mat", {"track_train_info": table})
    refused(root, "tracks_train_info.mat", "distractors and junk")


def test_huge_files_are_not_parsed(root: Path) -> None:
    with (root / "info" / "query_IDX.mat").open("r+b") as file:
        file.truncate(65 * 2**20)
    refused(root, "query_IDX.mat", "bytes")


@settings(max_examples=100, deadline=None)
@given(
    matrix=arrays(
        st.sampled_from(["i1", "u1", "i2", "u2", "i4", "u4", "i8", "f4", "f8"]),
        st.tuples(st.integers(0, 5), st.integers(0, 5)),
        elements=st.integers(0, 100),
    ),
    name=st.from_regex(r"[a-zA-Z][a-zA-Z0-9_]{0,29}", fullmatch=True),
    compressed=st.booleans(),
)
def test_matrices_are_read_as_scipy_writes_them(
    tmp_path_factory: pytest.TempPathFactory,
    matrix: Int[np.ndarray, "rows columns"],
    name: str,
    compressed: bool,
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.mat"
    savemat(path, {"a_text": "before", name: matrix}, do_compression=compressed)
    np.testing.assert_array_equal(read_matrix(path, name), matrix)


def test_expanding_bombs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.mat"
    savemat(path, {"x": np.zeros((1, 9 * 2**20))}, do_compression=True)
    with pytest.raises(DataError, match="more than"):
        read_matrix(path, "x")


@pytest.mark.parametrize("file", TABLES)
def test_published_tables_are_read_as_scipy_reads_them(file: str) -> None:
    if not PUBLISHED.is_dir():
        pytest.skip("the published tables of MARS are not here")
    ours = read_matrix(PUBLISHED / file, TABLES[file])
    np.testing.assert_array_equal(ours, loadmat(PUBLISHED / file)[TABLES[file]])


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    """The real tables, with name lists generated to fit them."""
    if not PUBLISHED.is_dir():
        pytest.skip("the published tables of MARS are not here")
    root = tmp_path_factory.mktemp("published")
    write_lists(root, PUBLISHED)
    return read_mars(root)


def images(tracklets: tuple[Tracklet, ...]) -> int:
    return sum(len(tracklet.frames) for tracklet in tracklets)


def test_published_training_part_has_the_published_counts(published: Splits) -> None:
    train = published.train
    assert (len(train), images(train), len({item.identity for item in train})) == (8298, 509_914, 625)
    cameras = Counter(item.camera for item in train)
    assert [cameras[camera] for camera in range(1, 7)] == [1816, 1957, 1321, 750, 1880, 574]
    assert (min(len(item.frames) for item in train), max(len(item.frames) for item in train)) == (5, 900)


def test_published_queries_have_the_published_counts(published: Splits) -> None:
    query = published.query
    assert (len(query), images(query), len({item.identity for item in query})) == (1980, 114_493, 626)
    assert len({item[1:] for item in query}) == 1980
    cameras = Counter(item.camera for item in query)
    assert [cameras[camera] for camera in range(1, 7)] == [524, 456, 319, 191, 384, 106]


def test_published_gallery_has_the_published_counts(published: Splits) -> None:
    gallery = published.gallery
    assert (len(gallery), images(gallery)) == (9330, 543_216)
    identities = {item.identity for item in gallery}
    assert len(identities) == 621
    assert sum(item.identity == 0 for item in gallery) == 3248
    absent = {item.identity for item in published.query} - identities
    assert absent == {6, 152, 436, 454, 640, 782, 944, 1062, 1138, 1140, 1146, 1172, 1252, 1444}


@pytest.mark.parametrize(("protocol", "dropped"), [("mars", 140), ("mars_query_in_gallery", 0), ("mars_official", 0)])
def test_140_published_queries_have_a_match_under_another_camera_among_the_queries_only(
    published: Splits, protocol: ProtocolName, dropped: int
) -> None:
    queries_in_gallery = PROTOCOLS[protocol].queries_in_gallery
    seen = {item[1:] for item in (*published.gallery, *(published.query if queries_in_gallery else ()))}
    matched = [
        any((query.identity, camera) in seen for camera in range(1, 7) if camera != query.camera)
        for query in published.query
    ]
    assert matched.count(False) == dropped


def test_published_counts_are_those_that_are_declared(published: Splits) -> None:
    for part, counts in READERS["mars"].published.items():
        tracklets = getattr(published, part)
        identities = {item.identity for item in tracklets} - {0}
        assert counts == (len(identities), len(tracklets), images(tracklets))
