"""Data sets on disk, read into tracklets."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from trainer.data.banned_datasets import refuse_withdrawn
from trainer.data.data_set import Counts, DataSet
from trainer.data.pack import packed_data_set, read_packed
from trainer.data.readers.ilids_vid import ILIDS_VID
from trainer.data.readers.ls_vid import LS_VID
from trainer.data.readers.mars import MARS
from trainer.data.readers.prid2011 import PRID2011
from trainer.data.splits import ValidationConfig
from trainer.data.tracklets import Splits, Tracklet
from trainer.errors import DataError
from trainer.formatting import did_you_mean, one_line
from trainer.frozen import FrozenConfig

READERS: dict[str, DataSet] = {"mars": MARS, "prid2011": PRID2011, "ilids_vid": ILIDS_VID, "ls_vid": LS_VID}
"""Reads the data set below a folder; `DataError` names the file that is missing or wrong."""
LEVELS_ABOVE = 3  # from multi_shot/cam_a/person_0001 to the data set
LOOKED_AT = 1_000  # entries of a folder that may hold data sets


class DataConfig(FrozenConfig):
    """Which data set, and where."""

    name: str = "mars"
    """Layout of the data set, a key of `READERS`: mars, prid2011, ilids_vid, ls_vid."""
    root: Path = Path("data/mars")
    """Folder of the data set."""
    fold: int = Field(0, ge=0)
    """Number, from 0, of one of the published partitions of a data set that has several, as PRID2011 and iLIDS-VID
    with ten; the paper reports 0 only."""
    validation: ValidationConfig = ValidationConfig()
    """The validation split."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in READERS:
            raise ValueError(f"no data set of this name{did_you_mean(name, READERS)} (known: {', '.join(READERS)})")
        return name

    @model_validator(mode="after")
    def _fold_exists(self) -> DataConfig:
        folds = READERS[self.name].folds
        if self.fold >= folds:
            partitions = "one partition only; leave fold at 0" if folds == 1 else f"partitions 0 to {folds - 1}"
            raise ValueError(f"fold: {self.fold}, but data set {self.name} has {partitions}")
        return self


def read_splits(config: DataConfig) -> Splits:
    """The published parts of the configured data set, whether its folder is as published or packed.

    Raises:
        DataError: a file is missing, damaged or disagrees with another, or the data set was withdrawn.
    """
    refuse_withdrawn(config.root)
    if packed_data_set(config.root) is not None:
        return read_packed(config.root, config.name, config.fold)
    return read_files(config.name, config.root, config.fold)


def read_files(name: str, root: Path, fold: int = 0) -> Splits:
    """The published parts of a data set, a key of `READERS`, in a folder that is not packed.

    Raises:
        DataError: a file is missing, damaged or disagrees with another; where the folder has another layout, the
            message says which folder, or which `data.name`, would do.
    """
    try:
        return READERS[name](root, fold)
    except DataError as error:
        if READERS[name].recognises(root):
            raise
        raise DataError(f"{error}{instead(root)}") from error


def instead(root: Path) -> str:
    """Which data set is where the folder of one was to be, or in a folder around, as the end of a message.

    People name the folder above the data set or one inside it; nothing where neither holds one.
    """
    here = Path(os.path.abspath(root))  # noqa: PTH100 - resolve() would follow links to names that nobody gave
    for folder in (here, *here.parents[:LEVELS_ABOVE], *_folders_in(here)):
        try:
            name = packed_data_set(folder) or recognised(folder)
        except (DataError, OSError):
            continue
        if name is not None:
            advice = f"its data.name is {name}" if folder == here else "name that folder"
            return f"; {one_line(str(folder))} holds {READERS[name].title}: {advice}"
    return ""


def _folders_in(folder: Path) -> list[Path]:
    """The first folders in it, sorted; none where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry) for entry in islice(entries, LOOKED_AT) if entry.is_dir())
    except OSError:
        return []


def recognised(root: Path) -> str | None:
    """Name of the data set whose layout a folder has, a key of `READERS`; None if it has none of theirs."""
    return next((name for name, data_set in READERS.items() if data_set.recognises(root)), None)


__all__ = [
    "READERS",
    "Counts",
    "DataConfig",
    "DataSet",
    "Splits",
    "Tracklet",
    "ValidationConfig",
    "instead",
    "read_files",
    "read_splits",
    "recognised",
]
