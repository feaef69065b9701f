"""Data sets on disk, read into tracklets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from trainer.data.mars import read_mars
from trainer.data.tracklets import Splits, Tracklet, ValidationConfig
from trainer.frozen import FrozenConfig

READERS: dict[str, Callable[[Path], Splits]] = {"mars": read_mars}
"""Reads the data set below a folder; `DataError` names the file that is missing or wrong."""


class DataConfig(FrozenConfig):
    """Which data set, and where."""

    name: Literal["mars"] = "mars"
    """Layout of the data set, a key of `READERS`."""
    root: Path = Path("data/mars")
    """Folder of the data set."""
    validation: ValidationConfig = ValidationConfig()
    """The validation split."""


def read_splits(config: DataConfig) -> Splits:
    """The published parts of the configured data set.

    Raises:
        DataError: a file is missing, damaged or disagrees with another.
    """
    return READERS[config.name](config.root)


__all__ = ["READERS", "DataConfig", "Splits", "Tracklet", "ValidationConfig", "read_splits"]
