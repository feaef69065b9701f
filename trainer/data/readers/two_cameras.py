"""Data sets of two cameras with a folder per identity and several published partitions into halves.

The halves are drawn here where the published ones are missing.
"""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trainer.data.dataset import Counts, DataSet, Splits, Tracklet, contents, names_in
from trainer.errors import DataError
from trainer.formatting import listed

FOLDS = 10  # published partitions

log = logging.getLogger(__name__)


class Partition(NamedTuple):
    """Folders of the identities to train on, and of those to test on."""

    train: Iterable[str]
    test: Iterable[str]


class TwoCameras(NamedTuple):
    """How such a data set lies on disk: FOLDER/CAMERA/IDENTITY/FRAME."""

    title: str
    """Name in its paper."""
    folders: tuple[str, ...]
    """Folders that may hold the two cameras, below the folder of the data set; the usual one first."""
    cameras: tuple[str, str]
    """Folders of camera 1, whose test tracklets are the queries, and of camera 2, whose are the gallery."""
    identity: re.Pattern[str]
    """Names of the folders of identities; the group is the identity's number."""
    frame: re.Pattern[str]
    """Names of the frames. Their numbers have leading zeros: the order of names is the order in time."""
    example: str
    """A frame's name."""
    splits_file: str
    """File with the published partitions, below the folder of the data set."""
    published_identities: int
    """Identities in the published partitions together."""
    least_frames: int = 1
    """Frames under each camera that an identity needs to be drawn into a half."""


def two_camera_data_set(layout: TwoCameras, read_partition: Callable[[Path, Path, int], Partition]) -> DataSet:
    """A data set of this layout.

    A tracklet is all frames of an identity under a camera, in the order of their names. Identities are numbered by
    their folders, cameras are 1 and 2.

    Args:
        layout: where its files lie.
        read_partition: given the file with the published partitions, the folder of the images, and the number of the
            partition, from 0.
    """

    def read(root: Path, fold: int) -> Splits:
        images = _images_folder(root, layout)
        file = _splits_file(root, images, layout)
        partition = read_partition(file, images, fold) if file.exists() else _drawn(images, file, fold, layout)
        return _splits(partition, images, layout)

    half = layout.published_identities // 2
    return DataSet(
        title=layout.title,
        read=read,
        recognises=lambda root: any((root / folder / layout.cameras[0]).is_dir() for folder in layout.folders),
        protocol="prid",
        published={
            "train": Counts(half, 2 * half, None),
            "query": Counts(half, half, None),
            "gallery": Counts(half, half, None),
        },
        folds=FOLDS,
    )


def identities_under(camera: Path, layout: TwoCameras) -> list[str]:
    """Folders of the identities that a camera saw, sorted."""
    return sorted(name for name in names_in(camera) if layout.identity.fullmatch(name))


def _images_folder(root: Path, layout: TwoCameras) -> Path:
    """The folder that holds both cameras."""
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


def _splits_file(root: Path, images: Path, layout: TwoCameras) -> Path:
    """In the folder of the data set, or beside the one that holds the images; where it should be if in neither."""
    beside, inside = images.absolute().parents[1] / layout.splits_file, root / layout.splits_file
    return beside if beside.exists() and not inside.exists() else inside


def _drawn(images: Path, file: Path, fold: int, layout: TwoCameras) -> Partition:
    """One of the seeded halvings of the identities that both cameras saw long enough, where the split `file` is absent.

    As many identities are tested as trained on, one less trained on where their number is odd.
    """
    identities = sorted(set.intersection(*(_seen_long_enough(images / camera, layout) for camera in layout.cameras)))
    if len(identities) < 2:
        raise DataError(
            f"{images}: {len(identities)} identities with at least {layout.least_frames} frames in both "
            f"{' and '.join(layout.cameras)}, two are needed; {_example(images / layout.cameras[0], layout)}"
        )
    _warn_of_drawing(file, len(identities), layout.published_identities)
    shuffled = np.random.default_rng(fold).permutation(identities).tolist()
    return Partition(train=shuffled[: len(identities) // 2], test=shuffled[len(identities) // 2 :])


@functools.cache  # one warning for all partitions that a process reads
def _warn_of_drawing(file: Path, identities: int, published: int) -> None:
    log.warning(
        "%s: no such file; splits are drawn here from %d identities (the published ones have %d) and are NOT the "
        "published ones: metrics on them cannot be compared with published metrics",
        *(file, identities, published),
    )


def _seen_long_enough(camera: Path, layout: TwoCameras) -> set[str]:
    identities = identities_under(camera, layout)
    return {identity for identity in identities if len(_frames(camera / identity, layout)) >= layout.least_frames}


def _example(camera: Path, layout: TwoCameras) -> str:
    """What a camera's first identity has instead of frames, or the camera instead of identities."""
    identities = identities_under(camera, layout)
    if not identities:
        return f"{camera} {contents(camera)}"
    first = camera / identities[0]
    frames = _frames(first, layout)
    return f"{first} holds {len(frames)}" if frames else f"{first} {contents(first, layout.example)}"


def _splits(partition: Partition, images: Path, layout: TwoCameras) -> Splits:
    first, second = layout.cameras
    train, test = sorted(partition.train), sorted(partition.test)
    return Splits(
        train=tuple(_tracklet(images, identity, camera, layout) for identity in train for camera in layout.cameras),
        query=tuple(_tracklet(images, identity, first, layout) for identity in test),
        gallery=tuple(_tracklet(images, identity, second, layout) for identity in test),
    )


def _tracklet(images: Path, identity: str, camera: str, layout: TwoCameras) -> Tracklet:
    folder = images / camera / identity
    if not folder.is_dir():
        name = layout.splits_file.rpartition("/")[2]
        raise DataError(f"{folder}: no such folder, but {name} lists the identity; unpack {layout.title} again")
    frames = _frames(folder, layout)
    if not frames:
        raise DataError(f"{folder}: {contents(folder, layout.example)}; unpack {layout.title} again, or rename them")
    named = layout.identity.fullmatch(identity)
    assert named is not None, identity
    prefix = os.fspath(folder) + os.sep
    number = layout.cameras.index(camera) + 1
    return Tracklet(tuple([prefix + frame for frame in frames]), int(named[1]), number)


def _frames(folder: Path, layout: TwoCameras) -> list[str]:
    return sorted(name for name in names_in(folder) if layout.frame.fullmatch(name))
