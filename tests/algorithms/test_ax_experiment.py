"""The Ax experiment: every range as codes, constraints with the same meaning on them, predicted values."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from small_spaces import MARGIN, space_of
from strategies import quick

from orchestrator.algorithms.ax_experiment import MAX_COUNTED, MAX_LISTED, ax_experiment, coded, decoded
from orchestrator.space.expressions import parse_constraint
from orchestrator.space.parameters import MAX_WHOLE, Choice, FloatRange, IntRange, parse_parameter
from orchestrator.space.problems import SpaceError
from orchestrator.study.study import Study, Trial

# What the least figure of a float leaves of a value that goes through logarithms of up to 700 and back.
NEARLY = 1e-12

magnitudes = st.floats(-300, 300).map(lambda exponent: 10**exponent)
numbers = st.one_of(st.just(0.0), magnitudes, magnitudes.map(lambda number: -number), st.floats(-10, 10))
whole = st.one_of(st.integers(-20, 20), st.integers(-MAX_WHOLE, MAX_WHOLE))


@st.composite
def float_ranges(draw: st.DrawFn) -> FloatRange:
    """Wide and narrow, tiny and huge, of either sign, with a log scale or steps where they may have them."""
    low = draw(numbers)
    wide = draw(numbers)
    narrow = low + abs(low) * draw(st.sampled_from([1e-15, 1e-9, 1e-5, 0.1, 1.5])) + 5e-324 * (low == 0)
    high = draw(st.sampled_from([max(low, wide), narrow]))
    assume(low < high)
    kind = draw(st.sampled_from(["linear", "log", "steps"]))
    step = (high - low) / draw(st.integers(1, 50)) if kind == "steps" else None
    made = parse_parameter({"type": "float", "low": low, "high": high, "log": kind == "log", "step": step})
    assume(made is not None)
    assert isinstance(made, FloatRange)
    return made


@st.composite
def int_ranges(draw: st.DrawFn) -> IntRange:
    """Of two values and of 10^16, each with every kind of scale."""
    low, width = draw(whole), draw(st.one_of(st.integers(1, 30), st.integers(1, MAX_WHOLE)))
    kind, step = draw(st.sampled_from(["linear", "log", "steps"])), draw(st.integers(1, 5))
    high = low + width * step if kind == "steps" else low + width
    settings = {"log": kind == "log", "step": step if kind == "steps" else None}
    made = parse_parameter({"type": "int", "low": low, "high": high, **settings})
    assume(made is not None)
    assert isinstance(made, IntRange)
    return made


choices = st.lists(st.one_of(numbers, st.integers(-(10**30), 10**30)), min_size=2, max_size=5, unique=True).map(
    lambda values: Choice(type="choice", values=tuple(values), ordered=True)
)
parameters = st.one_of(float_ranges(), int_ranges(), choices)


# With a constraint on a metric one of Ax's own models is asked, which is not told how long a trial is: the settings
# need not be ones that the trainer takes.
OF_AX = {"metric": "mAP", "constraints": ["rank1 >= 0"]}


def asked(parameter: FloatRange | IntRange | Choice) -> dict[str, Any]:
    """The parameter as it is handed to Ax, through JSON."""
    space = space_of({"a": parameter.model_dump(mode="json")}, objective=OF_AX)
    found: dict[str, Any] = json.loads(json.dumps(ax_experiment(space, 0, Study()), allow_nan=False))
    return found["parameters"]["a"]  # type: ignore[no-any-return]


@given(parameter=parameters)
@quick
def test_ax_gets_a_unit_range_or_a_count_whatever_the_range(parameter: FloatRange | IntRange | Choice) -> None:
    spec = asked(parameter)
    match spec["type"]:
        case "float":
            assert spec == {"type": "float", "low": 0, "high": 1}
        case "int":
            assert spec == {"type": "int", "low": 0, "high": parameter.count() - 1}  # type: ignore[operator]
            assert spec["high"] < MAX_COUNTED
        case "choice":
            values = spec["values"]
            assert (values[0], values[-1]) == (0, 1)
            assert all(low < high for low, high in itertools.pairwise(values))
            assert len(values) == parameter.count() <= MAX_LISTED  # type: ignore[operator]


@given(parameter=parameters, share=st.floats(0, 1))
@quick
def test_a_value_is_what_its_code_means(parameter: FloatRange | IntRange | Choice, share: float) -> None:
    value = parameter.at(share)
    code = json.loads(json.dumps(coded(parameter, value)))
    spec = asked(parameter)
    assert code in spec["values"] if spec["type"] == "choice" else spec["low"] <= code <= spec["high"]
    found = decoded(parameter, code)
    if isinstance(parameter, Choice) or parameter.step is not None or abs(parameter.high) < 1e12:
        is_number = isinstance(parameter, FloatRange) and parameter.step is None
        assert found == (
            pytest.approx(value, rel=NEARLY, abs=NEARLY * (parameter.high - parameter.low)) if is_number else value
        )
    else:
        assert found == pytest.approx(value, rel=NEARLY, abs=NEARLY * (parameter.high - parameter.low))


@given(parameter=st.one_of(float_ranges(), int_ranges()), place=st.floats(-1e-7, 1 + 1e-7))
@quick
def test_every_place_that_ax_may_name_is_a_value_of_the_range(parameter: FloatRange | IntRange, place: float) -> None:
    highest = asked(parameter).get("high", 1)
    value = decoded(parameter, place * highest)
    assert parameter.refusal(value) is None


def test_the_ends_of_a_range_are_the_ends_of_what_ax_gets() -> None:
    for parameter in (
        FloatRange(type="float", low=1e-6, high=1e-5, log=True),
        FloatRange(type="float", low=0.001, high=0.00101),
        FloatRange(type="float", low=1e300, high=1e300 * (1 + 1e-15), log=True),
        IntRange(type="int", low=3, high=10**9),
    ):
        assert (decoded(parameter, 0), decoded(parameter, 1)) == (parameter.low, parameter.high)


def test_an_ordered_choice_is_counted_in_the_order_of_its_list() -> None:
    sizes = Choice(type="choice", values=(8, 2, 4), ordered=True)
    assert asked(sizes) == {"type": "int", "low": 0, "high": 2}
    assert [decoded(sizes, code) for code in range(3)] == [8, 2, 4]


def test_a_trial_with_a_value_that_its_parameter_does_not_have_is_named() -> None:
    """As in a journal that was received from somebody else."""
    space = space_of({"model.attention_gate": {"type": "choice", "values": ["softmax", "sigmoid"]}})
    trial = Trial("t0000", 0, {"model.attention_gate": "neither"}, "start", 0, 3)
    with pytest.raises(SpaceError, match=r"model\.attention_gate: 'neither' of a trial is no value of it"):
        ax_experiment(space, 0, Study(trials={"t0000": trial}))


def bounds_of(parameters: dict[str, Any], *constraints: str) -> list[str]:
    space = space_of(parameters, constraints=list(constraints), objective=OF_AX)
    found: list[str] = ax_experiment(space, 0, Study())["constraints"]
    return found


def holds(constraint: str, codes: dict[str, float]) -> bool:
    """Ax's form of a constraint."""
    return parse_constraint(constraint).holds(codes)


