"""ui: MLflow's pages."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.base.errors import Exit
from orchestrator.cli import options, shell_complete


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
    from orchestrator.tracking.ui import serve

    serve(storage, name, port, click.echo, tracking=tracking_uri)
    return Exit.OK
