"""What trials that were stopped early would have come to, as the model is told where the space asks for it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

# Curves from which the gain of another one, and its spread, are taken.
CURVES = 3


class Prediction(NamedTuple):
    """A value that was never reached."""

    value: float
    """Of the last evaluation that the trial would have had; larger is better."""
    standard_error: float


def predicted_value(own: Sequence[float], completed: Sequence[Sequence[float]], error: float) -> Prediction | None:
    """A stopped trial's last value plus what completed trials gained from there to their end, on average.

    The spread of those gains is its error, with that of a value by itself. That completed trials are the survivors of
    the same rule makes it too good for slow starters' sake and too bad for those that were merely lucky; the error has
    to cover both. None with fewer than `CURVES` completed trials that went further.

    Args:
        own: values of the stopped trial at its evaluations; larger is better.
        completed: those of completed trials.
        error: standard error of a completed trial's last value.
    """
    gains = [curve[-1] - curve[len(own) - 1] for curve in completed if len(curve) > len(own)]
    if not own or len(gains) < CURVES:
        return None
    return Prediction(own[-1] + statistics.fmean(gains), math.hypot(statistics.stdev(gains), error))
