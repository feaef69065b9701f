"""Randomness that depends on what it is for, not on what ran before.

Every draw of a trial comes from a generator seeded by (trial seed, purpose, position). A run that is interrupted and
resumed therefore draws the same numbers without any generator state in its checkpoint, for any number of workers.
"""

from __future__ import annotations

import hashlib

import torch


def derived_seed(seed: int, purpose: str, *position: int) -> int:
    """A seed in [0, 2^63) that depends on all arguments and on nothing else."""
    text = ":".join([str(seed), purpose, *map(str, position)])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, purpose: str, *position: int) -> torch.Generator:
    """A generator on the CPU seeded by `derived_seed`."""
    return torch.Generator().manual_seed(derived_seed(seed, purpose, *position))
