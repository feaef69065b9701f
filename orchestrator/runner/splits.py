"""The validation splits of a search: the one that its configurations share, and those of repeats on other folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.algorithms.replicates import replicate_folds
from orchestrator.algorithms.trial_configs import on_fold
from orchestrator.runner.data_staging import with_data_here
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import SearchFolder
from trainer.data import Tracklet, read_splits
from trainer.data.splits import ValidationSplit, cut_validation, write_validation

Splits = Mapping[int | None, ValidationSplit]
"""By the fold that is held out; None is what the space says."""


def cut_splits(space: SearchSpace, train: Sequence[Tracklet]) -> Splits:
    """All validation splits that trials of the search are judged on.

    Raises:
        DataError: the training tracklets are too few.
    """
    config = space.config(space.any_sample())
    configs = {None: config} | {fold: on_fold(config, fold) for fold in replicate_folds(space)}
    return {fold: cut_validation(train, each.data.validation) for fold, each in configs.items()}


def write_splits(folder: SearchFolder, splits: Splits, train: Sequence[Tracklet]) -> None:
    """Saves those that are not there yet; one that is there stays as it is."""
    for fold, split in splits.items():
        if not folder.split_of(fold).exists():
            write_validation(folder.split_of(fold), split, train)


def add_splits(folder: SearchFolder, space: SearchSpace) -> None:
    """Cuts and saves the splits that a search did not need before it was extended to this space.

    Raises:
        DataError: the data set is not there any more, or damaged.
    """
    if all(folder.split_of(fold).exists() for fold in replicate_folds(space)):
        return
    train = read_splits(with_data_here(space.config(space.any_sample()), folder).data).train
    write_splits(folder, cut_splits(space, train), train)
