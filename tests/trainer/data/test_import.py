"""`data import`: tracklets cut from videos by boxes, or copied from folders, and what is said of damaged sources."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import av
import pytest
from miniatures import write_frames
from tracked import BOX, FRAMES, frame_shown, mot_text, write_images, write_source, write_video

from trainer.data.frames import read_frame
from trainer.data.images import decode_image
from trainer.data.importing import ImportOptions, import_data
from trainer.data.readers.tracklet_table import read_table
from trainer.data.readers.tracklets import read_tracklets
from trainer.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source of two cameras and two people, which no test changes."""
    return write_source(tmp_path_factory.mktemp("tracked") / "source")


@pytest.fixture
def source(shared: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(shared, tmp_path / "source"))


def faults(source: Path, out: Path, **options: object) -> list[str]:
    """What is said of a source, a line for each fault, without the folder; nothing is written."""
    before = sorted(out.parent.rglob("*"))
    with pytest.raises(DataError) as failure:
        import_data(source, out, ImportOptions(**options))  # type: ignore[arg-type]
    assert sorted(out.parent.rglob("*")) == before
    return str(failure.value).replace(f"{source}/", "").split("\n")


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "tracklets.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def shown(folder: Path) -> list[tuple[int, int]]:
    """Track and frame of each crop of a tracklet."""
    files = sorted(folder.iterdir())
    return [frame_shown(decode_image(str(file), file.read_bytes())) for file in files]


