"""status, stop, logs, extend, sync, purge, support: searches that exist; init: where they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click

from orchestrator.base import project
from orchestrator.base.errors import Exit, SearchError
from orchestrator.base.hints import DEFAULT_STORAGE, command_line, default_storage, hint
from orchestrator.cli import shell_complete
from orchestrator.cli.declared import command, option
from orchestrator.cli.options import OUT_FILE, AsJson, OptionalSearch, Search, SearchOrTrial, Storage, TrackingUri
from orchestrator.cli.run_search import find_search
from trainer.formatting import counted

if TYPE_CHECKING:
    from orchestrator.stores.base import SearchFolder

SYNC_PATIENCE_S = 300.0


@command(example="reidsearch status attn_cl-7f3a --json | jq .best")
def status(
    name: OptionalSearch = None,
    storage: Storage = DEFAULT_STORAGE,
    as_json: AsJson = False,
    watch: Annotated[bool, option("--watch", help="Show it again every two seconds until it ends.")] = False,
) -> int:
    """Show how far a search is, or all searches of a storage."""
    from orchestrator.show.status import show_search, show_searches
    from orchestrator.stores import open_store

    if name is None:
        show_searches(open_store(storage), as_json=as_json)
    else:
        show_search(open_store(storage), name, as_json=as_json, watch=watch)
    return Exit.OK


def overview() -> int:
    """What `reidsearch` alone shows: the searches of the default storage, and what to do next."""
    from orchestrator.show.status import show_searches
    from orchestrator.stores import open_store
    from orchestrator.stores.base import searches

    storage = open_store(default_storage())
    if any(searches(storage)):
        show_searches(storage, as_json=False)
        click.echo()
    told = project.default("notify")
    places = {
        "storage": project.default("storage") or (DEFAULT_STORAGE, "default"),
        "data": project.default("data") or ("as each space says", "default"),
        "notify": (f"nothing at a search's end; `{command_line('init')}` says how", "default")
        if told is None
        else ("set, not shown", told.origin),  # it may hold a secret
    }
    for key, (value, origin) in places.items():
        click.echo(f"{key:<9} {value}  ({origin})")
    click.echo()
    for what, *words in (
        ("a search on generated data, in minutes:", "demo"),
        ("the paper's search on MARS:", "launch", "attn_cl.yaml", "--data", "/data/mars"),
        ("all commands:", "--help"),
    ):
        click.echo(f"{what:<40} {command_line(*words)}")
    return Exit.OK


@command(example="reidsearch stop attn_cl-7f3a/t0003")
def stop(name: SearchOrTrial, storage: Storage = DEFAULT_STORAGE) -> int:
    """Stop a search that another process drives, or give up one of its trials.

    A search can be resumed; its trials end after their next step with their state saved. A trial that was given up
    stays so.
    """
    from orchestrator.runner import control

    answer = control.stop(*_search_and_key(storage, name))
    click.echo(answer.text, err=not answer.done)
    return Exit.OK if answer.done else Exit.ENVIRONMENT


@command(example="reidsearch logs attn_cl-7f3a/t0003 -f")
def logs(
    name: SearchOrTrial,
    follow: Annotated[
        bool, option("--follow", "-f", help="Print new lines as they come, until the search ends.")
    ] = False,
    storage: Storage = DEFAULT_STORAGE,
) -> int:
    """Print what happened in a search, or in one of its trials with what its training logged."""
    from orchestrator.show.logs import log_lines

    for line in log_lines(*_search_and_key(storage, name), follow=follow):
        click.echo(line)
    return Exit.OK


def _search_and_key(storage: str, name: str) -> tuple[SearchFolder, str | None]:
    """The search of SEARCH or SEARCH/TRIAL, and the key of the trial, for `best` that of the best one."""
    from orchestrator.summary import BEST, read_summary

    search, _, trial = name.partition("/")
    folder = find_search(storage, search)
    return folder, read_summary(folder).trial(BEST).key if trial == BEST else trial or None


@command(example="reidsearch extend attn_cl-7f3a --trials +20 --set parameters.loss.osm_alpha.high=4")
def extend(
    name: Search,
    trials: Annotated[str | None, option("--trials", metavar="N|+N", help="Trials in all, or how many more.")] = None,
    overrides: Annotated[
        tuple[str, ...],
        option(
            "--set",
            metavar="PATH=VALUE",
            shell_complete=shell_complete.setting_paths,
            help="Budget, bounds, stopping or algorithm; repeatable.",
        ),
    ] = (),
    storage: Storage = DEFAULT_STORAGE,
) -> int:
    """Give a search more budget or wider bounds; `resume` then goes on with it."""
    from orchestrator.runner import extension

    for change in extension.extend(find_search(storage, name), trials=trials, overrides=overrides):
        click.echo(change)
    click.echo(f"next      {hint('resume', name, storage=storage)}")
    return Exit.OK


@command(example="reidsearch sync attn_cl-7f3a --tracking-uri http://127.0.0.1:5000")
def sync(name: Search, storage: Storage = DEFAULT_STORAGE, tracking_uri: TrackingUri = None) -> int:
    """Send a search's journal to MLflow again; existing runs stay, missing ones are created."""
    from orchestrator.base.uris import without_passwords
    from orchestrator.tracking import sync

    synced = sync.sync(find_search(storage, name), tracking=tracking_uri, patience=SYNC_PATIENCE_S)
    where = without_passwords(synced.uri)
    if synced.unsent:
        click.echo(f"{where}: {synced.unsent} of {synced.events} events not accepted: {synced.problem}", err=True)
        return Exit.ENVIRONMENT
    click.echo(f"{where}: holds all {synced.events} events of {name}")
    return Exit.OK


