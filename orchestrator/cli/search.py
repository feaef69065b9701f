"""launch, resume, status."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli import options
from orchestrator.errors import Exit
from orchestrator.tracking_database import SQLITE

if TYPE_CHECKING:
    from orchestrator.description import Options
    from orchestrator.folder import SearchFolder


@click.command(epilog="Example: reidsearch launch --space attn_cl.yaml --data /data/mars --name first")
@click.option("--space", "space_name", required=True, metavar="FILE|NAME", help="Search space.")
@click.option("--name", help="Name of the search.  [default: the space's name and four digits]")
@click.option("--data", metavar="DIR|mini-mars", help="Data set; mini-mars generates one.")
@click.option("--trials", type=click.IntRange(min=1), help="Trials in all.  [default: the space's]")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the search.")
@options.overrides
@options.concurrent
@options.gpus_per_trial
@options.storage
@options.tracking_uri
@options.address
@click.option(
    "--warm-start", metavar="NAME", help="Earlier search of this storage whose finished trials the model knows."
)
@click.option("--warm-start-anyway", is_flag=True, help="Also where that search measured something else.")
@options.hang_after
@click.option("--dry-run", is_flag=True, help="Check everything, try one step, print plan and forecast.")
@click.option("--strict", is_flag=True, help="Exit with 1 when any trial failed.")
def launch(
    space_name: str,
    name: str | None,
    data: str | None,
    trials: int | None,
    seed: int,
    overrides: tuple[str, ...],
    concurrent: int | None,
    gpus_per_trial: float | None,
    storage: Path,
    tracking_uri: str | None,
    address: str | None,
    warm_start: str | None,
    warm_start_anyway: bool,
    hang_after: float | None,
    dry_run: bool,
    strict: bool,
) -> int:
    """Start a new search and run it to its end."""
    from orchestrator.creation import create_search
    from orchestrator.description import Options
    from orchestrator.dryrun import dry_run_of
    from orchestrator.folder import existing_search
    from orchestrator.hang import HANG_AFTER_S
    from orchestrator.preparation import prepare_space
    from orchestrator.warmstart import WarmStart

    asked = Options(
        concurrent=concurrent,
        gpus_per_trial=gpus_per_trial,
        tracking_uri=_absolute_database(tracking_uri),
        address=address,
        hang_after=hang_after or HANG_AFTER_S,
    )
    earlier = None if warm_start is None else WarmStart(existing_search(storage, warm_start), warm_start_anyway)
    if trials is not None:
        overrides = (*overrides, f"budget.trials={trials}")
    space = prepare_space(space_name, data=data, overrides=overrides, storage=storage, dry_run=dry_run)
    if dry_run:
        dry_run_of(space, storage=storage, name=name, seed=seed, options=asked, warm_start=earlier)
        return Exit.OK
    folder = create_search(space, storage=storage, name=name, seed=seed, options=asked, warm_start=earlier)
    return _drive(folder, asked, strict)


@click.command(epilog="Example: reidsearch resume attn_cl-7f3a")
@click.argument("name")
@options.concurrent
@options.gpus_per_trial
@options.storage
@options.tracking_uri
@options.address
@click.option(
    "--errored",
    type=click.Choice(["skip", "retry"]),
    default="skip",
    show_default=True,
    help="What becomes of trials that failed for good.",
)
@options.hang_after
@click.option("--strict", is_flag=True, help="Exit with 1 when any trial failed.")
def resume(
    name: str,
    concurrent: int | None,
    gpus_per_trial: float | None,
    storage: Path,
    tracking_uri: str | None,
    address: str | None,
    errored: str,
    hang_after: float | None,
    strict: bool,
) -> int:
    """Continue a search that was interrupted; finished trials are kept, the others go on where they stopped."""
    from orchestrator.description import Options, read_description
    from orchestrator.folder import existing_search

    folder = existing_search(storage, name)
    before = read_description(folder.description).options
    asked = Options(
        concurrent=concurrent or before.concurrent,
        gpus_per_trial=before.gpus_per_trial if gpus_per_trial is None else gpus_per_trial,
        tracking_uri=_absolute_database(tracking_uri) or before.tracking_uri,
        address=address or before.address,
        hang_after=hang_after or before.hang_after,
    )
    return _drive(folder, asked, strict, retry_failed=errored == "retry")


def _drive(folder: SearchFolder, asked: Options, strict: bool, *, retry_failed: bool = False) -> int:
    from orchestrator.display import Display
    from orchestrator.launch import drive

    display = Display(folder)
    with display.showing():
        ending = drive(folder, display.watch(), overrides=asked, retry_failed=retry_failed)
    display.ending(ending)
    if strict and ending.exit_code == Exit.SOME_TRIALS_FAILED:
        return Exit.SEARCH_FAILED
    return ending.exit_code


def _absolute_database(uri: str | None) -> str | None:
    """A relative SQLite path made absolute: the search may be resumed from another folder."""
    if uri is None or not uri.startswith(SQLITE):
        return uri
    return SQLITE + str(Path(uri.removeprefix(SQLITE)).absolute())


@click.command(epilog="Example: reidsearch status attn_cl-7f3a --json | jq .best")
@click.argument("name", required=False)
@options.storage
@options.as_json
@click.option("--watch", is_flag=True, help="Show it again every two seconds until it ends.")
def status(name: str | None, storage: Path, as_json: bool, watch: bool) -> int:
    """Show how far a search is, or all searches of a storage."""
    from orchestrator.statusview import show_search, show_searches

    if name is None:
        show_searches(storage, as_json=as_json)
    else:
        show_search(storage, name, as_json=as_json, watch=watch)
    return Exit.OK