@given(
    low=st.floats(-1e6, 1e6),
    width=st.floats(-12, 6).map(lambda exponent: 10**exponent),
    weight=st.floats(-1e6, 1e6).filter(bool),
    place=st.floats(0, 1),
    identities=st.integers(0, 7),
    limit=st.floats(-3, 3),
)
@quick
def test_a_constraint_holds_for_codes_where_it_holds_for_values(
    low: float, width: float, weight: float, place: float, identities: int, limit: float
) -> None:
    high = low + width
    assume(low < high)
    parameters = {
        "clips.flip": {"type": "float", "low": low, "high": high},
        "clips.identities": {"type": "int", "low": 2, "high": 9},
    }
    sign = "-" if weight < 0 else "+"
    text = f"clips.identities {sign} {abs(weight)!r} * clips.flip <= {5 + weight * low + limit!r}"
    space = space_of(parameters, constraints=[text])
    (bound,) = space.linear_constraints()
    value = float(decoded(space.parameters["clips.flip"], place))  # type: ignore[arg-type]
    excess = 2 + identities + weight * value - bound.limit
    assume(abs(excess) > 1e-7 * max(9.0, abs(weight * low), abs(weight * high)))  # on the edge rounding decides
    codes = {"clips.flip": place, "clips.identities": identities}
    assert all(holds(constraint, codes) for constraint in bounds_of(parameters, text)) == (excess <= 0)


def test_constraints_have_the_size_of_the_unit_cube_and_those_that_always_hold_are_left_out() -> None:
    narrow = {"type": "float", "low": 0.001, "high": 0.00101}
    parameters = {"loss.center_weight": narrow, "clips.flip": MARGIN}
    (bound,) = bounds_of(parameters, "loss.center_weight <= 0.001005", "clips.flip + loss.center_weight <= 3")
    assert holds(bound, {"loss.center_weight": 0.49}) and not holds(bound, {"loss.center_weight": 0.51})
    assert bound.startswith("1.0 * ")


def test_a_constraint_on_more_whole_numbers_than_ax_can_list_holds_for_what_its_places_mean() -> None:
    parameters = {"clips.pad": {"type": "int", "low": 0, "high": 10**6}}
    (bound,) = bounds_of(parameters, "clips.pad <= 1000")
    pad = space_of(parameters).parameters["clips.pad"]
    allowed = [place / 10**7 for place in range(20_000) if holds(bound, {"clips.pad": place / 10**7})]
    assert 990 <= max(decoded(pad, place) for place in allowed) <= 1000  # type: ignore[type-var, operator]
