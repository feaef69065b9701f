"""A miniature of each data set's layout, generated: a few identities, with frames that can be decoded."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import simplejpeg
from jaxtyping import Int
from PIL import Image
from scipy.io import savemat

MATLAB_HEADER = b"MATLAB 7.3 MAT-file".ljust(512, b"\0")  # such files are HDF5 behind 512 bytes


class Miniature(NamedTuple):
    """How a miniature is written, and what of it can be damaged."""

    write: Callable[[Path], None]
    files: tuple[str, ...]
    """Files that are read for its lists, tables and partitions, below its root."""
    frame: str
    """A frame of a training tracklet, below its root."""


def write_miniature(name: str, root: Path) -> None:
    """The miniature of a data set, a key of `READERS`, in a folder that is not there yet."""
    MINIATURES[name].write(root)


def write_frames(root: Path, names: Sequence[str]) -> None:
    """Small pictures, JPEG or PNG by their names; the pictures of a kind are equal."""
    noise = np.random.default_rng(0).integers(0, 256, (16, 8, 3), dtype=np.uint8)
    jpeg = simplejpeg.encode_jpeg(noise)
    first_png: Path | None = None
    for path in [root / name for name in names]:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".jpg":
            path.write_bytes(jpeg)
        elif first_png is None:
            Image.fromarray(noise).save(path)
            first_png = path
        else:
            path.write_bytes(first_png.read_bytes())


# MARS

MARS_TRAIN = [(identity, camera) for identity in (1, 3, 5) for camera in (1, 2)]
MARS_TEST = [(-1, 1), (0, 1), (0, 6), (2, 1), (2, 1), (2, 3), (4, 1), (4, 2), (6, 5)]
MARS_QUERIES = [4, 7, 9]  # rows of the test table, from 1; identity 6 is seen by one camera only


def write_mars(root: Path) -> None:
    """Three identities to train on and three to test on, a distractor, junk; tracklets of 2 to 5 frames."""
    (root / "info").mkdir(parents=True)
    for part, tracklets in (("train", MARS_TRAIN), ("test", MARS_TEST)):
        names: list[str] = []
        table = []
        for number, (identity, camera) in enumerate(tracklets, start=1):
            head = "00-1" if identity < 0 else f"{identity:04d}"
            first = len(names) + 1
            names += [f"{head}C{camera}T{number:04d}F{frame:03d}.jpg" for frame in range(1, 3 + number % 4)]
            table.append((first, len(names), identity, camera))
        (root / "info" / f"{part}_name.txt").write_bytes("".join(f"{name}\r\n" for name in names).encode())
        savemat(root / "info" / f"tracks_{part}_info.mat", {f"track_{part}_info": np.array(table)})
        write_frames(root / f"bbox_{part}", [f"{name[:4]}/{name}" for name in names])
    savemat(root / "info" / "query_IDX.mat", {"query_IDX": np.array([MARS_QUERIES])})


# PRID2011 and iLIDS-VID

IDENTITIES = (1, 2, 3, 5, 8, 13, 21, 34)


def write_prid2011(root: Path) -> None:
    """Eight identities under both cameras, ten partitions into halves."""
    names = [f"person_{identity:04d}" for identity in IDENTITIES]
    frames = range(1, 4)
    write_frames(
        root / "multi_shot",
        [f"{camera}/{name}/{frame:04d}.png" for camera in ("cam_a", "cam_b") for name in names for frame in frames],
    )
    rows = [[names[place] for place in row] for row in _halves()]
    partitions = [{"test": row[:4], "train": row[4:]} for row in rows]
    (root / "splits_prid2011.json").write_text(json.dumps(partitions))


def write_ilids_vid(root: Path) -> None:
    """Eight identities under both cameras, whose numbers have gaps, and ten partitions into halves."""
    frames = [
        f"{camera}/person{identity:03d}/{camera}_person{identity:03d}_{frame:05d}.png"
        for camera in ("cam1", "cam2")
        for identity in IDENTITIES
        for frame in (317, 318, 320)
    ]
    write_frames(root / "i-LIDS-VID" / "sequences", frames)
    (root / "train-test people splits").mkdir()
    write_ilids_splits(root, np.array(_halves()) + 1)


def write_ilids_splits(root: Path, table: np.ndarray) -> None:
    """The file of the partitions, as MATLAB stores them: doubles."""
    file = root / "train-test people splits" / "train_test_splits_ilidsvid.mat"
    savemat(file, {"ls_set": table.astype(np.float64)})


def _halves() -> list[list[int]]:
    generator = np.random.default_rng(3)  # all ten test different identities
    return [generator.permutation(len(IDENTITIES)).tolist() for _ in range(10)]


# LS-VID

LS_VID_TRAIN = [(0, 1), (0, 15), (1, 2), (1, 3)]
LS_VID_TEST = [(2, 1), (2, 1), (2, 4), (3, 2), (3, 10), (-1, 5), (4, 7)]
LS_VID_QUERIES = [1, 4]  # lines of the test list, from 1


def write_ls_vid(root: Path) -> None:
    """Identities counted from 0; two to train on, three to test on, junk; tracklets of 2 to 4 frames."""
    (root / "list_sequence").mkdir(parents=True)
    for part, tracklets in (("train", LS_VID_TRAIN), ("test", LS_VID_TEST)):
        lines = []
        for number, (identity, camera) in enumerate(tracklets, start=1):
            folder = f"tracklet_{part}/{identity:04d}"
            stem = f"{identity:04d}_{number:04d}_{camera:02d}_"
            lines.append(f"{folder}/{stem} {identity}\n")
            write_frames(root / folder, [f"{stem}{frame:06d}.jpg" for frame in range(7, 9 + number % 3)])
        (root / "list_sequence" / f"list_seq_{part}.txt").write_text("".join(lines))
    write_hdf5(root / "test" / "data" / "info_test.mat", {"query": np.array([LS_VID_QUERIES], dtype=np.float64)})


def write_hdf5(path: Path, matrices: Mapping[str, Int[np.ndarray, ...] | np.ndarray]) -> None:
    """A file as MATLAB v7.3 writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=len(MATLAB_HEADER)) as file:
        for name, matrix in matrices.items():
            file[name] = matrix
    with path.open("r+b") as raw:
        raw.seek(0, os.SEEK_SET)
        raw.write(MATLAB_HEADER)


