"""What a configuration is: frozen, strict, documented field by field; how two of them differ; names of 0.1."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict

from trainer.formatting import KeyPath, spelled


class FrozenConfig(BaseModel):
    """A configuration that cannot change and refuses what it does not know.

    Unknown keys, NaN and infinity are errors. The docstring under a field is its description.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


Auto = Literal["auto"]
"""The value of a setting that is decided where the trial trains."""


def auto_or(values: str, fits: Callable[[Any], bool]) -> BeforeValidator:
    """Refuses what is neither `auto` nor fits, in one message; a union of types would give one for each of them.

    Args:
        values: those that fit, in words.
        fits: whether a value does.
    """

    def checked(value: object) -> object:
        if value != "auto" and not fits(value):
            raise ValueError(f"must be auto, or {values}")
        return value

    return BeforeValidator(checked)


def whole_from(least: int) -> Callable[[Any], bool]:
    """Whether a value is a whole number of at least so much; true and false are none."""
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least


# Settings that change where and how fast a trial runs, but none of its results. Checkpoints of earlier versions lack
# the whole group `checkpoint`, and what pictures are left.
NEUTRAL_SETTINGS = {
    *("data.root", "clips.workers", "clips.augment_on", "checkpoint", "checkpoint.every"),
    *("evaluation.folder", "evaluation.images"),
}
RENAMED_SETTINGS: Mapping[str, str] = {"clips.persons": "clips.identities"}
"""New names of settings by the names that they had in 0.1."""


def differing_settings(now: dict[str, Any], then: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted paths, in alphabetical order, of the settings that differ and can change results."""
    differing = []
    for key in sorted(now.keys() | then.keys()):
        path = prefix + key
        mine, other = now.get(key), then.get(key)
        if isinstance(mine, dict) and isinstance(other, dict):
            differing += differing_settings(mine, other, path + ".")
        elif mine != other and path not in NEUTRAL_SETTINGS:
            differing.append(path)
    return differing


def renamed_settings(tree: object, path: KeyPath = ()) -> Iterator[tuple[KeyPath, str]]:
    """Each place in plain data, descriptions left out, that names a setting by an old name: `x is called y`."""
    if isinstance(tree, Mapping | list | tuple):
        for key, value in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
            place = (*path, key)
            old = [name for name in RENAMED_SETTINGS if f".{spelled(place)}".endswith(f".{name}")]
            yield from ((place, f"{name} is called {RENAMED_SETTINGS[name]}") for name in old)
            yield from renamed_settings(value, place)
    elif isinstance(tree, str) and "description" not in path:
        for name, new in RENAMED_SETTINGS.items():
            if re.search(rf"\b{re.escape(name)}\b", tree):
                yield path, f"{name} is called {new}"
