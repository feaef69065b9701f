"""Colours and marks of the page's figures.

Colours are of Okabe and Ito (2008), which people who confuse colours can tell apart; the shape of a marker says the
same once more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.show.report.markup import Figure, plotly_text
from orchestrator.study.study import TrialStatus

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#d55e00",
    "#cc79a7",
    "#56b4e9",
    "#8c8c8c",
)
COLOURS: Mapping[TrialStatus, str] = {
    "completed": BLUE,
    "stopped": ORANGE,
    "failed": RED,
    "running": SKY,
    "pending": GREY,
}
SYMBOLS: Mapping[TrialStatus, str] = {
    "completed": "circle",
    "stopped": "square-open",
    "failed": "x",
    "running": "circle-open",
    "pending": "circle-dot",
}
NAMES: Mapping[TrialStatus, str] = {
    "completed": "completed",
    "stopped": "stopped early",
    "failed": "failed",
    "running": "running",
    "pending": "waiting",
}
SEQUENCE = "Viridis"  # ordered by lightness, too, so that it survives a photocopier


def faint(colour: str, opacity: float = 0.45) -> str:
    """A colour `#rrggbb` that lets others shine through."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def figure(
    data: Sequence[Mapping[str, Any]], x: str | Mapping[str, Any], y: str | Mapping[str, Any], **layout: Any
) -> Figure:
    """A figure with two axes, each given by its title or by Plotly's settings with a `title`."""
    return {"data": [*data], "layout": {"xaxis": _axis(x), "yaxis": _axis(y), **layout}}


def _axis(given: str | Mapping[str, Any]) -> dict[str, Any]:
    settings = {"title": given} if isinstance(given, str) else dict(given)
    return {**settings, "title": {"text": plotly_text(settings.get("title", ""))}}
