"""Data sets of two cameras with a folder per person: their tracklets, and halves drawn where none are published."""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trainer.data.data_set import contents
from trainer.data.tracklets import Splits, Tracklet
from trainer.errors import DataError
from trainer.formatting import listed

log = logging.getLogger(__name__)


class TwoCameras(NamedTuple):
    """How such a data set lies on disk: FOLDER/CAMERA/PERSON/FRAME."""

    title: str
    """Name in its paper."""
    folders: tuple[str, ...]
    """Folders that may hold the two cameras, below the folder of the data set; the usual one first."""
    cameras: tuple[str, str]
    """Folders of camera 1, whose test tracklets are the queries, and of camera 2, whose are the gallery."""
    person: re.Pattern[str]
    """Names of the folders of persons; the group is the person's number."""
    frame: re.Pattern[str]
    """Names of the frames. Their numbers have leading zeros: the order of names is the order in time."""
    example: str
    """A frame's name."""
    splits_file: str
    """Name of the file with the published partitions."""
    published_persons: int
    """Persons in the published partitions together."""
    least_frames: int = 1
    """Frames under each camera that a person needs to be drawn into a half."""


class Partition(NamedTuple):
    """Folders of the persons to train on, and of those to test on."""

    train: Iterable[str]
    test: Iterable[str]


def images_folder(root: Path, layout: TwoCameras) -> Path:
    """The folder that holds both cameras.

    Raises:
        DataError: it is not there, or lacks a camera.
    """
    belongs = f"data.root must be the folder that holds {layout.title}'s {layout.folders[0].partition('/')[0]}/"
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; {belongs}")
    candidates = [root / folder for folder in layout.folders]
    images = next((folder for folder in candidates if folder.is_dir()), None)
    if images is None:
        others = listed([str(folder) for folder in candidates[1:]])
        raise DataError(f"{candidates[0]}: no such folder, nor {others}; {belongs}")
    for camera in layout.cameras:
        if not (images / camera).is_dir():
            raise DataError(f"{images / camera}: no such folder; unpack {layout.title} again")
    return images


def looks_like(layout: TwoCameras) -> Callable[[Path], bool]:
    """Whether a folder holds the first camera where the layout has it."""
    return lambda root: any((root / folder / layout.cameras[0]).is_dir() for folder in layout.folders)


def tracklets_of(partition: Partition, images: Path, layout: TwoCameras) -> Splits:
    """A tracklet is all frames of a person under a camera; persons in the order of their folders' names.

    Raises:
        DataError: a person's folder is missing or holds no frame.
    """
    first, second = layout.cameras
    test = sorted(partition.test)
    return Splits(
        train=tuple(
            _tracklet(images, person, camera, layout) for person in sorted(partition.train) for camera in layout.cameras
        ),
        query=tuple(_tracklet(images, person, first, layout) for person in test),
        gallery=tuple(_tracklet(images, person, second, layout) for person in test),
    )


def drawn_partition(images: Path, file: Path, fold: int, layout: TwoCameras) -> Partition:
    """One of the seeded halvings of the persons that both cameras saw long enough, where the split `file` is absent.

    As many persons are tested as trained on, one less trained on where their number is odd. A warning, one for all
    partitions that a process reads, says that figures on them cannot be compared with published ones.

    Raises:
        DataError: fewer than two persons.
    """
    persons = sorted(set.intersection(*(_seen_long_enough(images / camera, layout) for camera in layout.cameras)))
    if len(persons) < 2:
        raise DataError(
            f"{images}: {len(persons)} persons with at least {layout.least_frames} frames in both "
            f"{' and '.join(layout.cameras)}, two are needed; {_sight(images / layout.cameras[0], layout)}"
        )
    _warn_of_drawing(file, len(persons), layout.published_persons)
    shuffled = np.random.default_rng(fold).permutation(persons).tolist()
    return Partition(train=shuffled[: len(persons) // 2], test=shuffled[len(persons) // 2 :])


@functools.cache
def _warn_of_drawing(file: Path, persons: int, published: int) -> None:
    """Once: whoever reads all partitions, as a check of the data does, needs no warning for each."""
    log.warning(
        "%s: no such file; splits are drawn here from %d persons (the published ones have %d) and are NOT the "
        "published ones: figures on them cannot be compared with published figures",
        *(file, persons, published),
    )


def persons_under(camera: Path, layout: TwoCameras) -> list[str]:
    """Folders of the persons that a camera saw, sorted."""
    return sorted(name for name in _names(camera) if layout.person.fullmatch(name))


def _seen_long_enough(camera: Path, layout: TwoCameras) -> set[str]:
    persons = persons_under(camera, layout)
    return {person for person in persons if len(_frames(camera / person, layout)) >= layout.least_frames}


def _sight(camera: Path, layout: TwoCameras) -> str:
    """What a camera's first person has instead of frames, or the camera instead of persons."""
    persons = persons_under(camera, layout)
    if not persons:
        return f"{camera} {contents(camera)}"
    frames = _frames(camera / persons[0], layout)
    return f"{camera / persons[0]} " + (
        f"holds {len(frames)}" if frames else contents(camera / persons[0], layout.example)
    )


def _tracklet(images: Path, person: str, camera: str, layout: TwoCameras) -> Tracklet:
    folder = images / camera / person
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder, but {layout.splits_file} lists the person; unpack {layout.title} again"
        )
    frames = _frames(folder, layout)
    if not frames:
        raise DataError(f"{folder}: {contents(folder, layout.example)}; unpack {layout.title} again, or rename them")
    named = layout.person.fullmatch(person)
    assert named is not None, person
    prefix = os.fspath(folder) + os.sep
    number = layout.cameras.index(camera) + 1
    return Tracklet(tuple([prefix + frame for frame in frames]), int(named[1]), number)


def _frames(folder: Path, layout: TwoCameras) -> list[str]:
    return sorted(name for name in _names(folder) if layout.frame.fullmatch(name))


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - names only, five times faster than Path.iterdir
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from error
