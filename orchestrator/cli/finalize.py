"""finalize, ablate, tables: the test set, once, and what it said."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click

from orchestrator.base.errors import Exit
from orchestrator.cli import options
from orchestrator.cli.run_search import drive_and_show, options_as_before


@click.command(epilog="Example: reidsearch finalize attn_cl-7f3a --top 1 --seeds 5 --epochs 400")
@options.search
@click.option("--top", type=click.IntRange(min=1), help="Configurations, the best first.  [default: 3]")
@click.option("--seeds", type=click.IntRange(min=1), help="Networks of each of them.  [default: 3]")
@click.option("--epochs", type=click.IntRange(min=1), help="Of each training.  [default: the configuration's]")
@click.option(
    "--set",
    "evaluation",
    multiple=True,
    metavar="evaluation.SETTING=VALUE",
    help="How the test set is judged; may be repeated.  [default: all frames, at most 41 clips a tracklet]",
)
@click.option("--again", is_flag=True, help="Open a test set that was opened before; recorded.")
@options.concurrent
@options.gpus_per_trial
@options.storage
@options.tracking_uri
@options.address
@options.insecure
@click.option("--strict", is_flag=True, help="Exit with 1 when any training failed.")
def finalize(
    name: str,
    top: int | None,
    seeds: int | None,
    epochs: int | None,
    evaluation: tuple[str, ...],
    again: bool,
    concurrent: int | None,
    gpus_per_trial: float | None,
    storage: Path,
    tracking_uri: str | None,
    address: str | None,
    insecure: bool,
    strict: bool,
) -> int:
    """Train the best configurations on all identities and judge them on the test set, which is opened once.

    To be asked of a finished search. Interrupted, it goes on with the same command or with `resume`; options that
    differ from those of the one under way are refused.
    """
    from orchestrator.cluster.ray import require_admission
    from orchestrator.runner.finalize import FinalizationOptions, unseal_test_set
    from orchestrator.stores.base import existing_search

    folder = existing_search(storage, name)
    asked = options_as_before(
        folder,
        concurrent=concurrent,
        gpus_per_trial=gpus_per_trial,
        tracking_uri=tracking_uri,
        address=address,
        insecure=insecure,
    )
    require_admission(asked.address, insecure=insecure)
    wanted = FinalizationOptions(top=top, seeds=seeds, epochs=epochs, evaluation=evaluation, again=again)
    opened = unseal_test_set(folder, wanted).asked
    trainings = f"{', '.join(opened.leaders)}, {opened.seeds} seed{'s' * (opened.seeds > 1)} each"
    click.echo(f"test set  opened by {opened.by} for {trainings}", err=True)
    return drive_and_show(folder, asked, strict)


@click.command(epilog="Example: reidsearch tables baseline-1c02 b_bot-88ab attn_cl-7f3a --format latex")
@options.searches
@click.option(
    "--format", "form", type=click.Choice(["md", "latex", "csv"]), default="md", show_default=True, help="Form."
)
@click.option("--out", type=options.OutPath(path_type=Path, dir_okay=False), help="File.  [default: standard output]")
@options.storage
def tables(names: tuple[str, ...], form: str, out: Path | None, storage: Path) -> int:
    """Show what the test set said of searches beside what the paper published."""
    from trainer.atomic import write_atomically

    text = _tables(names, form, storage)
    if out is None:
        click.echo(text, nl=False)
    else:
        write_atomically(out, text)
        click.echo(f"{out}: {form}")
    return Exit.OK


def _tables(names: Iterable[str], form: str, storage: Path) -> str:
    from orchestrator.show.tables import FORMATS, tables_of
    from orchestrator.stores.base import existing_search
    from orchestrator.summary import read_summary

    return FORMATS[form](tables_of([read_summary(existing_search(storage, name)) for name in names]))


@click.command(epilog="Example: reidsearch ablate --data /data/mars --seeds 5")
@click.option("--data", metavar="DIR|mini-mars", help="Data set; mini-mars generates one.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Networks of each row.")
@click.option("--row", "rows", multiple=True, metavar="SPACE", help="Only these; repeatable.  [default: Table 1]")
@click.option("--name", default="ablation", show_default=True, help="Searches are called NAME-ROW.")
@options.overrides
@options.concurrent
@options.gpus_per_trial
@options.storage
@options.address
@options.insecure
def ablate(
    data: str | None,
    seeds: int,
    rows: tuple[str, ...],
    name: str,
    overrides: tuple[str, ...],
    concurrent: int | None,
    gpus_per_trial: float | None,
    storage: Path,
    address: str | None,
    insecure: bool,
) -> int:
    """Train the published configuration of every row of the paper's Table 1 over seeds and judge it on the test set.

    Each row is a search of one trial that is then finalized. Interrupted, the same command goes on; its last words are
    those of `reidsearch tables`.
    """
    from orchestrator.cluster.ray import require_admission
    from orchestrator.runner.ablation import TABLE_1, Ablation, rows_under_way
    from orchestrator.study.description import Options

    require_admission(address, insecure=insecure)
    asked = Options(concurrent=concurrent, gpus_per_trial=gpus_per_trial, address=address, insecure=insecure)
    ablation = Ablation(name, rows or TABLE_1, data, overrides, seeds, storage, asked)
    names, worst = [], Exit.OK
    for row in rows_under_way(ablation):
        code = drive_and_show(row.folder, asked, strict=False)
        if code not in (Exit.OK, Exit.SOME_TRIALS_FAILED):
            return code
        names.append(row.folder.name)
        worst = max(worst, Exit(code))
    click.echo(_tables(dict.fromkeys(names), "md", storage), nl=False)
    return worst
