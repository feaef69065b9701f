"""How what the test set says is shown."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from orchestrator.shortform import percent

FIGURES = ("mAP", "rank1", "rank5", "rank20", "reranked/mAP", "reranked/rank1")


def finals_table(document: Mapping[str, Any]) -> Table | None:
    """The trainings for the test set of a status document, figures in per cent; None where it was never opened."""
    if not document["finals"]:
        return None
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("test set", "state", "epoch", *FIGURES):
        table.add_column(name, justify="left" if name in ("test set", "state") else "right", no_wrap=True)
    for trial in document["finals"]:
        figures = trial["test"] or {}
        table.add_row(
            trial["trial"], trial["status"], str(trial["epoch"]), *(percent(figures, name) for name in FIGURES)
        )
    return table


def finals_lines(document: Mapping[str, Any]) -> list[str]:
    """What the test set says of each configuration, and who opened it when; nothing where it was never opened."""
    lines = []
    for opened in document["finalizations"]:
        tested = [trial for trial in document["finals"] if trial["finalization"] == opened["number"] and trial["test"]]
        for leader in opened["leaders"]:
            figures = [trial["test"] for trial in tested if trial["repeats"] == leader]
            if figures:
                lines.append(f"{leader}: {_means(figures)} over {len(figures)} seed{'s' * (len(figures) > 1)}")
        if tested:
            lines.append("protocol {protocol}, {queries} queries, {dropped_queries} dropped".format(**tested[0]))
        again = "" if opened["number"] == 1 else f", for time {opened['number']}"
        lines.append(f"opened by {opened['by']}{again}; chosen on the validation split: {opened['leaders'][0]}")
    return lines


def _means(figures: Sequence[Mapping[str, float]]) -> str:
    shared = [name for name in FIGURES if all(name in each for each in figures)]
    return " ".join(f"{name} {_spread([each[name] for each in figures])}" for name in shared)


def _spread(values: Sequence[float]) -> str:
    mean = f"{100 * statistics.fmean(values):.1f}"
    return mean if len(values) < 2 else f"{mean} ± {100 * statistics.stdev(values):.1f}"
