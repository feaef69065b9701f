"""export: a trial's network for others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from orchestrator.base.errors import Exit
from orchestrator.cli import options

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
    from orchestrator.show.export import export_trial
    from orchestrator.show.registry import register as register_model
    from orchestrator.study.folder import existing_search
    from orchestrator.study.loading import BEST, load_search

    search, _, trial = name.partition("/")
    loaded = load_search(existing_search(storage, search))
    done = export_trial(loaded, trial or BEST, cast("tuple[ExportFormat, ...]", formats), out)
    for network in done.networks:
        proof = "" if network.difference is None else f"  (embeddings as the network's to {network.difference:.1e})"
        click.echo(f"{network.file}{proof}")
    click.echo(done.card)
    if register:
        made = register_model(loaded, done, model or loaded.space.name, tracking=tracking_uri)
        click.echo(f"MLflow    {made.model} version {made.version}  {made.uri}")
    return Exit.OK
