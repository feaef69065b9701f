"""`SearchSpace`: read from YAML, checked against the trainer, turned into the trainer's configurations."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BeforeValidator, Field, JsonValue, ValidationError

from orchestrator.space.checks import MAX_START, check_names, check_shape, check_values
from orchestrator.space.expressions import (
    ExpressionError,
    LinearConstraint,
    parse_constraint,
    parse_expression,
    satisfies,
)
from orchestrator.space.layers import builtin_files, overridden, read_layers
from orchestrator.space.objective import MAX_CONSTRAINTS, Objective, RelativeConstraint
from orchestrator.space.options import (
    AlgorithmConfig,
    Budget,
    Replicates,
    Resources,
    StoppingConfig,
    missing_for,
    next_pause,
)
from orchestrator.space.parameters import (
    Parameter,
    Point,
    StrictConfig,
    Value,
    active,
    conditions_in_words,
    is_active,
    readable_by,
)
from orchestrator.space.problems import Place, Problems, SpaceError
from orchestrator.space.remarks import remarks
from orchestrator.space.schema import build_trial_config, derived_values, file_schema, flattened
from trainer.errors import ConfigError
from trainer.formatting import KeyPath, did_you_mean, located, shortened, shown, spelled
from trainer.plugins import is_plugin, load_plugin
from trainer.yaml_file import dump_yaml, read_yaml

if TYPE_CHECKING:
    from trainer.config import TrialConfig

MAX_DIFFERENCE = 160  # characters of a value that differs
MAX_DRAWS = 10_000  # points in a row that constraints may refuse before none is left to be found
LENGTHS = ("optim.epochs", "evaluation.every")  # settings that say how long a trial is and where it is evaluated
MAX_POINTS = 100_000  # up to which a finite space is counted
TRIED_POINTS = 64  # random ones of a space whose settings depend on each other; a tenth of a second


def _spelled_out(short: object) -> object:
    """`3` means `{seeds: 3}`."""
    if isinstance(short, Mapping) and "trainings" in short and "choose" not in short:
        raise ValueError("trainings needs choose: model, which spends them; add that, or write seeds")
    return short if isinstance(short, Mapping | Replicates) else {"seeds": short}


ConstraintText = Annotated[str, readable_by(parse_constraint)]
ExpressionText = Annotated[str, readable_by(parse_expression)]


class SearchSpace(StrictConfig):
    """Which settings of the trainer are searched, within which bounds, and which are fixed."""

    version: Literal[1]
    """Version of this format."""
    name: str = Field(max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Names of searches begin with it."""
    description: str = ""
    """Purpose of the space; lists show its first line."""
    objective: Objective = Objective()
    """What the search improves."""
    budget: Budget
    """When the search ends."""
    algorithm: AlgorithmConfig = AlgorithmConfig()
    """How the next point is chosen."""
    stopping: StoppingConfig = StoppingConfig()
    """Which trials are stopped before their last epoch."""
    replicates: Annotated[Replicates, BeforeValidator(_spelled_out, json_schema_input_type=int | Replicates)] = (
        Replicates(seeds=0)
    )
    """How the best configurations are confirmed with fresh seeds; `3` means `{seeds: 3}`."""
    resources: Resources = Resources()
    """Resources of one trial."""
    parameters: dict[str, Parameter] = Field(min_length=1)
    """Searched settings by their dotted path."""
    constraints: Annotated[tuple[ConstraintText, ...], Field(strict=False, max_length=MAX_CONSTRAINTS)] = ()
    """Linear bounds on searched numbers, such as `loss.a + 2 * loss.b <= 1`."""
    derived: dict[str, ExpressionText] = Field({})
    """Settings that are computed from searched ones, such as `optim.learning_rate: 1e-4 * clips.identities`."""
    synthetic: Literal["tiny", "demo", "full"] | None = None
    """Size of a generated data set to search on; null uses the data set at the trainer's `data.root`."""
    start: Annotated[tuple[dict[str, Value], ...], Field(strict=False, max_length=MAX_START)] = ()
    """Points known to be good, which are tried first; each gives every searched path a value."""
    trainer: dict[str, JsonValue] = Field({})
    """Fixed settings of the trainer, nested; all others keep the trainer's defaults."""

    @classmethod
    def load(cls, path_or_name: str | Path, overrides: Sequence[str] = ()) -> Self:
        """The space in a file, or the built-in one of this name, with overrides `path=value` laid over it.

        Everything is checked, the trainer's bounds included. Values are put to the trainer only when everything else is
        right: that imports torch.

        Raises:
            SpaceError: with a line for each thing that is wrong: file, line, column, key and remedy.
        """
        return cls.load_with_places(path_or_name, overrides)[0]

    @classmethod
    def load_with_places(
        cls, path_or_name: str | Path, overrides: Sequence[str] = ()
    ) -> tuple[Self, Mapping[KeyPath, Place]]:
        """The same, and where each of its keys was written: a file with line and column, or an override."""
        space, problems = cls._parse(path_or_name, overrides)
        check_values(space.trainer, space.parameters, space.derived, space.linear_constraints(), space.start, problems)
        problems.raise_if_any()
        _check_whole(space, problems)
        problems.raise_if_any()
        return space, problems.places

    @classmethod
    def parse(cls, path_or_name: str | Path, overrides: Sequence[str] = ()) -> Self:
        """The space before its values are put to the trainer; does not import torch.

        Raises:
            SpaceError: its format or a name in it is wrong.
        """
        return cls._parse(path_or_name, overrides)[0]

    @classmethod
    def _parse(cls, path_or_name: str | Path, overrides: Sequence[str]) -> tuple[Self, Problems]:
        layer, unusable = read_layers(path_or_name), []
        for override in overrides:
            try:
                layer = overridden(layer, override, tuple(cls.model_fields))
            except SpaceError as error:
                unusable += error.problems
        problems = Problems(layer.places, unusable)
        space = check_shape(cls, layer.data, problems)
        check_names(layer.data, problems)
        problems.raise_if_any()
        assert space is not None
        return space, problems

    def sample(self, draws: Sequence[float]) -> Point | None:
        """The point at a share in [0, 1] of each parameter; None if it violates a constraint.

        Parameters whose conditions do not hold there are left out.
        """
        values = {path: each.at(draw) for (path, each), draw in zip(self.parameters.items(), draws, strict=True)}
        return self.active(values) if satisfies(values, self.linear_constraints()) else None

    def active(self, values: Mapping[str, Value]) -> Point:
        """The values without those of parameters whose conditions do not hold."""
        return active(self.parameters, values)

    def any_sample(self) -> Point:
        """The middle of the space or, if constraints forbid it, some point that they allow."""
        middle = self.sample([0.5] * len(self.parameters))
        return middle if middle is not None else next(self.samples(0))

    def samples(self, seed: int) -> Iterator[Point]:
        """Random points, uniform on each parameter's scale; ends after `MAX_DRAWS` in a row violate a constraint."""
        source, refused = random.Random(seed), 0
        while refused < MAX_DRAWS:
            point = self.sample([source.random() for _ in self.parameters])
            refused = refused + 1 if point is None else 0
            if point is not None:
                yield point

    @property
    def has_curve_model(self) -> bool:
        """Whether our model of learning curves proposes what comes next, not one of Ax's own models.

        It models one objective without constraints on metrics.
        """
        is_one = len(self.objective.terms) == 1 and not self.objective.constraints
        return is_one and self.algorithm.name == "ax" and self.algorithm.method == "fast"

    def is_searched(self, path: str) -> bool:
        """Whether trials may differ in a setting."""
        return path in self.parameters or path in self.derived

    def linear_constraints(self) -> list[LinearConstraint]:
        """The parsed linear constraints."""
        return [parse_constraint(text) for text in self.constraints]

    @property
    def trials_at_most(self) -> int:
        """Trials that its budget can start: more than whole trainings where each pauses after a share of its epochs."""
        return int(self.budget.trials / Fraction(self.stopping.first)) if self.stopping.pauses else self.budget.trials

    def every_point(self) -> Iterator[Point]:
        """Every point of a space without continuous parameters, once; the last parameter varies fastest."""
        seen, constraints = set(), self.linear_constraints()
        for values in itertools.product(*(parameter.points() or () for parameter in self.parameters.values())):
            everywhere = dict(zip(self.parameters, values, strict=True))
            point = self.active(everywhere)
            if satisfies(everywhere, constraints) and (key := tuple(point.items())) not in seen:
                seen.add(key)
                yield point

    def point_count(self) -> int | None:
        """Number of points; None if a parameter is continuous or there are over 100,000 combinations of values."""
        sizes = [parameter.count() for parameter in self.parameters.values()]
        combinations = math.prod(size for size in sizes if size is not None)
        if None in sizes or combinations > MAX_POINTS:
            return None
        if not self.constraints and not any(parameter.when for parameter in self.parameters.values()):
            return combinations
        return sum(1 for _ in self.every_point())

    def config(self, sample: Mapping[str, Value], *, seed: int | None = None) -> TrialConfig:
        """The trainer's configuration at a point, which gives exactly the active searched paths a value.

        Derived settings are computed from the point. Inactive parameters, and settings derived from them, have their
        values in `trainer`, or the trainer's defaults.

        Raises:
            SpaceError: the point is not one of the space, or the trainer refuses it.
        """
        self._check_paths(sample)
        expressions = {path: parse_expression(text) for path, text in self.derived.items()}
        try:
            return build_trial_config(self.trainer, {**sample, **derived_values(expressions, sample)}, seed=seed)
        except ExpressionError as error:
            raise SpaceError(str(error)) from error
        except ValidationError as error:
            raise SpaceError(*map(located, error.errors())) from error

    def resolved(self) -> dict[str, JsonValue]:
        """The whole space as plain data, without `extends`."""
        data = self.model_dump(mode="json")
        for parameter in data["parameters"].values():
            for key, nothing in (("step", None), ("when", {}), ("prior", None)):
                if parameter.get(key, ...) == nothing:
                    del parameter[key]
        return data

    def warnings(self) -> list[str]:
        """Settings that are allowed but have no effect together, a line each."""
        return remarks(self, self.config(self.any_sample()))

    def differences(self, other: Self) -> list[str]:
        """The changes that turn this space into the other: lines `- path: value` and `+ path: value`."""
        ours, theirs = _lines(self.resolved()), _lines(other.resolved())
        lines = []
        for path in dict.fromkeys([*ours, *theirs]):
            if ours.get(path) != theirs.get(path):
                lines += [f"- {path}: {ours[path]}"] if path in ours else []
                lines += [f"+ {path}: {theirs[path]}"] if path in theirs else []
        return lines

    def to_yaml(self) -> str:
        """The whole space as YAML that `load` reads back equal."""
        return dump_yaml(self.resolved())

    @classmethod
    def schema_text(cls) -> str:
        """The JSON Schema of space files, for editors; committed as `search_spaces/schema.json`."""
        return json.dumps(file_schema(cls.model_json_schema()), indent=1, ensure_ascii=False) + "\n"

    def fingerprint(self) -> str:
        """SHA-256 of the content; does not depend on the order of keys."""
        return hashlib.sha256(json.dumps(self.resolved(), sort_keys=True).encode()).hexdigest()

    def _check_paths(self, sample: Mapping[str, Value]) -> None:
        problems = [
            f"{path}: is not searched by {self.name!r}{did_you_mean(path, self.parameters)}"
            for path in sample
            if path not in self.parameters
        ]
        for path in self.parameters:
            is_searched = is_active(path, self.parameters, sample)
            if is_searched and path not in sample:
                problems.append(f"{path}: is missing from the sample")
            elif path in sample and not is_searched:
                problems.append(
                    f"{path}: is not searched where {conditions_in_words(self.parameters[path])} does not hold"
                )
        problems += [
            f"{path}: must be text, a number, true or false (is {shown(value)})"
            for path, value in sample.items()
            if not isinstance(value, bool | int | float | str)
        ]
        if problems:
            raise SpaceError(*problems)


