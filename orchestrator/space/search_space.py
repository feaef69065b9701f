"""Search spaces: read from YAML, checked against the trainer, turned into the trainer's configurations."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, ValidationError, ValidationInfo, field_validator

from orchestrator.space.checks import MAX_START, Values, check_names, check_shape, check_values
from orchestrator.space.cross_checks import check_whole
from orchestrator.space.expressions import ExpressionError, LinearConstraint, parse_constraint, parse_expression
from orchestrator.space.layers import Layer, builtin_files, overridden, read_layers
from orchestrator.space.objective import MAX_CONSTRAINTS, Objective
from orchestrator.space.options import Replicates, Resources, StoppingConfig
from orchestrator.space.parameters import Choice, FloatRange, IntRange, Parameter, StrictConfig, Value
from orchestrator.space.problems import Problems, SpaceError
from orchestrator.space.sampling import active, conditions_in_words, count_points, derived_values, is_active, sampled
from orchestrator.space.settings import build_trial_config, flattened
from trainer.formatting import did_you_mean, plain_words, shortened, shown, spelled
from trainer.yaml_file import dump_yaml, read_yaml

if TYPE_CHECKING:
    from trainer.config import TrialConfig

MAX_DIFFERENCE = 160  # characters of a value that differs
MAX_DRAWS = 10_000  # points in a row that constraints may refuse before none is left to be found


def _readable_constraint(text: str) -> str:
    parse_constraint(text)
    return text


def _readable_expression(text: str) -> str:
    parse_expression(text)
    return text


def _spelled_out(short: object) -> object:
    """`3` means `{seeds: 3}`."""
    return short if isinstance(short, Mapping | Replicates) else {"seeds": short}


ConstraintText = Annotated[str, AfterValidator(_readable_constraint)]
ExpressionText = Annotated[str, AfterValidator(_readable_expression)]


class AlgorithmConfig(StrictConfig):
    """How the next point is chosen."""

    name: Literal["ax", "sobol", "random", "grid"] = "ax"
    """`ax`: Bayesian optimisation after an initial design. `sobol`: even coverage. `random`: independent points.
    `grid`: every combination, as far as the budget goes."""
    method: Literal["fast", "quality"] = "fast"
    """Model of `ax`. `fast`: one fit of a Gaussian process. `quality`: many, drawn with few of the parameters having an
    effect (SAAS), with warped inputs; needs `pip install 'reidsearch[quality]'`, and many times longer a suggestion."""
    noise: Literal["inferred", "queries"] = "inferred"
    """What `ax` is told of the noise of mAP. `inferred`: nothing, the model estimates it. `queries`: the standard error
    over queries, most of which all trials share."""
    stopped: Literal["ignored", "estimated"] = "ignored"
    """What `ax` is told of trials that were stopped early. `ignored`: that they are not to be tried again. `estimated`:
    what they might have come to, with the error of that; needs `noise: queries`, as the model weighs values by their
    errors."""

    @field_validator("method", "noise", "stopped")
    @classmethod
    def _of_the_model(cls, value: str, info: ValidationInfo) -> str:
        name = info.data.get("name", "ax")
        if name != "ax" and value not in ("fast", "inferred", "ignored"):
            raise ValueError(f"is a setting of ax; {name} has no model (is {shown(value)})")
        if value == "estimated" and info.data.get("noise") != "queries":
            raise ValueError("needs 'noise: queries' beside it: the model weighs estimates by their errors")
        return value


class Budget(StrictConfig):
    """How much the search may spend; it ends with whatever is used up first."""

    trials: int = Field(ge=1, le=100_000)
    """Trials in all."""
    concurrent: int | None = Field(None, ge=1)
    """Trials at a time; as many as the machines hold where null."""
    epochs: int | None = Field(None, ge=1)
    """Epochs trained in all trials together."""
    hours: float | None = Field(None, gt=0)
    """Wall time of all sessions together."""
    gpu_hours: float | None = Field(None, gt=0)
    """Hours times the GPUs that trials held."""
    target: float | None = Field(None, ge=0, le=1)
    """Value of the objective, a share between 0 and 1, at which the search has reached its goal."""
    patience: int | None = Field(None, ge=1)
    """Completed trials in a row without improvement after which the search gives up."""


class SearchSpace(StrictConfig):
    """Which settings of the trainer are searched, within which bounds, and which are fixed."""

    version: Literal[1]
    """Version of this format."""
    name: str = Field(max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Begins the names of searches."""
    description: str = ""
    """What the space is for; the first line is listed."""
    objective: Objective = Objective()
    """What the search improves."""
    budget: Budget
    """How much it may spend."""
    algorithm: AlgorithmConfig = AlgorithmConfig()
    """How the next point is chosen."""
    stopping: StoppingConfig = StoppingConfig()
    """Which trials are given up before their last epoch."""
    replicates: Annotated[Replicates, BeforeValidator(_spelled_out, json_schema_input_type=int | Replicates)] = (
        Replicates(seeds=0)
    )
    """How the best configurations are confirmed with other seeds when no new ones are tried; `3` means `{seeds: 3}`."""
    resources: Resources = Resources()
    """What one trial is given of a machine."""
    parameters: dict[str, Parameter] = Field(min_length=1)
    """What is searched, by the setting's dotted path."""
    constraints: Annotated[tuple[ConstraintText, ...], Field(strict=False, max_length=MAX_CONSTRAINTS)] = ()
    """Linear bounds on searched numbers, such as `loss.a + 2 * loss.b <= 1`."""
    derived: dict[str, ExpressionText] = Field({})
    """Settings that follow from the searched ones, such as `optim.learning_rate: 1e-4 * clips.identities`."""
    synthetic: Literal["tiny", "demo", "full"] | None = None
    """Size of a generated data set to search on; null takes the data set at the trainer's `data.root`."""
    start: Annotated[tuple[dict[str, Value], ...], Field(strict=False, max_length=MAX_START)] = ()
    """Points known to be good, tried first; each gives every searched path a value."""
    trainer: dict[str, JsonValue] = Field({})
    """Settings of the trainer that are fixed, nested; those not given keep the trainer's defaults."""

    @classmethod
    def load(cls, path_or_name: str | Path, overrides: Sequence[str] = ()) -> Self:
        """The space in a file, or the built-in one of that name, with overrides `path=value` laid over it.

        Everything is checked here, the trainer's bounds included; SpaceError lists all that is wrong. Values are put
        to the trainer only when everything else is right: that imports torch.
        """
        space, layer, values, problems = cls._read(path_or_name, overrides)
        check_values(layer.data, values, problems)
        problems.raise_if_any()
        check_whole(space, problems)
        problems.raise_if_any()
        return space

    @classmethod
    def unchecked(cls, path_or_name: str | Path, *, overrides: Sequence[str] = ()) -> Self:
        """The same before its values are put to the trainer; does not import torch."""
        return cls._read(path_or_name, overrides)[0]

    @classmethod
    def _read(cls, path_or_name: str | Path, overrides: Sequence[str]) -> tuple[Self, Layer, Values, Problems]:
        layer, unusable = read_layers(path_or_name), []
        for override in overrides:
            try:
                layer = overridden(layer, override, tuple(cls.model_fields))
            except SpaceError as error:
                unusable += error.problems
        problems = Problems(layer.places, unusable)
        space = check_shape(cls, layer.data, problems)
        values = check_names(layer.data, problems)
        problems.raise_if_any()
        assert space is not None
        return space, layer, values, problems

    def sample(self, draws: Sequence[float]) -> dict[str, Value] | None:
        """The point at a share in [0, 1] of each parameter, or None where it breaks a constraint.

        Parameters whose conditions do not hold there are left out.
        """
        return sampled(self.parameters, self.linear_constraints(), draws)

    def active(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """The values without those of parameters whose conditions do not hold."""
        return active(self.parameters, values)

    def any_sample(self) -> dict[str, Value]:
        """The middle of the space or, where constraints forbid it, some point that they allow."""
        middle = self.sample([0.5] * len(self.parameters))
        return middle if middle is not None else next(self.samples(0))

    def samples(self, seed: int) -> Iterator[dict[str, Value]]:
        """Random points, uniform on each parameter's scale; ends where `MAX_DRAWS` in a row break a constraint."""
        source, constraints, refused = random.Random(seed), self.linear_constraints(), 0
        while refused < MAX_DRAWS:
            point = sampled(self.parameters, constraints, [source.random() for _ in self.parameters])
            refused = refused + 1 if point is None else 0
            if point is not None:
                yield point

    def linear_constraints(self) -> list[LinearConstraint]:
        """The linear constraints, read."""
        return [parse_constraint(text) for text in self.constraints]

    def is_finite(self) -> int | None:
        """How many points there are; None where they are endless or more than 100,000."""
        return count_points(self.parameters, self.linear_constraints())

    def config(self, sample: Mapping[str, Value], *, seed: int | None = None) -> TrialConfig:
        """The trainer's configuration at a sample, which gives exactly the active searched paths a value.

        Derived settings follow from the sample. Inactive parameters, and what is derived from them, are as in
        `trainer`, or the trainer's defaults.
        """
        self._check_paths(sample)
        expressions = {path: parse_expression(text) for path, text in self.derived.items()}
        try:
            return build_trial_config(self.trainer, {**sample, **derived_values(expressions, sample)}, seed=seed)
        except ExpressionError as error:
            raise SpaceError(str(error)) from error
        except ValidationError as error:
            lines = [f"{spelled(problem['loc'])}: {plain_words(problem)}" for problem in error.errors()]
            raise SpaceError(*lines) from error

    def resolved(self) -> dict[str, JsonValue]:
        """The whole space as plain data, with nothing left to extend."""
        data = self.model_dump(mode="json")
        for parameter in data["parameters"].values():
            for key, nothing in (("step", None), ("when", {})):
                if parameter.get(key, ...) == nothing:
                    del parameter[key]
        return data

    def differences(self, other: Self) -> list[str]:
        """What to change in this space to get the other: `- path: value` goes, `+ path: value` comes."""
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

    def fingerprint(self) -> str:
        """SHA-256 of the content, whatever the order of its keys."""
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


__all__ = [
    "AlgorithmConfig",
    "Budget",
    "Choice",
    "FloatRange",
    "IntRange",
    "Objective",
    "Replicates",
    "SearchSpace",
    "SpaceError",
    "StoppingConfig",
    "Value",
    "builtin_spaces",
]
