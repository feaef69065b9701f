"""The validation splits of a search: one for all configurations, others for repeats on other folds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING

from orchestrator.algorithms.replicates import replicate_folds
from orchestrator.algorithms.trial_configs import on_fold
from orchestrator.runner.data_staging import with_data_here
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import SearchFolder
from trainer.data import Tracklet, read_splits
from trainer.data.splits import ValidationSplit, cut_validation, write_validation
from trainer.errors import DataError

if TYPE_CHECKING:
    from trainer.config import TrialConfig

Splits = Mapping[int | None, ValidationSplit]
"""By the fold that is held out; None is what the space says."""


def cut_splits(space: SearchSpace, train: Sequence[Tracklet]) -> Splits:
    """All validation splits on which trials of the search are evaluated.

    Raises:
        DataError: the training tracklets are too few.
    """
    config = space.config(space.any_sample())
    configs = {None: config} | {fold: on_fold(config, fold) for fold in replicate_folds(space)}
    return {fold: cut_validation(train, each.data.validation) for fold, each in configs.items()}


def write_splits(folder: SearchFolder, splits: Splits, train: Sequence[Tracklet]) -> None:
    """Writes the splits that do not exist yet."""
    for fold, split in splits.items():
        if not folder.split_of(fold).exists():
            write_validation(folder.split_of(fold), split, train)


def add_splits(folder: SearchFolder, space: SearchSpace) -> None:
    """Cuts and writes the splits that a search needs only since it was extended to this space.

    Raises:
        DataError: the data set no longer exists, or is damaged.
    """
    if all(folder.split_of(fold).exists() for fold in replicate_folds(space)):
        return
    train = read_splits(with_data_here(space.config(space.any_sample()), folder).data).train
    write_splits(folder, cut_splits(space, train), train)


def batch_problems(space: SearchSpace) -> tuple[list[str], list[str]]:
    """Errors and notes on the batches that the data at the space's `data.root` can fill; none without data.

    Raises:
        DataError: there is a data set, but it cannot be read.
    """
    config = space.config(space.any_sample())
    if space.synthetic is not None or not config.data.root.is_dir():
        return [], []
    train = read_splits(config.data).train
    tracklets = _tracklets(train, cut_splits(space, train))
    identities, each = _range(space, "clips.identities")[1], _range(space, "clips.tracklets")[1]
    wrong, notes = [], []
    if identities > len(tracklets):
        wrong.append(_too_many(identities, len(tracklets), config))
    if each > (usual := median(tracklets.values())):
        notes.append(
            f"clips.tracklets: {each} per identity, but half of the identities have at most {usual:g}: clips repeat"
        )
    return wrong, notes


def check_batches(space: SearchSpace, train: Sequence[Tracklet], splits: Splits) -> None:
    """Raises DataError if no trial of the space can fill a batch."""
    left, (least, _) = len(_tracklets(train, splits)), _range(space, "clips.identities")
    if least > left:
        raise DataError(_too_many(least, left, space.config(space.any_sample())))


def _tracklets(train: Sequence[Tracklet], splits: Splits) -> Counter[int]:
    """Training tracklets by identity, of the split that leaves the fewest identities."""
    by_split = (Counter(train[index].identity for index in split.train) for split in splits.values())
    return min(by_split, key=len)


def _too_many(identities: int, left: int, config: TrialConfig) -> str:
    return (
        f"clips.identities: {identities} identities per batch, but the validation split leaves {left} to train on at "
        f"{config.data.root}; lower clips.identities or data.validation.share"
    )


def _range(space: SearchSpace, path: str) -> tuple[int, int]:
    """The smallest and the largest value of an integer, searched or not."""
    parameter = space.parameters.get(path)
    if parameter is None:
        section, name = path.split(".")
        value: int = getattr(getattr(space.config(space.any_sample()), section), name)
        return value, value
    values = [int(value) for value in parameter.ends().values()]
    return min(values), max(values)
