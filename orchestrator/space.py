"""Search spaces: read from YAML, checked against the trainer, turned into the trainer's configurations."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, JsonValue, ValidationError

from orchestrator.layers import builtin_files, overridden, read_layers
from orchestrator.parameters import Choice, FloatRange, IntRange, Parameter, StrictConfig, Value
from orchestrator.problems import Problems, SpaceError
from orchestrator.settings import build_trial_config
from orchestrator.spacecheck import MAX_START, check_against_trainer, check_shape
from trainer.wording import did_you_mean, plain_words, shown, spelled
from trainer.yamlfile import dump_yaml, read_yaml

if TYPE_CHECKING:
    from trainer.config import TrialConfig


class Objective(StrictConfig):
    """What the search improves: a figure of the validation split."""

    metric: Literal["mAP", "mINP", "rank1", "rank5", "rank10", "rank20"] = "mAP"
    """The figure."""
    goal: Literal["maximize", "minimize"] = "maximize"
    """Its better direction."""
    epoch: Literal["last", "best"] = "last"
    """Which evaluation of a trial counts; `best` favours noisy curves."""


class Budget(StrictConfig):
    """How much the search may spend."""

    trials: int = Field(ge=1, le=100_000)
    """Trials in all."""
    concurrent: int | None = Field(None, ge=1)
    """Trials at a time; as many as the machines hold where null."""


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
    parameters: dict[str, Parameter] = Field(min_length=1)
    """What is searched, by the setting's dotted path."""
    synthetic: Literal["tiny", "demo", "full"] | None = None
    """Size of a generated data set to search on; null takes the data set at the trainer's `data.root`."""
    start: Annotated[tuple[dict[str, Value], ...], Field(strict=False, max_length=MAX_START)] = ()
    """Points known to be good, tried first; each gives every searched path a value."""
    trainer: dict[str, JsonValue] = Field({})
    """Settings of the trainer that are fixed, nested; those not given keep the trainer's defaults."""

    @classmethod
    def from_yaml(cls, path_or_name: str | Path, *, overrides: Sequence[str] = ()) -> Self:
        """The space in a file, or the built-in one of that name, with overrides `path=value` laid over it.

        Everything is checked here, the trainer's bounds included; SpaceError lists all that is wrong.
        """
        layer, unusable = read_layers(path_or_name), []
        for override in overrides:
            try:
                layer = overridden(layer, override, tuple(cls.model_fields))
            except SpaceError as error:
                unusable += error.problems
        problems = Problems(layer.places, unusable)
        space = check_shape(cls, layer.data, problems)
        check_against_trainer(layer.data, problems)
        problems.raise_if_any()
        assert space is not None
        return space

    def trial_config(self, sample: Mapping[str, Value], *, seed: int | None = None) -> TrialConfig:
        """The trainer's configuration at a sample, which gives exactly the searched paths a value."""
        self._check_paths(sample)
        try:
            return build_trial_config(self.trainer, sample, seed=seed)
        except ValidationError as error:
            lines = [f"{spelled(problem['loc'])}: {plain_words(problem)}" for problem in error.errors()]
            raise SpaceError(*lines) from error

    def resolved(self) -> dict[str, JsonValue]:
        """The whole space as plain data, with nothing left to extend."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """The whole space as YAML that `from_yaml` reads back equal."""
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
        problems += [f"{path}: is missing from the sample" for path in self.parameters if path not in sample]
        problems += [
            f"{path}: must be text, a number, true or false (is {shown(value)})"
            for path, value in sample.items()
            if not isinstance(value, bool | int | float | str)
        ]
        if problems:
            raise SpaceError(*problems)


def builtin_spaces() -> dict[str, str]:
    """The spaces that ship with the project: name -> description in one line."""
    descriptions = {}
    for name, path in builtin_files().items():
        data = read_yaml(path).data
        text = data.get("description", "") if isinstance(data, dict) else ""
        descriptions[name] = str(text).strip().partition("\n")[0]
    return descriptions


__all__ = [
    "Budget",
    "Choice",
    "FloatRange",
    "IntRange",
    "Objective",
    "SearchSpace",
    "SpaceError",
    "Value",
    "builtin_spaces",
]
