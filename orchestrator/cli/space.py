"""space check, space show."""

from __future__ import annotations

import click

from orchestrator.cli import options
from orchestrator.errors import Exit


@click.group()
def space() -> None:
    """Check and show search spaces."""


@space.command(epilog="Example: reidsearch space check my_space.yaml")
@click.argument("file")
@options.overrides
def check(file: str, overrides: tuple[str, ...]) -> int:
    """Check a search space against the trainer; nothing is started."""
    from orchestrator.space import SearchSpace

    found = SearchSpace.from_yaml(file, overrides=overrides)
    click.echo(
        f"ok   {file}: {len(found.parameters)} searched parameters, {len(found.start)} known points, "
        f"{found.budget.trials} trials; every path exists in the trainer"
    )
    return Exit.OK


@space.command(epilog="Example: reidsearch space show attn_cl.yaml --set budget.trials=20")
@click.argument("file", required=False)
@options.overrides
def show(file: str | None, overrides: tuple[str, ...]) -> int:
    """Print a search space with nothing left to extend, or list the built-in ones."""
    from orchestrator.space import SearchSpace, builtin_spaces

    if file is None:
        spaces = builtin_spaces()
        width = max(map(len, spaces))
        for name, description in spaces.items():
            click.echo(f"{name:<{width}}  {description}")
    else:
        click.echo(SearchSpace.from_yaml(file, overrides=overrides).to_yaml(), nl=False)
    return Exit.OK
