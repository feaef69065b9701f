"""Quantiles of Student's t distribution, without SciPy: its import alone takes longer than reading a whole search."""

from __future__ import annotations

import math

TINY = 1e-300  # in place of a zero that a continued fraction would divide by
MOST_TERMS = 10_000
EXACT = 1e-15
HALVINGS = 200  # more than a double has bits


def student_quantile(share: float, freedom: float) -> float:
    """The value below which a t-distributed number lies with probability `share`, to 9 digits at least.

    Args:
        share: in (0, 1).
        freedom: degrees of freedom, positive, not necessarily whole.

    Raises:
        ValueError: outside of that.
    """
    if not 0 < share < 1 or not freedom > 0:
        raise ValueError(f"no quantile at {share} with {freedom} degrees of freedom")
    if share < 0.5:
        return -student_quantile(1 - share, freedom)
    low, high = 0.0, 1.0
    while student_distribution(high, freedom) < share:
        low, high = high, 2 * high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (middle, high) if student_distribution(middle, freedom) < share else (low, middle)
    return (low + high) / 2


def student_distribution(value: float, freedom: float) -> float:
    """Probability that a t-distributed number is at most `value`, which is not negative (DLMF 8.17)."""
    return 1 - incomplete_beta(freedom / (freedom + value * value), freedom / 2, 0.5) / 2


def incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function at `x` in [0, 1] (DLMF 8.17.22, by Lentz's method)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - incomplete_beta(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    fraction, upper, lower = 1.0, 1.0, 0.0
    for term in range(MOST_TERMS):
        half = term // 2
        if term == 0:
            step = 1.0
        elif term % 2:
            step = -(a + half) * (a + b + half) * x / ((a + term - 1) * (a + term))
        else:
            step = half * (b - half) * x / ((a + term - 1) * (a + term))
        lower = 1 / (1 + step * lower or TINY)
        upper = 1 + step / upper or TINY
        fraction *= upper * lower
        if abs(upper * lower - 1) < EXACT:
            break
    return front * (fraction - 1)
