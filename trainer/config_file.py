"""One trial's configuration from a YAML or JSON file and `path=value` settings."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from trainer.errors import ConfigError
from trainer.formatting import KeyPath, did_you_mean, located, spelled
from trainer.settings import renamed_settings
from trainer.yaml_file import Document, YamlError, parse_yaml, read_yaml

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from trainer.config import TrialConfig


CONFIG = "name a trial's configuration, such as runs/NAME/trials/t0000/config.json"


def read_trial_config(path: Path, overrides: Sequence[str] = ()) -> TrialConfig:
    """The configuration in the file with the overrides laid over it.

    Raises:
        ConfigError: one line per problem, with file, line and setting.
    """
    from trainer.config import TrialConfig

    document, tree = read_tree(path, overrides)
    try:
        # As JSON text, numbers stay numbers and text becomes no number, but a list may be a tuple.
        return TrialConfig.model_validate_json(json.dumps(tree), strict=True)
    except ValidationError as error:
        lines = [f"{_where(path, document, tuple(each['loc']))}: {_problem(each)}" for each in error.errors()]
        raise ConfigError("\n".join(lines)) from error


def read_tree(path: Path, overrides: Sequence[str] = ()) -> tuple[Document, Any]:
    """What the file holds, and the same with the overrides laid over it, not checked against any setting.

    Does not import torch, so that a mistyped path is answered at once.

    Raises:
        ConfigError: the file or an override cannot be read.
    """
    try:
        document = read_yaml(path)
    except YamlError as error:
        raise ConfigError(str(error) if path.exists() else f"{path}: no such file; {CONFIG}") from error
    if isinstance(document.data, dict) and {"parameters", "trainer"} & document.data.keys():
        raise ConfigError(f"{path}: is a search space, which `reidsearch launch` takes; {CONFIG}")
    lines = [f"{_where(path, document, keys)}: {what}" for keys, what in renamed_settings(document.data)]
    if lines:
        raise ConfigError("\n".join(lines))
    for override in overrides:
        lay_over(document.data, override)
    return document, document.data


def overridden(config: TrialConfig, overrides: Sequence[str]) -> TrialConfig:
    """The configuration with `path=value` settings laid over it.

    Raises:
        ConfigError: one line per problem, with the setting.
    """
    return checked(config.model_dump(mode="json"), overrides)


def checked(tree: dict[str, Any], overrides: Sequence[str]) -> TrialConfig:
    """The configuration of plain settings, with `path=value` settings laid over them.

    Raises:
        ConfigError: one line per problem, with the setting.
    """
    from trainer.config import TrialConfig

    for override in overrides:
        lay_over(tree, override)
    try:
        return TrialConfig.model_validate_json(json.dumps(tree), strict=True)
    except ValidationError as error:
        raise ConfigError("\n".join(f"--set {_problem(problem)}" for problem in error.errors())) from error


def _where(path: Path, document: Document, keys: KeyPath) -> str:
    """File, line and column of a setting; the file alone where it does not stand there."""
    place = document.places.get(keys)
    return f"{path}:{place[0]}:{place[1]}" if place else f"{path}"


def _problem(problem: ErrorDetails) -> str:
    """One of pydantic's errors: the setting and what is wrong with it."""
    keys = tuple(problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{spelled(keys)}: unknown setting{did_you_mean(str(keys[-1]), _siblings(keys))}"
    return located(problem)


def _siblings(keys: KeyPath) -> list[str]:
    """Settings that stand where the last key stands."""
    from trainer.config import TrialConfig

    model: Any = TrialConfig
    for key in keys[:-1]:
        model = model.model_fields[key].annotation
    return list(model.model_fields)


def lay_over(tree: Any, override: str) -> None:
    """Changes plain settings as `path=value` says.

    Raises:
        ConfigError: it is no such text, or the path leads through a value.
    """
    path, equals, text = override.partition("=")
    if not equals or not path.strip():
        raise ConfigError(f"--set {shlex.quote(override)}: write PATH=VALUE")
    if not text.strip():
        raise ConfigError(f"--set {override}: a value is missing after '='; write null or '' if that is meant")
    for _, what in renamed_settings(path):
        raise ConfigError(f"--set {override}: {what}")
    try:
        value = parse_yaml(text, name=f"--set {override}").data
    except YamlError as error:
        raise ConfigError(str(error)) from error
    *groups, last = path.split(".")
    branch = tree
    for group in groups:
        branch = branch.setdefault(group, {})
        if not isinstance(branch, dict):
            raise ConfigError(f"--set {override}: {group} is a value, not a group of settings")
    branch[last] = value
