"""The validation splits of a search: one for all configurations, others for repeats on other folds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median

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
    by_split = [Counter(train[index].identity for index in split.train) for split in cut_splits(space, train).values()]
    tracklets = min(by_split, key=len)
    identities, each = _largest(space, "clips.identities"), _largest(space, "clips.tracklets")
    identities, each = identities or config.clips.identities, each or config.clips.tracklets
    wrong, notes = [], []
    if identities > len(tracklets):
        wrong.append(
            f"clips.identities: {identities} identities per batch, but the validation split leaves "
            f"{len(tracklets)} to train on at {config.data.root}; lower clips.identities or data.validation.share"
        )
    if each > (usual := median(tracklets.values())):
        notes.append(
            f"clips.tracklets: {each} per identity, but half of the identities have at most {usual:g}: clips repeat"
        )
    return wrong, notes


def _largest(space: SearchSpace, path: str) -> int | None:
    """The largest value of a searched integer; None if it is not searched."""
    parameter = space.parameters.get(path)
    return None if parameter is None else max(int(value) for value in parameter.ends().values())
