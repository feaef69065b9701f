"""`reidsearch data`: what its commands print, write and refuse, and their exit codes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from miniatures import write_frames, write_miniature, write_table
from PIL import Image
from tracked import write_source

from orchestrator.__main__ import run
from orchestrator.base.hints import command_line
from trainer.data.manifest import MANIFEST


@pytest.fixture
def synthetic(mini_mars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the generated data set, in the current folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(mini_mars, "data")
    return Path("data")


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set that does not say that it is generated."""
    monkeypatch.chdir(tmp_path)
    write_miniature("mars", Path("mars"))
    return Path("mars")


Printed = pytest.CaptureFixture[str]


# check


def test_a_good_data_set_is_ok_in_every_line_and_exits_0(synthetic: Path, capsys: Printed) -> None:
    assert run(["data", "check", "data"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    lines = printed.out.splitlines()
    assert lines[0] == "ok   data: MARS  SYNTHETIC"
    assert {line[:5] for line in lines} == {"ok   ", "note ", "     "}
    assert "queries have no match by another camera under protocol mars" in printed.out
    assert "under mars_query_in_gallery" in printed.out
    assert (synthetic / MANIFEST).is_file()


def test_problems_are_a_line_each_on_standard_error_with_their_number_last_and_exit_3(
    synthetic: Path, capsys: Printed
) -> None:
    first, second, *_ = sorted(synthetic.glob("bbox_train/*/*.jpg"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:700])
    assert run(["data", "check", "data", "--all"]) == 3
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert lines[-1] == "2 problems"
    assert [line.split(": ")[0] for line in lines[:-1]] == [str(first), str(second)]
    assert "bad  " in printed.out
    assert "note damaged: 1 of " in printed.out
    assert not (synthetic / MANIFEST).exists()


def test_of_many_problems_twenty_are_shown(synthetic: Path, capsys: Printed) -> None:
    for frame in sorted(synthetic.glob("bbox_train/*/*.jpg"))[:25]:
        frame.unlink()
    assert run(["data", "check", "data"]) == 3
    *shown, more, count = capsys.readouterr().err.splitlines()
    assert len(shown) == 20
    assert (more, count) == ("and 5 more", "25 problems")


def test_json_is_one_document_with_the_problems_in_it(synthetic: Path, capsys: Printed) -> None:
    next(synthetic.glob("bbox_train/*/*.jpg")).unlink()
    assert run(["data", "check", "data", "--json"]) == 3
    printed = capsys.readouterr()
    assert printed.err == ""
    found = json.loads(printed.out)
    assert found["problem_count"] == len(found["problems"]) == 1
    assert found["frames"]["missing"] == 1
    assert found["synthetic"] is True


def test_counts_other_than_published_are_refused_unless_they_are_let_pass(real: Path, capsys: Printed) -> None:
    assert run(["data", "check", "mars"]) == 3
    assert "625 published" in capsys.readouterr().err
    assert run(["data", "check", "mars", "--any-counts", "--manifest", "m.jsonl"]) == 0
    assert Path("m.jsonl").is_file()
    assert not (real / MANIFEST).exists()


@pytest.mark.parametrize("verb", ["check", "stats", "preview"])
def test_a_folder_without_a_data_set_is_one_line_and_exit_3(tmp_path: Path, capsys: Printed, verb: str) -> None:
    assert run(["data", verb, str(tmp_path)]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path) in line
    assert list(tmp_path.iterdir()) == []


# import


def test_import_says_what_was_written_and_what_was_left_out(tmp_path: Path, capsys: Printed) -> None:
    source = write_source(tmp_path / "cameras")
    (source / "identities.csv").write_text("video,track,identity\ndoor,1,ada\nyard,1,ada\nyard,2,bo\n")
    assert run(["data", "import", str(source), str(tmp_path / "own"), "--margin", "0.1"]) == 0
    printed = capsys.readouterr()
    assert f"{tmp_path}/own: 2 identities, 2 cameras, 3 tracklets, 36 frames, 36 of them written now, " in printed.out
    assert "note: left out: 1 track without an identity in identities.csv\n" in printed.err
    assert printed.err.endswith(f"next: {command_line('data', 'check', tmp_path / 'own')}\n")


def test_import_prints_a_line_for_each_fault_writes_nothing_and_exits_3(tmp_path: Path, capsys: Printed) -> None:
    source = write_source(tmp_path / "cameras")
    (source / "door.txt").write_text("1,1,1,1,9\n2,1,x,1,9,9\n")
    (source / "yard.mkv").write_bytes(b"")
    assert run(["data", "import", str(source), str(tmp_path / "own")]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert [line.replace(f"{source}/", "").partition(";")[0] for line in lines] == [
        "door.txt: row 1: 5 fields",
        "door.txt: row 2: x,y,w,h are 'x,1,9,9'",
        "yard.mkv: no video that can be read, or a truncated one (Invalid data found when processing input)",
    ]
    assert not (tmp_path / "own").exists()


def test_levels_of_folders_that_are_none_are_a_usage_error(tmp_path: Path, capsys: Printed) -> None:
    assert run(["data", "import", str(tmp_path), str(tmp_path / "own"), "--folders", "foo/bar"]) == 2
    assert "'--folders': 'foo/bar': is no layout; write identity/camera/tracklet" in capsys.readouterr().err


@pytest.mark.parametrize("margin", ["nan", "inf", "-1"])
def test_a_margin_that_is_no_share_is_a_usage_error(tmp_path: Path, capsys: Printed, margin: str) -> None:
    source = write_source(tmp_path / "cameras")
    assert run(["data", "import", str(source), str(tmp_path / "own"), "--margin", margin]) == 2
    assert "--margin" in capsys.readouterr().err
    assert not (tmp_path / "own").exists()


def test_a_data_set_without_test_tracklets_is_said_to_have_none(tmp_path: Path, capsys: Printed) -> None:
    names = [f"{name}/{camera}/1.jpg" for name in "ab" for camera in "xy"]
    write_frames(tmp_path, names)
    rows = [{"identity": n[0], "camera": n[2], "path": n.rpartition("/")[0], "part": "train"} for n in names]
    write_table(tmp_path / "tracklets.csv", rows)
    assert run(["data", "check", str(tmp_path)]) == 3
    assert "in the test tracklets there is no identity: " in capsys.readouterr().err


def test_joined_data_sets_are_checked_counted_packed_and_shown_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Printed
) -> None:
    monkeypatch.chdir(tmp_path)
    write_miniature("joined", Path("joined"))
    assert run(["data", "check", "joined"]) == 0
    assert "queries have no match" not in capsys.readouterr().out
    assert run(["data", "pack", "joined", "packed"]) == 0
    assert run(["data", "check", "packed"]) == 0
    assert run(["data", "preview", "packed", "--images"]) == 0
    capsys.readouterr()
    assert run(["data", "stats", "packed"]) == 0
    head, *bars = capsys.readouterr().out.split("\n\n")
    assert head == "packed: joined data sets" + head.partition("joined data sets")[2]
    assert all(len(each.splitlines()) > 1 for each in bars)
    assert "   own/door         3 ####" in "\n".join(bars)


# stats


def test_stats_show_tables_and_bars(synthetic: Path, capsys: Printed) -> None:
    assert run(["data", "stats", "data"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("data: MARS  SYNTHETIC\n")
    for title in (
        "under 4 frames",
        "train: tracklets by frames",
        "gallery: tracklets by camera",
        "test: identities by number of cameras",
        "queries by matches, protocol mars_query_in_gallery",
    ):
        assert title in text
    assert "#" * 40 in text
    assert "#" * 41 not in text
    assert all(line == line.rstrip() and len(line) <= 100 for line in text.splitlines())


def test_stats_of_a_data_set_with_partitions_name_the_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Printed
) -> None:
    monkeypatch.chdir(tmp_path)
    write_miniature("prid2011", Path("prid"))
    assert run(["data", "stats", "prid"]) == 0
    assert capsys.readouterr().out.startswith("prid: PRID2011, partition 0 of 10\n")


def test_stats_of_own_data_name_its_cameras(tmp_path: Path, capsys: Printed) -> None:
    write_miniature("tracklets", tmp_path / "own")
    assert run(["data", "stats", str(tmp_path / "own")]) == 0
    assert "  yard 10         3 ####" in capsys.readouterr().out
    assert run(["data", "stats", str(tmp_path / "own"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["own_data"] is True
    assert found["parts"]["train"]["tracklets_by_camera"] == {"door": 3, "yard 2": 3, "yard 10": 3}


def test_a_table_with_faults_is_a_line_for_each_and_exit_3(tmp_path: Path, capsys: Printed) -> None:
    (tmp_path / "tracklets.csv").write_text("identity,camera,path\nAda,door,../a\n,door,b\n")
    assert run(["data", "check", str(tmp_path)]) == 3
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(": row ")[2][:2] for line in said] == ["2:", "3:", "3:"]
    assert [each.name for each in tmp_path.iterdir()] == ["tracklets.csv"]


def test_stats_as_json_name_every_number(synthetic: Path, capsys: Printed) -> None:
    assert run(["data", "stats", "data", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["name"], found["synthetic"], found["partitions"]) == ("mars", True, 1)
    train = found["parts"]["train"]
    assert train["counts"]["identities"] == 8
    assert sum(train["lengths"]["histogram"].values()) == train["counts"]["tracklets"]
    assert sum(train["tracklets_by_camera"].values()) == train["counts"]["tracklets"]
    assert set(found["queries_by_matches"]) == {"mars", "mars_query_in_gallery"}


# preview


def test_a_preview_of_drawn_people_is_a_picture_and_the_same_for_the_same_seed(
    synthetic: Path, capsys: Printed
) -> None:
    for out, seed in (("a.png", 0), ("b.png", 0), ("c.png", 1)):
        assert run(["data", "preview", "data", "--out", out, "--count", "3", "--seed", str(seed)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "a.png: 3 tracklets  SYNTHETIC"
    with Image.open("a.png") as picture:
        assert picture.format == "PNG"
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes() != Path("c.png").read_bytes()


def test_a_preview_shows_no_more_tracklets_than_there_are(real: Path, capsys: Printed) -> None:
    assert run(["data", "preview", "mars", "--count", "100", "--images"]) == 0
    assert capsys.readouterr().out == "preview.png: 14 tracklets\n"


def test_pictures_of_real_people_are_written_only_when_asked_for(real: Path, capsys: Printed) -> None:
    assert run(["data", "preview", "mars"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "--images" in line
    assert not Path("preview.png").exists()
    assert run(["data", "preview", "mars", "--images"]) == 0
    assert Path("preview.png").is_file()


# pack


def test_a_packed_data_set_is_checked_counted_and_shown_like_any_other(synthetic: Path, capsys: Printed) -> None:
    assert run(["data", "pack", "data", "packed", "--size", "64x32"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("packed: MARS, ")
    assert "SYNTHETIC" in printed.out
    said, hint = printed.err.splitlines()
    assert re.fullmatch(r"packed: \d+ frames, \d+\.\d MB of pixels, [\d,]+ MB free", said)
    assert hint == f"next: {command_line('data', 'check', 'packed')}"
    assert run(["data", "check", "packed", "--all"]) == 0
    assert capsys.readouterr().out.startswith("ok   packed: MARS, packed  SYNTHETIC\n")
    assert run(["data", "stats", "packed"]) == 0
    packed = capsys.readouterr().out
    assert run(["data", "stats", "data"]) == 0
    assert packed.splitlines()[1:] == capsys.readouterr().out.splitlines()[1:]
    assert run(["data", "preview", "packed", "--count", "2"]) == 0


@pytest.mark.parametrize("size", ["64", "64x", "0x64", "64x32x3", "-1x2", "٣x٣", "99999x99999"])
def test_a_size_that_is_none_is_a_usage_error(synthetic: Path, capsys: Printed, size: str) -> None:
    assert run(["data", "pack", "data", "packed", "--size", size]) == 2
    assert "256x128" in capsys.readouterr().err
    assert not Path("packed").exists()


def test_a_folder_that_is_not_empty_is_not_packed_into(synthetic: Path, capsys: Printed) -> None:
    Path("out").mkdir()
    Path("out/mine").touch()
    assert run(["data", "pack", "data", "out"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "out" in line
    assert [path.name for path in Path("out").iterdir()] == ["mine"]
