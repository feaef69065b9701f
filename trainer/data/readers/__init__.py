"""Readers of data sets, one file for each."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from pathlib import Path

from trainer.data.dataset import DataSet, Splits
from trainer.data.readers.ilids_vid import ILIDS_VID
from trainer.data.readers.joined import joined_data_set
from trainer.data.readers.ls_vid import LS_VID
from trainer.data.readers.mars import MARS
from trainer.data.readers.prid2011 import PRID2011
from trainer.data.readers.tracklets import TRACKLETS
from trainer.data.readers.youtube_faces import YOUTUBE_FACES
from trainer.errors import ConfigError, DataError
from trainer.formatting import did_you_mean, one_line, shortened
from trainer.plugins import Plugin, blamed, is_plugin, load_plugin

_PUBLISHED_OR_OWN: dict[str, DataSet] = {
    "mars": MARS,
    "prid2011": PRID2011,
    "ilids_vid": ILIDS_VID,
    "ls_vid": LS_VID,
    "youtube_faces": YOUTUBE_FACES,
    "tracklets": TRACKLETS,
}
READERS = {**_PUBLISHED_OR_OWN, "joined": joined_data_set(_PUBLISHED_OR_OWN)}
"""Reads the data set below a folder; `DataError` names the file that is missing or wrong."""


def find_data_set(name: str) -> DataSet:
    """The data set of a name: one of `READERS`, or `plugin:` and the name of an installed package's.

    Raises:
        ConfigError: there is none of this name, or the plug-in cannot be used.
    """
    if is_plugin(name):
        return _data_set_of_plugin(name)
    if name not in READERS:
        raise ConfigError(
            f"{one_line(shortened(name))}: no data set of this name{did_you_mean(name, READERS)} "
            f"(known: {', '.join(READERS)}, plugin:NAME)"
        )
    return READERS[name]


@lru_cache(maxsize=256)
def _data_set_of_plugin(name: str) -> DataSet:
    plugin, value = load_plugin("data_sets", name)
    if not isinstance(value, DataSet):
        raise ConfigError(f"{plugin}: {plugin.entry_point.value} is no trainer.data.DataSet")

    def read(root: Path, fold: int) -> Splits:
        with blamed(plugin, DataError):
            return _as_splits(value.read(root, fold), plugin)

    return dataclasses.replace(value, read=read)


def _as_splits(read: object, plugin: Plugin) -> Splits:
    if not isinstance(read, Splits):
        raise DataError(f"{plugin.entry_point.value} read no Splits but {type(read).__name__}")
    return read
