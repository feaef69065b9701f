"""How the trials that no other one dominates are shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from orchestrator.space.objective import VALIDATION_METRICS


def front_table(document: Mapping[str, Any]) -> Table | None:
    """The front of a status document, figures in per cent; None where there is only one objective, or no trial yet."""
    front = document["front"]
    if not front or len(front[0]["values"]) == 1:
        return None
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("front", no_wrap=True)
    for metric in front[0]["values"]:
        table.add_column(metric.replace("_", " "), justify="right", no_wrap=True)
    for each in front:
        table.add_row(each["trial"], *(figure_text(metric, value) for metric, value in each["values"].items()))
    return table


def figure_text(metric: str, value: float) -> str:
    """A share in per cent with one decimal, anything else with three significant digits."""
    return f"{100 * value:.1f}" if metric in VALIDATION_METRICS else f"{value:.3g}"
