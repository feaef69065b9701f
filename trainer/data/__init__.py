"""Data sets on disk, read into tracklets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from trainer.data.mars import read_mars
from trainer.data.prid2011 import FOLDS, read_prid2011
from trainer.data.tracklets import Splits, Tracklet, ValidationConfig
from trainer.frozen import FrozenConfig

FOLDED_READERS: dict[str, Callable[[Path, int], Splits]] = {"prid2011": read_prid2011}
"""Those of `READERS` whose data set has several published partitions, told apart by a number from 0."""

READERS: dict[str, Callable[[Path], Splits]] = {"mars": read_mars, "prid2011": read_prid2011}
"""Reads the data set below a folder, its first partition; `DataError` names the file that is missing or wrong."""


class DataConfig(FrozenConfig):
    """Which data set, and where."""

    name: Literal["mars", "prid2011"] = "mars"
    """Layout of the data set, a key of `READERS`."""
    root: Path = Path("data/mars")
    """Folder of the data set."""
    fold: int = Field(0, ge=0, lt=FOLDS)
    """Number, from 0, of one of the ten published partitions of PRID2011; the paper reports 0 only."""
    validation: ValidationConfig = ValidationConfig()
    """The validation split."""

    @model_validator(mode="after")
    def _fold_of_a_set_with_folds(self) -> DataConfig:
        if self.fold and self.name not in FOLDED_READERS:
            raise ValueError(f"fold: {self.fold}, but data set {self.name} has one partition only; leave fold at 0")
        return self


def read_splits(config: DataConfig) -> Splits:
    """The published parts of the configured data set.

    Raises:
        DataError: a file is missing, damaged or disagrees with another.
    """
    if config.name in FOLDED_READERS:
        return FOLDED_READERS[config.name](config.root, config.fold)
    return READERS[config.name](config.root)


__all__ = [
    "FOLDED_READERS",
    "READERS",
    "DataConfig",
    "Splits",
    "Tracklet",
    "ValidationConfig",
    "read_splits",
]
