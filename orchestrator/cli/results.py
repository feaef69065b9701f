"""compare, report, dashboard, export, reproduce, simulate, ui: results of searches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import click

from orchestrator.base.errors import Exit
from orchestrator.base.hints import DEFAULT_STORAGE, hint
from orchestrator.cli import shell_complete
from orchestrator.cli.declared import argument, command, option
from orchestrator.cli.options import (
    OUT_FILE,
    OUT_FOLDER,
    OUT_PICTURE,
    POSITIVE,
    AsJson,
    FloatRange,
    OptionalSearch,
    Search,
    SearchOrTrial,
    Storage,
    TrackingUri,
)
from orchestrator.cli.run_search import find_search


@command(example="reidsearch compare demo-24ed/t0000 demo-24ed/best --sheet gains.png")
def compare(
    names: Annotated[
        tuple[str, ...], argument(metavar="A B [C]...", nargs=-1, shell_complete=shell_complete.search_or_trial_names)
    ],
    sheet: Annotated[
        Path | None,
        option(
            "--sheet", type=OUT_PICTURE, help="Draw what each network finds for the queries that changed most (PNG)."
        ),
    ] = None,
    images: Annotated[bool, option("--images", help="Let the sheet show real people.")] = False,
    storage: Storage = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> int:
    """Compare searches or trials: what differs, by how much, and is it more than noise?

    A name is SEARCH, which stands for its best trial, SEARCH/TRIAL or SEARCH/best. All are measured against the first.
    """
    from orchestrator.show import compare as comparing
    from orchestrator.show.compare_view import draw_sheet, show
    from orchestrator.stores import open_store

    if len(names) < 2:
        raise click.UsageError(f"name two at least: {hint('compare', 'A', 'B', storage=storage)}")
    found = comparing.compare(open_store(storage), names)
    if sheet is not None:
        draw_sheet(found, sheet, images=images)
    show(found, as_json=as_json)
    return Exit.OK


@command(example="reidsearch report attn_cl-7f3a --out attn_cl.html")
def report(
    name: Search,
    out: Annotated[
        Path | None,
        option(
            "--out",
            type=OUT_FILE,
            help="File to write.  [default: report.html in the search's folder; standard output for other formats]",
        ),
    ] = None,
    kind: Annotated[
        Literal["html", "md", "csv", "json"],
        option("--format", help="A page, its tables as Markdown, the trials as CSV, or everything as JSON."),
    ] = "html",
    images: Annotated[bool, option("--images", help="Show pictures of people also of real data.")] = False,
    without_model: Annotated[
        bool, option("--without-model", help="Leave out the predictions of Ax's model; saves ten seconds or more.")
    ] = False,
    to_mlflow: Annotated[
        bool, option("--to-mlflow", help="Also put the file among those of the search's run in MLflow.")
    ] = False,
    storage: Storage = DEFAULT_STORAGE,
    tracking_uri: TrackingUri = None,
) -> int:
    """Write a report of a search, which may still be running.

    The HTML file holds everything that it needs and opens without a network.
    """
    from orchestrator.show.report.formats import write_report

    if to_mlflow and out is None and kind != "html":
        raise click.UsageError("--to-mlflow needs a file: name one with --out")
    folder = find_search(storage, name)
    model = not without_model and kind != "csv"
    click.echo(f"{name}: writing a report" + (", for which Ax's model is asked" if model else ""), err=True)
    written = write_report(folder, kind, out, model=model, images=images)
    click.echo(written.text, err=written.path is not None and kind != "html", nl=written.path is not None)
    if to_mlflow:
        from orchestrator.tracking.log_artifact import log_report

        assert written.path is not None
        click.echo(log_report(folder, written.path, tracking=tracking_uri), err=True)
    return Exit.OK


@command(example="reidsearch export attn_cl-7f3a/best --to onnx --out exported")
def export(
    name: SearchOrTrial,
    out: Annotated[Path, option("--out", type=OUT_FOLDER, help="Folder, new or empty.")],
    formats: Annotated[
        tuple[Literal["checkpoint", "safetensors", "onnx"], ...], option("--to", help="Format; may be repeated.")
    ] = ("checkpoint",),
    register: Annotated[
        bool, option("--register", help="Make it a version of a model in MLflow's registry, too.")
    ] = False,
    model: Annotated[str | None, option("--model", help="Name in the registry.  [default: the space's name]")] = None,
    storage: Storage = DEFAULT_STORAGE,
    tracking_uri: TrackingUri = None,
) -> int:
    """Write the network of a trial, its configuration and a model card; without TRIAL that of the best one."""
    from orchestrator.show.export import export_trial
    from orchestrator.stores import open_store
    from orchestrator.summary import find_trial

    search, trial = find_trial(open_store(storage), name)
    click.echo(f"{search.name}/{trial.key}: exporting its network", err=True)
    done = export_trial(search, trial, formats, out)
    for network in done.networks:
        proof = "" if network.difference is None else f"  (embeddings as the network's to {network.difference:.1e})"
        click.echo(f"{network.file}{proof}")
    click.echo(done.card)
    if register:
        from orchestrator.tracking.registry import register as register_model

        model = model or search.space.name
        made = register_model(search, trial, out, done.card, model=model, tracking=tracking_uri)
        click.echo(f"MLflow    {made.model} version {made.version}  {made.uri}")
    return Exit.OK


@command(example="reidsearch reproduce attn_cl-7f3a/t0003 --data /data/mars")
def reproduce(
    name: SearchOrTrial,
    out: Annotated[
        Path | None, option("--out", type=OUT_FOLDER, help="New folder.  [default: one below the search]")
    ] = None,
    data: Annotated[Path | None, option("--data", metavar="DIR", help="Where the data set lies now.")] = None,
    threads: Annotated[
        int | None, option("--threads", type=POSITIVE, help="CPU threads.  [default: those of then]")
    ] = None,
    tolerance: Annotated[
        float | None,
        option(
            "--tolerance",
            type=FloatRange(min=0),
            help="Of relative differences.  [default: 0; 0.02 for a trial on a GPU]",
        ),
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> int:
    """Train a trial again and compare every epoch with the journal; exit code 1 where it differs.

    On CPU cores all numbers are equal to the last bit with the same versions, kind of processor and number of threads.
    Without TRIAL the best one is trained.
    """
    from orchestrator.show import reproduce
    from orchestrator.stores import open_store
    from orchestrator.summary import find_trial

    plan = reproduce.plan_reproduction(
        *find_trial(open_store(storage), name), data=data, threads=threads, tolerance=tolerance
    )
    click.echo(reproduce.conditions_table(plan.conditions), err=as_json)
    if text := reproduce.restoring_text(plan):
        click.echo(text, err=True)
    folder = out or reproduce.new_folder(plan.search, plan.trial)
    done = reproduce.reproduce(
        plan, folder, lambda epoch, found: click.echo(f"epoch {epoch}: {found.compared} numbers", err=True)
    )
    if as_json:
        click.echo(json.dumps(reproduce.reproduction_document(done, folder)))
    click.echo(reproduce.verdict(done), err=as_json)
    return Exit.OK if done.is_equal else Exit.SEARCH_FAILED


RULES = ("none", "asha", "percentile", "promote")
ALGORITHMS = ("journaled", "random", "sobol", "grid", "ax")


@command(example="reidsearch simulate attn_cl-7f3a --stopping asha --algorithm random --set stopping.grace=2")
def simulate(
    name: Search,
    rules: Annotated[
        tuple[str, ...], option("--stopping", type=click.Choice(RULES), help="Rule; may be repeated.  [default: all]")
    ] = (),
    algorithms: Annotated[
        tuple[str, ...],
        option(
            "--algorithm",
            type=click.Choice(ALGORITHMS),
            help="Order of the trials; may be repeated.  [default: journaled]",
        ),
    ] = (),
    slots: Annotated[int, option("--slots", type=POSITIVE, help="Trials at once.")] = 1,
    seeds: Annotated[int, option("--seeds", type=POSITIVE, help="Replays of each algorithm.")] = 10,
    overrides: Annotated[
        tuple[str, ...], option("--set", metavar="stopping.KEY=VALUE", help="Change a setting of the rules.")
    ] = (),
    storage: Storage = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> int:
    """Replay a finished search's curves under other stopping rules and orders; nothing is trained."""
    folder = find_search(storage, name)  # before the import of torch
    from orchestrator.show.simulate import SimulationOptions, show_simulation

    asked = SimulationOptions(rules or RULES, algorithms or ("journaled",), overrides, slots, seeds)
    show_simulation(folder, asked, as_json=as_json)
    return Exit.OK


