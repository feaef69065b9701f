"""stop, logs, extend, sync, purge: what is done to a search besides running it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.base.errors import Exit
from orchestrator.base.hints import hint
from orchestrator.cli import options, shell_complete

if TYPE_CHECKING:
    from orchestrator.stores.base import SearchFolder

SYNC_PATIENCE_S = 300.0


@click.command(epilog="Example: reidsearch stop attn_cl-7f3a/t0003")
@options.search_or_trial
@options.storage
def stop(name: str, storage: Path) -> int:
    """Stop a search that another process drives, or give up one of its trials.

    A search can be resumed; its trials end after their next step with their state saved. A trial that was given up
    stays so.
    """
    from orchestrator.runner import control
    from orchestrator.stores.base import existing_search

    search, _, trial = name.partition("/")
    folder = existing_search(storage, search)
    answer = control.stop(folder, _key(folder, trial))
    click.echo(answer.text, err=not answer.done)
    return Exit.OK if answer.done else Exit.ENVIRONMENT


@click.command(epilog="Example: reidsearch logs attn_cl-7f3a/t0003 -f")
@options.search_or_trial
@click.option("--follow", "-f", is_flag=True, help="Print new lines as they come, until the search ends.")
@options.storage
def logs(name: str, follow: bool, storage: Path) -> int:
    """Print what happened in a search, or in one of its trials with what its training logged."""
    from orchestrator.show.logs import log_lines
    from orchestrator.stores.base import existing_search

    search, _, trial = name.partition("/")
    folder = existing_search(storage, search)
    for line in log_lines(folder, _key(folder, trial), follow=follow):
        click.echo(line)
    return Exit.OK


def _key(folder: SearchFolder, trial: str) -> str | None:
    """The key of the trial that was named, for `best` that of the best one; None where none was named."""
    from orchestrator.algorithms.replicates import BEST, find_trial
    from orchestrator.stores.loading import load_search

    return find_trial(load_search(folder), BEST).key if trial == BEST else trial or None


@click.command(epilog="Example: reidsearch extend attn_cl-7f3a --trials +20 --set parameters.loss.osm_alpha.high=4")
@options.search
@click.option("--trials", metavar="N|+N", help="Trials in all, or how many more.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="PATH=VALUE",
    shell_complete=shell_complete.setting_paths,
    help="Budget, bounds, stopping or algorithm; repeatable.",
)
@options.storage
def extend(name: str, trials: str | None, overrides: tuple[str, ...], storage: Path) -> int:
    """Give a search more budget or wider bounds; `resume` then goes on with it."""
    from orchestrator.runner import extension
    from orchestrator.stores.base import existing_search

    for change in extension.extend(existing_search(storage, name), trials=trials, overrides=overrides):
        click.echo(change)
    click.echo(f"next      {hint('resume', name, storage=storage)}")
    return Exit.OK


@click.command(epilog="Example: reidsearch sync attn_cl-7f3a --tracking-uri http://127.0.0.1:5000")
@options.search
@options.storage
@options.tracking_uri
def sync(name: str, storage: Path, tracking_uri: str | None) -> int:
    """Send a search's journal to MLflow again; what is there already stays, what is missing is made anew."""
    from orchestrator.base.uris import without_passwords
    from orchestrator.stores.base import existing_search
    from orchestrator.tracking import sync

    synced = sync.sync(existing_search(storage, name), tracking=tracking_uri, patience=SYNC_PATIENCE_S)
    where = without_passwords(synced.uri)
    if synced.unsent:
        click.echo(f"{where}: {synced.unsent} of {synced.events} events not taken: {synced.problem}", err=True)
        return Exit.ENVIRONMENT
    click.echo(f"{where}: holds all {synced.events} events of {name}")
    return Exit.OK


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
    from orchestrator.stores.base import existing_search
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
