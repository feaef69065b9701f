"""`examples/omniglot/make.py`: handwriting as tracklets, where the strokes are at hand."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from checkout import ROOT

from orchestrator.space.search_space import SearchSpace
from trainer.data.folder import find_data
from trainer.data.images import decode_image

EXAMPLE = ROOT / "examples/omniglot"
MAKE = EXAMPLE / "make.py"
STROKES = ROOT.parent / "shared/data/omniglot/strokes_background_small1.zip"
NAME = re.compile(r"[^/]+/([A-Za-z_]+)/character(\d\d)/\d+_\d\d\.txt")
DRAWING = "START\n10,-10,0\n10,-90,400\nBREAK\n90,-50,800\nBREAK\n"  # a line, then a dot


def made(archive: Path, out: Path) -> Path:
    subprocess.run([sys.executable, str(MAKE), str(archive), str(out)], check=True, capture_output=True)
    return out


def archive_of(path: Path, names: list[str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, DRAWING)
    return path


def test_a_drawing_grows_by_equal_steps_of_time_to_its_last_dot(tmp_path: Path) -> None:
    names = ["s/Greek/character01/0108_01.txt", "__MACOSX/s/Greek/character01/._0108_01.txt", "s/Greek/.DS_Store"]
    out = made(archive_of(tmp_path / "s.zip", names), tmp_path / "out")
    (folder,) = (out / "drawings/Greek01").iterdir()
    frames = [decode_image("", (folder / f"{number}.png").read_bytes())[..., 0] for number in range(1, 9)]
    lit = [int((frame > 0).sum()) for frame in frames]
    assert lit[0] < lit[3] < lit[7]
    assert lit == sorted(lit)
    assert frames[7][15, 27] > 0
    assert frames[6][15, 27] == 0
    assert frames[7][15, 3] > 0


def test_the_drawers_of_two_alphabets_are_queries_and_gallery_the_others_are_trained_on(tmp_path: Path) -> None:
    names = [
        f"s/{alphabet}/character0{character}/1_0{drawer}.txt"
        for alphabet in ("Greek", "Latin")
        for character in (1, 2)
        for drawer in (1, 2, 3)
    ]
    found = find_data(made(archive_of(tmp_path / "s.zip", names), tmp_path / "out"))
    train, query, gallery = found.read()
    assert (found.name, len(train), len(query), len(gallery)) == ("tracklets", 6, 4, 2)


@pytest.mark.skipif(not STROKES.is_file(), reason=f"{STROKES} is not there")
def test_the_published_strokes_hold_136_characters_of_20_drawers_and_some_of_them_are_made(tmp_path: Path) -> None:
    with zipfile.ZipFile(STROKES) as strokes, zipfile.ZipFile(tmp_path / "some.zip", "w") as some:
        found = [name for name in map(NAME.fullmatch, strokes.namelist()) if name is not None]
        for name in (name[0] for name in found if name[1] in ("Greek", "Latin") and name[2] == "03"):
            some.writestr(name, strokes.read(name))
    assert len(found) == 136 * 20
    assert len({(name[1], name[2]) for name in found}) == 136
    train, query, gallery = find_data(made(tmp_path / "some.zip", tmp_path / "out")).read()
    assert [len(part) for part in (train, query, gallery)] == [20, 10, 10]
    assert {len(tracklet.frames) for tracklet in (*train, *query, *gallery)} == {8}


@pytest.mark.parametrize("path", sorted(EXAMPLE.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_spaces_of_the_example_are_of_configurations_of_the_trainer(path: Path) -> None:
    space = SearchSpace.load(str(path))
    for point in (space.any_sample(), *space.start):
        config = space.config(point)
        assert (config.data.name, config.clips.flip) == ("tracklets", 0)
