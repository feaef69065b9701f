"""Which data set lies in a folder, packed or not."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from trainer.data import READERS, instead, read_files, recognised
from trainer.data.banned_datasets import refuse_withdrawn
from trainer.data.data_set import DataSet
from trainer.data.pack import packed_data_set, read_packed
from trainer.data.synthetic.dataset import is_synthetic
from trainer.data.tracklets import Splits
from trainer.errors import DataError
from trainer.formatting import did_you_mean


class DataFolder(NamedTuple):
    """A folder, and the data set in it."""

    root: Path
    name: str
    """Key of `READERS`."""
    packed: bool
    """Whether `pack_data_set` wrote it."""

    @property
    def data_set(self) -> DataSet:
        """What is known of the data set."""
        return READERS[self.name]

    @property
    def synthetic(self) -> bool:
        """Whether the people in it are drawn."""
        return is_synthetic(self.root)

    def read(self, fold: int = 0) -> Splits:
        """The tracklets of a partition; frames are not opened.

        Raises:
            DataError: a file is missing, damaged or disagrees with another; names the file.
        """
        return read_packed(self.root, self.name, fold) if self.packed else read_files(self.name, self.root, fold)


def find_data(root: Path, name: str | None = None) -> DataFolder:
    """The data set in the folder: the one named, or the one that the folder looks like.

    Raises:
        DataError: there is no such folder, no known data set in it, another one than named, or a withdrawn one.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; name the folder of a data set{instead(root)}")
    if name is not None and name not in READERS:
        raise DataError(f"{name}: no data set of this name{did_you_mean(name, READERS)} (known: {', '.join(READERS)})")
    refuse_withdrawn(root)
    packed = packed_data_set(root)
    if packed is not None and name not in (None, packed):
        raise DataError(f"{root}: a packed {READERS[packed].title}, not {READERS[name].title}; leave the name out")
    found = packed or name or recognised(root) or _named_by_frames(root)
    if found is None:
        advice = instead(root) or "; name the folder that holds its lists, or say which it is with --name"
        raise DataError(f"{root}: looks like no data set that can be read ({', '.join(READERS)}){advice}")
    return DataFolder(root, found, packed is not None)


def _named_by_frames(root: Path) -> str | None:
    """The data set whose frames are there without its lists, which its reader will name."""
    return next(
        (name for name, known in READERS.items() if any((root / folder).is_dir() for folder in known.frame_folders)),
        None,
    )
