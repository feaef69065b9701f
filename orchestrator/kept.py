"""The epoch whose network a trial keeps in `best.pt`: that with the highest validation mAP, the earliest of equals."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce

from trainer.result import EpochResult


def kept_epoch(results: Iterable[EpochResult]) -> EpochResult | None:
    """Of a trial's epochs in their order; None where none was evaluated."""
    return reduce(better, results, None)


def better(known: EpochResult | None, result: EpochResult) -> EpochResult | None:
    """The epoch to keep of the one known so far, which was evaluated, and a later one."""
    if result.validation is None:
        return known
    if known is not None and known.validation is not None and known.validation.mAP >= result.validation.mAP:
        return known
    return result
