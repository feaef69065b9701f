"""Which data set lies in a folder, packed or not, and how it is read."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from pydantic import Field, field_validator, model_validator

from trainer.data.banned import refuse_banned
from trainer.data.dataset import DataSet, Pair, Splits, dataset_fingerprint
from trainer.data.pack import HEADER, packed_data_set, read_packed, read_packed_pairs
from trainer.data.readers import READERS, find_data_set
from trainer.data.readers.joined import member_fingerprints
from trainer.data.splits import ValidationConfig
from trainer.data.synthetic.dataset import is_synthetic
from trainer.errors import ConfigError, DataError
from trainer.formatting import one_line
from trainer.result import DataRecord
from trainer.settings import FrozenConfig

LEVELS_ABOVE = 3  # from multi_shot/cam_a/person_0001 to the data set
LOOKED_AT = 1_000  # entries of a folder that may hold data sets


class DataConfig(FrozenConfig):
    """Which data set, and where."""

    name: str = "mars"
    """Layout of the data set, a key of `READERS`: mars, prid2011, ilids_vid, ls_vid, youtube_faces, or tracklets for
    data of one's own; joined for several together, to train on; or `plugin:NAME` for one of an installed package."""
    root: Path = Path("data/mars")
    """Folder of the data set."""
    fold: int = Field(0, ge=0)
    """Number, from 0, of one of the published partitions of a data set that has several, as PRID2011, iLIDS-VID and
    YouTube Faces with ten; the paper reports 0 only."""
    validation: ValidationConfig = ValidationConfig()
    """The validation split."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        find_data_set(name)
        return name

    @model_validator(mode="after")
    def _fold_exists(self) -> DataConfig:
        folds = find_data_set(self.name).folds
        if self.fold >= folds:
            partitions = "one partition only; leave fold at 0" if folds == 1 else f"partitions 0 to {folds - 1}"
            raise ValueError(f"fold: {self.fold}, but data set {self.name} has {partitions}")
        return self


class DataFolder(NamedTuple):
    """A folder, and the data set in it."""

    root: Path
    name: str
    """Key of `READERS`."""
    packed: bool
    """Whether `pack_data_set` wrote it."""

    @property
    def data_set(self) -> DataSet:
        """The data set's description."""
        return find_data_set(self.name)

    @property
    def synthetic(self) -> bool:
        """Whether the people in it are drawn."""
        return is_synthetic(self.root)

    def read(self, fold: int = 0) -> Splits:
        """The tracklets of a partition; frames are not opened.

        Raises:
            DataError: a file is missing, damaged or disagrees with another; names the file. If the folder has another
                layout, the message says which folder, or which `data.name`, would do.
        """
        if self.packed:
            return read_packed(self.root, self.name, fold)
        try:
            return self.data_set(self.root, fold)
        except DataError as error:
            if self.data_set.recognises(self.root):
                raise
            raise DataError(f"{error}{instead(self.root)}") from error

    def pairs(self) -> tuple[Pair, ...]:
        """The data set's list of pairs, of all partitions; empty where it has none.

        Raises:
            DataError: as `read`.
        """
        if self.packed:
            return read_packed_pairs(self.root)
        return () if self.data_set.pairs is None else self.data_set.pairs(self.root)


def read_splits(config: DataConfig) -> Splits:
    """The published parts of the configured data set, whether its folder is as published or packed.

    Raises:
        DataError: as `DataFolder.read`, or the data set is banned.
    """
    refuse_banned(config.root)
    return _folder(config).read(config.fold)


def read_pairs(config: DataConfig) -> tuple[Pair, ...]:
    """The list of pairs of the configured data set, of all its partitions; empty where it has none.

    Raises:
        DataError: as `DataFolder.read`.
    """
    return _folder(config).pairs()


def _folder(config: DataConfig) -> DataFolder:
    return DataFolder(config.root, config.name, packed_data_set(config.root) is not None)


def require_test_part(config: DataConfig) -> None:
    """Raises DataError for a data set that has none."""
    if not find_data_set(config.name).tested:
        raise DataError(f"{config.root}: joined data sets have no test part; name one of them with --data DIR")


def data_record(config: DataConfig, splits: Splits) -> DataRecord:
    """Which data set the splits were read from."""
    name = f"mini-{config.name}" if is_synthetic(config.root) else config.name
    joined = member_fingerprints(splits.train) if config.name == "joined" else ()
    return DataRecord(name=name, fingerprint=dataset_fingerprint(splits), joined=joined)


def find_data(root: Path, name: str | None = None) -> DataFolder:
    """The data set in the folder: the one named, or the one that the folder looks like.

    Raises:
        DataError: there is no such folder, no known data set in it, another one than named, or a banned one.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; name the folder of a data set{instead(root)}")
    if name is not None:
        try:
            find_data_set(name)
        except ConfigError as error:
            raise DataError(str(error)) from error
    refuse_banned(root)
    packed = _packed(root)
    if packed is not None and name not in (None, packed):
        raise DataError(
            f"{root}: a packed {find_data_set(packed).title}, not {find_data_set(name).title}; leave the name out"
        )
    found = packed or name or recognised(root) or _named_by_frames(root)
    if found is None:
        advice = (
            instead(root)
            or "; name the folder that holds its lists, or say which it is (--name, or --set data.name=NAME)"
        )
        raise DataError(f"{root}: looks like no data set that can be read ({', '.join(READERS)}){advice}")
    return DataFolder(root, found, packed is not None)


def recognised(root: Path) -> str | None:
    """Name of the data set that a folder holds, a key of `READERS`, packed or not; None if it is none of these.

    Raises:
        DataError: the folder is a packed data set, but its index is damaged or the data set unknown.
    """
    return _packed(root) or next((name for name, data_set in READERS.items() if data_set.recognises(root)), None)


def _packed(root: Path) -> str | None:
    """Name of the data set that is packed in the folder, a known one; None if none is."""
    name = packed_data_set(root)
    try:
        if name is not None:
            find_data_set(name)
    except ConfigError as error:
        raise DataError(f"{root / HEADER}: a pack of {error}") from error
    return name


def _named_by_frames(root: Path) -> str | None:
    """The data set whose frames are there without its lists; its reader names what is missing."""
    return next(
        (name for name, known in READERS.items() if any((root / folder).is_dir() for folder in known.frame_folders)),
        None,
    )


def instead(root: Path) -> str:
    """The end of a message that names the data set found at a folder, above it or in it; empty if there is none.

    People often name the folder above a data set, or one inside it.
    """
    here = Path(os.path.abspath(root))  # noqa: PTH100 - resolve() follows links
    for folder in (here, *here.parents[:LEVELS_ABOVE], *_folders_in(here)):
        try:
            name = recognised(folder)
        except (DataError, OSError):
            continue
        if name is not None:
            advice = f"its data.name is {name}" if folder == here else "name that folder"
            return f"; {one_line(str(folder))} holds {find_data_set(name).title}: {advice}"
    return ""


def _folders_in(folder: Path) -> list[Path]:
    """The first folders in it, sorted; none where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry) for entry in islice(entries, LOOKED_AT) if entry.is_dir())
    except OSError:
        return []
