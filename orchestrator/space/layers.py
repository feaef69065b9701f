"""The layers of a search space: the file, the files it extends, and the overrides of the command line."""

from __future__ import annotations

import functools
import importlib.resources
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from orchestrator.space.problems import Place, SpaceError, name_hint
from orchestrator.space.schema import flattened, setting_kinds
from trainer.formatting import KeyPath, did_you_mean, one_line, shortened, shown
from trainer.settings import renamed_settings
from trainer.yaml_file import YamlError, parse_yaml, read_yaml


@dataclass(frozen=True)
class Layer:
    """Plain data of a space, and the place where each of its keys was written."""

    data: dict[str, JsonValue]
    places: dict[KeyPath, Place]


def builtin_files() -> dict[str, Path]:
    """The spaces that ship with the project: name without `.yaml` -> file."""
    return {path.stem: path for path in sorted(_builtin_folder().glob("*.yaml"))}


def read_layers(path_or_name: str | Path) -> Layer:
    """A space file, or the built-in space of this name, laid over the files that it extends."""
    space = Layer({}, {})
    for layer in reversed(_read_chain(str(path_or_name))):
        space = _laid_over(space, layer)
    return space


def overridden(space: Layer, override: str, fields: Sequence[str]) -> Layer:
    """The space with an override such as `budget.trials=4` laid over it.

    `fields` are the names of a space's own fields; a path that begins otherwise is one of the trainer.
    """
    label = one_line(f"--set {shortened(override)}")
    path, equals, text = override.partition("=")
    if not equals or not path.strip():
        given = one_line(shlex.quote(shortened(override)))
        raise SpaceError(f"--set {given}: write --set path=value, such as --set budget.trials=4")
    if not text.strip():
        raise SpaceError(f"{label}: a value is missing after '='; write null or '' if that is meant")
    try:
        value, places = parse_yaml(text, name=label)
    except YamlError as error:
        raise SpaceError(f"{label}: {error.what}") from error
    if renamed := {what: None for _, what in renamed_settings([path, value])}:
        raise SpaceError(*(f"{label}: {what}" for what in renamed))
    keys = _override_keys(path.strip(), label, space, fields)
    nested = functools.reduce(lambda below, key: {key: below}, reversed(keys[1:]), value)
    kept = _depth_of_mappings(space.data, keys)
    paths = [*(tuple(keys[:depth]) for depth in range(kept + 1, len(keys))), *((*keys, *p) for p in places)]
    return _laid_over(space, Layer({keys[0]: nested}, dict.fromkeys(paths, Place(label))))


def _depth_of_mappings(data: JsonValue, keys: Sequence[str]) -> int:
    """How many of the keys exist as nested mappings; an override creates the others."""
    depth = 0
    while depth < len(keys) and isinstance(data, dict) and isinstance(data.get(keys[depth]), dict):
        data = data[keys[depth]]
        depth += 1
    return depth


def _read_chain(name: str) -> list[Layer]:
    """The file and those it extends, child first."""
    found = _find(name, Path())
    if found is None:
        raise SpaceError(one_line(f"{shortened(name)}: no such file, and {_no_builtin(name)}"))
    chain, files = [], []
    while found is not None:
        path, label = found
        chain.append(_read_layer(path, label))
        files.append((path.resolve(), label))
        found = _parent(chain[-1], path, files)
    return chain


def _read_layer(path: Path, label: str) -> Layer:
    try:
        data, places = read_yaml(path, name=label)
    except YamlError as error:
        raise SpaceError(str(error)) from error
    if not isinstance(data, dict):
        raise SpaceError(f"{label}:1:1: must be a mapping with keys such as 'parameters', not {shown(data)}")
    if renamed := [f"{Place(label, *places[keys])}: {what}" for keys, what in renamed_settings(data)]:
        raise SpaceError(*renamed)
    return Layer(data, {key: Place(label, *place) for key, place in places.items()})


def _parent(layer: Layer, path: Path, files: Sequence[tuple[Path, str]]) -> tuple[Path, str] | None:
    """The file that a layer extends, and its name in messages; removes `extends` from the layer."""
    if "extends" not in layer.data:
        return None
    name, place = layer.data.pop("extends"), layer.places[("extends",)]
    if not isinstance(name, str):
        raise SpaceError(f"{place}: extends: must be the name of a space file (is {shown(name)})")
    found = _find(name, path.parent)
    if found is None:
        raise SpaceError(one_line(f"{place}: extends: no file {shown(name)} beside this one, and {_no_builtin(name)}"))
    parent = found[0].resolve()
    if parent in [file for file, _ in files]:
        circle = " -> ".join([*(known for _, known in files), found[1]])
        raise SpaceError(one_line(f"{place}: extends: goes in a circle ({circle}); remove one 'extends'"))
    return found


def _builtin_folder() -> Path:
    return Path(str(importlib.resources.files("search_spaces")))


def _find(name: str, folder: Path) -> tuple[Path, str] | None:
    """A file by its path from `folder`, otherwise a built-in space by its name; and its name in messages."""
    path = folder / name
    if folder != _builtin_folder() and _exists(path) and not path.is_dir():
        return path, one_line(str(path))
    builtin = builtin_files().get(name.removesuffix(".yaml").removesuffix(".yml"))
    if builtin is not None:
        return builtin, builtin.name
    return (path, one_line(str(path))) if _exists(path) else None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long, a folder that may not be entered
        return False


