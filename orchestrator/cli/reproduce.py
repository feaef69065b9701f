"""reproduce: a trial trained again."""

from __future__ import annotations

import json
from pathlib import Path

import click

from orchestrator.base.errors import Exit
from orchestrator.cli import options


@click.command(epilog="Example: reidsearch reproduce attn_cl-7f3a/t0003 --data /data/mars")
@options.search_or_trial
@click.option(
    "--out", type=options.OutPath(path_type=Path, file_okay=False), help="New folder.  [default: one below the search]"
)
@click.option("--data", type=click.Path(path_type=Path), metavar="DIR", help="Where the data set lies now.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: those of then]")
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    help="Of relative differences.  [default: 0; 0.02 for a trial on a GPU]",
)
@options.storage
@options.as_json
def reproduce(
    name: str,
    out: Path | None,
    data: Path | None,
    threads: int | None,
    tolerance: float | None,
    storage: Path,
    as_json: bool,
) -> int:
    """Train a trial again and compare every epoch with the journal; exit code 1 where it differs.

    On CPU cores figures are equal to the last bit, with the versions, the kind of processor and the number of threads
    of then. Without TRIAL the best one is trained.
    """
    from orchestrator.show import reproduce, reproduce_view
    from orchestrator.study.folder import existing_search
    from orchestrator.study.loading import BEST, load_search

    search, _, key = name.partition("/")
    loaded = load_search(existing_search(storage, search))
    planned = reproduce.rehearse_reproduction(loaded, key or BEST, data=data, threads=threads, tolerance=tolerance)
    click.echo(reproduce_view.circumstances_table(planned.found), err=as_json)
    if text := reproduce_view.rebuilding_text(loaded, planned.found):
        click.echo(text, err=True)
    folder = out or reproduce.fresh_folder(loaded, planned.trial)
    done = reproduce.reproduce(
        loaded, planned, folder, lambda epoch, found: click.echo(f"epoch {epoch}: {found.figures} figures", err=True)
    )
    if as_json:
        click.echo(json.dumps(reproduce_view.document(loaded, planned, done)))
    click.echo(reproduce_view.verdict(loaded, planned, done), err=as_json)
    return Exit.OK if done.is_equal else Exit.SEARCH_FAILED
