"""The trainer's settings, as the tree of `TrialConfig` that a search space refers to by dotted paths."""

from __future__ import annotations

import copy
import functools
import json
import types
import typing
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, JsonValue
from pydantic.fields import FieldInfo

if TYPE_CHECKING:
    from trainer.config import TrialConfig


@functools.cache
def trainer_settings() -> Mapping[str, FieldInfo]:
    """Every setting of the trainer by its dotted path, such as `loss.osm_alpha`."""
    from trainer.config import TrialConfig  # imports torch

    return dict(_leaves(TrialConfig, ""))


def settings_below(group: str) -> list[str]:
    """The paths of the settings in a group such as `loss`; empty where there is no such group."""
    return [path for path in trainer_settings() if path.startswith(f"{group}.")]


def groups_of_settings() -> list[str]:
    """The paths of all groups, such as `loss` and `data.validation`."""
    return list(dict.fromkeys(path.rpartition(".")[0] for path in trainer_settings() if "." in path))


def number_kind(field: FieldInfo) -> Literal["int", "float"] | None:
    """Whether a setting takes whole numbers only, any number, or no range of numbers."""
    is_union = typing.get_origin(field.annotation) in (typing.Union, types.UnionType)
    kinds = typing.get_args(field.annotation) if is_union else (field.annotation,)
    return "float" if float in kinds else "int" if int in kinds else None


def flattened(settings: Mapping[str, JsonValue]) -> Iterator[tuple[tuple[str, ...], JsonValue]]:
    """Keys and value of everything in a nested mapping that is not itself a filled mapping."""
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from (((key, *keys), leaf) for keys, leaf in flattened(value))
        else:
            yield (key,), value


def build_trial_config(
    settings: Mapping[str, JsonValue], values: Mapping[str, JsonValue], *, seed: int | None = None
) -> TrialConfig:
    """The trainer's configuration from nested settings with the values of dotted paths laid over them.

    Strict: text is no number, 4.0 is no whole number. Raises pydantic's ValidationError.
    """
    from trainer.config import TrialConfig  # imports torch

    tree = copy.deepcopy(dict(settings))
    for path, value in values.items():
        *groups, last = path.split(".")
        branch = tree
        for group in groups:
            branch = branch.setdefault(group, {})  # type: ignore[assignment]
        branch[last] = value
    if seed is not None:
        tree["seed"] = seed
    # Only as JSON does strictness still let a list be a tuple and text be a path.
    return TrialConfig.model_validate_json(json.dumps(tree), strict=True)


def _leaves(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _leaves(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field
