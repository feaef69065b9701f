"""The plug-ins that a search space names."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.base.errors import EnvironmentProblem
from orchestrator.space.parameters import Choice
from orchestrator.space.schema import flattened
from orchestrator.space.search_space import SearchSpace
from trainer.errors import ConfigError
from trainer.plugins import Plugin, named_plugins


def plugins_of(space: SearchSpace) -> list[Plugin]:
    """The plug-ins that trials of the space may use, and that of its algorithm; imports none of them.

    Raises:
        EnvironmentProblem: one is not installed.
    """
    try:
        return named_plugins(_values(space))
    except ConfigError as error:
        raise EnvironmentProblem(str(error)) from error


def changed_plugins(space: SearchSpace, versions: dict[str, str]) -> list[str]:
    """A line for each package of the space's plug-ins that has another version than in `versions`, by package.

    Raises:
        EnvironmentProblem: a plug-in is not installed.
    """
    return [
        f"{plugin}: the search was launched with version {then}; its trials may not be comparable"
        for plugin in plugins_of(space)
        if (then := versions.get(plugin.package)) not in (None, plugin.version)
    ]


def _values(space: SearchSpace) -> Iterator[tuple[str, object]]:
    yield "algorithm.name", space.algorithm.name
    for keys, value in flattened(space.trainer):
        yield ".".join(keys), value
    for path, parameter in space.parameters.items():
        if isinstance(parameter, Choice):
            yield from ((path, value) for value in parameter.values)
