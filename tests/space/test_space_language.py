"""Steps, conditions, constraints, derived settings, stopping rules and budgets of search spaces."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import quick

from orchestrator.__main__ import run
from orchestrator.space.layers import builtin_files
from orchestrator.space.parameters import FloatRange, IntRange
from orchestrator.space.problems import SpaceError
from orchestrator.space.remarks import fixed_settings
from orchestrator.space.search_space import SearchSpace
from trainer.config import TrialConfig

BUILTIN = sorted(builtin_files())
SPACE = """\
version: 1
name: rich
budget: {trials: 4}
parameters:
  loss.osm_alpha: {type: float, low: 0.5, high: 2.5, step: 0.5}
  loss.osm_share: {type: float, low: 0.0, high: 0.9}
  loss.osm_balance: {type: float, low: 0.1, high: 0.9}
  clips.identities: {type: int, low: 4, high: 16, step: 4}
  model.pooling: {type: choice, values: [attention, mean, max]}
  model.attention_gate: {type: choice, values: [softmax, sigmoid], when: {model.pooling: [attention]}}
  loss.attention_weight: {type: float, low: 0.1, high: 2.0, log: true, when: {model.pooling: [attention]}}
constraints: ["loss.osm_share + loss.osm_balance <= 1.2"]
derived: {optim.learning_rate: 4e-5 * clips.identities}
trainer:
  loss: {attention_weight: 0.0, center_weight: 5e-4}
"""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a file into the current folder, and returns its name."""
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str = "s.yaml") -> Path:
        Path(name).write_text(text)
        return Path(name)

    return write


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> SearchSpace:
    path = tmp_path_factory.mktemp("space") / "rich.yaml"
    path.write_text(SPACE)
    return SearchSpace.load(path)


def edited(*edits: tuple[str, str]) -> str:
    text = SPACE
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    return text