def files_of(out: Path) -> dict[str, bytes]:
    return {str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*") if file.is_file()}


# From boxes and videos


def test_every_box_of_a_video_becomes_a_crop_of_its_frame(source: Path, tmp_path: Path) -> None:
    made = import_data(source, tmp_path / "out")
    assert made[:5] == (2, 2, 4, 4 * FRAMES, 4 * FRAMES)
    table = rows(tmp_path / "out")
    assert [(row["identity"], row["camera"], row["frames"]) for row in table] == [
        (identity, camera, str(FRAMES)) for camera in ("door", "yard") for identity in ("ada", "bo")
    ]
    for row in table:
        track = 1 if row["identity"] == "ada" else 2
        assert shown(tmp_path / "out" / row["path"]) == [(track, frame) for frame in range(FRAMES)]


def test_the_tracklets_reader_takes_what_is_written(source: Path, tmp_path: Path) -> None:
    import_data(source, tmp_path / "out")
    assert [(each.identity, each.camera, len(each.frames)) for each in read_table(tmp_path / "out")] == [
        (identity, camera, FRAMES) for identity in ("ada", "bo") for camera in ("door", "yard")
    ]
    train, query, gallery = read_tracklets(tmp_path / "out")
    assert len(train) + len(query) + len(gallery) == 4
    assert read_frame(train[0].frames[0], BOX[1], BOX[0]).shape == (BOX[1], BOX[0], 3)


@pytest.mark.parametrize("first", [0, 1, 7])
def test_images_are_found_by_the_numbers_in_their_names(tmp_path: Path, first: int) -> None:
    source = write_source(
        tmp_path / "s", ("c",), {1: "ada"}, lambda folder: write_images(folder, first=first), ending=""
    )
    (source / "c.txt").write_text(mot_text((1,), first=first))
    import_data(source, tmp_path / "out")
    assert shown(tmp_path / "out/crops/ada/c/c-1") == [(1, frame) for frame in range(FRAMES)]


@pytest.mark.parametrize(("first", "told"), [(0, ""), (1, ""), (0, "0"), (1, "1"), (100, "100")])
def test_frames_of_a_video_are_counted_from_0_or_1_as_found_or_from_first(
    source: Path, tmp_path: Path, first: int, told: str
) -> None:
    (source / "door.txt").write_text(mot_text(first=first))
    (source / "videos.csv").write_text(f"camera,video,tracks,first\ndoor,door.mkv,door.txt,{told}\n")
    (source / "identities.csv").write_text("video,track,identity\ndoor.mkv,1,ada\n")
    import_data(source, tmp_path / "out")
    assert shown(tmp_path / "out/crops/ada/door/door-1") == [(1, frame) for frame in range(FRAMES)]


def test_fractional_boxes_are_widened_to_whole_pixels_and_clipped_with_their_margin(
    source: Path, tmp_path: Path
) -> None:
    (source / "door.txt").write_text(
        "1,1,10.4,20.6,9.2,10\n2,1,-5,-5,15,15\n3,1,120,90,20,20\n4,1,10,20,10.0000001,10\n"
    )
    (source / "identities.csv").write_text("video,track,identity\ndoor,1,ada\n")
    sizes = {}
    for margin in (0.0, 0.5):
        import_data(source, tmp_path / f"{margin}", ImportOptions(margin=margin))
        files = sorted((tmp_path / f"{margin}/crops/ada/door/door-1").iterdir())
        sizes[margin] = [decode_image("", file.read_bytes()).shape[:2] for file in files]
    assert sizes[0.0] == [(11, 10), (10, 10), (6, 8), (10, 10)]
    assert sizes[0.5] == [(21, 20), (18, 18), (16, 18), (20, 20)]


def test_boxes_outside_of_the_picture_and_tracks_without_an_identity_are_left_out_and_counted(
    source: Path, tmp_path: Path
) -> None:
    with (source / "door.txt").open("a") as file:
        file.write("3,9,10,10,5,5\n13,9,1,1,5,5\n")  # nobody's: its frames need not be there
        file.write("1,3,500,10,5,5\n1,4,-60,10,50,5\n2,4,10,10,5,5\n")
    with (source / "identities.csv").open("a") as file:
        file.write("\ndoor,4,cy\n")
    made = import_data(source, tmp_path / "out")
    assert made.notes == (
        "left out: 2 tracks without an identity in identities.csv",
        "left out: 1 box outside of the picture",
    )
    assert [row["frames"] for row in rows(tmp_path / "out") if row["identity"] == "cy"] == ["1"]


def test_videos_of_one_camera_with_equal_names_keep_their_tracklets_apart(tmp_path: Path) -> None:
    source = write_source(tmp_path / "s", ("day1/c", "day2/c"), {1: "ada"})
    (source / "videos.csv").write_text("camera,video,tracks\ndoor,day1/c.mkv,day1/c.txt\ndoor,day2/c.mkv,day2/c.txt\n")
    (source / "identities.csv").write_text("video,track,identity\nday1/c.mkv,1,ada\nday2/c.mkv,1,ada\n")
    import_data(source, tmp_path / "out")
    assert [row["path"] for row in rows(tmp_path / "out")] == ["crops/ada/door/day1_c-1", "crops/ada/door/day2_c-1"]


NAMES = (
    *("Ada Ä", "ada/ä", "ada_\u00e5", "..", "/etc/passwd", "🦊", "🐻"),
    *('a "b", c', "-", "CON", "=1+1", "a" * 300),
)


def test_names_that_no_file_may_have_or_that_collide_become_safe_ones_and_stay_as_they_are_in_the_table(
    tmp_path: Path,
) -> None:
    source = write_source(tmp_path / "s", ("c",), {})
    boxes = "".join(f"1,{track},10,20,9,9\n" for track in range(len(NAMES)))
    (source / "c.txt").write_text(boxes)
    with (source / "identities.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("video", "track", "identity"), *(("c", track, name) for track, name in enumerate(NAMES))]
        )
    import_data(source, tmp_path / "out")
    assert {each.identity for each in read_table(tmp_path / "out")} == {*NAMES}
    folders = [folder.name for folder in (tmp_path / "out/crops").iterdir()]
    assert len({folder.casefold() for folder in folders}) == len(NAMES)
    assert all(folder.isascii() and len(folder) < 50 and "." not in folder for folder in folders)
    assert {path.name for path in tmp_path.iterdir()} == {"s", "out"}


def test_a_video_without_cameras_makes_a_table_without_them(source: Path, tmp_path: Path) -> None:
    (source / "videos.csv").write_text("video,tracks\ndoor.mkv,door.txt\nyard.mkv,yard.txt\n")
    (source / "identities.csv").write_text("video,track,identity\ndoor.mkv,1,ada\nyard.mkv,1,ada\n")
    assert import_data(source, tmp_path / "out").cameras == 0
    assert [*rows(tmp_path / "out")[0]] == ["identity", "tracklet", "path", "frames"]


# What is wrong in boxes and tables


def test_all_faults_of_boxes_are_told_at_once_with_their_rows(source: Path, tmp_path: Path) -> None:
    (source / "door.txt").write_text(
        "frame,id,x,y,w,h\n1,1,1,1,9,9\n2,1,1,1\nx,1,1,1,9,9\n3,1.5,1,1,9,9\n4,1,a,1,9,9\n5,1,nan,1,9,9\n"
        "6,1,0.1,0.2,0.05,0.1\n7,1,9,9,-4,9\n1,1,2,2,9,9\n\n13,1,1,1,9,9\n0.0,1,1,1,9,9\n"
    )
    assert faults(source, tmp_path / "out") == [
        "door.txt: row 3: 4 fields; frame,id,x,y,w,h are expected, separated by commas",
        "door.txt: row 4: frame is 'x'; a whole number is expected (and 1 more like it)",
        "door.txt: row 6: x,y,w,h are 'a,1,9,9'; four numbers are expected, in pixels",
        "door.txt: row 7: x,y,w,h are 'nan,1,9,9'; pixels of a picture are expected",
        "door.txt: row 8: a box of 0.05x0.1 pixels; one has at least 1x1: are these shares of the picture, or corners? "
        "(and 1 more like it)",
        "door.txt: row 10: track 1 is in frame 1 in row 2 as well",
        f"door.txt: row 12: frame 13: {source}/door.mkv has the frames 0 to 11; copy it again if it is cut off, or "
        "set first in videos.csv, the number of its first frame".replace(f"{source}/", ""),
        "identities.csv: row 3: track 2 is not in door.txt; correct the row",
    ]


def test_all_faults_of_both_tables_are_told_at_once_with_their_rows(source: Path, tmp_path: Path) -> None:
    (source / "videos.csv").write_text(
        "camera,video,tracks,first\ndoor,door.mkv,door.txt,\n,yard.mkv,yard.txt,\nc\0,door.mkv,door.txt,one\nd,../e.mkv,no.txt,\n"
    )
    (source / "identities.csv").write_text(
        "video,track,identity\ndoor.mkv,1,ada\ndor.mkv,1,ada\ndoor.mkv,one,bo\ndoor.mkv,1,bo\ndoor.mkv,2,\na,b\n"
        'door.mkv,3,"a\nb"\n'
    )
    assert faults(source, tmp_path / "out") == [
        "videos.csv: row 3: camera is empty",
        "videos.csv: row 4: camera 'c\\x00' holds a line break or a NUL; remove it",
        "videos.csv: row 4: video 'door.mkv' is in row 2 as well; each is listed once",
        "videos.csv: row 4: first is 'one'; the number of the first frame is expected",
        "videos.csv: row 5: tracks: no.txt: no such file",
        "videos.csv: row 5: video: ../e.mkv: no such video or folder of frames",
        "identities.csv: row 3: video 'dor.mkv' is not in videos.csv - did you mean 'door.mkv'?",
        "identities.csv: row 4: track is 'one'; the tracker's whole number is expected",
        "identities.csv: row 5: track 1 of 'door.mkv' is in row 2 as well",
        "identities.csv: row 6: identity is empty; remove the row if the track is nobody's",
        "identities.csv: row 7: 2 fields, the header has 3; quote texts with commas",
        "identities.csv: row 8: identity 'a\\nb' holds a line break or a NUL; remove it",
    ]


@pytest.mark.parametrize(
    ("table", "text", "told"),
    [
        ("identities.csv", None, "identities.csv: no such file"),
        ("identities.csv", b"", "identities.csv: has no column video, track, identity; the header is"),
        ("identities.csv", b"video,track,identity\n", "identities.csv: names no track; a row a track is expected"),
        ("identities.csv", b"video,track,identity\ndoor,1,\xff\n", "identities.csv: not UTF-8; save it as CSV"),
        ("identities.csv", b'video,track,identity\ndoor,1,"a\n', "identities.csv: unexpected end of data; quote texts"),
        ("door.txt", b"", "door.txt: lists no box; lines frame,id,x,y,w,h are expected"),
        ("door.mkv", None, "videos.csv: row 2: video: door.mkv: no such video or folder of frames"),
        ("door.mkv", b"", "door.mkv: no video that can be read, or a truncated one"),
        ("door.mkv", b"\x1a\x45\xdf\xa3" * 99, "door.mkv: no video that can be read, or a truncated one"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_named(source: Path, tmp_path: Path, table: str, text: bytes | None, told: str) -> None:
    (source / table).unlink()
    if text is not None:
        (source / table).write_bytes(text)
    (line,) = faults(source, tmp_path / "out")
    assert line.startswith(told)


def test_what_follows_from_a_fault_is_not_told_beside_it(source: Path, tmp_path: Path) -> None:
    (source / "videos.csv").write_text(
        "camera,video,tracks,first\ndoor,door.mkv,door.txt,100\nyard,yard.mkv,yard.txt,\n"
    )
    (line,) = faults(source, tmp_path / "out")
    assert line.startswith("door.txt: row 1: frame 1: ")
    assert line.endswith("(and 23 more like it)")
    (source / "videos.csv").write_text("camera;video;tracks\n")
    (line,) = faults(source, tmp_path / "out")
    assert line.startswith("videos.csv: has no column video, tracks")


def test_a_truncated_video_is_told_by_the_rows_that_need_its_lost_frames(source: Path, tmp_path: Path) -> None:
    video = source / "door.mkv"
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    told = faults(source, tmp_path / "out")
    assert told[0].startswith("door.txt: row ")
    assert "copy it again if it is cut off" in told[0]


def test_a_video_that_is_damaged_inside_is_told_the_others_are_kept_and_no_table_is_written(tmp_path: Path) -> None:
    source = write_source(tmp_path / "s", ("a", "b"), ending=".mp4")
    video = source / "a.mp4"
    with av.open(str(video)) as container:
        last = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size][-2]
    content = bytearray(video.read_bytes())
    content[last[0] : sum(last)] = b"\xff" * last[1]
    good = video.read_bytes()
    video.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.mp4: .*damaged.*copy the video again"):
        import_data(source, tmp_path / "out")
    assert not (tmp_path / "out/tracklets.csv").exists()
    assert len(list((tmp_path / "out/crops/ada/b").rglob("*.jpg"))) == FRAMES
    video.write_bytes(good)
    with pytest.raises(DataError, match="another source, or it was changed"):
        import_data(source, tmp_path / "out")


def test_options_of_the_other_kind_of_source_are_refused(source: Path, tmp_path: Path) -> None:
    assert "leave out what its folders are" in faults(source, tmp_path / "out", folders="identity/tracklet")[0]
    write_frames(tmp_path / "f", ["ada/t/1.jpg"])
    assert "margin and quality" in faults(tmp_path / "f", tmp_path / "out", margin=0.1)[0]


def test_videos_without_a_table_are_told_to_need_one(source: Path, tmp_path: Path) -> None:
    (source / "videos.csv").unlink()
    assert "videos.csv: no such file, but there are videos; write it" in faults(source, tmp_path / "out")[0]


# Again


def test_after_a_kill_the_same_command_writes_what_is_missing_and_the_same_files(source: Path, tmp_path: Path) -> None:
    code = (
        "import os, sys, pathlib; from trainer.data.importing import import_data\n"
        "stop = lambda done, total: os.kill(os.getpid(), 9) if done == 20 else None\n"
        "import_data(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), progress=stop)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(source), str(tmp_path / "out")], check=False)
    assert killed.returncode == -9
    assert not (tmp_path / "out/tracklets.csv").exists()
    next((tmp_path / "out").rglob("000003.jpg")).write_bytes(b"")  # as after a power failure
    assert import_data(source, tmp_path / "out").written == 4 * FRAMES - 20 + 1
    import_data(source, tmp_path / "other")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "other")


def test_a_second_run_writes_nothing_and_opens_no_crop(source: Path, tmp_path: Path) -> None:
    import_data(source, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/crops").rglob("*")}
    assert import_data(source, tmp_path / "out").written == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out/crops").rglob("*")} == before


@pytest.mark.parametrize("change", ["box", "identity", "video", "option"])
def test_a_changed_source_or_other_options_are_refused(source: Path, tmp_path: Path, change: str) -> None:
    import_data(source, tmp_path / "out")
    before = files_of(tmp_path / "out")
    if change == "box":
        (source / "door.txt").write_text(mot_text().replace("1,1,24,", "1,1,25,", 1))
    if change == "identity":
        (source / "identities.csv").write_text("video,track,identity\ndoor,1,ada\n")
    if change == "video":
        write_video(source / "door.mkv", FRAMES + 1)
    told = "with other options" if change == "option" else "of another source, or it was changed"
    with pytest.raises(DataError, match=told):
        import_data(source, tmp_path / "out", ImportOptions(quality=50 if change == "option" else 95))
    assert files_of(tmp_path / "out") == before


def test_a_folder_that_holds_something_else_is_refused_and_so_is_one_in_the_source(
    source: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").touch()
    assert "is there and not empty" in faults(source, tmp_path / "out")[0]
    with pytest.raises(ConfigError, match="which is read; write it somewhere else"):
        import_data(source, source / "out")
    assert not (source / "out").exists()


# From folders


def test_folders_are_copied_as_they_are_by_depth(tmp_path: Path) -> None:
    write_frames(tmp_path / "f", [f"ada/door/t1/{frame}.PNG" for frame in (1, 2, 10)] + ["bo/yard/t1/7.jpg"])
    made = import_data(tmp_path / "f", tmp_path / "out")
    assert made[:4] == (2, 2, 2, 4)
    assert [each.frames[-1].rpartition("out/")[2] for each in read_table(tmp_path / "out")] == [
        "crops/ada/door/t1/000003.png",
        "crops/bo/yard/t1/000001.jpg",
    ]
    assert (tmp_path / "out/crops/ada/door/t1/000003.png").read_bytes() == (
        tmp_path / "f/ada/door/t1/10.PNG"
    ).read_bytes()


def test_folders_of_two_levels_have_no_cameras_unless_it_is_said(tmp_path: Path) -> None:
    write_frames(tmp_path / "f", ["a/b/1.jpg", "a/c/1.jpg"])
    assert import_data(tmp_path / "f", tmp_path / "out").cameras == 0
    assert import_data(tmp_path / "f", tmp_path / "other", ImportOptions(folders="camera/identity"))[:2] == (2, 1)


def test_folders_of_unclear_depth_are_refused_and_read_if_it_is_said(tmp_path: Path) -> None:
    write_frames(tmp_path / "f", ["a/1.jpg", "b/1.jpg"])
    assert faults(tmp_path / "f", tmp_path / "out")[0].endswith("say what the folders are with --folders")
    assert import_data(tmp_path / "f", tmp_path / "o", ImportOptions(folders="identity")).tracklets == 2
    write_frames(tmp_path / "f", ["c/d/e/1.jpg"])
    assert "different depths (1 in" in faults(tmp_path / "f", tmp_path / "out")[0]
    assert "is no layout" in faults(tmp_path / "f", tmp_path / "out", folders="person/camera")[0]


def test_all_faults_of_folders_are_told_at_once(tmp_path: Path) -> None:
    write_frames(tmp_path / "f", ["a/door/t/1.jpg", "a/door/u/v/1.jpg", "b/door/1.jpg", "b/door/t/1.jpg"])
    (tmp_path / "f/c/yard/empty").mkdir(parents=True)
    (tmp_path / "f/a/door/t/2.jpg").touch()
    told = faults(tmp_path / "f", tmp_path / "out", folders="identity/camera/tracklet")
    assert told == [
        "b/door: holds frames, and the folder 't' as well; move one of them",
        "c/yard/empty: is empty; frames are expected: add them or remove the folder",
        "a/door/t/2.jpg: empty file; copy it again, or remove it",
        "a/door/u/v: holds frames 4 folders down; identity/camera/tracklet are 3",
    ]


def test_folders_with_names_of_all_kinds_are_imported_and_read_again(tmp_path: Path) -> None:
    names = ("🦊", 'a "b", c', "Ä", "ä", "-", "*?[x]")
    write_frames(tmp_path / "f", [f"{name}/{camera}/t/1.jpg" for name in names for camera in ("1", "2")])
    import_data(tmp_path / "f", tmp_path / "out")
    assert {each.identity for each in read_table(tmp_path / "out")} == {*names}
    (tmp_path / "f/a\udcff/1/t").mkdir(parents=True)
    write_frames(tmp_path / "f", ["a\udcff/1/t/1.jpg", " /1/t/1.jpg", "x\ny/1/t/1.jpg"])
    assert [line.partition(": ")[2] for line in faults(tmp_path / "f", tmp_path / "new")] == [
        "the name is blank; rename the folder",
        "the name is not UTF-8; rename the folder",
        "the name holds a line break; rename the folder",
    ]