# YouTube Faces

FACES = {f"{name}_{fold:02d}": videos for fold in range(11) for name, videos in (("Ann", (0, 2)), ("Bo", (1, 3, 10)))}
"""Numbers of the videos of each identity; the last two identities are in no pair."""


def write_youtube_faces(root: Path) -> None:
    """Two identities in each of ten folds, with a pair of the same and two of different identities, and two in none."""
    write_frames(
        root / "aligned_images_DB",
        [
            f"{identity}/{video}/aligned_detect_{video}.{frame}.jpg"
            for identity, videos in FACES.items()
            for video in videos
            for frame in range(151, 154)
        ],
    )
    rows = []
    for fold in range(10):
        ann, bo = f"Ann_{fold:02d}", f"Bo_{fold:02d}"
        pairs = [(f"{ann}/0", f"{ann}/2", 1), (f"{ann}/0", f"{bo}/1", 0), (f"{bo}/3", f"{ann}/2", 0)]
        rows += [(fold + 1, number, *pair) for number, pair in enumerate(pairs, start=1)]
    write_pairs(root / "splits.txt", rows)


def write_pairs(path: Path, rows: Sequence[Sequence[object]]) -> None:
    """YouTube Faces' list of pairs, with its header."""
    header = "split number, pair number, first name, second name, is same"
    path.write_text("".join(f"{line}\n" for line in (header, *(", ".join(map(str, row)) for row in rows))))


# Tracklets of one's own

OWN_TRAIN = [(name, camera) for name in ("Ada", "Bo, jr.", "Čeněk") for camera in ("door", "yard 2", "yard 10")]
OWN_TEST = [(name, camera) for name in ("7", "Zoë 🐈") for camera in ("door", "door", "yard 2")]


def write_tracklets(root: Path) -> None:
    """Three identities to train on and two to test on, under three cameras with names; a folder for each tracklet."""
    rows = []
    for number, (identity, camera) in enumerate([*OWN_TRAIN, *OWN_TEST], start=1):
        folder = f"crops/{number:03d}"
        write_frames(root / folder, [f"{frame:06d}.jpg" for frame in range(1, 3 + number % 3)])
        part = "train" if number <= len(OWN_TRAIN) else "query" if number % 3 == 1 else "gallery"
        rows.append({"identity": identity, "camera": camera, "path": folder, "part": part})
    write_table(root / "tracklets.csv", rows)


def write_table(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """A CSV file with a header."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


# Joined


def write_joined(root: Path) -> None:
    """MARS and tracklets of one's own, below the folder that joins them."""
    write_mars(root / "mars")
    write_tracklets(root / "people")
    (root / "joined.yaml").write_text("sets:\n  mars: {root: mars}\n  own: {root: people, name: tracklets}\n")


MINIATURES: dict[str, Miniature] = {
    "mars": Miniature(
        write_mars,
        (
            "info/train_name.txt",
            "info/test_name.txt",
            "info/tracks_train_info.mat",
            "info/tracks_test_info.mat",
            "info/query_IDX.mat",
        ),
        "bbox_train/0001/0001C1T0001F001.jpg",
    ),
    "prid2011": Miniature(
        write_prid2011,
        ("splits_prid2011.json",),
        "multi_shot/cam_a/person_0001/0001.png",
    ),
    "ilids_vid": Miniature(
        write_ilids_vid,
        ("train-test people splits/train_test_splits_ilidsvid.mat",),
        "i-LIDS-VID/sequences/cam1/person001/cam1_person001_00317.png",
    ),
    "ls_vid": Miniature(
        write_ls_vid,
        ("list_sequence/list_seq_train.txt", "list_sequence/list_seq_test.txt", "test/data/info_test.mat"),
        "tracklet_train/0000/0000_0001_01_000007.jpg",
    ),
    "youtube_faces": Miniature(
        write_youtube_faces, ("splits.txt",), "aligned_images_DB/Ann_10/0/aligned_detect_0.151.jpg"
    ),
    "tracklets": Miniature(write_tracklets, ("tracklets.csv",), "crops/001/000001.jpg"),
    "joined": Miniature(write_joined, ("joined.yaml",), "mars/bbox_train/0001/0001C1T0001F001.jpg"),
}
"""By key of `READERS`."""