def problems(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(SpaceError) as caught:
        SearchSpace.load(path, overrides=overrides)
    return caught.value.problems


def points(space: SearchSpace, number: int = 200) -> list[dict[str, object]]:
    return [dict(point) for point in islice(space.samples(0), number)]


# Samples


@pytest.mark.parametrize("name", BUILTIN)
def test_two_hundred_samples_of_every_shipped_space_give_valid_configurations(name: str) -> None:
    space = SearchSpace.load(name)
    found = [space.config(point) for point in islice(space.samples(0), 200)]
    assert len(found) == 200
    assert all(isinstance(config, TrialConfig) for config in found)


@given(st.integers(0, 2**31))
@quick
def test_every_sample_obeys_steps_conditions_and_constraints(rich: SearchSpace, seed: int) -> None:
    point = next(rich.samples(seed))
    assert all(rich.parameters[path].refusal(value) is None for path, value in point.items())
    assert point["loss.osm_share"] + point["loss.osm_balance"] <= 1.2 + 1e-9  # type: ignore[operator]
    has_attention = point["model.pooling"] == "attention"
    assert ("model.attention_gate" in point) == ("loss.attention_weight" in point) == has_attention
    assert isinstance(rich.config(point), TrialConfig)


def test_draws_that_break_a_constraint_give_no_sample(rich: SearchSpace) -> None:
    assert rich.sample([0.5, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5]) is None
    assert rich.sample([0.5, 0.0, 1.0, 0.5, 0.5, 0.5, 0.5]) is not None


def test_samples_are_a_function_of_the_seed(rich: SearchSpace) -> None:
    assert points(rich, 5) == points(rich, 5)
    assert next(rich.samples(0)) != next(rich.samples(1))


def test_any_sample_is_the_middle_or_else_one_that_the_constraints_allow(write: Write, rich: SearchSpace) -> None:
    assert rich.any_sample()["loss.osm_share"] == 0.45
    narrow = SearchSpace.load(write(edited(("<= 1.2", "<= 0.5"))))
    assert narrow.any_sample()["loss.osm_share"] < 0.4  # type: ignore[operator]


# Steps


@pytest.mark.parametrize(
    ("low", "high", "step", "expected"),
    [
        (0.1, 0.3, 0.1, [0.1, 0.2, 0.3]),
        (0.0, 1.0, 0.25, [0.0, 0.25, 0.5, 0.75, 1.0]),
        (1e-5, 3e-5, 1e-5, [1e-5, 2e-5, 3e-5]),
        (-1.0, 1.0, 2.0, [-1.0, 1.0]),
    ],
)
def test_steps_are_the_decimals_that_were_written(low: float, high: float, step: float, expected: list[float]) -> None:
    parameter = FloatRange(type="float", low=low, high=high, step=step)
    assert parameter.points() == expected
    assert {parameter.at(share / 100) for share in range(101)} == set(expected)


@given(st.integers(-50, 50), st.integers(1, 40), st.integers(1, 9), st.floats(0, 1))
@quick
def test_a_stepped_value_lies_on_a_step_within_the_range(low: int, steps: int, step: int, share: float) -> None:
    whole = IntRange(type="int", low=low, high=low + steps * step, step=step)
    tenths = FloatRange(type="float", low=low / 10, high=(low + steps * step) / 10, step=step / 10)
    assert whole.at(share) in whole.points()
    assert tenths.at(share) in (tenths.points() or ())
    assert len(whole.points()) == len(tenths.points() or ()) == steps + 1
    for parameter in (whole, tenths):
        assert parameter.refusal(parameter.at(share)) is None


def test_a_value_that_missed_its_step_by_rounding_is_taken_and_one_between_two_steps_not() -> None:
    parameter = FloatRange(type="float", low=0.1, high=0.9, step=0.2)
    assert parameter.refusal(0.1 + 0.2 * 2 + 1e-16) is None
    assert parameter.refusal(0.6) == "must be a step of 0.2 from 0.1 (is 0.6)"


def test_a_finite_space_knows_its_number_of_points(write: Write, rich: SearchSpace) -> None:
    assert rich.point_count() is None
    finite = """\
version: 1
name: finite
budget: {trials: 4}
parameters:
  clips.identities: {type: int, low: 4, high: 16, step: 4}
  loss.osm_alpha: {type: float, low: 0.5, high: 2.5, step: 0.5}
"""
    assert SearchSpace.load(write(finite)).point_count() == 20
    bounded = finite + "constraints: ['clips.identities + 4 * loss.osm_alpha <= 12']\n"
    space = SearchSpace.load(write(bounded))
    grid = [(identities, alpha) for identities in (4, 8, 12, 16) for alpha in (0.5, 1.0, 1.5, 2.0, 2.5)]
    assert space.point_count() == sum(identities + 4 * alpha <= 12 for identities, alpha in grid)


def test_a_conditional_parameter_multiplies_only_the_points_that_have_it(write: Write) -> None:
    text = """\
version: 1
name: conditional
budget: {trials: 4}
parameters:
  model.attention_gate: {type: choice, values: [softmax, sigmoid], when: {model.pooling: [attention]}}
  model.pooling: {type: choice, values: [attention, mean, max]}
"""
    space = SearchSpace.load(write(text))
    assert space.point_count() == 4
    assert len({json.dumps(point) for point in points(space)}) == 4


# Conditions


def test_an_inactive_parameter_keeps_its_fixed_value_or_the_default(rich: SearchSpace) -> None:
    sample = rich.any_sample() | {"model.pooling": "mean"}
    config = rich.config(rich.active(sample))
    assert config.loss.attention_weight == 0.0
    assert config.model.attention_gate == "softmax"


def test_a_sample_with_an_inactive_parameter_is_refused(rich: SearchSpace) -> None:
    sample = {**rich.any_sample(), "model.pooling": "mean", "model.attention_gate": "sigmoid"}
    sample.pop("loss.attention_weight", None)
    with pytest.raises(SpaceError) as caught:
        rich.config(sample)
    assert caught.value.problems == [
        "model.attention_gate: is not searched where model.pooling: 'attention' does not hold"
    ]


def test_a_condition_of_a_condition_must_hold_too(write: Write) -> None:
    chained = edited(("values: [softmax, sigmoid], when", "values: [softmax, sigmoid], ordered: true, when"))
    chained = chained.replace(
        "log: true, when: {model.pooling: [attention]}", "log: true, when: {model.attention_gate: [sigmoid]}"
    )
    space = SearchSpace.load(write(chained))
    for point in points(space):
        assert ("loss.attention_weight" in point) == (point.get("model.attention_gate") == "sigmoid")
    assert any("loss.attention_weight" in point for point in points(space))


def test_a_child_moves_a_bound_of_a_conditional_parameter_without_losing_the_fixed_value(write: Write) -> None:
    write(SPACE, "parent.yaml")
    child = write("extends: parent.yaml\nparameters: {loss.attention_weight: {high: 1.5}}\n")
    space = SearchSpace.load(child)
    assert space.parameters["loss.attention_weight"].at(1) == pytest.approx(1.5)
    assert space.trainer == {"loss": {"attention_weight": 0.0, "center_weight": 5e-4}}


def test_an_override_that_fixes_a_conditional_parameter_ends_its_search(write: Write) -> None:
    space = SearchSpace.load(write(SPACE), overrides=["model.attention_gate=sigmoid"])
    assert "model.attention_gate" not in space.parameters
    assert all(space.config(point).model.attention_gate == "sigmoid" for point in islice(space.samples(0), 5))


def test_an_override_changes_a_condition(write: Write) -> None:
    override = "parameters.model.attention_gate.when.model.pooling=[attention, max]"
    space = SearchSpace.load(write(SPACE), overrides=[override])
    assert space.parameters["model.attention_gate"].when == {"model.pooling": ("attention", "max")}


@pytest.mark.parametrize("nothing", ["null", "{}"])
def test_a_child_or_an_override_removes_a_condition(write: Write, nothing: str) -> None:
    parent = edited(("trainer:\n", "trainer:\n  model: {attention_gate: sigmoid}\n"))
    assert SearchSpace.load(write(parent, "parent.yaml")).trainer["model"] == {"attention_gate": "sigmoid"}
    child = f"extends: parent.yaml\nparameters:\n  model.attention_gate: {{when: {nothing}}}\n"
    override = f"parameters.model.attention_gate.when={nothing}"
    for space in (
        SearchSpace.load(write(child)),
        SearchSpace.load("parent.yaml", overrides=[override]),
    ):
        assert space.parameters["model.attention_gate"].when == {}
        assert space.parameters["loss.attention_weight"].when != {}
        # Searched everywhere, it has no value for elsewhere any more.
        assert space.trainer["model"] == {}
        assert SearchSpace.load(write(space.to_yaml(), "again.yaml")) == space


# Derived settings


def test_a_derived_setting_follows_from_the_sample(rich: SearchSpace) -> None:
    sample = rich.any_sample() | {"clips.identities": 16}
    assert rich.config(sample).optim.learning_rate == pytest.approx(6.4e-4)


def test_a_derived_whole_number_is_one(write: Write) -> None:
    text = edited(("derived: {optim.learning_rate: 4e-5 * clips.identities}", "derived: {clips.tracklets: 96 / X}"))
    steps = {"clips.identities": "clips.identities", "loss.osm_alpha": "loss.osm_alpha"}
    space = SearchSpace.load(write(text.replace("96 / X", "round(96 / clips.identities)")))
    assert space.config(space.any_sample() | {"clips.identities": 16}).clips.tracklets == 6
    (problem,) = problems(write(text.replace("X", steps["loss.osm_alpha"])), "budget.trials=3")
    assert problem.endswith("use round() or floor() (loss.osm_alpha is 2.5)"), problem


def test_what_is_derived_from_an_inactive_parameter_keeps_the_default(write: Write) -> None:
    text = edited(("4e-5 * clips.identities", "1e-3 * loss.attention_weight"))
    space = SearchSpace.load(write(text))
    sample = space.active(space.any_sample() | {"model.pooling": "mean"})
    assert space.config(sample).optim.learning_rate == TrialConfig().optim.learning_rate


def test_a_derived_setting_gives_way_to_an_override_and_takes_the_place_of_one(write: Write) -> None:
    fixed = SearchSpace.load(write(SPACE), overrides=["optim.learning_rate=1e-3"])
    assert fixed.derived == {}
    derived = SearchSpace.load("s.yaml", overrides=["derived.loss.osm_alpha=1 + loss.osm_share"])
    assert "loss.osm_alpha" not in derived.parameters
    assert set(derived.derived) == {"optim.learning_rate", "loss.osm_alpha"}


# Mistakes

MISTAKES = {
    "step that misses the end": (
        ("high: 2.5, step: 0.5", "high: 2.4, step: 0.5"),
        "5:54: parameters.loss.osm_alpha.step: does not lead from low to high; end the range at 2 or 2.5",
    ),
    "step on a log scale": (
        ("step: 0.5}", "log: true, step: 0.5}"),
        "5:65: parameters.loss.osm_alpha.step: has no meaning on a log scale, and Ax cannot express it",
    ),
    "step beyond the range": (
        ("high: 2.5, step: 0.5", "high: 2.5, step: 5.0"),
        "5:54: parameters.loss.osm_alpha.step: is longer than the range from 0.5 to 2.5",
    ),
    "too many steps": (
        ("high: 2.5, step: 0.5", "high: 2.5, step: 1e-9"),
        "5:54: parameters.loss.osm_alpha.step: makes more than 10,000 values; leave it out",
    ),
    "condition on nothing searched": (
        ("sigmoid], when: {model.pooling: [attention]}", "sigmoid], when: {model.neck: [none]}"),
        "10:75: parameters.model.attention_gate.when.model.neck: is not searched; drop this condition, or fix "
        "model.attention_gate too, such as by --set model.attention_gate=…",
    ),
    "condition on a range": (
        ("sigmoid], when: {model.pooling: [attention]}", "sigmoid], when: {clips.identities: [4]}"),
        "10:75: parameters.model.attention_gate.when.clips.identities: is a range; a condition needs a parameter of "
        "type choice",
    ),
    "condition that never holds": (
        ("sigmoid], when: {model.pooling: [attention]}", "sigmoid], when: {model.pooling: [atention]}"),
        "10:91: parameters.model.attention_gate.when.model.pooling[0]: must be one of 'attention', 'mean', 'max'",
    ),
    "conditions in a circle": (
        ("[attention, mean, max]}", "[attention, mean, max], when: {model.attention_gate: [softmax]}}"),
        "9:72: parameters.model.pooling.when.model.attention_gate: the conditions go in a circle",
    ),
    "constraint on a log scale": (
        ("loss.osm_share + loss.osm_balance <= 1.2", "loss.attention_weight <= 1"),
        "12:15: constraints[0]: loss.attention_weight is searched on a log scale, which Ax cannot bound",
    ),
    "constraint on a choice": (
        ("loss.osm_share + loss.osm_balance <= 1.2", "model.pooling <= 1"),
        "12:15: constraints[0]: model.pooling is a choice, which Ax cannot bound",
    ),
    "constraint on a conditional parameter": (
        (
            'log: true, when: {model.pooling: [attention]}}\nconstraints: ["',
            'when: {model.pooling: [attention]}}\nconstraints: ["loss.attention_weight + ',
        ),
        "12:15: constraints[0]: loss.attention_weight is conditional",
    ),
    "constraint on what is not searched": (
        ("loss.osm_share + loss.osm_balance <= 1.2", "loss.osm_shar <= 1"),
        "12:15: constraints[0]: 'loss.osm_shar' is not searched - did you mean 'loss.osm_share'?",
    ),
    "constraint that is not linear": (
        ("loss.osm_share + loss.osm_balance <= 1.2", "loss.osm_share * loss.osm_balance <= 1"),
        "12:15: constraints[0]: multiplies settings with each other; only weighted sums can be bounded",
    ),
    "constraint that nothing satisfies": (
        ("<= 1.2", "<= 0.05"),
        "12:15: constraints[0]: no point of the space satisfies it, not even loss.osm_share 0, loss.osm_balance 0.1",
    ),
    "constraints that nothing satisfies together": (
        ('<= 1.2"]', '<= 0.5", "loss.osm_share >= 0.45"]'),
        "12:1: constraints: no point was found that satisfies all of them; loosen one",
    ),
    "derived from what is not searched": (
        ("4e-5 * clips.identities", "4e-5 * clips.tracklets"),
        "13:11: derived.optim.learning_rate: 'clips.tracklets' is not searched",
    ),
    "derived from a text": (
        ("4e-5 * clips.identities", "4e-5 * model.pooling"),
        "13:11: derived.optim.learning_rate: model.pooling is no number; nothing can be computed from it",
    ),
    "derived from nothing": (
        ("4e-5 * clips.identities", "'4e-5'"),
        "13:11: derived.optim.learning_rate: names no searched setting; set it in 'trainer'",
    ),
    "derived and unreadable": (
        ("4e-5 * clips.identities", "4e-5 clips.identities"),
        "13:11: derived.optim.learning_rate: 'clips.identities' does not fit here",
    ),
    "derived and searched": (
        ("{optim.learning_rate: 4e-5", "{loss.osm_share: 4e-5"),
        "13:11: derived.loss.osm_share: is given too, at s.yaml:6:3; keep one of the two",
    ),
    "derived and fixed": (
        ("trainer:", "trainer:\n  optim: {learning_rate: 1e-3}"),
        "13:11: derived.optim.learning_rate: is given too, at s.yaml:15:11; keep one of the two",
    ),
    "derived and unknown": (
        ("{optim.learning_rate: 4e-5", "{optim.learning_rat: 4e-5"),
        "13:11: derived.optim.learning_rat: unknown trainer setting - did you mean 'optim.learning_rate'?",
    ),
    "derived and a text": (
        ("{optim.learning_rate: 4e-5", "{model.neck: 4e-5"),
        "13:11: derived.model.neck: the setting takes no number; search it as a choice",
    ),
    "derived part of the data": (
        ("{optim.learning_rate: 4e-5", "{data.fold: 4e-5"),
        "13:11: derived.data.fold: is the same for all trials of a search; set it in 'trainer'",
    ),
    "derived value that the trainer refuses": (
        ("4e-5 * clips.identities", "4e-5 * (clips.identities - 4)"),
        "13:11: derived.optim.learning_rate: must be greater than 0 (is 0) where clips.identities is 4",
    ),
    "derived by dividing by zero": (
        ("4e-5 * clips.identities", "1 / (clips.identities - 4)"),
        "13:11: derived.optim.learning_rate: 1 / (clips.identities - 4) divides by 0 (clips.identities is 4)",
    ),
    "choice that clashes with another parameter": (
        (SPACE[SPACE.index(", log: true, when") :], "}\ntrainer: {loss: {center_weight: 5e-4}}\n"),
        "11:40: parameters.loss.attention_weight.low: model.pooling mean has no attention",
    ),
    "start point with an inactive parameter": (
        (
            "trainer:",
            "start: [{loss.osm_alpha: 0.5, loss.osm_share: 0.1, loss.osm_balance: 0.1, clips.identities: 4, "
            "model.pooling: mean, model.attention_gate: softmax}]\ntrainer:",
        ),
        "14:117: start[0].model.attention_gate: is searched only with model.pooling: 'attention'; drop it here",
    ),
    "start point that breaks a constraint": (
        (
            "trainer:",
            "start: [{loss.osm_alpha: 0.5, loss.osm_share: 0.9, loss.osm_balance: 0.9, clips.identities: 4, "
            "model.pooling: mean}]\ntrainer:",
        ),
        "14:9: start[0]: breaks the constraint 'loss.osm_share + loss.osm_balance <= 1.2'",
    ),
    "start point between steps": (
        (
            "trainer:",
            "start: [{loss.osm_alpha: 0.6, loss.osm_share: 0.1, loss.osm_balance: 0.1, clips.identities: 4, "
            "model.pooling: mean}]\ntrainer:",
        ),
        "14:10: start[0].loss.osm_alpha: must be a step of 0.5 from 0.5 (is 0.6)",
    ),
    "outcome constraint on no metric": (
        ("budget:", "objective: {constraints: [rank2 >= 0.8]}\nbudget:"),
        "3:27: objective.constraints[0]: 'rank2' is no metric, not one of mAP, mINP, rank1, rank5, rank10, rank20, "
        "hours or gpu_hours",
    ),
    "outcome constraint in percent": (
        ("budget:", "objective: {constraints: [rank1 >= 80]}\nbudget:"),
        "3:27: objective.constraints[0]: metrics are shares between 0 and 1; 80 % is 0.8 (is 80)",
    ),
    "outcome constraint without a comparison": (
        ("budget:", "objective: {constraints: [rank1]}\nbudget:"),
        "3:27: objective.constraints[0]: must compare a metric with a number or the baseline, such as 'rank1 >= "
        "0.8', 'rank1 >= 0.95 * baseline' or 'rank1 >= baseline - 0.02' (is 'rank1')",
    ),
    "outcome constraint on the objective": (
        ("budget:", "objective: {constraints: [mAP >= 0.8]}\nbudget:"),
        "3:27: objective.constraints[0]: mAP is what the search improves anyway; bound another metric",
    ),
    "constraint relative to a baseline that is not there": (
        ("budget:", "objective: {constraints: [rank1 >= 0.8, rank1 >= 0.95 * baseline]}\nbudget:"),
        "3:41: objective.constraints[1]: the baseline is the first point under 'start', and there is none; give one",
    ),
    "goal beside several objectives": (
        ("budget:", "objective: {metric: 'mAP, -hours', goal: maximize}\nbudget:"),
        "3:36: objective.goal: drop it; where metric holds a comma or a minus, a minus marks what is lowered",
    ),
    "cost that is to be raised": (
        ("budget:", "objective: {metric: 'mAP, gpu_hours'}\nbudget:"),
        "3:13: objective.metric: gpu_hours is a cost, which a minus lowers; write -gpu_hours (is 'mAP, gpu_hours')",
    ),
    "model of an algorithm without one": (
        ("budget:", "algorithm: {name: sobol, method: quality}\nbudget:"),
        "3:26: algorithm.method: is a setting of ax; sobol has no model (is 'quality')",
    ),
    "unknown algorithm": (
        ("budget:", "algorithm: {name: tpe}\nbudget:"),
        "3:13: algorithm.name: must be 'ax', 'sobol', 'random' or 'grid' (is 'tpe')",
    ),
    "unknown stopping rule": (
        ("budget:", "stopping: {rule: median}\nbudget:"),
        "3:12: stopping.rule: must be 'none', 'asha', 'percentile', 'promote' or 'freeze_thaw' (is 'median')",
    ),
    "target in percent": (
        ("trials: 4", "trials: 4, target: 80"),
        "3:21: budget.target: must be at most 1 (is 80)",
    ),
    "budget of less than a trial": (
        ("trials: 4", "trials: 4, epochs: 100"),
        "3:21: budget.epochs: one trial alone trains 120 (is 100); raise it, or optim.epochs",
    ),
    "rule that never stops anything": (
        ("budget:", "stopping: {rule: asha, grace: 12}\nbudget:"),
        "3:24: stopping.grace: 12 of 12 evaluations (optim.epochs 120, evaluation.every 10) leave nothing to stop",
    ),
    "first pause after nothing": (
        ("budget:", "stopping: {rule: promote, first: 1e-9}\nbudget:"),
        "3:27: stopping.first: must be at least 0.001 (is 1e-09)",
    ),
    "rule that never pauses anything": (
        ("budget:", "stopping: {rule: promote, first: 0.95}\nbudget:"),
        "3:27: stopping.first: no evaluation lies between 0.95 of a trial and its end (optim.epochs 120, "
        "evaluation.every 10); lower first or evaluation.every",
    ),
}


@pytest.mark.parametrize(("edit", "expected"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line_with_its_place_and_the_way_out(
    write: Write, edit: tuple[str, str], expected: str
) -> None:
    found = problems(write(edited(edit)))
    assert any(line.startswith(f"s.yaml:{expected}") for line in found), found


def test_the_quality_model_is_refused_with_the_command_that_installs_it(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(edited(("budget:", "algorithm: {method: quality}\nbudget:")))
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None if module == "numpyro" else module)
    needs = "quality needs NumPyro: pip install 'reidsearch[quality]', or use method: fast"
    assert problems(path) == [f"s.yaml:3:13: algorithm.method: {needs}"]
    monkeypatch.setattr("importlib.util.find_spec", lambda module: module)
    assert SearchSpace.load(path).algorithm.method == "quality"


def test_a_combination_that_only_a_random_point_shows_is_found(write: Write) -> None:
    # With all others in their middle the largest share breaks the constraint, so that no end shows it.
    text = edited(("4e-5 * clips.identities", "1.2 - loss.osm_share - 0.2 * loss.osm_alpha"))
    (problem,) = problems(write(text))
    assert "the trainer refuses a random point: optim.learning_rate: must be greater than 0" in problem


def test_all_new_fields_survive_the_resolved_space(write: Write) -> None:
    text = edited(
        (
            "budget: {trials: 4}",
            "budget: {trials: 4, epochs: 999, hours: 1.5, gpu_hours: 3.0, target: 0.9, patience: 7}",
        ),
        ("parameters:", "algorithm: {name: grid}\nstopping: {rule: percentile, curves: 3}\nparameters:"),
        ("version: 1", "version: 1\nobjective: {constraints: ['rank1 >= 0.8']}"),
    )
    space = SearchSpace.load(write(text))
    again = SearchSpace.load(write(space.to_yaml(), "again.yaml"))
    assert again == space
    assert again.fingerprint() == space.fingerprint()
    assert (again.stopping.curves, again.budget.patience, again.algorithm.name) == (3, 7, "grid")
    assert again.objective.outcome_constraints()[0].holds(0.8)


def test_parameters_without_steps_and_conditions_show_neither() -> None:
    assert all(
        not {"step", "when"} & set(parameter)
        for parameter in SearchSpace.load("smoke").resolved()["parameters"].values()  # type: ignore[union-attr]
    )


# Remarks and commands


@pytest.mark.parametrize("name", BUILTIN)
def test_no_remark_on_a_shipped_space(name: str) -> None:
    assert SearchSpace.load(name).warnings() == []


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optim.epochs=1", "optim.milestones: with 1 epoch two of them fall on the same epoch"),
        ("optim.milestones=[0.5, 1.0]", "optim.milestones: the last one is at the end of the training"),
        ("optim.warmup=0.5", "optim.warmup: 0.5 of the epochs lasts beyond the first of optim.milestones"),
    ],
)
def test_milestones_that_do_nothing_are_remarked(override: str, expected: str) -> None:
    assert SearchSpace.load("smoke", overrides=[override]).warnings()[0].startswith(expected)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "stopping={rule: none, grace: 2}",
            "stopping.grace: has no effect with rule 'none', only with 'asha' or 'perc",
        ),
        ("stopping={rule: promote, curves: 9}", "stopping.curves: has no effect with rule 'promote', only with"),
        (
            "replicates={trainings: 6, choose: leaders}",
            "replicates.trainings: has no effect with choose 'leaders', only with 'model'",
        ),
        ("replicates={choose: model, leaders: 4}", "replicates.leaders: has no effect with choose 'model', only with"),
    ],
)
def test_a_setting_of_another_rule_is_remarked(override: str, expected: str) -> None:
    assert SearchSpace.load("smoke", overrides=[override]).warnings()[0].startswith(expected)


