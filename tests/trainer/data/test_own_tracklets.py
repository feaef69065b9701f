"""Tables of one's own tracklets: what is read from them, and what is said of damaged ones."""

from __future__ import annotations

import copy
import json
import logging
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from miniatures import write_frames, write_table
from PIL import Image
from strategies import quick

from trainer.commands import evaluation_line
from trainer.config import TrialConfig
from trainer.data.checks import check_data
from trainer.data.dataset import NO_CAMERA, NamedNumber, Splits, Tracklet, dataset_fingerprint
from trainer.data.frames import Box, clipped, crop_address, crop_of, frame_bytes, frame_file, read_clip, read_frame
from trainer.data.pack import read_packed
from trainer.data.packing import pack_data_set
from trainer.data.readers.tracklet_table import natural, read_table
from trainer.data.readers.tracklets import read_tracklets
from trainer.data.statistics import statistics
from trainer.errors import DataError
from trainer.evaluation.compare import compare_evaluations
from trainer.evaluation.evaluate import evaluate
from trainer.evaluation.folder import write_evaluation

IDENTITIES = ("ada", "bo", "cy", "di")


def rows_of(
    identities: Sequence[str] = IDENTITIES, cameras: Sequence[str] = ("door", "yard"), **more: object
) -> list[dict[str, object]]:
    """A row for each identity and camera, each with a folder of its own."""
    pairs = [(identity, camera) for identity in identities for camera in cameras]
    return [
        {"identity": identity, "camera": camera, "path": f"crops/{number}", **more}
        for number, (identity, camera) in enumerate(pairs)
    ]


def written(root: Path, rows: Sequence[Mapping[str, object]], frames: int = 2) -> Path:
    """A table, and frames in the folders that it names."""
    write_table(root / "tracklets.csv", rows)
    for row in rows:
        write_frames(root / str(row["path"]), [f"{frame}.jpg" for frame in range(1, frames + 1)])
    return root


