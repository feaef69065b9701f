"""How what the test set says is shown."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rich.table import Table

from orchestrator.base.formatting import percent
from orchestrator.show.columns import GAP, Column, empty_table, fitting
from trainer.formatting import counted

FIGURES = ("mAP", "rank1", "rank5", "rank20", "reranked/mAP", "reranked/rank1")


def finals_table(document: Mapping[str, Any], *, width: int, only: Collection[str] | None = None) -> Table | None:
    """The trainings for the test set of a status document, or those in `only`, and as many figures as fit `width`.

    Figures are in per cent. None where the test set was never opened, or where `only` holds no such training.
    """
    finals = [trial for trial in document["finals"] if only is None or trial["trial"] in only]
    if not finals:
        return None
    head = [
        Column("test set", [trial["trial"] for trial in finals], "left"),
        Column("state", [trial["status"] for trial in finals], "left"),
        Column("epoch", [str(trial["epoch"]) for trial in finals]),
    ]
    figures = [Column(name, [percent(trial["test"] or {}, name) for trial in finals]) for name in FIGURES]
    columns = fitting([*head, *figures], width + GAP)
    table = empty_table(columns)
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*row)
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
            sampling = f", {tested[0]['sampling']}" if tested[0]["sampling"] else ""
            lines.append(
                f"protocol {tested[0]['protocol']}{sampling}, {counted(tested[0]['queries'], 'query', 'queries')}, "
                f"{tested[0]['dropped_queries']} dropped"
            )
        again = "" if opened["number"] == 1 else f", for time {opened['number']}"
        lines.append(f"opened by {opened['by']}{again}; chosen on the validation split: {opened['leaders'][0]}")
    return lines + [
        f"opened by {use['by']} for {use['trial']} ({use['use']} of {use['weights']})"
        for use in document["test_set_uses"]
    ]


def _means(figures: Sequence[Mapping[str, float]]) -> str:
    shared = [name for name in FIGURES if all(name in each for each in figures)]
    return " ".join(f"{name} {_spread([each[name] for each in figures])}" for name in shared)


def _spread(values: Sequence[float]) -> str:
    mean = f"{100 * statistics.fmean(values):.1f}"
    return mean if len(values) < 2 else f"{mean} ± {100 * statistics.stdev(values):.1f}"