def _no_builtin(name: str) -> str:
    names = list(builtin_files())
    return f"no built-in space of this name ({', '.join(names)}){did_you_mean(Path(name).stem, names)}"


def _laid_over(below: Layer, above: Layer) -> Layer:
    """One layer over another: mappings merge, anything else replaces.

    A setting that the upper layer fixes is no longer searched or derived, one that it searches no longer fixed or
    derived, and so on. But what is searched under a condition may keep its fixed value for elsewhere.
    """
    below = _released(below, above)
    data = _merged(below.data, above.data, ())
    return Layer(data, {**below.places, **above.places})


def _released(below: Layer, above: Layer) -> Layer:
    """The lower layer without the settings that the upper one sets in another way."""
    searched, derived = set(_mapping(above.data, "parameters")), set(_mapping(above.data, "derived"))
    fixed = {".".join(keys) for keys, _ in flattened(_mapping(above.data, "trainer"))}
    conditional = {*_with_when(below.data), *_with_when(above.data)} - set(_with_when(above.data, empty=True))
    searched_no_more = (fixed - (searched & conditional)) | derived
    data = dict(below.data)
    if "trainer" in data:
        data["trainer"] = _without_paths(data["trainer"], (searched - conditional) | derived, "")
    if "parameters" in data:
        data["parameters"] = _without_keys(data["parameters"], searched_no_more)
    if "derived" in data:
        data["derived"] = _without_keys(data["derived"], fixed | searched)
    start = data.get("start")
    if isinstance(start, list):
        data["start"] = [_without_keys(point, searched_no_more) for point in start]
    return Layer(data, below.places)


def _with_when(data: Mapping[str, JsonValue], *, empty: bool = False) -> list[str]:
    """The searched paths with a condition or, with `empty`, those with an empty `when`."""
    parameters = _mapping(data, "parameters")
    said = {path: _mapping(parameters, path) for path in parameters}
    return [path for path, keys in said.items() if "when" in keys and bool(keys["when"]) != empty]


def _merged(below: dict[str, JsonValue], above: dict[str, JsonValue], path: KeyPath) -> dict[str, JsonValue]:
    merged = dict(below)
    for key, value in above.items():
        known = below.get(key)
        if key == "when" and len(path) == 2 and path[0] == "parameters" and not value:
            merged[key] = value  # nothing takes the place of all conditions, where other mappings merge
        elif isinstance(known, dict) and isinstance(value, dict) and not _other_kind(path, known, value):
            merged[key] = _merged(known, value, (*path, key))
        else:
            merged[key] = value
    return merged


def _other_kind(path: KeyPath, below: dict[str, JsonValue], above: dict[str, JsonValue]) -> bool:
    """Whether a parameter changes its type, so that its old bounds do not apply."""
    return path == ("parameters",) and "type" in above and above["type"] != below.get("type")


def _without_paths(tree: JsonValue, paths: set[str], prefix: str) -> JsonValue:
    if not isinstance(tree, dict):
        return tree
    kept = {key: value for key, value in tree.items() if prefix + key not in paths}
    return {key: _without_paths(value, paths, f"{prefix}{key}.") for key, value in kept.items()}


def _without_keys(mapping: JsonValue, keys: set[str]) -> JsonValue:
    if not isinstance(mapping, dict):
        return mapping
    return {key: value for key, value in mapping.items() if key not in keys}


def _mapping(data: Mapping[str, JsonValue], key: str) -> dict[str, JsonValue]:
    value = data.get(key)
    return value if isinstance(value, dict) else {}


def _override_keys(path: str, label: str, space: Layer, fields: Sequence[str]) -> list[str]:
    first, _, rest = path.partition(".")
    if first == "extends":
        raise SpaceError(f"{label}: 'extends' cannot be set; write it in a space file")
    if first == "parameters" and rest:
        return ["parameters", *_parameter_keys(rest, space)]
    if first == "derived" and rest:
        return ["derived", rest]
    if first in fields:
        return path.split(".")
    if first in {name.partition(".")[0] for name in setting_kinds()}:
        return ["trainer", *path.split(".")]
    known = [*fields, *_own_paths(space), *setting_kinds(), "resources.gpus_per_trial"]
    meant = path.lstrip("+")  # Hydra's
    hint = f" - did you mean {meant!r}?" if meant in known else name_hint(meant, known)
    raise SpaceError(f"{label}: unknown setting {shown(path)}{hint or '; `config show SPACE` lists all'}")


def _parameter_keys(rest: str, space: Layer) -> list[str]:
    """`loss.osm_alpha.high` as `loss.osm_alpha` and `high`; the whole as a searched path if none fits."""
    for searched in _mapping(space.data, "parameters"):
        if rest.startswith(f"{searched}.when."):
            return [searched, "when", rest.removeprefix(f"{searched}.when.")]
        if rest.startswith(f"{searched}."):
            return [searched, rest.removeprefix(f"{searched}.")]
    head, _, last = rest.rpartition(".")
    keys = ("type", "low", "high", "log", "step", "when", "values", "ordered")
    return [head, last] if head and last in keys else [rest]


def _own_paths(space: Layer) -> list[str]:
    """Dotted paths of the space's own values, without trainer settings."""
    own = {key: value for key, value in space.data.items() if key != "trainer"}
    return [".".join(keys) for keys, _ in flattened(own)]