def table_of(root: Path, text: str | bytes) -> Path:
    """A table with this text, beside two folders of frames, a and b, and a picture of a scene."""
    root.mkdir(exist_ok=True)
    write_frames(root, [f"{folder}/{frame}.jpg" for folder in "ab" for frame in (1, 2)] + ["scene/7.png"])
    for other in ("v.MP4", "notes.txt"):
        (root / other).touch()
    (root / "tracklets.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def faults(root: Path) -> list[str]:
    """What is said of the table, without its path; a line for each fault."""
    with pytest.raises(DataError) as failure:
        read_tracklets(root)
    lines = str(failure.value).split("\n")
    assert all(line.isprintable() for line in lines), lines
    return [line.removeprefix(f"{root / 'tracklets.csv'}: ") for line in lines]


def labels(tracklets: Sequence[Tracklet]) -> list[tuple[str, str]]:
    return [(str(tracklet.identity), str(tracklet.camera)) for tracklet in tracklets]


# A row for each tracklet


def test_a_path_is_a_folder_a_glob_or_an_image(tmp_path: Path) -> None:
    root = table_of(tmp_path, "identity,camera,path\nx,1,a\nx,2,b/*.jpg\ny,1,scene/7.png\n")
    names = [[Path(frame).relative_to(root).as_posix() for frame in each.frames] for each in read_table(root)]
    assert names == [["a/1.jpg", "a/2.jpg"], ["b/1.jpg", "b/2.jpg"], ["scene/7.png"]]


def test_frames_are_in_the_order_of_the_numbers_in_their_names(tmp_path: Path) -> None:
    root = written(tmp_path, rows_of(), frames=11)
    (frames, *_) = read_table(root)[0].frames, 0
    assert [Path(frame).stem for frame in frames] == [str(number) for number in range(1, 12)]


@given(st.lists(st.text(max_size=8), min_size=2, max_size=2))
def test_any_two_texts_have_a_natural_order(texts: list[str]) -> None:
    assert sorted(texts, key=natural) == sorted(reversed(texts), key=lambda text: natural(text)) or natural(
        texts[0]
    ) == natural(texts[1])


def test_other_files_beside_the_frames_are_no_frames(tmp_path: Path) -> None:
    root = written(tmp_path, rows_of())
    for name in ("Thumbs.db", "._1.jpg", "notes.txt"):
        (root / "crops" / "0" / name).touch()
    assert len(read_table(root)[0].frames) == 2


def test_identities_and_cameras_are_any_text_and_print_as_it(tmp_path: Path) -> None:
    names = ["Ada, jr.", 'the "cat"', "two  spaces", "Zoë 🐈", "7", "07"]
    splits = read_tracklets(written(tmp_path, rows_of(names, ["Tür 1", "cam;2"])))
    everything = [tracklet for part in splits for tracklet in part]
    assert {tracklet.identity.name for tracklet in everything} == set(names)  # type: ignore[attr-defined]
    assert {str(tracklet.identity) for tracklet in everything} == {*names}
    assert {f"{tracklet.camera:>7}" for tracklet in everything} == {"  Tür 1", "  cam;2"}
    assert sorted({int(tracklet.identity) for tracklet in everything}) == [1, 2, 3, 4, 5, 6]


def test_texts_that_look_alike_are_one_identity(tmp_path: Path) -> None:
    rows = rows_of(["Zoë", unicodedata.normalize("NFD", "Zoë"), " Zoë ", "Ada"])
    assert {each.identity for each in read_table(written(tmp_path, rows))} == {"Zoë", "Ada"}


def test_names_that_differ_by_case_or_accents_only_are_one_note_of_a_check(tmp_path: Path) -> None:
    rows = rows_of(["Zoë", "zoe", "ZOE", "Ada", "ada", "Bo"], ["Hall", "hall"])
    notes = [note for note in check_data(written(tmp_path, rows)).notes if "differ" in note]
    assert notes == [
        "identities whose names differ by case or accents only: 'Ada' and 'ada', and 1 more; write them alike if they "
        "are one",
        "cameras whose names differ by case or accents only: 'Hall' and 'hall'; write them alike if they are one",
    ]


def test_a_named_number_is_a_number_that_is_copied_with_its_name() -> None:
    number = NamedNumber(3, "Ada")
    for same in (number, copy.deepcopy(number)):
        assert same == 3
        assert f"{same}" == same.name == "Ada"
        assert json.dumps([same, {same: 1}]) == '[3, {"3": 1}]'


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", "\ufeff".encode()])
def test_files_of_spreadsheets_are_read(tmp_path: Path, ending: str, mark: bytes) -> None:
    text = ending.join(["identity,camera,path", 'x,"1",a', "", "x,2,b", ""])
    assert [each.row for each in read_table(table_of(tmp_path, mark + text.encode()))] == [2, 4]


def test_a_parquet_table_says_the_same_as_a_csv_table(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    root = written(tmp_path, rows_of(["1", "2", "3", "4"]))
    as_text = read_table(root)
    table = pandas.read_csv(root / "tracklets.csv")
    (root / "tracklets.csv").unlink()
    table.to_parquet(root / "tracklets.parquet")
    assert [each._replace(row=each.row + 1) for each in read_table(root)] == as_text


# A row for each frame


FRAMES = "identity,camera,tracklet,frame,path,x,y,w,h\n"


def test_rows_of_frames_are_gathered_into_tracklets_in_the_order_of_frames(tmp_path: Path) -> None:
    rows = ["x,1,t,2,a/2.jpg", "y,1,u,5,b/1.jpg", "x,1,t,1,a/1.jpg", "x,2,t,9,b/2.jpg"]
    root = table_of(tmp_path, "identity,camera,tracklet,frame,path\n" + "\n".join(rows))
    assert [(each.identity, each.name, [Path(frame).name for frame in each.frames]) for each in read_table(root)] == [
        ("x", "t", ["1.jpg", "2.jpg"]),
        ("x", "t", ["2.jpg"]),
        ("y", "u", ["1.jpg"]),
    ]


def scene(path: Path, width: int = 12, height: int = 10) -> np.ndarray:
    """A picture in which every pixel has a colour of its own."""
    pixels = np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def test_a_box_cuts_a_crop_from_a_frame_and_is_clipped(tmp_path: Path) -> None:
    pixels = scene(tmp_path / "scene" / "7.png")
    root = table_of(tmp_path, FRAMES + "x,1,t,1,scene/7.png,2,3,4.4,5\nx,1,t,2,scene/7.png,-2,-3,6,20\n")
    pixels = scene(tmp_path / "scene" / "7.png")
    inside, beyond = read_table(root)[0].frames
    assert np.array_equal(read_frame(inside, 5, 4), pixels[3:8, 2:6])
    assert np.array_equal(read_frame(beyond, 10, 4), pixels[:, :4])
    assert frame_file(inside) == str(root / "scene" / "7.png")
    packed = tmp_path / "packed.png"
    packed.write_bytes(frame_bytes(inside))
    assert np.array_equal(read_frame(str(packed), 5, 4), pixels[3:8, 2:6])


def test_a_box_outside_of_its_image_is_refused_with_both(tmp_path: Path) -> None:
    scene(tmp_path / "7.png")
    with pytest.raises(DataError, match=r"7\.png@20,0,4x4: the box lies outside of the image of 12x10 pixels"):
        read_frame(crop_address(str(tmp_path / "7.png"), Box(20, 0, 4, 4)), 4, 4)


boxes = st.builds(Box, *[st.integers(-99, 99)] * 2, *[st.integers(1, 99)] * 2)


@given(boxes, st.integers(1, 50), st.integers(1, 50))
def test_a_clipped_box_lies_in_the_image_and_in_the_box(box: Box, width: int, height: int) -> None:
    inside = set(range(max(box.left, 0), min(box.left + box.width, width)))
    found = clipped(box, width, height)
    if found is None:
        assert not inside or not set(range(max(box.top, 0), min(box.top + box.height, height)))
    else:
        assert set(range(found.left, found.left + found.width)) == inside
        assert 0 <= found.top < found.top + found.height <= min(height, box.top + box.height)


@given(st.text(min_size=1, max_size=12), boxes)
def test_the_address_of_a_crop_tells_image_and_box(name: str, box: Box) -> None:
    crop = crop_of(crop_address(f"/data/{name}.jpg", box))
    assert crop is not None
    assert (crop.image, crop.box) == (f"/data/{name}.jpg", box)
    assert crop_of(f"/data/{name}.jpg") is None


# Parts


def test_parts_that_are_given_are_kept(tmp_path: Path) -> None:
    rows = rows_of()
    parts = ["train"] * 4 + ["query", "gallery"] * 2
    splits = read_tracklets(written(tmp_path, [row | {"part": part} for row, part in zip(rows, parts, strict=True)]))
    assert labels(splits.query) == [("cy", "door"), ("di", "door")]
    assert labels(splits.gallery) == [("cy", "yard"), ("di", "yard")]
    assert {identity for identity, _ in labels(splits.train)} == {"ada", "bo"}


def check_drawn(splits: Splits) -> None:
    """Identities are apart, and every query has a match: by another camera, where cameras are known."""
    trained, asked, searched = ({tracklet.identity for tracklet in part} for part in splits)
    assert trained
    assert asked
    assert not trained & (asked | searched)
    assert len({(query.identity, query.camera) for query in splits.query}) == len(splits.query)
    for query in splits.query:
        cameras = [each.camera for each in splits.gallery if each.identity == query.identity]
        assert cameras if query.camera == NO_CAMERA else set(cameras) - {query.camera}


@quick
@given(st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from("123")), min_size=1, max_size=25), st.booleans())
def test_drawn_parts_keep_identities_apart_and_a_match_for_every_query(
    tmp_path_factory: pytest.TempPathFactory, seen: list[tuple[str, str]], known: bool
) -> None:
    rows = [{"identity": i, "camera": c, "path": f"{n}"} for n, (i, c) in enumerate(seen)]
    root = written(tmp_path_factory.mktemp("drawn"), rows if known else [dict(row, note="") for row in without(rows)])
    views: dict[str, set[object]] = {}
    for number, (identity, camera) in enumerate(seen):
        views.setdefault(identity, set()).add(camera if known else number)
    if sum(len(each) > 1 for each in views.values()) < 2:
        with pytest.raises(DataError, match="needs at least two identities"):
            read_tracklets(root)
    else:
        check_drawn(read_tracklets(root))


