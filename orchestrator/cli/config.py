"""config show: settings, and where they come from."""

from __future__ import annotations

import json

import click

from orchestrator.base.errors import Exit
from orchestrator.cli import options, shell_complete


@click.group()
def config() -> None:
    """Show settings."""


@config.command(epilog="Example: reidsearch config show attn_cl.yaml --set optim.epochs=60 --origin")
@click.argument("space", shell_complete=shell_complete.space_names)
@options.overrides
@click.option("--origin", is_flag=True, help="Say of each value which file, --set or default it comes from.")
@options.as_json
def show(space: str, overrides: tuple[str, ...], origin: bool, as_json: bool) -> int:
    """Print every setting of a search space, those of the trainer included; SPACE is a file or a built-in name."""
    from orchestrator.runner.config_provenance import settings_of

    found = settings_of(space, overrides)
    if as_json:
        click.echo(json.dumps([setting._asdict() for setting in found]))
        return Exit.OK
    lines = [f"{setting.path}: {json.dumps(setting.value, ensure_ascii=False)}" for setting in found]
    width = min(max(map(len, lines)), 60)
    for line, setting in zip(lines, found, strict=True):
        click.echo(f"{line:<{width}}  # {setting.origin}" if origin else line)
    return Exit.OK