def test_a_searched_setting_that_is_fixed_is_remarked_with_its_range() -> None:
    space = SearchSpace.load("smoke", overrides=["clips.identities=5", "model.attention_gate=softmax"])
    assert fixed_settings("smoke", space) == [
        "clips.identities: fixed at 5, not searched (space: 2 to 4)",
        "model.attention_gate: fixed at 'softmax', not searched (space: 'softmax' or 'sigmoid')",
    ]
    assert fixed_settings("smoke", SearchSpace.load("smoke")) == []


def test_check_holds_the_batches_against_the_data_at_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    assert run(["data", "synth", str(root), "--size", "tiny"]) == 0
    there = ["synthetic=null", f"data.root={root}"]
    arguments = [argument for override in there for argument in ("--set", override)]
    assert run(["space", "check", "smoke", *arguments]) == 0
    assert (
        run(["space", "check", "smoke", *arguments, "--set", "parameters.clips.identities.high=9", "--set", "start=[]"])
        == 3
    )
    assert f"clips.identities: 9 identities per batch, but the validation split leaves 5 to train on at {root}" in (
        capsys.readouterr().err
    )
    assert run(["space", "check", "smoke", *arguments, "--set", "clips.tracklets=30"]) == 0
    assert "note clips.tracklets: 30 per identity, but half of the identities have at most " in capsys.readouterr().out


def test_sample_prints_points_that_fit_under_start(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["space", "sample", str(write(SPACE)), "-n", "3", "--seed", "5"]) == 0
    listed = "".join(f"  {line}\n" for line in capsys.readouterr().out.splitlines())
    space = SearchSpace.load(write(f"{SPACE}start:\n{listed}", "started.yaml"))
    assert list(space.start) == list(islice(space.samples(5), 3))
    assert run(["space", "sample", "s.yaml", "-n", "3", "--seed", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == list(space.start)


def test_diff_prints_what_goes_and_what_comes(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write(SPACE)
    other = write(
        edited(("trials: 4", "trials: 5"), ("derived: {optim.learning_rate: 4e-5 * clips.identities}\n", "")), "t"
    )
    assert run(["space", "diff", "s.yaml", str(other)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "- budget.trials: 4",
        "+ budget.trials: 5",
        '- derived.optim.learning_rate: "4e-5 * clips.identities"',
    ]
    assert run(["space", "diff", "s.yaml", "s.yaml"]) == 0
    assert capsys.readouterr().out == ""


def test_reading_a_space_leaves_the_random_state_alone(rich: SearchSpace) -> None:
    random.seed(3)
    before = random.getstate()
    points(rich, 3)
    assert random.getstate() == before
