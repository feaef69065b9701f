"""iLIDS-VID (Wang et al. 2014, ECCV): two cameras, 300 identities by folder, ten published partitions.

Layout: ROOT/i-LIDS-VID/sequences/cam{1,2}/personNNN/cam1_personNNN_FFFFF.png and
ROOT/train-test people splits/train_test_splits_ilidsvid.mat with the matrix ls_set [10 partitions, 300 identities].
Its entries count, from 1, into the sorted list of identities' folders (their numbers have gaps); the first half of a
row is tested on, the rest trained on. ROOT may also be the folder i-LIDS-VID itself, or hold iLIDS-VID/.

Identities are numbered by their folders (person001 is 1), which public loaders do by their place in the list.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from trainer.data.readers.matlab import read_matrix
from trainer.data.readers.two_cameras import FOLDS, Partition, TwoCameras, identities_under, two_camera_data_set
from trainer.errors import DataError

VARIABLE = "ls_set"
LAYOUT = TwoCameras(
    title="iLIDS-VID",
    folders=("i-LIDS-VID/sequences", "sequences", "iLIDS-VID/i-LIDS-VID/sequences"),
    cameras=("cam1", "cam2"),
    identity=re.compile(r"person([0-9]{3})"),
    frame=re.compile(r"cam[12]_person[0-9]{3}_[0-9]+\.png"),
    example="cam1_person001_00317.png",
    splits_file="train-test people splits/train_test_splits_ilidsvid.mat",
    published_identities=300,
)


def _read_partition(file: Path, images: Path, fold: int) -> Partition:
    identities = _identities_of_both(images)
    table = read_matrix(file, VARIABLE)
    if table.shape != (FOLDS, len(identities)):
        raise DataError(
            f"{file}: {VARIABLE} has shape {table.shape}; [{FOLDS} {len(identities)}] is expected, a column for each "
            f"of the {len(identities)} identities in {images}; unpack {LAYOUT.title} again"
        )
    _check_rows(file, table)
    drawn = [identities[place - 1] for place in table[fold].tolist()]
    return Partition(test=drawn[: len(drawn) // 2], train=drawn[len(drawn) // 2 :])


def _identities_of_both(images: Path) -> list[str]:
    """The sorted folders of identities, which are those of both cameras; at least two."""
    seen = [identities_under(images / camera, LAYOUT) for camera in LAYOUT.cameras]
    if only := sorted(set(seen[0]) ^ set(seen[1])):
        camera = LAYOUT.cameras[only[0] in seen[0]]
        raise DataError(
            f"{images / camera / only[0]}: no such folder, but the other camera's; unpack {LAYOUT.title} again"
        )
    if len(seen[0]) < 2:
        raise DataError(f"{images}: {len(seen[0])} identities, two are needed; unpack {LAYOUT.title} again")
    return seen[0]


def _check_rows(file: Path, table: Int64[np.ndarray, "folds identities"]) -> None:
    """Every row names every identity once."""
    identities = table.shape[1]
    for number, row in enumerate(table, start=1):
        outside = (row < 1) | (row > identities)
        if outside.any():
            column = int(outside.argmax())
            raise DataError(
                f"{file}: row {number}, column {column + 1}: {row[column]}; identities are 1 to {identities}"
            )
        values, counts = np.unique(row, return_counts=True)
        if len(values) < identities:
            raise DataError(f"{file}: row {number}: identity {values[counts.argmax()]} is listed twice; copy it again")


ILIDS_VID = two_camera_data_set(LAYOUT, _read_partition)
