"""Search spaces: which are accepted, the messages for mistakes, and the configurations that they give."""

from __future__ import annotations

import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.space.layers import builtin_files
from orchestrator.space.objective import Objective
from orchestrator.space.options import Budget, Replicates, StoppingConfig
from orchestrator.space.parameters import Value, parse_parameter
from orchestrator.space.problems import SpaceError, name_hint, our_name, sweep
from orchestrator.space.schema import trainer_settings
from orchestrator.space.search_space import SearchSpace, builtin_spaces
from trainer.yaml_file import dump_yaml, parse_yaml

BUILTIN = sorted(builtin_files())
SPACE = """\
version: 1
name: small
budget: {trials: 4}
parameters:
  loss.triplet_margin: {type: float, low: 0.1, high: 0.8}
  clips.identities: {type: int, low: 2, high: 8}
  model.attention_gate: {type: choice, values: [softmax, sigmoid]}
trainer:
  optim: {epochs: 3}
"""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a file into the current folder, and returns its name."""
    monkeypatch.chdir(tmp_path)

    def write(text: str | bytes, name: str = "s.yaml") -> Path:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(text.encode() if isinstance(text, str) else text)
        return Path(name)

    return write


def problems(path_or_name: str | Path, *overrides: str) -> list[str]:
    with pytest.raises(SpaceError) as caught:
        SearchSpace.load(path_or_name, overrides=overrides)
    return caught.value.problems


def edited(*edits: tuple[str, str]) -> str:
    text = SPACE
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    return text


def draw(space: SearchSpace, source: random.Random) -> dict[str, Value]:
    return {path: parameter.at(source.random()) for path, parameter in space.parameters.items()}


# Reading


def test_a_space_keeps_the_order_of_its_parameters(write: Write) -> None:
    space = SearchSpace.load(write(SPACE))
    assert list(space.parameters) == ["loss.triplet_margin", "clips.identities", "model.attention_gate"]


def test_a_builtin_space_is_found_by_name_from_any_folder(write: Write) -> None:
    assert SearchSpace.load("demo") == SearchSpace.load("demo.yaml")


def test_a_file_wins_over_a_builtin_space_of_its_name(write: Write) -> None:
    assert SearchSpace.load(write(SPACE, "demo.yaml")).name == "small"


def test_a_folder_does_not_hide_a_builtin_space(write: Write) -> None:
    Path("demo").mkdir()
    assert SearchSpace.load("demo").name == "demo"


def test_every_builtin_space_has_its_own_line_of_description() -> None:
    assert list(builtin_spaces()) == BUILTIN
    assert len(set(builtin_spaces().values())) == len(BUILTIN)
    assert all(builtin_spaces().values())


def test_importing_spaces_loads_no_heavy_library() -> None:
    heavy = "{'ray', 'ax', 'mlflow', 'torch', 'click'}"
    code = f"import sys, orchestrator.space.search_space; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Layers


def test_a_child_overrides_values_and_inherits_the_rest(write: Write) -> None:
    write(SPACE, "parent.yaml")
    child = write("extends: parent.yaml\nbudget: {concurrent: 2}\ntrainer: {optim: {gamma: 0.5}}\n")
    space = SearchSpace.load(child)
    assert (space.name, space.budget.trials, space.budget.concurrent) == ("small", 4, 2)
    assert space.trainer == {"optim": {"epochs": 3, "gamma": 0.5}}


def test_a_child_narrows_one_bound_of_a_parameter(write: Write) -> None:
    write(SPACE, "parent.yaml")
    child = write("extends: parent.yaml\nparameters: {loss.triplet_margin: {high: 0.5}}\n")
    parameter = SearchSpace.load(child).parameters["loss.triplet_margin"]
    assert (parameter.at(0), parameter.at(1)) == (0.1, 0.5)


def test_a_child_that_changes_the_type_of_a_parameter_replaces_it(write: Write) -> None:
    write(SPACE, "parent.yaml")
    child = write("extends: parent.yaml\nparameters: {clips.identities: {type: choice, values: [2, 4]}}\n")
    assert SearchSpace.load(child).parameters["clips.identities"].at(1) == 4


def test_a_list_of_the_child_replaces_that_of_the_parent(write: Write) -> None:
    assert len(SearchSpace.load(write("extends: smoke\nstart: []\n")).start) == 0


def test_a_setting_that_the_child_fixes_is_searched_no_more(write: Write) -> None:
    space = SearchSpace.load(write("extends: smoke.yaml\ntrainer: {clips: {identities: 3}}\n"))
    assert set(space.parameters) == {"optim.learning_rate", "model.attention_gate"}
    assert set(space.start[0]) == set(space.parameters)


def test_a_setting_that_the_child_searches_is_fixed_no_more(write: Write) -> None:
    write(SPACE, "parent.yaml")
    child = "extends: parent.yaml\nparameters: {optim.epochs: {type: int, low: 1, high: 9}}\n"
    space = SearchSpace.load(write(child))
    assert "optim.epochs" in space.parameters
    assert space.trainer == {"optim": {}}


def test_extends_looks_beside_the_file_and_then_among_the_builtin_spaces(write: Write) -> None:
    write(SPACE, "folder/demo.yaml")
    assert SearchSpace.load(write("extends: demo.yaml\n", "folder/a.yaml")).name == "small"
    assert SearchSpace.load(write("extends: demo.yaml\n", "b.yaml")).name == "demo"


def test_a_problem_in_a_parent_is_shown_in_the_parent(write: Write) -> None:
    write(edited(("0.8", "0.05")), "folder/parent.yaml")
    child = write("extends: parent.yaml\nbudget: {trails: 3}\n", "folder/child.yaml")
    assert problems(child) == [
        "folder/child.yaml:2:10: budget.trails: unknown key, not one of trials, concurrent, epochs, hours, gpu_hours,"
        " target, patience, gain - did you mean 'trials'?",
        "folder/parent.yaml:5:48: parameters.loss.triplet_margin.high: must be greater than low (0.05 <= 0.1)",
    ]


def test_extending_in_a_circle_is_refused_where_it_closes(write: Write) -> None:
    write("version: 1\nextends: s.yaml\n", "b.yaml")
    circle = "(s.yaml -> b.yaml -> s.yaml)"
    assert problems(write("extends: b.yaml\n")) == [
        f"b.yaml:2:1: extends: goes in a circle {circle}; remove one 'extends'"
    ]


def test_extending_a_missing_file_lists_the_builtin_spaces(write: Write) -> None:
    assert problems(write("name: x\nextends: dmeo.yaml\n")) == [
        "s.yaml:2:1: extends: no file 'dmeo.yaml' beside this one, and no built-in space of this name"
        f" ({', '.join(BUILTIN)}) - did you mean 'demo'?"
    ]


def test_extending_a_broken_file_shows_its_error(write: Write) -> None:
    write("a: b: c\n", "b.yaml")
    assert problems(write("extends: b.yaml\n"))[0].startswith("b.yaml:1:5: a ':' does not fit here")


# Errors


def start_point(margin: str = "0.2", identities: str = "4", gate: str = "softmax") -> str:
    point = f"{{loss.triplet_margin: {margin}, clips.identities: {identities}, model.attention_gate: {gate}}}"
    return f"start: [{point}]\ntrainer:"


def test_a_missing_file_lists_the_builtin_spaces(write: Write) -> None:
    assert problems("smoek.yaml") == [
        f"smoek.yaml: no such file, and no built-in space of this name ({', '.join(BUILTIN)}) - did you mean 'smoke'?"
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "s.yaml: is empty; write at least 'version: 1'"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "s.yaml: is not a text file; name a YAML file in UTF-8"),
        (b"- 1\n", "s.yaml:1:1: must be a mapping with keys such as 'parameters', not a list"),
        (b"name: x\nname: y\n", "s.yaml:2:1: 'name' is given twice, first on line 1; keep one"),
    ],
)
def test_a_file_that_holds_no_space_is_refused(write: Write, content: bytes, expected: str) -> None:
    assert problems(write(content)) == [expected]


MISTAKES = {
    "misspelt path": (
        ("loss.triplet_margin", "loss.triplet_margn"),
        "5:3: parameters.loss.triplet_margn: unknown trainer setting - did you mean 'loss.triplet_margin'?",
    ),
    "path without its group": (
        ("loss.triplet_margin", "triplet_margin"),
        "5:3: parameters.triplet_margin: unknown trainer setting - did you mean 'loss.triplet_margin'?",
    ),
    "initials": (
        ("epochs: 3", "lr: 3"),
        "9:11: trainer.optim.lr: unknown trainer setting - did you mean 'optim.learning_rate'?",
    ),
    "misspelt group": (
        ("optim: {", "optm: {"),
        "9:3: trainer.optm: unknown trainer setting - did you mean 'optim'?",
    ),
    "dotted key in nested settings": (
        ("optim: {epochs: 3}", "optim.epochs: 3"),
        "9:3: trainer.optim.epochs: nest the names: write 'optim: {epochs: …}'",
    ),
    "low not below high": (
        ("low: 0.1", "low: 0.80000000000001"),
        "5:61: parameters.loss.triplet_margin.high: must be greater than low (0.8 <= 0.8)",
    ),
    "log of zero": (
        ("low: 0.1, high: 0.8", "low: 0, high: 1, log: true"),
        "5:55: parameters.loss.triplet_margin.log: needs low > 0 (low is 0)",
    ),
    "unknown key": (
        ("budget: {trials: 4}", "budget: {trials: 4}\nbugdet: 3"),
        "4:1: bugdet: unknown key, not one of version, name, description, objective, budget, algorithm, stopping,"
        " replicates, resources, parameters, constraints, derived, synthetic, start, trainer, extends"
        " - did you mean 'budget'?",
    ),
    "unknown key of a parameter": (
        ("high: 0.8", "hihg: 0.8"),
        "5:48: parameters.loss.triplet_margin.hihg: unknown key, not one of type, low, high, log, step,"
        " when, prior - did you mean 'high'?",
    ),
    "missing key of a parameter": (
        (", high: 0.8", ""),
        "5:3: parameters.loss.triplet_margin.high: is missing; add it",
    ),
    "missing type": (
        ("type: float, ", ""),
        "5:3: parameters.loss.triplet_margin.type: is missing; write {type: float, low: 0.1, high: 0.8}",
    ),
    "missing type and more": (
        ("type: float, low: 0.1, ", ""),
        "5:3: parameters.loss.triplet_margin.type: is missing; write float, int or choice",
    ),
    "a call of another program": (
        ("{type: float, low: 0.1, high: 0.8}", "tune.uniform(0.1, 0.8)"),
        "5:3: parameters.loss.triplet_margin: must be a mapping such as {type: float, low: 0.1, high: 1} (is"
        " 'tune.uniform(0.1, 0.8)'); a fixed value belongs into 'trainer'",
    ),
    "a list for a choice": (
        ("{type: float, low: 0.1, high: 0.8}", "[0.1, 0.8]"),
        "5:3: parameters.loss.triplet_margin: must be a mapping such as {type: choice, values: [0.1, 0.8]} (is a list)",
    ),
    "a decimal comma": (
        ("high: 0.8", "high: '0,8'"),
        "5:48: parameters.loss.triplet_margin.high: must be a number (is '0,8'); write 0.8",
    ),
    "a bound below what 32 bits hold": (
        ("low: 0.1", "low: 1e-320"),
        "5:38: parameters.loss.triplet_margin.low: must be 0 or between 1.2e-38 and 3.4e+38 in size, as 32 bits hold"
        " (is 9.99989e-321)",
    ),
    "a bound above what 32 bits hold": (
        ("high: 0.8", "high: 1e39"),
        "5:48: parameters.loss.triplet_margin.high: must be 0 or between 1.2e-38 and 3.4e+38 in size, as 32 bits hold"
        " (is 1e+39)",
    ),
    "a fixed number that 32 bits do not hold": (
        ("epochs: 3", "learning_rate: 1e-300"),
        "9:11: trainer.optim.learning_rate: must be 0 or between 1.2e-38 and 3.4e+38 in size, as 32 bits hold"
        " (is 1e-300)",
    ),
    "misspelt type": (
        ("type: float", "type: flaot"),
        "5:25: parameters.loss.triplet_margin.type: must be float, int or choice (is 'flaot') - did you mean 'float'?",
    ),
    "text for a number": (
        ("low: 0.1", "low: '0.1'"),
        "5:38: parameters.loss.triplet_margin.low: must be a number (is '0.1')",
    ),
    "number for a whole number": (
        ("trials: 4", "trials: 4.0"),
        "3:10: budget.trials: must be a whole number (is 4.0)",
    ),
    "infinite bound": (
        ("high: 0.8", "high: .inf"),
        "5:48: parameters.loss.triplet_margin.high: must be a finite number (is inf)",
    ),
    "float range of a whole number": (
        ("type: int", "type: float"),
        "6:22: parameters.clips.identities.type: the setting takes whole numbers only; use type: int",
    ),
    "range of a text": (
        ("type: choice, values: [softmax, sigmoid]", "type: int, low: 0, high: 1"),
        "7:26: parameters.model.attention_gate.type: the setting takes no range; use type: choice",
    ),
    "group of settings": (
        ("clips.identities", "data.validation"),
        "6:3: parameters.data.validation: is a group of settings; name one of data.validation.share,"
        " data.validation.distractors, data.validation.seed, data.validation.folds, data.validation.fold",
    ),
    "bound that the trainer refuses": (
        ("low: 2", "low: 1"),
        "6:33: parameters.clips.identities.low: must be at least 2 (is 1)",
    ),
    "choice that the trainer refuses": (
        ("[softmax, sigmoid]", "[softmax, sigmod]"),
        "7:58: parameters.model.attention_gate.values[1]: must be 'softmax' or 'sigmoid' (is 'sigmod')"
        " - did you mean 'sigmoid'?",
    ),
    "choice of one": (
        ("[softmax, sigmoid]", "[softmax]"),
        "7:40: parameters.model.attention_gate.values: needs at least 2 (has 1)",
    ),
    "choice twice": (
        ("[softmax, sigmoid]", "[softmax, softmax]"),
        "7:40: parameters.model.attention_gate.values: must be distinct ('softmax' is there twice)",
    ),
    "choice of a list": (
        ("[softmax, sigmoid]", "[softmax, [sigmoid]]"),
        "7:58: parameters.model.attention_gate.values[1]: must be text, a number, true or false (is a list)",
    ),
    "choice of mixed kinds": (
        ("[softmax, sigmoid]", "[softmax, 1]"),
        "7:40: parameters.model.attention_gate.values: must be of one kind: all text, all numbers, or false and true",
    ),
    "setting that the trainer refuses": (
        ("epochs: 3", "epochs: three"),
        "9:11: trainer.optim.epochs: must be a whole number (is 'three')",
    ),
    "item that the trainer refuses": (
        ("epochs: 3", "milestones: [0.1, 2]"),
        "9:29: trainer.optim.milestones[1]: must be at most 1 (is 2)",
    ),
    "settings that the trainer refuses together": (
        ("epochs: 3", "milestones: [0.5, 0.1]"),
        "9:11: trainer.optim.milestones: must ascend (is [0.5, 0.1])",
    ),
    "searched and fixed": (
        ("optim: {epochs: 3}", "clips: {identities: 3}"),
        "9:11: trainer.clips.identities: is searched too, at s.yaml:6:3; keep one of the two",
    ),
    "nothing searched": (
        (SPACE[SPACE.index("parameters:") : SPACE.index("trainer:")], "parameters: {}\n"),
        "4:1: parameters: needs at least 1 (has 0)",
    ),
    "part of the validation split": (
        ("clips.identities: {", "data.validation.seed: {"),
        "6:3: parameters.data.validation.seed: is the same for all trials of a search; set it in 'trainer'",
    ),
    "misspelt metric": (
        ("budget:", "objective: {metric: map}\nbudget:"),
        "3:13: objective.metric: must be 'mAP', 'mINP', 'rank1', 'rank5', 'rank10', 'rank20', 'hours' or "
        "'gpu_hours' (is 'map') - did you mean 'mAP'?",
    ),
    "other version": (("version: 1", "version: 2"), "1:1: version: must be 1 (is 2)"),
    "name that is no folder": (
        ("small", "'../x'"),
        "2:1: name: must hold only letters, digits, '.', '_' and '-', a letter or digit first (is '../x')",
    ),
    "start point outside": (
        ("trainer:", start_point(margin="0.9")),
        "8:10: start[0].loss.triplet_margin: must lie in [0.1, 0.8] (is 0.9)",
    ),
    "start point of another choice": (
        ("trainer:", start_point(gate="relu")),
        "8:57: start[0].model.attention_gate: must be one of 'softmax', 'sigmoid' (is 'relu')",
    ),
    "start point of another type": (
        ("trainer:", start_point(identities="4.0")),
        "8:36: start[0].clips.identities: must be a whole number (is 4.0)",
    ),
    "incomplete start point": (
        ("trainer:", "start: [{clips.identities: 4, model.attention_gate: softmax}]\ntrainer:"),
        "8:9: start[0]: lacks loss.triplet_margin; give every searched setting a value, or drop the point",
    ),
}


@pytest.mark.parametrize(("edit", "expected"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_answered_with_its_place_and_the_way_out(
    write: Write, edit: tuple[str, str], expected: str
) -> None:
    assert f"s.yaml:{expected}" in problems(write(edited(edit)))


def test_all_problems_are_reported_at_once_in_the_order_of_the_file(write: Write) -> None:
    text = edited(("triplet_margin", "margin"), ("low: 2", "low: 9"), ("trials", "trails"), ("epochs", "epoch"))
    assert [line.split(": ")[0] for line in problems(write(text))] == [
        *("s.yaml:3:10", "s.yaml:5:3", "s.yaml:6:41", "s.yaml:9:11")
    ]


# A searched number in the words of other programs, and what is to be written here.
THEIR_WORDS = {
    "{type: loguniform, low: 1e-4, high: 0.1}": "{type: float, low: 0.0001, high: 0.1, log: true}",
    "{type: uniform, min: 0, max: 1}": "{type: float, low: 0, high: 1}",
    "{distribution: log_uniform_values, min: 1e-4, max: 0.1}": "{type: float, low: 0.0001, high: 0.1, log: true}",
    "{type: suggest_float, low: 0.1, high: 1.0, log: true}": "{type: float, low: 0.1, high: 1, log: true}",
    "{type: range, bounds: [1, 8], value_type: int}": "{type: int, low: 1, high: 8}",
    "{type: int_uniform, min: 1, max: 8, q: 1}": "{type: int, low: 1, high: 8, step: 1}",
    "{type: categorical, choices: [1, 8]}": "{type: choice, values: [1, 8]}",
    "{values: [1, 8]}": "{type: choice, values: [1, 8]}",
    "{min: 1, max: 8}": "{type: int, low: 1, high: 8}",
}


@pytest.mark.parametrize(("theirs", "ours"), THEIR_WORDS.items())
def test_a_parameter_in_others_words_is_answered_with_how_it_is_written_here(
    write: Write, theirs: str, ours: str
) -> None:
    (problem,) = problems(write(edited(("{type: float, low: 0.1, high: 0.8}", theirs))))
    assert problem.startswith("s.yaml:5:") and "parameters.loss.triplet_margin.type: " in problem
    assert problem.endswith(f"; write {ours}")
    assert parse_parameter(parse_yaml(ours, name="").data) is not None or "low: 0," in ours, "as 0 is no float"


WORDS_OF_OTHERS = {
    "algorithm: {name: tpe}": "'ax'",
    "algorithm: {name: RandomSearch}": "'random'",
    "stopping: {rule: hyperband}": "'asha'",
    "stopping: {rule: median}": "'percentile'",
    "stopping: {rule: asha, grace_period: 2}": "'grace'",
    "metric: {name: mAP}": "'objective'",
    "early_terminate: {type: hyperband}": "'stopping'",
    "search_alg: bo": "'algorithm'",
}


@pytest.mark.parametrize(("theirs", "ours"), WORDS_OF_OTHERS.items())
def test_a_word_of_another_program_is_answered_with_ours(write: Write, theirs: str, ours: str) -> None:
    (problem,) = problems(write(f"{SPACE}{theirs}\n"))
    assert problem.endswith(f" - did you mean {ours}?")


@pytest.mark.parametrize(
    ("override", "ours"),
    [
        ("lr=1", "did you mean 'optim.learning_rate'?"),
        ("optim.max_epoch=1", "did you mean 'optim.epochs'?"),
        ("batch_size=1", "write clips.identities times clips.tracklets"),
        ("batch=1", "write clips.identities times clips.tracklets"),
        ("evaluaton.batch=1", "did you mean 'evaluation.batch'?"),
        ("imgsz=64", "write model.height and model.width"),
        ("device=0", "write resources.gpus_per_trial (which GPUs: CUDA_VISIBLE_DEVICES)"),
        ("parameters.lr={type: float, low: 0.1, high: 1}", "did you mean 'optim.learning_rate'?"),
        ("budget.num_samples=3", "did you mean 'trials'?"),
    ],
)
def test_a_setting_in_others_words_is_answered_with_ours(write: Write, override: str, ours: str) -> None:
    with pytest.raises(SpaceError) as caught:
        SearchSpace.load(write(SPACE), overrides=[override])
    assert str(caught.value).endswith(f" - {ours}")


@pytest.mark.parametrize(
    ("typed", "kind", "ours"),
    [
        ("choice(1, 2)", "float", "{type: choice, values: [1, 2]}"),
        ("adam,sgd", "", "{type: choice, values: ['adam', 'sgd']}"),
        ([1, 2], "int", "{type: choice, values: [1, 2]}"),
        ("0.1..0.2", "float", "{type: float, low: 0.1, high: 0.2}"),
        ("tag(log, int(interval(4, 16)))", "int", "{type: int, low: 4, high: 16, log: true}"),
        ("range(5)", "int", "{type: int, low: 1, high: 10}"),
    ],
)
def test_values_to_try_in_others_words_are_answered_with_a_parameter(
    typed: str | list[object], kind: str, ours: str
) -> None:
    assert sweep(typed, kind, ("type", "low", "high", "log", "values")) == ours


def test_no_word_of_others_is_one_of_ours_in_the_same_place() -> None:
    for field in (SearchSpace, Budget, Objective, StoppingConfig, Replicates):
        names = [*field.model_fields, "extends"]
        for name in names:
            assert name_hint(name, [name]) == ""
    for name in trainer_settings():
        assert not our_name(name, trainer_settings()), name


def test_a_misspelt_required_key_is_one_problem(write: Write) -> None:
    for edit in (("{trials: 4}", "{trial: 4}"), ("budget:", "bugdet:"), ("low: 0.1", "lwo: 0.1"), ("name: ", "nmae: ")):
        assert len(problems(write(edited(edit)))) == 1, edit
    assert len(problems(write(edited(("{trials: 4}", "{hours: 4}"))))) == 1, "missing and nothing like it"


def test_values_are_put_to_the_trainer_when_all_names_are_right(write: Write) -> None:
    low = ("low: 2", "low: 1")
    assert [line.split(": ")[0] for line in problems(write(edited(low, ("epochs", "epoch"))))] == ["s.yaml:9:11"]
    assert [line.split(": ")[0] for line in problems(write(edited(low)))] == ["s.yaml:6:33"]
    assert SearchSpace.parse(write(edited(low))).parameters["clips.identities"].at(0) == 1


def test_thousands_of_problems_are_counted_rather_than_printed(write: Write) -> None:
    unknown = "".join(f"  unknown_{number}: 1\n" for number in range(2000))
    lines = problems(write(SPACE + unknown))
    assert len(lines) == 51
    assert lines[-1] == "… and 1950 more problems"


def test_a_bound_that_clashes_with_another_setting_is_named(write: Write) -> None:
    weight = "loss.center_weight: {type: float, low: 0, high: 1}"
    text = edited(
        ("clips.identities: {type: int, low: 2, high: 8}", weight),
        ("epochs: 3}", "epochs: 3}\n  loss: {osm_share: 1}"),
    )
    (problem,) = problems(write(text))
    assert problem.startswith("s.yaml:6:37: parameters.loss.center_weight.low: loss: osm_class_vectors: centers, but")


def test_an_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(SpaceError("one", "two")))  # noqa: S301
    assert (str(error), error.problems) == ("one\ntwo", ["one", "two"])


# Overrides


def test_an_override_changes_the_space_or_the_trainer(write: Write) -> None:
    overrides = [
        "budget.trials=9",
        "objective.epoch=best",
        "optim.epochs=5",
        "trainer.data.root=/x",
        "start=[]",
    ]
    space = SearchSpace.load("smoke", overrides=overrides)
    config = space.config(draw(space, random.Random(0)))
    assert (space.budget.trials, space.objective.epoch, space.start) == (9, "best", ())
    assert (config.optim.epochs, config.data.root) == (5, Path("/x"))


def test_an_override_moves_one_bound() -> None:
    space = SearchSpace.load("smoke", overrides=["parameters.optim.learning_rate.high=0.5"])
    assert space.parameters["optim.learning_rate"].at(1) == 0.5


def test_an_override_of_a_searched_setting_fixes_it() -> None:
    space = SearchSpace.load("smoke", overrides=["clips.identities=3"])
    assert "clips.identities" not in space.parameters
    assert "clips.identities" not in space.start[0]
    assert space.config(draw(space, random.Random(0))).clips.identities == 3


def test_the_last_of_two_overrides_wins() -> None:
    assert SearchSpace.load("smoke", overrides=["budget.trials=2", "budget.trials=3"]).budget.trials == 3


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optim.epoch=3", "trainer.optim.epoch: unknown trainer setting - did you mean 'optim.epochs'?"),
        ("bugdet.trials=3", "unknown setting 'bugdet.trials' - did you mean 'budget.trials'?"),
        (
            "budget.trails=3",
            "budget.trails: unknown key, not one of trials, concurrent, epochs, hours, gpu_hours, target, patience,"
            " gain - did you mean 'trials'?",
        ),
        (
            "parameters.optim.learning_rat.high=1",
            "parameters.optim.learning_rat: unknown trainer setting - did you mean 'optim.learning_rate'?",
        ),
        (
            "parameters.optim.learning_rate.hihg=1",
            "parameters.optim.learning_rate.hihg: unknown key, not one of type, low, high, log, step, when, prior"
            " - did you mean 'high'?",
        ),
        ("budget.trials=four", "budget.trials: must be a whole number (is 'four')"),
        ("optim.epochs=0", "trainer.optim.epochs: must be at least 1 (is 0)"),
        ("budget.trials.x=1", "budget.trials: must be a whole number (is a mapping)"),
        ("optim=3", "trainer.optim: is a group of settings; name one of optim.epochs, optim.optimizer, "),
        ("budget.trials", "write --set path=value, such as --set budget.trials=4"),
        ("budget.trials=", "a value is missing after '='; write null or '' if that is meant"),
        ("optim.milestones=[0.1", "a list is not closed here; add ',' or ']'"),
        ("extends=demo", "'extends' cannot be set; write it in a space file"),
    ],
)
def test_a_mistaken_override_is_shown_as_it_was_given(override: str, expected: str) -> None:
    assert any(line.startswith(f"--set {override}: {expected}") for line in problems("smoke", override))


def test_mistakes_in_overrides_and_file_are_reported_together(write: Write) -> None:
    lines = problems(write(edited(("low: 2", "low: 9"))), "bugdet.trials=1", "optim.epoch=1")
    assert [line.split(": ")[0] for line in lines] == [
        "--set bugdet.trials=1",
        "--set optim.epoch=1",
        "s.yaml:6:41",
    ]


# What a space gives


def test_a_sample_lands_at_its_path_and_fixed_settings_stay(write: Write) -> None:
    space = SearchSpace.load(write(SPACE))
    sample: dict[str, Value] = {
        "loss.triplet_margin": 0.25,
        "clips.identities": 5,
        "model.attention_gate": "sigmoid",
    }
    config = space.config(sample, seed=7)
    assert (config.loss.triplet_margin, config.clips.identities) == (0.25, 5)
    assert (config.model.attention_gate, config.optim.epochs, config.seed) == ("sigmoid", 3, 7)
    assert space.trainer == {"optim": {"epochs": 3}}


def test_a_number_that_may_be_null_is_searched_as_a_number_or_fixed_to_null(write: Write) -> None:
    space = SearchSpace.load(write(SPACE))
    assert space.config(draw(space, random.Random(0))).loss.triplet_margin is not None
    soft = SearchSpace.load("s.yaml", overrides=["loss.triplet_margin=null"])
    assert "loss.triplet_margin" not in soft.parameters
    assert soft.config(draw(soft, random.Random(0))).loss.triplet_margin is None


def test_a_whole_number_that_may_be_null_is_searched_as_a_whole_number(write: Write) -> None:
    clips = "evaluation.max_clips: {type: int, low: 1, high: 41}"
    dense = "epochs: 3}\n  evaluation: {sampling: dense}"
    space = SearchSpace.load(
        write(edited(("clips.identities: {type: int, low: 2, high: 8}", clips), ("epochs: 3}", dense)))
    )
    assert isinstance(space.config(draw(space, random.Random(0))).evaluation.max_clips, int)


def test_the_recipe_fills_in_what_a_sample_does_not_give(write: Write) -> None:
    weight = "loss.center_weight: {type: float, low: 1e-4, high: 1e-3}"
    space = SearchSpace.load(write(edited(("clips.identities: {type: int, low: 2, high: 8}", weight))))
    paper = SearchSpace.load("s.yaml", overrides=["recipe=paper", "clips.crop=pad"])
    sample = draw(space, random.Random(0))
    assert (space.config(sample).loss.center_count, paper.config(sample).loss.center_count) == (None, 751)
    assert paper.config(sample).clips.crop == "pad"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"clips.identities": 1}, "clips.identities: must be at least 2 (is 1)"),
        ({"clips.identities": 4.0}, "clips.identities: must be a whole number (is 4.0)"),
        ({"clips.identities": [4]}, "clips.identities: must be text, a number, true or false (is a list)"),
        ({"clips.identity": 4}, "clips.identity: is not searched by 'smoke' - did you mean 'clips.identities'?"),
        (
            {"model.attention_gate": None},
            "model.attention_gate: must be text, a number, true or false (is null)",
        ),
    ],
)
def test_a_sample_that_does_not_fit_is_refused_by_path(change: dict[str, Any], expected: str) -> None:
    space = SearchSpace.load("smoke")
    with pytest.raises(SpaceError) as caught:
        space.config(draw(space, random.Random(0)) | change)
    assert caught.value.problems == [expected]


def test_a_sample_without_a_searched_path_is_refused() -> None:
    space = SearchSpace.load("smoke")
    with pytest.raises(SpaceError, match=r"^clips\.identities: is missing from the sample$"):
        space.config({"optim.learning_rate": 1e-3, "model.attention_gate": "softmax"})


@pytest.mark.parametrize("name", BUILTIN)
def test_a_resolved_space_is_read_back_equal(write: Write, name: str) -> None:
    space = SearchSpace.load(name)
    again = SearchSpace.load(write(space.to_yaml()))
    assert again == space
    assert again.fingerprint() == space.fingerprint()


def test_the_fingerprint_sees_content_and_not_the_order_of_keys(write: Write) -> None:
    space = SearchSpace.load(write(SPACE))
    head, tail = SPACE.split("budget: {trials: 4}\n")
    moved = SearchSpace.load(write(head + tail + "budget: {trials: 4}\n"))
    changed = SearchSpace.load(write(SPACE), overrides=["budget.trials=5"])
    assert space.fingerprint() == moved.fingerprint() != changed.fingerprint()


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", BUILTIN)
def test_every_share_of_a_range_lies_inside_it(name: str, share: float) -> None:
    for parameter in SearchSpace.load(name).parameters.values():
        assert parameter.refusal(parameter.at(share)) is None


def test_the_middle_of_a_log_range_is_its_geometric_mean() -> None:
    space = SearchSpace.load("smoke")
    assert space.parameters["optim.learning_rate"].at(0.5) == pytest.approx(1e-3)


# Anything at all


@st.composite
def mutants(draw: st.DrawFn) -> str:
    """A shipped space with a few pieces cut out, doubled, or overwritten."""
    text = builtin_files()[draw(st.sampled_from(BUILTIN))].read_text()
    pieces = st.sampled_from(["", ":", " ", "\n", "  ", "-", "{", "]", "0", "-1", "e", "null", "true", "'", "&a ", "é"])
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 12)))
        text = text[:start] + draw(pieces) + text[end:]
    return text


def read_or_refuse(path: Path) -> None:
    try:
        space = SearchSpace.load(path)
    except SpaceError as error:
        assert error.problems
        assert all(line.isprintable() for line in error.problems)
    else:
        path.write_text(space.to_yaml())
        assert SearchSpace.load(path) == space


@given(mutants())
@settings(max_examples=120, deadline=None)
def test_a_mutated_space_is_refused_in_plain_lines_or_read_back_equal(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "mutant.yaml"
    path.write_text(text)
    read_or_refuse(path)


@given(st.text().filter(lambda text: text.isprintable()))
@settings(max_examples=100, deadline=None)
def test_any_text_for_a_name_is_refused_in_plain_lines(name: str) -> None:
    with pytest.raises(SpaceError) as caught:
        SearchSpace.load(f"no/{name}/x")
    assert all(line.isprintable() for line in caught.value.problems)


KEYS = st.sampled_from(["version", "parameters", "trainer", "start", "loss.osm_alpha", "low", "type", "optim", "x"])
LEAVES = st.none() | st.integers(-3, 3) | st.floats() | st.sampled_from(["float", "choice", "smoke", "\n"])
INNER = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6
)


@given(st.dictionaries(KEYS, INNER, max_size=5))
@settings(max_examples=80, deadline=None)
def test_any_shape_of_data_is_refused_in_plain_lines(
    tmp_path_factory: pytest.TempPathFactory, data: dict[str, object]
) -> None:
    path = tmp_path_factory.getbasetemp() / "shape.yaml"
    path.write_text(dump_yaml(data))  # type: ignore[arg-type]
    read_or_refuse(path)


@given(st.text(max_size=30) | st.tuples(KEYS, st.text(max_size=10)).map("=".join))
@settings(max_examples=150, deadline=None)
def test_any_override_is_applied_or_refused_in_plain_lines(override: str) -> None:
    try:
        SearchSpace.load("smoke", overrides=[override])
    except SpaceError as error:
        assert all(line.isprintable() for line in error.problems)


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("extends: smoke.yaml\nparameters:\n  clips.persons: {type: int, low: 2, high: 4}\n", ["3:3"]),
        ("extends: smoke.yaml\nconstraints: [clips.persons <= 3]\ntrainer: {clips: {persons: 2}}\n", ["2:15", "3:19"]),
    ],
)
def test_an_old_name_of_a_setting_is_answered_with_the_new_one_and_its_place(
    write: Write, text: str, places: list[str]
) -> None:
    file = write(text)
    with pytest.raises(SpaceError) as refused:
        SearchSpace.load(file)
    assert refused.value.problems == [f"{file}:{place}: clips.persons is called clips.identities" for place in places]


def test_an_old_name_in_an_override_is_answered_with_the_new_one() -> None:
    with pytest.raises(SpaceError, match=r"^--set clips\.persons=3: clips\.persons is called clips\.identities$"):
        SearchSpace.load("smoke", overrides=["clips.persons=3"])