def _check_whole(space: SearchSpace, problems: Problems) -> None:
    """Notes problems that show only in the whole space: rules and budgets without effect, combinations that fail."""
    if space.constraints and next(space.samples(0), None) is None:
        problems.add(("constraints",), "no point was found that satisfies all of them; loosen one")
        return
    _check_outcomes(space, problems)
    if (missing := missing_for(space.algorithm.method)) is not None:
        problems.add(("algorithm", "method"), missing)
    if space.derived or any(parameter.when for parameter in space.parameters.values()):
        _check_points(space, problems)
    if not problems.below(()):
        config = space.config(space.any_sample())
        if not config.data.validation.holds_out:
            what = "0 holds out nobody, and trials are compared on those held out; choose a share such as 0.1"
            problems.add(("trainer", "data", "validation", "share"), what)
        _check_stopping(space, config, problems)
        _check_replicates(space, config, problems)
        _check_algorithm(space, problems)
        _check_gain(space, problems)
        _check_epochs(space, config, problems)


def _check_outcomes(space: SearchSpace, problems: Problems) -> None:
    """Notes constraints on metrics that Ax cannot satisfy, or that cannot be decided."""
    objective = space.objective
    for index, bound in enumerate(objective.outcome_constraints()):
        place = ("objective", "constraints", index)
        # Of several objectives a bound says from where on one counts.
        if bound.metric == objective.first.metric and len(objective.terms) == 1:
            what = f"{bound.metric} is what the search improves anyway; bound another metric, or use budget.target"
            problems.add(place, what)
        elif isinstance(bound, RelativeConstraint) and not space.start:
            problems.add(
                place, "the baseline is the first point under 'start', and there is none; give one, or a number"
            )


