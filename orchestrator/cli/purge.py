"""purge: a search deleted everywhere."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.base.errors import Exit
from orchestrator.cli import options


@click.command(epilog="Example: reidsearch purge attn_cl-7f3a")
@options.search
@click.option("--yes", is_flag=True, help="Do not ask for the name to be typed.")
@click.option("--keep-mlflow", is_flag=True, help="Leave MLflow's runs alone.")
@options.storage
@options.tracking_uri
def purge(name: str, yes: bool, keep_mlflow: bool, storage: Path, tracking_uri: str | None) -> int:
    """Delete every copy of a search's data, checkpoints included, and say what remains elsewhere."""
    from orchestrator.base.escaping import terminal_text
    from orchestrator.show import purge
    from orchestrator.study.folder import existing_search
    from orchestrator.study.lease import refuse_if_driven

    folder = existing_search(storage, name)
    refuse_if_driven(folder.lease)
    copies = purge.find(folder, keep_mlflow=keep_mlflow, tracking=tracking_uri)
    click.echo(f"folder    {folder.path}  ({copies.files} files, {copies.bytes / 1e6:.1f} MB)")
    if copies.mlflow is not None:
        click.echo(f"MLflow    {len(copies.mlflow.runs)} runs in {copies.mlflow.shown_uri}")
        for place in copies.mlflow.places:
            click.echo(f"          with their files below {place}")
    if not yes and _typed() != name:
        click.echo("not the name of the search; nothing was deleted", err=True)
        return Exit.USAGE
    done = purge.purge(copies)
    click.echo(f"deleted   {name}")
    for line in done.remains:
        click.echo(f"remains   {terminal_text(line)}")
    return Exit.OK


def _typed() -> str:
    """The name that the user types.

    Raises:
        UsageError: nobody can type, as standard input is closed.
    """
    try:
        return str(click.prompt("This cannot be undone. Type the name of the search"))
    except (click.Abort, RuntimeError) as error:
        # click raises the same for Ctrl-C; Python itself RuntimeError where there is no standard input at all.
        if isinstance(error, click.Abort) and not isinstance(error.__context__, EOFError):
            raise
        click.echo()
        raise click.UsageError("standard input is closed, and nothing was deleted; --yes deletes unasked") from error
