"""The page on one's own data, followed to the letter: its commands on 51 tracklets in folders with a table, and on
tracklets that were cut from videos."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from documented import ROOT, block_commands
from miniatures import write_frames, write_table
from PIL import Image
from running import command as reidsearch
from tracked import write_source

PAGE = ROOT / "docs/howto-own-data.md"
CAMERAS = ("front door", "back door", "yard 1", "yard 2", "Hall, left", "Hall, right", "garage")


def write_tracks(root: Path) -> None:
    """17 identities with three tracklets each, under seven cameras; each identity has colours of its own."""
    rows = []
    for number in range(51):
        person = number // 3
        colours = np.random.default_rng(person).integers(20, 236, (4, 2, 3)).repeat(8, 0).repeat(8, 1)
        folder = root / "crops" / f"{number:03d}"
        folder.mkdir(parents=True)
        for frame in range(4):
            noise = np.random.default_rng((number, frame)).integers(-20, 20, (32, 16, 3))
            Image.fromarray((colours + noise).astype(np.uint8)).save(folder / f"{frame}.jpg")
        camera = CAMERAS[(3 * number + person) % len(CAMERAS)]
        rows.append({"identity": f"Person {chr(65 + person)}", "camera": camera, "path": f"crops/{number:03d}"})
    write_table(root / "tracklets.csv", rows)


def import_tracks(root: Path) -> None:
    """17 identities under four cameras, cut from videos."""
    source = write_source(root.parent / "videos", CAMERAS[:4], {t: f"Person {chr(64 + t)}" for t in range(1, 18)})
    done = reidsearch("data", "import", str(source), str(root))
    assert done.returncode == 0, done.stderr


@pytest.mark.e2e
@pytest.mark.parametrize("write", [write_tracks, import_tracks])
def test_the_way_from_a_table_or_from_videos_to_an_exported_network(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    write(tmp_path / "tracks")
    write_source(tmp_path / "cameras")
    write_frames(tmp_path / "people", [f"{name}/{c}/t/{n}.jpg" for name in "abcd" for c in "xy" for n in (1, 2)])
    said = {}
    for command in block_commands(PAGE):
        done = reidsearch(*command.words[1:], cwd=tmp_path)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        said[" ".join(command.words[1:3])] = done.stdout
    assert "yard 1" in said["data stats"]
    assert "data      own data: these metrics must not stand beside published results" in said["status mine"]
    assert "| own data |" in said["tables mine"]
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "Per cent (own data)" in card
    assert "Person" not in card
    config = json.loads((tmp_path / "exported" / "config.json").read_text())
    assert config["data"]["name"] == "tracklets"