def _check_points(space: SearchSpace, problems: Problems) -> None:
    """Notes random points that the trainer refuses."""
    for point in itertools.islice(space.samples(0), TRIED_POINTS):
        try:
            space.config(point)
        except SpaceError as error:
            where = ", ".join(f"{path} {shown(value)}" for path, value in point.items())
            problems.add(("parameters",), f"the trainer refuses a random point: {error.problems[0]} ({where})")
            return


def _check_stopping(space: SearchSpace, config: TrialConfig, problems: Problems) -> None:
    """Notes a stopping rule that would first apply when a trial is over."""
    stopping = space.stopping
    if stopping.rule == "freeze_thaw" and not space.has_curve_model:
        what = "freeze_thaw needs the model of algorithm 'ax' with method 'fast', and one objective without constraints"
        problems.add(("stopping", "rule"), f"{what}; use promote, which needs no model")
    if stopping.rule == "none" or _varies(space, *LENGTHS):
        return
    epochs, every = config.optim.epochs, config.evaluation.every
    of_a_trial = f"(optim.epochs {epochs}, evaluation.every {every})"
    if stopping.pauses:
        if next_pause(0, epochs, every, stopping) is None:
            what = f"no evaluation lies between {stopping.first:g} of a trial and its end {of_a_trial}"
            problems.add(("stopping", "first"), f"{what}; lower first or evaluation.every")
    elif (evaluations := math.ceil(epochs / every)) <= stopping.grace:
        what = f"{stopping.grace} of {evaluations} evaluations {of_a_trial} leave nothing to stop"
        problems.add(("stopping", "grace"), f"{what}; lower grace or evaluation.every")


