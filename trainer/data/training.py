"""What one trial trains and is validated on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from trainer.data import DataConfig, Tracklet, read_splits
from trainer.data.splits import ValidationSplit, cut_validation, read_validation, write_validation
from trainer.errors import DataError


class TrainingData(NamedTuple):
    """Tracklets of one trial."""

    train: list[Tracklet]
    labels: list[int]
    """Class of each training tracklet, 0..C-1 in the order of the identity numbers."""
    query: list[Tracklet]
    gallery: list[Tracklet]

    @property
    def num_classes(self) -> int:
        """Training identities, C."""
        return max(self.labels) + 1

    @property
    def frames(self) -> int:
        """Frames of all tracklets; distractors that are trained on too count twice."""
        return sum(len(tracklet.frames) for tracklet in (*self.train, *self.query, *self.gallery))


def training_data(config: DataConfig, split: Path, *, make: bool) -> TrainingData:
    """Reads the data set and applies the validation split in the file `split`, cutting it first if `make`.

    Raises:
        DataError: the data set or the split is missing, damaged, or they do not belong together.
    """
    train = read_splits(config).train
    if make:
        write_validation(split, cut_validation(train, config.validation), train)
    return applied_split(train, read_validation(split, train))


def applied_split(train: Sequence[Tracklet], split: ValidationSplit) -> TrainingData:
    """The training tracklets that remain, their labels, and the validation query and gallery."""
    remaining = [train[index] for index in split.train]
    if not remaining:
        raise DataError("the validation split leaves no tracklet to train on; lower data.validation.share")
    label_of = {identity: label for label, identity in enumerate(sorted({t.identity for t in remaining}))}
    return TrainingData(
        train=remaining,
        labels=[label_of[tracklet.identity] for tracklet in remaining],
        query=[train[index] for index in split.query],
        gallery=[train[index] for index in split.gallery],
    )
