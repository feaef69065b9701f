"""Data sets on disk, read into tracklets."""

from __future__ import annotations

from trainer.data.dataset import Counts, DataSet, Splits, Tracklet
from trainer.data.folder import DataConfig, instead, read_splits, recognised
from trainer.data.kept import training_data
from trainer.data.readers import READERS, find_data_set
from trainer.data.splits import ValidationConfig

__all__ = [
    "READERS",
    "Counts",
    "DataConfig",
    "DataSet",
    "Splits",
    "Tracklet",
    "ValidationConfig",
    "find_data_set",
    "instead",
    "read_splits",
    "recognised",
    "training_data",
]
