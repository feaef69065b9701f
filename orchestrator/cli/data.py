"""data synth, data check."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli import options
from orchestrator.errors import Exit


@click.group()
def data() -> None:
    """Generate and check data sets."""


@data.command(epilog="Example: reidsearch data synth data/mini-mars --size demo")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--size", type=click.Choice(["tiny", "demo", "full"]), default="demo", show_default=True, help="How much."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Same seed, same bytes.")
def synth(folder: Path, size: str, seed: int) -> int:
    """Write a synthetic data set in the layout of MARS."""
    from orchestrator.progress import step_progress
    from trainer.data.synthetic import write_synthetic

    with step_progress() as progress:
        made = write_synthetic(
            folder,
            size=size,  # type: ignore[arg-type]  # click has checked the choice
            seed=seed,
            progress=lambda done, total: progress(f"drawing {folder.name}", done, total),
        )
    click.echo(
        f"{folder}: mini-MARS {size}, seed {seed}: {made.persons} persons, {made.tracklets} tracklets, "
        f"{made.frames} frames, {made.bytes / 1e6:.1f} MB, {made.seconds:.1f} s; "
        "SYNTHETIC, never to be compared with published figures"
    )
    click.echo(f"next: reidsearch data check {folder}", err=True)
    return Exit.OK


@data.command(epilog="Example: reidsearch data check /data/mars")
@click.argument("folder", type=click.Path(path_type=Path))
@options.as_json
def check(folder: Path, as_json: bool) -> int:
    """Read a data set's lists and check them against each other; frames are not opened."""
    import json

    from orchestrator.datacheck import check_mars

    found = check_mars(folder)
    click.echo(json.dumps(found._asdict(), indent=2) if as_json else found.text())
    return Exit.OK
