"""How values are written and drawn: shares in per cent, costs in hours, parameters as they are."""

from __future__ import annotations

from orchestrator.base.formatting import number
from orchestrator.space.objective import COSTS, VALIDATION_METRICS

DIGITS = 5  # significant, in what the page draws: more than a screen shows


def factor(metric: str) -> float:
    """What values of a metric are multiplied with to be drawn."""
    return 100.0 if metric in VALIDATION_METRICS else 1.0


def unit(metric: str) -> str:
    """The unit in which a metric is drawn; empty for plain numbers."""
    return "%" if metric in VALIDATION_METRICS else "h" if metric in COSTS else ""


def axis(metric: str) -> str:
    """A metric with its unit, for the end of an axis."""
    return f"{metric} ({unit(metric)})" if unit(metric) else metric


def shown(metric: str, value: float | None) -> str:
    """A value of a metric for people: `41.2 %`, `0.35 h`, a dash where there is none."""
    if value is None:
        return "-"
    return f"{100 * value:.1f} %" if metric in VALIDATION_METRICS else f"{number(float(value))} {unit(metric)}".strip()


def points(metric: str, value: float) -> str:
    """A difference or a spread of a metric without its unit: `2.8` of per cent."""
    return f"{100 * value:.1f}" if metric in VALIDATION_METRICS else number(float(value))


def compact(value: float | None) -> float | None:
    """The number with few digits, so that a page of many stays small."""
    return None if value is None else float(f"{value:.{DIGITS}g}")
