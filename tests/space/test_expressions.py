"""Expressions over searched settings: their values, and which texts are refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import quick

from orchestrator.space.expressions import MAX_DEPTH, ExpressionError, parse_constraint, parse_expression

VALUES = {"loss.a": 0.5, "loss.b": 3.0, "clips.n": 8}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("8 - 4 - 2", 2),
        ("8 / 4 / 2", 1),
        ("2 - -3", 5),
        ("--2", 2),
        ("-2 * 3", -6),
        ("loss.a", 0.5),
        ("1e-4 * clips.n / 8", 1e-4),
        ("2 * loss.a - loss.b / .5", -5),
        ("min(loss.b, clips.n, 4)", 3),
        ("max(loss.a, 0.25 * loss.b)", 0.75),
        ("round(loss.b / 2)", 2),
        ("floor(loss.b / 2)", 1),
        (" (( loss.a )) ", 0.5),
    ],
)
def test_an_expression_has_the_value_of_arithmetic(text: str, value: float) -> None:
    assert parse_expression(text).at(VALUES) == pytest.approx(value)


def test_whole_numbers_stay_whole_until_they_are_divided() -> None:
    assert isinstance(parse_expression("2 * clips.n + 1").at(VALUES), int)
    assert isinstance(parse_expression("clips.n / 2").at(VALUES), float)


def test_an_expression_names_each_setting_once_in_the_order_of_the_text() -> None:
    assert parse_expression("loss.b * loss.a + min(loss.b, 1)").paths() == ["loss.b", "loss.a"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "a number or a setting is missing at the end; add it"),
        ("loss.a +", "a number or a setting is missing at the end; add it"),
        ("* 2", "a number or a setting is missing before '*'; add it"),
        ("2 loss.a", "'loss.a' does not fit here; put an operator before it, or remove it"),
        ("(1 + 2", "a bracket is not closed; add ')'"),
        ("1)", "')' does not fit here; put an operator before it, or remove it"),
        ("2 ^ 3", "'^' has no meaning in an expression; remove it"),
        ("2 ** 3", "a number or a setting is missing before '*'; add it"),
        ("exp(2)", "there is no function 'exp', only min, max, round, floor"),
        ("min(2)", "min takes at least two values (has 1)"),
        ("round(2, 3)", "round takes one value (has 2)"),
        ("loss.a <= 2", "'<=' compares; write one under 'constraints'"),
        ("1 +" * 200, "is longer than 300 characters; shorten it"),
        ("(" * (MAX_DEPTH + 1) + "1", f"is nested deeper than {MAX_DEPTH} levels; simplify it"),
        ("-" * 250 + "1", f"is nested deeper than {MAX_DEPTH} levels; simplify it"),
        ("__import__('os')", "there is no function '__import__', only min, max, round, floor"),
        ("a[0]", "'[' has no meaning in an expression; remove it"),
        ("²", "'²' has no meaning in an expression; remove it"),
    ],
)
def test_what_is_no_expression_is_refused_with_the_way_out(text: str, why: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse_expression(text)
    assert str(caught.value) == why


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("1 / (loss.a - 0.5)", "1 / (loss.a - 0.5) divides by 0"),
        ("1e300 * 1e300 * loss.a", "1e300 * 1e300 * loss.a is too large"),
        ("floor(1e999)", "floor(1e999) is too large"),
        ("round(1e999 - 1e999)", "round(1e999 - 1e999) is too large"),
    ],
)
def test_an_expression_without_a_finite_value_is_an_error_and_no_nan(text: str, why: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse_expression(text).at(VALUES)
    assert str(caught.value) == why


@pytest.mark.parametrize(
    ("text", "weights", "limit"),
    [
        ("loss.a + 2 * loss.b <= 1", {"loss.a": 1, "loss.b": 2}, 1),
        ("loss.a >= loss.b", {"loss.b": 1, "loss.a": -1}, 0),
        ("1 <= loss.a / 4 + 3", {"loss.a": -0.25}, 2),
        ("2 * (loss.a - 3 * loss.b) - loss.a <= -loss.b", {"loss.a": 1, "loss.b": -5}, 0),
        ("loss.a * (1 + 1) <= max(2, 3)", {"loss.a": 2}, 3),
        ("loss.a + loss.b - loss.b <= 1", {"loss.a": 1}, 1),
    ],
)
def test_a_bound_is_reduced_to_weights_and_a_limit(text: str, weights: dict[str, float], limit: float) -> None:
    bound = parse_constraint(text)
    assert bound.weights == weights
    assert bound.limit == limit


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("loss.a", "must compare two sums with <= or >="),
        ("loss.a < 1", "write <= instead of <"),
        ("loss.a == 1", "an equation leaves nothing to search; write one of the settings under 'derived'"),
        ("loss.a <= loss.b <= 1", "'<=' does not fit here; put an operator before it, or remove it"),
        ("loss.a * loss.b <= 1", "multiplies settings with each other; only weighted sums can be bounded"),
        ("1 / loss.a <= 1", "divides by a setting; only weighted sums can be bounded"),
        ("min(loss.a, 1) <= 1", "takes the min of a setting; only weighted sums can be bounded"),
        ("loss.a - loss.a <= 1", "names no searched setting, or the settings cancel out"),
        ("1 <= 2", "names no searched setting, or the settings cancel out"),
        ("loss.a / 0 <= 1", "divides by 0"),
        ("loss.a <= 1e999", "has numbers that are too large"),
    ],
)
def test_what_ax_cannot_express_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse_constraint(text)
    assert str(caught.value) == why


def test_the_standard_form_is_what_ax_reads() -> None:
    assert parse_constraint("loss.a - 0.1 * loss.b <= 1").standard_form() == "1.0 * loss.a - 0.1 * loss.b <= 1.0"
    assert parse_constraint("loss.a >= 0.25").standard_form() == "-1.0 * loss.a <= -0.25"


@given(st.lists(st.sampled_from([*"+-*/()<>=, .e", "1", "loss.a", "min", "<=", "1e9"]), max_size=30).map("".join))
@quick
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    for parse in (parse_expression, parse_constraint):
        try:
            parse(text)
        except ExpressionError as error:
            assert str(error).isprintable()


weights = st.floats(-100, 100, allow_subnormal=False)


@given(weights, weights, weights, st.floats(-5, 5), st.floats(-5, 5))
@quick
def test_a_bound_and_its_standard_form_agree_with_the_comparison_it_says(
    one: float, other: float, limit: float, a: float, b: float
) -> None:
    text = f"{one!r} * loss.a + {other!r} * loss.b <= {limit!r}"
    difference = one * a + other * b - limit
    if abs(difference) < 1e-6 or not (one or other):
        return
    bound = parse_constraint(text)
    assert bound.holds({"loss.a": a, "loss.b": b}) is (difference < 0)
    again = parse_constraint(bound.standard_form())
    assert (again.weights, again.limit) == (bound.weights, bound.limit)


def test_a_point_on_the_bound_satisfies_it_in_spite_of_rounding() -> None:
    bound = parse_constraint("loss.a + loss.b <= 0.3")
    assert 0.1 + 0.2 > 0.3
    assert bound.holds({"loss.a": 0.1, "loss.b": 0.2})
    assert not bound.holds({"loss.a": 0.1, "loss.b": math.nextafter(0.2, 1) + 1e-6})
