"""A reproduction in words and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.show.environment_diff import Circumstance, rebuilding
from orchestrator.show.reproduce import Rehearsed, Reproduction
from orchestrator.stores.loading import LoadedSearch


def circumstances_table(found: Sequence[Circumstance]) -> str:
    """One line for each, those that differ marked."""
    names = max(len(each.what) for each in found)
    then = max(len(_short(each.then)) for each in found)
    lines = [f"{'':<6}{'':<{names}}  {'then':<{then}}  now"]
    for each in found:
        mark = "DIFF" if each.matters else "other" if each.differs else "same" if each.then == each.now else "?"
        lines.append(f"{mark:<6}{each.what:<{names}}  {_short(each.then):<{then}}  {_short(each.now)}")
    return "\n".join(lines)


def rebuilding_text(loaded: LoadedSearch, found: Sequence[Circumstance]) -> str:
    """How to get the code of then, where this is another; empty where it is the same."""
    lines = rebuilding(loaded, list(found), Path(f"../{loaded.name}-code"))
    return (
        "" if not lines else "to train with the code and versions of then:\n" + "\n".join(f"  {line}" for line in lines)
    )


def verdict(loaded: LoadedSearch, rehearsed: Rehearsed, done: Reproduction) -> str:
    """What came of it, in one or two lines."""
    name = f"{loaded.name}/{rehearsed.trial.key}"
    compared = f"{done.epochs} of {len(rehearsed.trial.results)} epochs, {done.compared} figures"
    if done.first is not None:
        first = done.first
        others = ", ".join(each.what for each in rehearsed.found if each.matters)
        why = f"; other than then: {others}" if others else "; nothing that was recorded differs"
        if rehearsed.trial.threads is None:
            why += f"; {rehearsed.threads} CPU threads are a guess, --threads tries another number"
        return (
            f"{name}: DIFFERS first in epoch {first.epoch}: {first.figure} was {first.then!r} and is {first.now!r} "
            f"(tolerance {rehearsed.tolerance:g}){why}"
        )
    if done.failure is not None:
        return f"{name}: could not be trained again after {compared}: {done.failure}"
    if done.largest == 0:
        return f"{name}: equal to the last bit ({compared}, {rehearsed.threads} CPU threads)"
    return f"{name}: equal within {rehearsed.tolerance:g} ({compared}; largest relative difference {done.largest:.1e})"


def document(loaded: LoadedSearch, rehearsed: Rehearsed, done: Reproduction) -> dict[str, Any]:
    """The same for programs."""
    return {
        "search": loaded.name,
        "trial": rehearsed.trial.key,
        "synthetic": loaded.description.synthetic,
        "equal": done.is_equal,
        "epochs": done.epochs,
        "compared": done.compared,
        "tolerance": rehearsed.tolerance,
        "largest_difference": done.largest,
        "first_difference": None if done.first is None else done.first._asdict(),
        "failure": done.failure,
        "threads": rehearsed.threads,
        "threads_recorded": rehearsed.trial.threads is not None,
        "circumstances": [{**each._asdict(), "differs": each.differs} for each in rehearsed.found],
        "out": str(done.out),
    }


def _short(text: str, limit: int = 40) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
