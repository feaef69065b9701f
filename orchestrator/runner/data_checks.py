"""Whether the batches of a search space can be filled from the data set at hand."""

from __future__ import annotations

from collections import Counter
from statistics import median
from typing import TYPE_CHECKING

from orchestrator.runner.splits import cut_splits
from trainer.data import read_splits

if TYPE_CHECKING:
    from orchestrator.space.search_space import SearchSpace


def misfits(space: SearchSpace) -> tuple[list[str], list[str]]:
    """What cannot work on the data at the space's `data.root`, and what is worth knowing; nothing without data.

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
    """The largest value of a searched whole number; None where it is not searched."""
    parameter = space.parameters.get(path)
    return None if parameter is None else max(int(value) for value in parameter.ends().values())