Port = Annotated[int, option("--port", type=click.IntRange(0, 65535), help="Port on 127.0.0.1; 0 is any free one.")]


@command(example="reidsearch dashboard attn_cl-7f3a")
def dashboard(
    name: OptionalSearch = None,
    port: Port = 8350,
    images: Annotated[bool, option("--images", help="Show pictures of people also of real data.")] = False,
    storage: Storage = DEFAULT_STORAGE,
) -> int:
    """Show searches in the browser while they run, until Ctrl-C.

    The page is that of `report`, kept up to date, with what runs now and buttons that pause, stop and extend. The
    address that is printed holds a token. On another machine: ssh -L 8350:127.0.0.1:8350 MACHINE
    """
    from orchestrator.show.dashboard import serve
    from orchestrator.stores import open_store

    serve(open_store(storage), name, port, click.echo, images=images)
    return Exit.OK


@command(example="reidsearch ui attn_cl-7f3a --port 5050")
def ui(
    name: OptionalSearch = None, port: Port = 5000, storage: Storage = DEFAULT_STORAGE, tracking_uri: TrackingUri = None
) -> int:
    """Show searches in MLflow's pages, until Ctrl-C.

    The server is for this machine only. The address that is printed compares the trials of the search NAME, or all
    searches of the storage: charts, CMC curves and, for generated data, the same queries side by side.
    """
    from orchestrator.stores import open_store
    from orchestrator.tracking.server import serve

    serve(open_store(storage), name, port, click.echo, tracking=tracking_uri)
    return Exit.OK