def _check_replicates(space: SearchSpace, config: TrialConfig, problems: Problems) -> None:
    """Notes that the model cannot choose the best configuration."""
    if space.replicates.choose == "leaders":
        return
    if len(space.objective.terms) > 1:
        what = "the model compares by one objective, and there are several; write replicates: 3"
        problems.add(("replicates", "choose"), what)
    if config.data.validation.folds is not None:
        what = "the model compares values of one split, and data.validation.folds makes several; write replicates: 3"
        problems.add(("replicates", "choose"), what)


def _check_algorithm(space: SearchSpace, problems: Problems) -> None:
    """Notes a plug-in that cannot be used."""
    if is_plugin(space.algorithm.name):
        try:
            load_plugin("algorithms", space.algorithm.name)
        except ConfigError as error:
            problems.add(("algorithm", "name"), str(error))


def _check_gain(space: SearchSpace, problems: Problems) -> None:
    """Notes a limit on the expected improvement where no model tells it."""
    objective = space.objective
    if space.budget.gain is not None and (
        space.algorithm.name != "ax" or objective.constraints or len(objective.terms) > 1
    ):
        what = "needs algorithm 'ax', and one objective without constraints, for which a model tells what to expect"
        problems.add(("budget", "gain"), f"{what}; use patience")


def _check_epochs(space: SearchSpace, config: TrialConfig, problems: Problems) -> None:
    """Notes a budget of epochs that one trial exceeds."""
    budget, epochs = space.budget.epochs, config.optim.epochs
    if budget is not None and budget < epochs and not _varies(space, "optim.epochs"):
        problems.add(("budget", "epochs"), f"one trial alone trains {epochs} (is {budget}); raise it, or optim.epochs")


def _varies(space: SearchSpace, *paths: str) -> bool:
    return any(map(space.is_searched, paths))


def _lines(data: Mapping[str, JsonValue]) -> dict[str, str]:
    return {
        spelled(keys): shortened(json.dumps(value), MAX_DIFFERENCE) for keys, value in flattened(data) if value != {}
    }


def builtin_spaces() -> dict[str, str]:
    """The spaces that ship with the project: name -> description in one line."""
    descriptions = {}
    for name, path in builtin_files().items():
        data = read_yaml(path).data
        text = data.get("description", "") if isinstance(data, dict) else ""
        descriptions[name] = str(text).strip().partition("\n")[0]
    return descriptions