def without(rows: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """The rows without cameras."""
    return [{name: value for name, value in row.items() if name != "camera"} for row in rows]


@pytest.mark.parametrize("column", ["part", "split"])
def test_a_column_tells_the_identities_and_queries_are_drawn(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, column: str
) -> None:
    rows = [row | {column: "test" if row["identity"] in ("bo", "di") else "train"} for row in rows_of()]
    with caplog.at_level(logging.WARNING):
        splits = read_tracklets(written(tmp_path, rows))
    check_drawn(splits)
    assert {identity for identity, _ in labels(splits.train)} == {"ada", "cy"}
    assert {identity for identity, _ in labels(splits.query)} == {"bo", "di"}
    assert "drawn here, with seed 0: the queries" in caplog.text


def test_what_is_drawn_is_warned_of_and_the_same_every_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = written(tmp_path, rows_of())
    with caplog.at_level(logging.WARNING):
        first = read_tracklets(root)
    assert "2 of 4 identities to test on, and the queries" in caplog.text
    assert read_tracklets(root) == first


def test_tracklets_are_in_the_order_of_time_within_identity_and_camera(tmp_path: Path) -> None:
    times = ["2026-05-01T12:00:00Z", "2026-05-01T10:00:00Z", "7", ""]
    rows = [{"identity": "x", "camera": "1", "path": f"{n}", "time": time} for n, time in enumerate(times)]
    assert [each.row for each in read_table(written(tmp_path, rows))] == [5, 4, 3, 2]


# Damage

ROW = "identity,camera,path\n"
DAMAGES: dict[str, tuple[str | bytes, list[str]]] = {
    "empty": ("", ["empty; a header with the columns identity, camera and path is expected"]),
    "header only": (ROW, ["lists no tracklet; every row below the header is one, or a frame of one"]),
    "no header": ("x,1,a\n", ["columns are 'x, 1, a'; identity, camera and path are expected, in a header"]),
    "semicolons": ("identity;camera;path\nx;1;a\n", ["columns are separated by ';'; save the table with commas"]),
    "other encoding": (ROW.encode() + b"Zo\xeb,1,a\n", ["not UTF-8; save the table as CSV in UTF-8"]),
    "open quote": (ROW + 'x,1,"a\n', ["line 2: unexpected end of data; quote texts with commas, quotes or breaks"]),
    "too few fields": (ROW + "x,1\n", ["row 2: 2 fields, the header has 3; quote texts that hold commas"]),
    "faults of several kinds": (
        ROW + "x,1\nx,,a\nx,1,/b\n",
        [
            "row 2: 2 fields, the header has 3; quote texts that hold commas",
            "row 3: camera is empty; every row names one, or remove the column if cameras are not known",
            "row 4: path '/b' leaves the folder; paths start at the table's folder, with / and without ..",
        ],
    ),
    "no path": ("identity,camera\nx,1\n", ["has no column path; add it"]),
    "two columns missing": ("path,frame\na,1\n", ["has no column identity; add it", "has no column tracklet; add it"]),
    "half a box": (FRAMES.replace(",h", "") + "x,1,t,1,a/1.jpg,1,1,1\n", ["has no column h; add it"]),
    "box of a folder": (
        "identity,path,x,y,w,h\nx,a,1,1,1,1\n",
        ["has no column tracklet; add it", "has no column frame; add it"],
    ),
    "part and split": (
        ROW.replace("\n", ",part,split\n"),
        ["has the columns part and split; keep part, which says more"],
    ),
    "twice a column": ("identity,path,path\nx,a,a\n", ["has the column 'path' twice; remove one of them"]),
    "camera misspelt": (
        "identity,CamID,path\nx,1,a\n",
        ["has a column 'CamID'; call it camera, or something else if it is not"],
    ),
    "identity and camera empty": (
        ROW + " ,1,a\nx,,b\n",
        [
            "row 2: identity is empty; every row names one",
            "row 3: camera is empty; every row names one, or remove the column if cameras are not known",
        ],
    ),
    "line break and NUL in names": (
        ROW + '"x\ny",1,a\nx,"1\0",b\n',
        [
            "row 2: identity 'x\\ny' holds a line break or a NUL; remove it",
            "row 3: camera '1\\x00' holds a line break or a NUL; remove it",
        ],
    ),
    "absolute path": (
        ROW + "x,1,/a\n",
        ["row 2: path '/a' leaves the folder; paths start at the table's folder, with / and without .."],
    ),
    "path of Windows": (
        ROW + "x,1,C:\\a\n",
        ["row 2: path 'C:\\\\a' leaves the folder; paths start at the table's folder, with / and without .."],
    ),
    "path upwards": (
        ROW + "x,1,a/../../b\n",
        ["row 2: path 'a/../../b' leaves the folder; paths start at the table's folder, with / and without .."],
    ),
    "path empty": (ROW + "x,1, \n", ["row 2: path is empty; it names a folder of frames, a glob or an image"]),
    "path with NUL": (ROW + "x,1,a\0\n", ["row 2: path 'a\\x00' holds a NUL; remove it"]),
    "glob without frames": (ROW + "x,1,a/*.png\n", ["row 2: 'a/*.png' matches no frame"]),
    "video": (
        ROW + "x,1,v.MP4\n",
        ["row 2: 'v.MP4' is a video; `reidsearch data import` writes its tracklets as images"],
    ),
    "no image": (
        ROW + "x,1,notes.txt\n",
        ["row 2: 'notes.txt' is no image; frames end in .jpg, .jpeg, .png, .bmp or .webp"],
    ),
    "wrong part": (
        ROW.replace("\n", ",part\n") + "x,1,a,Train\n",
        ["row 2: part is 'Train'; it is train, query, gallery or test"],
    ),
    "wrong time": (
        ROW.replace("\n", ",time\n") + "x,1,a,noon\n",
        ["row 2: time is 'noon'; seconds or ISO 8601, as 2026-05-01T12:00:00, are expected"],
    ),
    "wrong count": (
        ROW.replace("\n", ",frames\n") + "x,1,a,3\n",
        ["row 2: 'a' holds 2 frames, but frames is 3; copy it again, or correct it"],
    ),
    "row twice": (ROW + "x,1,a\nx,1,./a/\n", ["row 3: 'a/1.jpg' belongs to row 2 as well; remove one of them"]),
    "frame twice": (
        FRAMES + "x,1,t,1,a/1.jpg,1,1,1,1\nx,1,t,1.0,a/2.jpg,1,1,1,1\n",
        ["row 3: frame 1 of tracklet 't' is there before"],
    ),
    "crop twice": (
        FRAMES + "x,1,t,1,a/1.jpg,1,1,1,1\nx,1,u,1,a/1.jpg,1,1,1,1\n",
        ["row 3: 'a/1.jpg@1,1,1x1' belongs to row 2 as well; remove one of them"],
    ),
    "two identities": (
        FRAMES + "x,1,t,1,a/1.jpg,1,1,1,1\ny,1,t,2,a/2.jpg,1,1,1,1\n",
        ["row 3: tracklet 't' is of identity 'y', but in row 2 of identity 'x'"],
    ),
    "frame is text": (
        FRAMES + "x,1,t,-1,a/1.jpg,1,1,1,1\n",
        ["row 2: frame is '-1'; a whole number from 0 is expected"],
    ),
    "box is text": (
        FRAMES + "x,1,t,1,a/1.jpg,1,nan,1,1\n",
        ["row 2: x, y, w, h are '1, nan, 1, 1'; four numbers are expected, in pixels"],
    ),
    "box without area": (
        FRAMES + "x,1,t,1,a/1.jpg,1,1,0,1\n",
        ["row 2: the box of '1, 1, 0, 1' (x, y, w, h) holds no pixel"],
    ),
    "box outside": (
        FRAMES + "x,1,t,1,a/1.jpg,-5,1,4,1\n",
        ["row 2: the box of '-5, 1, 4, 1' (x, y, w, h) lies outside of every image"],
    ),
    "identity in both parts": (
        ROW.replace("\n", ",part\n") + "x,1,a,train\nx,2,b,query\n",
        ["row 2: identity 'x' is in train, but in row 3 in query; choose one"],
    ),
    "one identity": (
        ROW + "x,1,a\nx,2,b\n",
        [
            "needs at least two identities with tracklets by two cameras, one to train on and one to test on, and has "
            "1: add tracklets, or remove the column camera if cameras need not be told apart"
        ],
    ),
}


@pytest.mark.parametrize(("table", "said"), DAMAGES.values(), ids=DAMAGES.keys())
def test_what_is_wrong_is_said_with_its_row(tmp_path: Path, table: str | bytes, said: list[str]) -> None:
    assert faults(table_of(tmp_path, table)) == said


def test_folders_that_are_absent_or_empty_are_named(tmp_path: Path) -> None:
    root = table_of(tmp_path, ROW + "x,1,absent\nx,2,empty\n")
    (root / "empty").mkdir()
    absent, empty = faults(root)
    assert absent == f"row 2: 'absent': no such folder or image below {root}; paths start there"
    assert empty == "row 3: 'empty' is empty; a folder of frames is expected"


def test_of_many_faults_all_are_counted_and_the_first_are_shown(tmp_path: Path) -> None:
    said = faults(table_of(tmp_path, ROW + "x,1,/a\n" * 1_000))
    assert len(said) == 21
    assert said[-1] == "and 980 more"


def test_two_tables_are_one_too_many(tmp_path: Path) -> None:
    root = written(tmp_path, rows_of())
    (root / "tracklets.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"tracklets\.parquet: there is tracklets\.csv as well; keep one of them"):
        read_table(root)
    (root / "tracklets.csv").unlink()
    with pytest.raises(DataError, match=r"tracklets\.parquet: not a Parquet file, or a damaged one"):
        read_table(root)


def test_columns_that_are_not_known_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        read_table(written(tmp_path, rows_of(weather="rain")))
    assert "not read: 'weather'" in caplog.text


# What works on published data sets works on it


def cut(root: Path, boxes: Sequence[tuple[int, int, int, int]]) -> Path:
    """A table of crops from one scene, a tracklet of one frame each, without cameras: two identities take turns."""
    scene(root / "scene.png", 40, 30)
    rows = [
        {
            "identity": "xyzw"[number % 4],
            "tracklet": number,
            "frame": 1,
            "path": "scene.png",
            **dict(zip("xywh", box, strict=True)),
        }
        for number, box in enumerate(boxes)
    ]
    write_table(root / "tracklets.csv", rows)
    return root


INSIDE = [(column, row, 8, 12) for column in (0, 8, 16, 24) for row in (0, 12)]


@pytest.mark.parametrize("size", [None, (12, 8)])
def test_a_pack_keeps_names_and_crops(tmp_path: Path, size: tuple[int, int] | None) -> None:
    root = cut(tmp_path / "files", INSIDE)
    pack_data_set("tracklets", root, tmp_path / "pack", size=size)
    files, packed = read_tracklets(root), read_packed(tmp_path / "pack", "tracklets")
    assert dataset_fingerprint(files) == dataset_fingerprint(packed)
    for one, other in zip(sum(files, ()), sum(packed, ()), strict=True):
        assert labels([one]) == labels([other])
        assert np.array_equal(read_clip(one.frames, 12, 8), read_clip(other.frames, 12, 8))
    assert {str(tracklet.identity) for tracklet in packed.train} < set("xyzw")


def test_a_check_finds_boxes_outside_of_their_images_and_notes_those_that_are_clipped(tmp_path: Path) -> None:
    root = cut(tmp_path, [*INSIDE[:-2], (36, 20, 8, 12), (40, 0, 5, 5)])
    found = check_data(root)
    (problem,) = found.problems
    assert problem == (
        f"{root}/scene.png@40,0,5x5: the box lies outside of the image of 40x30 pixels; correct or remove it"
    )
    assert f"1 boxes reach beyond their images and are clipped; the first is {root}/scene.png@36,20,8x12" in found.notes
    assert found.frames.bytes == (root / "scene.png").stat().st_size
    assert found.frames.unlisted == 1  # the table


def test_a_check_and_statistics_without_cameras_name_the_protocol(tmp_path: Path) -> None:
    root = cut(tmp_path, INSIDE)
    found = check_data(root)
    assert found.problems == ()
    assert found.counts_as_published is None
    assert list(found.queries_without_match) == ["no_camera"]
    assert any(note.startswith("protocol no_camera, cross-tracklet") for note in found.notes)
    numbers = statistics(read_tracklets(root), "mars")
    assert numbers.queries_by_matches == {"no_camera": {"1": 2}}
    assert [str(camera) for camera in numbers.parts["train"].tracklets_by_camera] == ["unknown"]


def test_a_network_is_evaluated_across_tracklets_where_cameras_are_not_known(tmp_path: Path) -> None:
    root = cut(tmp_path, INSIDE)
    config = TrialConfig.model_validate(
        {
            "data": {"name": "tracklets", "root": root},
            "model": {"backbone": "tiny", "weights": "none", "height": 32, "width": 16},
            "clips": {"frames": 2},
        }
    )
    result = evaluate(config, None, part="test")
    write_evaluation(tmp_path / "out", result, "test", images=True)
    assert result.evaluation.protocol == "no_camera"
    assert result.evaluation.queries == 2
    assert "(no_camera protocol, cross-tracklet, 2 queries" in evaluation_line(result.evaluation, "test")
    written = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert (written["protocol"], written["cameras"]) == ("no_camera", {"-1": "unknown"})
    assert compare_evaluations(tmp_path / "out", tmp_path / "out").cameras[0].query_camera.name == "unknown"  # type: ignore[attr-defined]
