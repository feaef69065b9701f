"""PRID2011, multi-shot (Hirzer et al. 2011, SCIA): two cameras, identities by folder, ten published partitions.

Layout: ROOT/multi_shot/cam_{a,b}/identity_NNNN/*.png, also one level down in ROOT/prid_2011, and
ROOT/splits_prid2011.json, or beside ROOT (Wang et al. 2014, ECCV): ten objects {"train": [...], "test": [...]} of 89
names identity_NNNN each.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError, model_validator

from trainer.data.dataset import Counts, DataSet, Splits
from trainer.data.readers.two_cameras import (
    Partition,
    TwoCameras,
    drawn_partition,
    images_folder,
    looks_like,
    tracklets_of,
)
from trainer.errors import DataError
from trainer.formatting import plain_words, shown, spelled
from trainer.frozen import FrozenConfig

SPLITS_FILE = "splits_prid2011.json"
FOLDS = 10
LAYOUT = TwoCameras(
    title="PRID2011",
    folders=("multi_shot", "prid_2011/multi_shot"),
    cameras=("cam_a", "cam_b"),
    identity=re.compile(r"person_([0-9]{4})"),
    frame=re.compile(r"[0-9]+\.png"),
    example="0001.png",
    splits_file=SPLITS_FILE,
    published_identities=178,
    # Papers quote ">= 21 frames" and "> 27 frames" under both cameras for the same 178 identities of the published
    # file. The smaller threshold drops nobody that either of the two keeps.
    least_frames=21,
)
MAX_SPLITS_BYTES = 2**20  # the published file holds 49 kB


def _identity_name(name: str) -> str:
    if not LAYOUT.identity.fullmatch(name):
        raise ValueError(f"must be a name like person_0001 (is {shown(name)})")
    return name


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{twice[0]} is listed twice")
    return names


Identities = Annotated[tuple[Annotated[str, AfterValidator(_identity_name)], ...], AfterValidator(_distinct)]


class _Listed(FrozenConfig):
    """Identities to train on, and identities to test on."""

    train: Identities = Field(min_length=1)
    test: Identities = Field(min_length=1)

    @model_validator(mode="after")
    def _nobody_is_in_both(self) -> _Listed:
        if both := sorted(set(self.train) & set(self.test)):
            raise ValueError(f"{both[0]} is listed under train and under test")
        return self


_PARTITIONS = TypeAdapter(tuple[_Listed, ...])


def read_prid2011(root: Path, fold: int = 0) -> Splits:
    """Training, query (camera a) and gallery (camera b) tracklets of one of the ten partitions.

    A tracklet is all frames of an identity under a camera, in the order of their names. Identities are numbered by
    their folders (person_0001 is 1), cameras are 1 and 2. Where the published file is absent, the partition is drawn
    here and a warning says so: figures on it cannot be compared with published ones. Frames are not opened.

    Raises:
        DataError: a file or folder is missing or holds something else.
    """
    assert 0 <= fold < FOLDS, fold
    images = images_folder(root, LAYOUT)
    file = _splits_file(root)
    partition = _read_partition(file, fold) if file.exists() else drawn_partition(images, file, fold, LAYOUT)
    return tracklets_of(partition, images, LAYOUT)


def _splits_file(root: Path) -> Path:
    """In the folder of the data set, or beside it where that is prid_2011 itself; where it should be otherwise."""
    beside, inside = root.absolute().parent / SPLITS_FILE, root / SPLITS_FILE
    return beside if beside.exists() and not inside.exists() else inside


def _read_partition(file: Path, fold: int) -> Partition:
    listed = _read_partitions(file)[fold]
    return Partition(listed.train, listed.test)


def _read_partitions(file: Path) -> Sequence[_Listed]:
    """The ten partitions in the file, every name in them checked."""
    try:
        if file.stat().st_size > MAX_SPLITS_BYTES:
            raise DataError(f"{file}: more than {MAX_SPLITS_BYTES} bytes; this is not the list of PRID2011's splits")
        partitions = _PARTITIONS.validate_json(file.read_bytes(), strict=True)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = f"{spelled(first['loc'])}: " if first["loc"] else ""
        raise DataError(
            f"{file}: {where}{plain_words(first)}; {FOLDS} objects with lists train and test of names like "
            "person_0001 are expected, copy the published file again"
        ) from error
    if len(partitions) != FOLDS:
        raise DataError(f"{file}: {len(partitions)} splits, {FOLDS} are expected; copy the published file again")
    return partitions


PRID2011 = DataSet(
    title=LAYOUT.title,
    read=read_prid2011,
    recognises=looks_like(LAYOUT),
    protocol="prid",
    published={"train": Counts(89, 178, None), "query": Counts(89, 89, None), "gallery": Counts(89, 89, None)},
    folds=FOLDS,
)
