"""report: what came out of a search, in one file."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.base.errors import Exit
from orchestrator.cli import options


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
@click.option("--images", is_flag=True, help="Show pictures of persons also of real data.")
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
    from orchestrator.study.folder import existing_search

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
