"""Plug-ins: data sets, backbones, losses and algorithms of installed packages, found by their entry points.

A package names each of them in its metadata, in the group `reidsearch.KIND`; a space names it as `plugin:NAME`. Only
the package whose plug-in is named is imported, and not before it is needed. The prefix tells a plug-in from what this
package has: neither can take the other's name, and a misspelt name of ours is never looked for elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, NamedTuple, get_args

from trainer.errors import ConfigError, DataError
from trainer.formatting import did_you_mean, first_line, one_line, shortened

PREFIX = "plugin:"
Kind = Literal["data_sets", "backbones", "losses", "algorithms"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SETTINGS: Mapping[str, Kind] = {
    "data.name": "data_sets",
    "model.backbone": "backbones",
    "loss.extra": "losses",
    "algorithm.name": "algorithms",
}
"""The settings that may name a plug-in, with its kind."""


class Plugin(NamedTuple):
    """What an installed package offers under a name; not imported yet."""

    kind: Kind
    name: str
    """Without `plugin:`."""
    package: str
    """Name of the distribution, as pip lists it."""
    version: str
    entry_point: EntryPoint

    def load(self) -> Any:
        """The object of the entry point; imports its package.

        Raises:
            ConfigError: the import fails; names the package.
        """
        with blamed(self):
            return self.entry_point.load()

    def __str__(self) -> str:
        return f"{PREFIX}{self.name} (package {self.package} {self.version})"


@contextmanager
def blamed(plugin: Plugin, error_type: type[ConfigError | DataError] = ConfigError) -> Iterator[None]:
    """Raises what the code of the plug-in inside raises as `error_type`, in one line that begins with its package."""
    try:
        yield
    except Exception as error:  # whatever other people's code raises
        what = first_line(error)
        kind = "" if isinstance(error, ConfigError | DataError) else f"{type(error).__name__}: "
        raise error_type(f"{plugin}: {kind}{what}") from error


def is_plugin(name: object) -> bool:
    """Whether the value of a setting names a plug-in."""
    return isinstance(name, str) and name.startswith(PREFIX)


def installed_plugins(kind: Kind) -> dict[str, Plugin]:
    """The plug-ins of a kind that are installed, by their names without prefix; imports none of them.

    Raises:
        ConfigError: two packages have plug-ins of one name.
    """
    found: dict[str, Plugin] = {}
    for point in entry_points(group=f"reidsearch.{kind}"):
        if point.dist is None:
            continue
        plugin = Plugin(kind, point.name, one_line(point.dist.name), one_line(point.dist.version), point)
        other = found.setdefault(point.name, plugin)
        if (other.package, other.version) != (plugin.package, plugin.version):
            raise ConfigError(f"{other} and {plugin} have one name; uninstall one of the packages")
    return found


@lru_cache(maxsize=256)  # a search asks for the few it uses with every configuration
def find_plugin(kind: Kind, name: str) -> Plugin:
    """The plug-in that the setting `name`, with its prefix, names.

    Raises:
        ConfigError: no installed package has it.
    """
    known = installed_plugins(kind)
    bare = name.removeprefix(PREFIX)
    if bare in known:
        return known[bare]
    there = ", ".join(known) or "none"
    raise ConfigError(
        f"{one_line(shortened(name))}: no installed package has this plug-in{did_you_mean(bare, known)} (entry points "
        f"reidsearch.{kind}: {there}); install the package that has it, on every machine"
    )


@lru_cache(maxsize=256)
def load_plugin(kind: Kind, name: str) -> tuple[Plugin, Any]:
    """The plug-in that the setting `name` names, and its object, which is callable or a `DataSet`.

    Raises:
        ConfigError: no installed package has it, or it cannot be imported.
    """
    plugin = find_plugin(kind, name)
    value = plugin.load()
    if not callable(value):
        raise ConfigError(f"{plugin}: {plugin.entry_point.value} cannot be called")
    return plugin, value


def named_plugins(values: Iterable[tuple[str, object]]) -> list[Plugin]:
    """The plug-ins that values of settings, each with its dotted path, name; each once.

    Raises:
        ConfigError: one is not installed.
    """
    named = [(SETTINGS[path], value) for path, value in values if path in SETTINGS and is_plugin(value)]
    return list(dict.fromkeys(find_plugin(kind, str(value)) for kind, value in named))
