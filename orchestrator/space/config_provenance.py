"""Every setting of a search space, and the file, `--set` or default that its value comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import JsonValue

from orchestrator.space.problems import Place
from orchestrator.space.schema import flattened, trainer_settings
from orchestrator.space.search_space import SearchSpace
from trainer.formatting import KeyPath

DEFAULT = "default"
# Follows from the data set if it is not given.
PROTOCOL = "evaluation.protocol"
SHOWN_BELOW = ("trainer", "parameters", "derived")


class Setting(NamedTuple):
    """One value, resolved."""

    path: str
    """As `--set` takes it; of the trainer's settings without `trainer`."""
    value: JsonValue
    origin: str
    """`file:line:column`, `--set path=value`, `default`, or what a default follows from."""


def settings_of(path_or_name: str | Path, overrides: Sequence[str] = ()) -> list[Setting]:
    """The space's own settings, then the searched parameters, then every setting of the trainer.

    Raises:
        SpaceError: the space is not valid.
    """
    space, places = SearchSpace.load_with_places(path_or_name, overrides)
    own = {key: value for key, value in space.resolved().items() if key not in SHOWN_BELOW}
    return [
        *(Setting(".".join(keys), value, _origin(places, keys)) for keys, value in flattened(own)),
        *_of_parameters(space, places),
        *_of_trainer(space, places),
    ]


def _of_parameters(space: SearchSpace, places: Mapping[KeyPath, Place]) -> Iterator[Setting]:
    """Each key by itself: a child may have changed one of them."""
    parameters = space.resolved()["parameters"]
    assert isinstance(parameters, dict)
    for path, bounds in parameters.items():
        assert isinstance(bounds, dict)
        for keys, value in flattened(bounds):
            yield Setting(".".join(("parameters", path, *keys)), value, _origin(places, ("parameters", path, *keys)))
    for path, expression in space.derived.items():
        yield Setting(f"derived.{path}", expression, _origin(places, ("derived", path)))


def _of_trainer(space: SearchSpace, places: Mapping[KeyPath, Place]) -> Iterator[Setting]:
    values = space.config(space.any_sample()).model_dump(mode="json")
    for path, field in trainer_settings().items():
        keys = ("trainer", *path.split("."))
        value: JsonValue = values
        for key in keys[1:]:
            assert isinstance(value, dict)
            value = value[key]
        if path in space.parameters:
            yield Setting(path, "searched", _origin(places, ("parameters", path)))
        elif path in space.derived:
            yield Setting(path, f"= {space.derived[path]}", _origin(places, ("derived", path)))
        elif keys in places:
            yield Setting(path, value, str(places[keys]))
        elif path == PROTOCOL:
            yield Setting(path, value, f"{DEFAULT} of data.name {values['data']['name']}")
        else:
            usual = field.get_default(call_default_factory=True, validated_data={})
            is_usual = value == (str(usual) if isinstance(usual, Path) else usual)
            yield Setting(path, value, DEFAULT if is_usual else f"{DEFAULT} of recipe {values['recipe']}")


def _origin(places: Mapping[KeyPath, Place], keys: KeyPath) -> str:
    """Where a value was written: at its own key or, as for the items of a list, at the key that holds it."""
    for depth in range(len(keys), 0, -1):
        if keys[:depth] in places and (depth == len(keys) or _holds_values(keys, depth)):
            return str(places[keys[:depth]])
    return DEFAULT


def _holds_values(keys: KeyPath, depth: int) -> bool:
    """Whether a mapping that was written there may give the value without its key: `replicates: 3` gives `seeds`."""
    return keys[:depth] == ("replicates",) and keys[depth] == "seeds"
