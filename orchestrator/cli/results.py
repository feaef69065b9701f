"""compare, report, export, reproduce, simulate, ui: what comes out of searches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from orchestrator.base.errors import Exit
from orchestrator.base.hints import hint
from orchestrator.cli import options, shell_complete


@click.command(epilog="Example: reidsearch compare demo-24ed/t0000 demo-24ed/best --sheet gains.png")
@click.argument(
    "names", metavar="A B [C]...", nargs=-1, required=True, shell_complete=shell_complete.search_or_trial_names
)
@click.option(
    "--sheet",
    type=options.OutPath(path_type=Path, dir_okay=False),
    help="Draw what each network finds for the queries that changed most (PNG).",
)
@click.option("--images", is_flag=True, help="Let the sheet show real people.")
@options.storage
@options.as_json
def compare(names: tuple[str, ...], sheet: Path | None, images: bool, storage: Path, as_json: bool) -> int:
    """Compare searches or trials: what differs, by how much, and is it more than noise?

    A name is SEARCH, which stands for its best trial, SEARCH/TRIAL or SEARCH/best. All are measured against the first.
    """
    from orchestrator.show import compare as comparing
    from orchestrator.show.compare_view import show

    if len(names) < 2:
        raise click.UsageError(f"name two at least: {hint('compare', 'A', 'B', storage=storage)}")
    found = comparing.compare(storage, names)
    if sheet is not None:
        from orchestrator.show.compare_sheet import draw_sheet

        draw_sheet(found, sheet, images=images)
    show(found, as_json=as_json)
    return Exit.OK


@click.command(epilog="Example: reidsearch report attn_cl-7f3a --out attn_cl.html")
@options.search
@click.option(
    "--out",
    type=options.OutPath(path_type=Path, dir_okay=False),
    help="File to write.  [default: report.html in the search's folder; standard output for other formats]",
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["html", "md", "csv", "json"]),
    default="html",
    show_default=True,
    help="A page, its tables as Markdown, the trials as CSV, or everything as JSON.",
)
@click.option("--images", is_flag=True, help="Show pictures of people also of real data.")
@click.option("--without-model", is_flag=True, help="Leave out what Ax's model says; saves ten seconds and more.")
@click.option("--to-mlflow", is_flag=True, help="Also put the file among those of the search's run in MLflow.")
@options.storage
@options.tracking_uri
def report(
    name: str,
    out: Path | None,
    kind: str,
    images: bool,
    without_model: bool,
    to_mlflow: bool,
    storage: Path,
    tracking_uri: str | None,
) -> int:
    """Write a report of a search, which may still be running.

    The HTML file holds everything that it needs and opens without a network.
    """
    from orchestrator.show.report.writing import write_report
    from orchestrator.stores.base import existing_search

    if to_mlflow and out is None and kind != "html":
        raise click.UsageError("--to-mlflow needs a file: name one with --out")
    folder = existing_search(storage, name)
    written = write_report(folder, kind, out, model=not without_model and kind != "csv", images=images)
    click.echo(written.text, err=written.path is not None and kind != "html", nl=written.path is not None)
    if to_mlflow:
        from orchestrator.show.report.log_artifact import file_report

        assert written.path is not None
        click.echo(file_report(folder, written.path, tracking=tracking_uri), err=True)
    return Exit.OK


if TYPE_CHECKING:
    from trainer.export import ExportFormat


@click.command(epilog="Example: reidsearch export attn_cl-7f3a/best --to onnx --out exported")
@options.search_or_trial
@click.option(
    "--to",
    "formats",
    multiple=True,
    default=["checkpoint"],
    show_default=True,
    type=click.Choice(["checkpoint", "safetensors", "onnx"]),
    help="Format; may be repeated.",
)
@click.option(
    "--out", required=True, type=options.OutPath(path_type=Path, file_okay=False), help="Folder, new or empty."
)
@click.option("--register", is_flag=True, help="Make it a version of a model in MLflow's registry, too.")
@click.option("--model", help="Name in the registry.  [default: the space's name]")
@options.storage
@options.tracking_uri
def export(
    name: str,
    formats: tuple[str, ...],
    out: Path,
    register: bool,
    model: str | None,
    storage: Path,
    tracking_uri: str | None,
) -> int:
    """Write the network of a trial, its configuration and a model card; without TRIAL that of the best one."""
    from orchestrator.algorithms.replicates import BEST
    from orchestrator.show.export import export_trial
    from orchestrator.stores.base import existing_search
    from orchestrator.stores.loading import load_search

    search, _, trial = name.partition("/")
    loaded = load_search(existing_search(storage, search))
    done = export_trial(loaded, trial or BEST, cast("tuple[ExportFormat, ...]", formats), out)
    for network in done.networks:
        proof = "" if network.difference is None else f"  (embeddings as the network's to {network.difference:.1e})"
        click.echo(f"{network.file}{proof}")
    click.echo(done.card)
    if register:
        from orchestrator.tracking.registry import register as register_model

        model = model or loaded.space.name
        made = register_model(loaded, done.trial, done.folder, done.card, model=model, tracking=tracking_uri)
        click.echo(f"MLflow    {made.model} version {made.version}  {made.uri}")
    return Exit.OK


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
    from orchestrator.algorithms.replicates import BEST
    from orchestrator.show import reproduce, reproduce_view
    from orchestrator.stores.base import existing_search
    from orchestrator.stores.loading import load_search

    search, _, key = name.partition("/")
    loaded = load_search(existing_search(storage, search))
    planned = reproduce.rehearse_reproduction(loaded, key or BEST, data=data, threads=threads, tolerance=tolerance)
    click.echo(reproduce_view.circumstances_table(planned.found), err=as_json)
    if text := reproduce_view.rebuilding_text(loaded, planned.found):
        click.echo(text, err=True)
    folder = out or reproduce.fresh_folder(loaded, planned.trial)
    done = reproduce.reproduce(
        loaded, planned, folder, lambda epoch, found: click.echo(f"epoch {epoch}: {found.compared} numbers", err=True)
    )
    if as_json:
        click.echo(json.dumps(reproduce_view.document(loaded, planned, done)))
    click.echo(reproduce_view.verdict(loaded, planned, done), err=as_json)
    return Exit.OK if done.is_equal else Exit.SEARCH_FAILED


RULES = ("none", "asha", "percentile")
ALGORITHMS = ("journaled", "random", "sobol", "grid", "ax")


@click.command(
    epilog="Example: reidsearch simulate attn_cl-7f3a --stopping asha --algorithm random --set stopping.grace=2"
)
@options.search
@click.option(
    "--stopping", "rules", type=click.Choice(RULES), multiple=True, help="Rule; may be repeated.  [default: all]"
)
@click.option(
    "--algorithm",
    "algorithms",
    type=click.Choice(ALGORITHMS),
    multiple=True,
    help="Order of the trials; may be repeated.  [default: journaled]",
)
@click.option("--slots", type=click.IntRange(min=1), default=1, show_default=True, help="Trials at once.")
@click.option("--seeds", type=click.IntRange(min=1), default=10, show_default=True, help="Replays of each algorithm.")
@click.option("--set", "overrides", multiple=True, metavar="stopping.KEY=VALUE", help="Change a setting of the rules.")
@options.storage
@options.as_json
def simulate(
    name: str,
    rules: tuple[str, ...],
    algorithms: tuple[str, ...],
    slots: int,
    seeds: int,
    overrides: tuple[str, ...],
    storage: Path,
    as_json: bool,
) -> int:
    """Replay a finished search's curves under other stopping rules and orders; nothing is trained."""
    from orchestrator.stores.base import existing_search

    existing_search(storage, name)  # before the import of torch
    from orchestrator.show.simulate import SimulationOptions, show_simulation

    asked = SimulationOptions(rules or RULES, algorithms or ("journaled",), overrides, slots, seeds)
    show_simulation(storage, name, asked, as_json=as_json)
    return Exit.OK


@click.command(epilog="Example: reidsearch ui attn_cl-7f3a --port 5050")
@click.argument("name", required=False, shell_complete=shell_complete.search_names)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=5000,
    show_default=True,
    help="Port on 127.0.0.1; 0 is any free one.",
)
@options.storage
@options.tracking_uri
def ui(name: str | None, port: int, storage: Path, tracking_uri: str | None) -> int:
    """Show searches in MLflow's pages, until Ctrl-C.

    The server is for this machine only. The address that is printed compares the trials of the search NAME, or all
    searches of the storage: charts, CMC curves and, for generated data, the same queries side by side.
    """
    from orchestrator.tracking.server import serve

    serve(storage, name, port, click.echo, tracking=tracking_uri)
    return Exit.OK
