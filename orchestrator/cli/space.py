"""space check, show, sample, diff, schema; config show."""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import click

from orchestrator.base.errors import Exit
from orchestrator.cli.declared import command, option
from orchestrator.cli.options import AsJson, OptionalSpaceFile, Overrides, SpaceFile
from trainer.formatting import counted

if TYPE_CHECKING:
    from pydantic import JsonValue


@click.group()
def space() -> None:
    """Check, show, sample and compare search spaces."""


@command(example="reidsearch space check my_space.yaml", group=space)
def check(file: SpaceFile, overrides: Overrides = ()) -> int:
    """Check a search space against the trainer, and against its data if they are there; nothing is started."""
    from orchestrator.runner.splits import batch_problems
    from orchestrator.space.problems import SpaceError
    from orchestrator.space.remarks import fixed_settings
    from orchestrator.space.search_space import SearchSpace

    found = SearchSpace.load(file, overrides=overrides)
    wrong, notes = batch_problems(found)
    if wrong:
        raise SpaceError(*wrong)
    click.echo(
        f"ok   {file}: {counted(len(found.parameters), 'searched parameter', 'searched parameters')}, "
        f"{counted(len(found.start), 'known point', 'known points')}, "
        f"{counted(found.budget.trials, 'trial', 'trials')}; every path exists in the trainer"
    )
    for note in [*fixed_settings(file, found), *found.warnings(), *notes]:
        click.echo(f"note {note}")
    return Exit.OK


@command(example="reidsearch space show attn_cl.yaml --set budget.trials=20", group=space)
def show(file: OptionalSpaceFile = None, overrides: Overrides = ()) -> int:
    """Print a search space with all that it extends, or list the built-in ones."""
    from orchestrator.space.search_space import SearchSpace, builtin_spaces

    if file is None:
        spaces = builtin_spaces()
        width = max(map(len, spaces))
        for name, description in spaces.items():
            click.echo(f"{name:<{width}}  {description}")
    else:
        click.echo(SearchSpace.load(file, overrides=overrides).to_yaml(), nl=False)
    return Exit.OK


@command(example="reidsearch space sample attn_cl.yaml -n 5 --seed 1", group=space)
def sample(
    file: SpaceFile,
    number: Annotated[int, option("-n", "--number", type=click.IntRange(1, 100_000), help="How many points.")] = 1,
    seed: Annotated[int, option("--seed", type=click.IntRange(min=0), help="Seed of the draw.")] = 0,
    as_json: AsJson = False,
    overrides: Overrides = (),
) -> int:
    """Print random points of a search space, as YAML that fits under its 'start', or as one JSON list."""
    from orchestrator.space.search_space import SearchSpace
    from trainer.yaml_file import dump_yaml

    found = SearchSpace.load(file, overrides=overrides)
    points: list[JsonValue] = [dict(point) for point in islice(found.samples(seed), number)]
    click.echo(json.dumps(points) + "\n" if as_json else dump_yaml(points), nl=False)
    return Exit.OK


@command(example="reidsearch space diff b_bot.yaml b_bot_osm.yaml", group=space)
def diff(one: SpaceFile, other: SpaceFile) -> int:
    """Print the differences of two search spaces, with all that they extend; nothing if there are none."""
    from orchestrator.space.search_space import SearchSpace

    for line in SearchSpace.load(one).differences(SearchSpace.load(other)):
        click.echo(line)
    return Exit.OK


@command(example="reidsearch space schema > schema.json", group=space)
def schema() -> int:
    """Print the JSON Schema of space files, with which editors complete and check them."""
    from orchestrator.space.search_space import SearchSpace

    click.echo(SearchSpace.schema_text(), nl=False)
    return Exit.OK


@click.group()
def config() -> None:
    """Show settings."""


@command(example="reidsearch config show attn_cl.yaml --set optim.epochs=60 --origin", group=config, name="show")
def show_settings(
    space: SpaceFile,
    overrides: Overrides = (),
    origin: Annotated[
        bool, option("--origin", help="Print the origin of each value: a file, --set or the default.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Print every setting of a search space, those of the trainer included; SPACE is a file or a built-in name."""
    from orchestrator.space.config_provenance import settings_of

    found = settings_of(space, overrides)
    if as_json:
        click.echo(json.dumps([setting._asdict() for setting in found]))
        return Exit.OK
    lines = [f"{setting.path}: {json.dumps(setting.value, ensure_ascii=False)}" for setting in found]
    width = min(max(map(len, lines)), 60)
    for line, setting in zip(lines, found, strict=True):
        click.echo(f"{line:<{width}}  # {setting.origin}" if origin else line)
    return Exit.OK
