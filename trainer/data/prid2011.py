"""PRID2011, multi-shot (Hirzer et al. 2011, SCIA): two cameras, persons by folder, ten published partitions.

Layout: ROOT/multi_shot/cam_{a,b}/person_NNNN/*.png, also one level down in ROOT/prid_2011, and
ROOT/splits_prid2011.json (Wang et al. 2014, ECCV): ten objects {"train": [...], "test": [...]} of 89 names
person_NNNN each.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError, model_validator

from trainer.data.data_set import Counts, DataSet
from trainer.data.tracklets import Splits, Tracklet
from trainer.errors import DataError
from trainer.frozen import FrozenConfig
from trainer.wording import plain_words, shown, spelled

SPLITS_FILE = "splits_prid2011.json"
FOLDS = 10
IMAGE_FOLDERS = ("multi_shot", "prid_2011/multi_shot")
CAMERAS = {"cam_a": 1, "cam_b": 2}
PERSON = re.compile(r"person_[0-9]{4}")
FRAME = re.compile(r"[0-9]+\.png")
# Papers quote ">= 21 frames" and "> 27 frames" under both cameras for the same 178 persons of the published file. The
# smaller threshold drops nobody that either of the two keeps.
LEAST_FRAMES = 21
PUBLISHED_PERSONS = 178
MAX_SPLITS_BYTES = 2**20  # the published file holds 49 kB

log = logging.getLogger(__name__)


def _person_name(name: str) -> str:
    if not PERSON.fullmatch(name):
        raise ValueError(f"must be a name like person_0001 (is {shown(name)})")
    return name


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{twice[0]} is listed twice")
    return names


Persons = Annotated[tuple[Annotated[str, AfterValidator(_person_name)], ...], AfterValidator(_distinct)]


class _Partition(FrozenConfig):
    """Persons to train on, and persons to test on."""

    train: Persons = Field(min_length=1)
    test: Persons = Field(min_length=1)

    @model_validator(mode="after")
    def _nobody_is_in_both(self) -> _Partition:
        if both := sorted(set(self.train) & set(self.test)):
            raise ValueError(f"{both[0]} is listed under train and under test")
        return self


_PARTITIONS = TypeAdapter(tuple[_Partition, ...])


def read_prid2011(root: Path, fold: int = 0) -> Splits:
    """Training, query (camera a) and gallery (camera b) tracklets of one of the ten partitions.

    A tracklet is all frames of a person under a camera, in the order of their names. Persons are numbered by their
    folders (person_0001 is 1), cameras are 1 and 2. Where the published file is absent, the partition is drawn here
    and a warning says so: figures on it cannot be compared with published ones. Frames are not opened.

    Raises:
        DataError: a file or folder is missing or holds something else.
    """
    assert 0 <= fold < FOLDS, fold
    images = _images_folder(root)
    file = root / SPLITS_FILE
    partition = _read_partitions(file)[fold] if file.exists() else _drawn_partition(images, file, fold)
    return Splits(
        train=tuple(_tracklet(images, person, camera) for person in sorted(partition.train) for camera in CAMERAS),
        query=tuple(_tracklet(images, person, "cam_a") for person in sorted(partition.test)),
        gallery=tuple(_tracklet(images, person, "cam_b") for person in sorted(partition.test)),
    )


def _images_folder(root: Path) -> Path:
    """The folder multi_shot, with both cameras in it."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; data.root must be the folder that holds PRID2011's multi_shot/")
    candidates = [root / folder for folder in IMAGE_FOLDERS]
    images = next((folder for folder in candidates if folder.is_dir()), None)
    if images is None:
        raise DataError(
            f"{candidates[0]}: no such folder, nor {candidates[1]}; data.root must be the folder that holds "
            "PRID2011's multi_shot/ or prid_2011/"
        )
    for camera in CAMERAS:
        if not (images / camera).is_dir():
            raise DataError(f"{images / camera}: no such folder; unpack PRID2011 again")
    return images


def _read_partitions(file: Path) -> Sequence[_Partition]:
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


def _drawn_partition(images: Path, file: Path, fold: int) -> _Partition:
    """One of ten seeded halvings of the persons that both cameras saw long enough.

    As many persons are tested as trained on, one less trained on where their number is odd.
    """
    seen = [_persons_seen_long_enough(images / camera) for camera in CAMERAS]
    persons = sorted(set.intersection(*seen))
    if len(persons) < 2:
        raise DataError(
            f"{images}: {len(persons)} persons with at least {LEAST_FRAMES} frames in both cam_a and cam_b, two are "
            "needed; unpack PRID2011 again"
        )
    log.warning(
        "%s: no such file; split %d is drawn here from %d persons (the published splits have %d) and is NOT the "
        "published one: figures on it cannot be compared with published figures",
        *(file, fold, len(persons), PUBLISHED_PERSONS),
    )
    shuffled = np.random.default_rng(fold).permutation(persons).tolist()
    return _Partition(train=tuple(shuffled[: len(persons) // 2]), test=tuple(shuffled[len(persons) // 2 :]))


def _persons_seen_long_enough(camera: Path) -> set[str]:
    names = [name for name in _listed(camera) if PERSON.fullmatch(name)]
    return {name for name in names if len(_frames(camera / name)) >= LEAST_FRAMES}


def _tracklet(images: Path, person: str, camera: str) -> Tracklet:
    """All frames of a person, such as person_0001, under a camera, such as cam_a."""
    folder = images / camera / person
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder, but {SPLITS_FILE} lists the person; unpack PRID2011 again")
    frames = _frames(folder)
    if not frames:
        raise DataError(f"{folder}: holds no frame such as 0001.png; unpack PRID2011 again")
    prefix = os.fspath(folder) + os.sep
    return Tracklet(tuple([prefix + frame for frame in frames]), int(person[-4:]), CAMERAS[camera])


def _frames(folder: Path) -> list[str]:
    """Names of the frames in temporal order; their numbers have leading zeros."""
    return sorted(name for name in _listed(folder) if FRAME.fullmatch(name))


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - names only, five times faster than Path.iterdir
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from error


PRID2011 = DataSet(
    title="PRID2011",
    read=read_prid2011,
    recognises=lambda root: any((root / folder / "cam_a").is_dir() for folder in IMAGE_FOLDERS),
    protocol="prid",
    published={"train": Counts(89, 178, None), "query": Counts(89, 89, None), "gallery": Counts(89, 89, None)},
    folds=FOLDS,
)
