"""Colours, marks and scales of the report's charts.

The colours are those of Okabe and Ito (2008), which people with a colour vision deficiency can tell apart; the shape of
a marker repeats what its colour says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from orchestrator.space.objective import COSTS, VALIDATION_METRICS
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
    TrialStatus.COMPLETED: BLUE,
    TrialStatus.STOPPED: ORANGE,
    TrialStatus.FAILED: RED,
    TrialStatus.RUNNING: SKY,
    TrialStatus.PAUSED: GREEN,
    TrialStatus.PENDING: GREY,
}
SYMBOLS: Mapping[TrialStatus, str] = {
    TrialStatus.COMPLETED: "circle",
    TrialStatus.STOPPED: "square-open",
    TrialStatus.FAILED: "x",
    TrialStatus.RUNNING: "circle-open",
    TrialStatus.PAUSED: "hourglass-open",
    TrialStatus.PENDING: "circle-dot",
}
NAMES: Mapping[TrialStatus, str] = {
    TrialStatus.COMPLETED: "completed",
    TrialStatus.STOPPED: "stopped early",
    TrialStatus.FAILED: "failed",
    TrialStatus.RUNNING: "running",
    TrialStatus.PAUSED: "paused",
    TrialStatus.PENDING: "waiting",
}
Z_95 = 1.96  # standard deviations to either side of a 95 % interval
SEQUENCE = "Viridis"  # ordered by lightness as well, so that it survives a photocopier


def faint(colour: str, opacity: float = 0.45) -> str:
    """A translucent version of the colour `#rrggbb`."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def factor(metric: str) -> float:
    """By which values of a metric are multiplied to be drawn: shares are drawn in per cent."""
    return 100.0 if metric in VALIDATION_METRICS else 1.0


def unit(metric: str) -> str:
    """The unit in which a metric is drawn; empty for plain numbers."""
    return "%" if metric in VALIDATION_METRICS else "h" if metric in COSTS else ""


def axis(metric: str) -> str:
    """A metric with its unit, as the title of an axis."""
    return f"{metric} ({unit(metric)})" if unit(metric) else metric


def figure(traces: Sequence[Any], x: str | Mapping[str, Any], y: str | Mapping[str, Any], **layout: Any) -> go.Figure:
    """A figure with two axes, each given by its title or by its settings. `page.js` adds what depends on the screen."""
    axes = {name: {"title": given} if isinstance(given, str) else given for name, given in (("xaxis", x), ("yaxis", y))}
    return go.Figure(list(traces), {"template": "none", **axes, **layout})
