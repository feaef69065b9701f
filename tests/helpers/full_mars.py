"""MARS at its full size: the published tables, name lists that fit them, and frames that are links to a few pictures.

    python tests/helpers/full_mars.py FOLDER TABLES

`TABLES` is the folder of `tracks_train_info.mat`, `tracks_test_info.mat` and `query_IDX.mat`. The 1.19 million frames
take half a minute and 80 MB: each picture has 4,000 names.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image

from trainer.data.readers.matlab import read_matrix

TABLES = {
    "tracks_train_info.mat": "track_train_info",
    "tracks_test_info.mat": "track_test_info",
    "query_IDX.mat": "query_IDX",
}
PICTURES = 300
HEIGHT, WIDTH = 256, 128


def write_lists(root: Path, tables: Path) -> dict[str, list[str]]:
    """Writes `root`/info; returns the base names of the frames by part."""
    (root / "info").mkdir(parents=True)
    for file in TABLES:
        shutil.copyfile(tables / file, root / "info" / file)
    names: dict[str, list[str]] = {"train": [], "test": []}
    for part, of_part in names.items():
        tracklets: Counter[tuple[int, int]] = Counter()
        table = read_matrix(tables / f"tracks_{part}_info.mat", f"track_{part}_info")
        for first, last, identity, camera in table.tolist():
            tracklets[identity, camera] += 1
            head = "00-1" if identity < 0 else f"{identity:04d}"
            stem = f"{head}C{camera}T{tracklets[identity, camera]:04d}F"
            of_part += [f"{stem}{frame:03d}.jpg" for frame in range(1, last - first + 2)]
        (root / "info" / f"{part}_name.txt").write_bytes("".join(f"{name}\r\n" for name in of_part).encode())
    return names


def write_full_mars(root: Path, tables: Path) -> None:
    """The whole layout, in a folder that is not there yet."""
    names = write_lists(root, tables)
    pictures = _pictures(root / "pictures")
    for part, of_part in names.items():
        images = root / f"bbox_{part}"
        for identity in {name[:4] for name in of_part}:
            (images / identity).mkdir(parents=True)
        for number, name in enumerate(of_part):
            os.link(pictures[number % PICTURES], images / name[:4] / name)


def _pictures(folder: Path) -> list[Path]:
    """Colours that run into each other, other ones in each file of 7 kB."""
    folder.mkdir()
    draws = np.random.default_rng(0)
    files = [folder / f"{number:03d}.jpg" for number in range(PICTURES)]
    for file in files:
        coarse = draws.integers(0, 256, (HEIGHT // 16, WIDTH // 16, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
        file.write_bytes(simplejpeg.encode_jpeg(smooth, quality=70))
    return files


if __name__ == "__main__":
    write_full_mars(*map(Path, sys.argv[1:3]))
