"""Quantiles of Student's t distribution."""

from __future__ import annotations

import pytest
from scipy.special import stdtr, stdtrit

from orchestrator.algorithms.t_interval import student_distribution, student_quantile


@pytest.mark.parametrize("freedom", [0.7, 1, 2, 2.13, 5, 20.7, 99, 500])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.975, 0.995])
def test_quantiles_are_those_of_scipy(share: float, freedom: float) -> None:
    assert student_quantile(share, freedom) == pytest.approx(stdtrit(freedom, share), rel=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.4, 3.0, 40.0])
def test_probabilities_are_those_of_scipy(value: float) -> None:
    assert student_distribution(value, 3) == pytest.approx(stdtr(3, value), rel=1e-12)


@pytest.mark.parametrize(("share", "freedom"), [(0.0, 3), (1.0, 3), (0.5, 0)])
def test_there_is_no_quantile_outside_the_open_interval_or_without_freedom(share: float, freedom: float) -> None:
    with pytest.raises(ValueError, match="no quantile"):
        student_quantile(share, freedom)