@command(example="reidsearch purge attn_cl-7f3a")
def purge(
    name: Search,
    yes: Annotated[bool, option("--yes", help="Do not ask for the name to be typed.")] = False,
    keep_mlflow: Annotated[bool, option("--keep-mlflow", help="Leave MLflow's runs alone.")] = False,
    storage: Storage = DEFAULT_STORAGE,
    tracking_uri: TrackingUri = None,
) -> int:
    """Delete every copy of a search's data, checkpoints included, and say what remains elsewhere."""
    from orchestrator.base.escaping import terminal_text
    from orchestrator.show import purge
    from orchestrator.study.lease import refuse_if_driven

    folder = find_search(storage, name)
    refuse_if_driven(folder.lease, folder.storage)
    copies = purge.find(folder, keep_mlflow=keep_mlflow, tracking=tracking_uri)
    click.echo(f"folder    {folder.path}  ({counted(copies.files, 'file', 'files')}, {copies.bytes / 1e6:.1f} MB)")
    if copies.mlflow is not None:
        click.echo(f"MLflow    {counted(len(copies.mlflow.runs), 'run', 'runs')} in {copies.mlflow.shown_uri}")
        for place in copies.mlflow.places:
            click.echo(f"          with their files below {place}")
    if not yes and _typed() != name:
        click.echo("not the name of the search; nothing was deleted", err=True)
        return Exit.USAGE
    remains = purge.purge(copies)
    click.echo(f"deleted   {name}")
    for line in remains:
        click.echo(f"remains   {terminal_text(line)}")
    return Exit.OK


def _typed() -> str:
    """The name that the user types.

    Raises:
        UsageError: standard input is closed.
    """
    try:
        return str(click.prompt("This cannot be undone. Type the name of the search"))
    except (click.Abort, RuntimeError) as error:
        # Click raises Abort for Ctrl-C, too; Python raises RuntimeError without a standard input.
        if isinstance(error, click.Abort) and not isinstance(error.__context__, EOFError):
            raise
        click.echo()
        raise click.UsageError("standard input is closed, and nothing was deleted; --yes deletes unasked") from error


@command(example="reidsearch support attn_cl-7f3a")
def support(
    name: Search,
    out: Annotated[
        Path | None, option("--out", type=OUT_FILE, help="File to write.  [default: NAME-support.zip here]")
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
) -> int:
    """Write an archive for a report of a defect: journal, space, settings, logs and versions.

    Pictures, checkpoints and per-query results stay out. Passwords, tokens, the names of home folders, machines and
    yours are replaced; read it before you hand it on.
    """
    from orchestrator.show.support import write_archive

    folder = find_search(storage, name)
    out = out or Path(f"{name}-support.zip")
    for file, size in write_archive(folder, out):
        click.echo(f"{size:>10,}  {file}")
    click.echo(f"{out}: {out.stat().st_size / 1e6:.1f} MB")
    return Exit.OK


@command(example="reidsearch init")
def init() -> int:
    """Write reidsearch.yaml: defaults of storage, data and `notify`, for this folder and all below."""
    from trainer.files import write_atomically

    file = Path(project.FILE)
    if file.exists():
        raise SearchError(f"{file}: is there already; edit it")
    write_atomically(file, project.TEMPLATE)
    click.echo(f"{file.absolute()}: written; its comments say what each key does")
    return Exit.OK
