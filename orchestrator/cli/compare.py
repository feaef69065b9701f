"""compare: searches or trials side by side."""

from __future__ import annotations

from pathlib import Path

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
