"""Data sets on disk, read into tracklets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from trainer.data.tracklets import Splits, Tracklet, ValidationConfig
from trainer.frozen import FrozenConfig

READERS: dict[str, Callable[[Path], Splits]] = {}


class DataConfig(FrozenConfig):
    """Which data set, and where."""

    name: Literal["mars"] = "mars"
    """Layout of the data set, a key of `READERS`."""
    root: Path = Path("data/mars")
    """Folder of the data set."""
    validation: ValidationConfig = ValidationConfig()
    """The validation split."""


__all__ = ["READERS", "DataConfig", "Splits", "Tracklet", "ValidationConfig"]
