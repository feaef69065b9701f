"""The order of an epoch: which tracklets it shows, and which share a batch.

P identities per batch, K tracklets per identity; a batch is a list of P x K tracklets, those of an identity side by
side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import torch

from trainer.errors import ConfigError
from trainer.input.clips import ClipConfig
from trainer.seeds import generator

Batches = list[list[int]]
"""Tracklet indices, batch by batch."""


class ClipRequest(NamedTuple):
    """One clip of a batch before any frame is read."""

    tracklet: int
    """Index of the tracklet."""
    epoch: int
    """Epoch, counted from 0."""
    position: int
    """Place of the clip in its epoch; the seed of its draws together with the epoch."""


class IdentityBatches:
    """The order in which epochs show the training tracklets; a batch sampler for `DataLoader`.

    What an epoch shows is a function of (seed, epoch); see `ClipConfig.epoch`.
    """

    epoch: int = 0
    """The epoch that the next iteration shows, counted from 0; set it before iterating."""
    first_step: int = 0
    """Batches of the epoch that the next iteration leaves out, because a resumed run has seen them. The others are what
    they are in the whole epoch."""

    def __init__(self, labels: Sequence[int], config: ClipConfig, seed: int) -> None:
        """Plans batches over tracklets with the given labels.

        Raises:
            ConfigError: fewer training identities than `clips.identities`.
        """
        self._tracklets_of = tracklets_by_identity(labels)
        if len(self._tracklets_of) < config.identities:
            raise ConfigError(
                f"clips.identities: {config.identities} identities per batch, but only {len(self._tracklets_of)} "
                "identities to train on; lower clips.identities or data.validation.share"
            )
        self._config = config
        self._seed = seed
        self._planned: tuple[int, Batches] | None = None

    def __len__(self) -> int:
        """Batches in the whole epoch; under `epoch: tracklets` their number varies a little from epoch to epoch."""
        return len(self._plan())

    def __iter__(self) -> Iterator[list[ClipRequest]]:
        # No generator function: it would read epoch and first step when a loader asks for the first batch, which may be
        # later than the start of the iteration.
        size = self._config.identities * self._config.tracklets
        epoch, first = self.epoch, self.first_step
        return (
            [ClipRequest(tracklet, epoch, step * size + place) for place, tracklet in enumerate(batch)]
            for step, batch in enumerate(self._plan()[first:], first)
        )

    def _plan(self) -> Batches:
        """The batches of `epoch`; kept, because loops ask for the length at every step."""
        if self._planned is None or self._planned[0] != self.epoch:
            draws = generator(self._seed, "batches", self.epoch)
            self._planned = self.epoch, EPOCHS[self._config.epoch](self._tracklets_of, self._config, draws)
        return self._planned[1]


def tracklets_by_identity(labels: Sequence[int]) -> list[list[int]]:
    """Indices of each identity's tracklets, in the order of the labels' values."""
    tracklets_of: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        tracklets_of.setdefault(label, []).append(index)
    return [tracklets for _, tracklets in sorted(tracklets_of.items())]


def identities_once(tracklets_of: Sequence[list[int]], config: ClipConfig, draws: torch.Generator) -> Batches:
    """Each identity once, in random order, with K tracklets; those left over wait for another epoch (the paper's code).

    Tracklets are drawn without replacement, or with replacement where an identity has fewer than K.
    """
    identities = config.identities
    order = torch.randperm(len(tracklets_of), generator=draws).tolist()
    return [
        list(chain.from_iterable(_drawn(tracklets_of[identity], config.tracklets, draws) for identity in chosen))
        for chosen in (order[start : start + identities] for start in range(0, len(order) - identities + 1, identities))
    ]


def tracklets_once(tracklets_of: Sequence[list[int]], config: ClipConfig, draws: torch.Generator) -> Batches:
    """No tracklet twice: each identity's are shuffled and dealt out in groups of K, until fewer than P have any.

    What is left of an identity after the last full group waits for another epoch. An identity with fewer than K
    tracklets in all gives one group, drawn with replacement. A batch draws its identities in proportion to the groups
    they have left: every group is then about equally likely at every place of the epoch, and few are left over at its
    end.
    """
    groups_of = [_groups(tracklets, config.tracklets, draws) for tracklets in tracklets_of]
    left = torch.tensor([len(groups) for groups in groups_of], dtype=torch.float64)
    batches = []
    while int(left.count_nonzero()) >= config.identities:
        chosen = torch.multinomial(left, config.identities, generator=draws)
        left[chosen] -= 1
        batches.append(list(chain.from_iterable(groups_of[identity].pop() for identity in chosen.tolist())))
    return batches


EPOCHS: dict[str, Callable[[Sequence[list[int]], ClipConfig, torch.Generator], Batches]] = {
    "identities": identities_once,
    "tracklets": tracklets_once,
}


def _groups(tracklets: list[int], size: int, draws: torch.Generator) -> Batches:
    if len(tracklets) < size:
        return [_drawn(tracklets, size, draws)]
    shuffled = _drawn(tracklets, len(tracklets), draws)
    return [shuffled[start : start + size] for start in range(0, len(shuffled) - size + 1, size)]


def _drawn(tracklets: list[int], count: int, draws: torch.Generator) -> list[int]:
    if len(tracklets) >= count:
        picked = torch.randperm(len(tracklets), generator=draws)[:count]
    else:
        picked = torch.randint(len(tracklets), (count,), generator=draws)
    return [tracklets[index] for index in picked.tolist()]
