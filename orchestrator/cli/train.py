"""train, evaluate: the standalone trainer under the same roof."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from orchestrator.cli import options
from orchestrator.errors import Exit

_config_file = click.argument("config", type=click.Path(path_type=Path))


@click.command(epilog="Example: reidsearch train runs/first/trials/t0003/config.json --out runs/again")
@_config_file
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of the run.")
@click.option("--resume", is_flag=True, help="Continue the run in that folder.")
@options.overrides
@options.as_json
def train(config: Path, out: Path, resume: bool, overrides: tuple[str, ...], as_json: bool) -> int:
    """Train one network without any search; CONFIG is a trial's YAML or JSON file."""
    from orchestrator.progress import step_progress
    from trainer import prepare_process
    from trainer.commands import train_command

    prepare_process()
    with step_progress() as progress:
        code = train_command(
            config,
            out=out,
            overrides=overrides,
            resume=resume,
            as_json=as_json,
            say=click.echo,
            progress=progress,
        )
    if code == Exit.OK:
        click.echo(f"next: reidsearch evaluate {config} --checkpoint {out / 'checkpoint/best.pt'}", err=True)
    return code


@click.command(epilog="Example: reidsearch evaluate runs/one/config.json --checkpoint runs/one/checkpoint/best.pt")
@_config_file
@click.option("--checkpoint", metavar="FILE", help="Weights.  [default: the untrained network]")
@click.option(
    "--part",
    type=click.Choice(["test", "validation"]),
    default="test",
    show_default=True,
    help="Query and gallery of the data set, or of its validation split.",
)
@click.option("--split", type=click.Path(path_type=Path), help="Validation split of a run or search.")
@click.option("--all-folds", is_flag=True, help="Every partition of the data set; {fold} in FILE is its number.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Write figures per query and pictures.")
@click.option("--images", is_flag=True, help="Let pictures show real people.")
@click.option("--cache", type=click.Path(path_type=Path, file_okay=False), help="Keep embeddings, and use those kept.")
@options.overrides
@options.as_json
def evaluate(
    config: Path,
    checkpoint: str | None,
    part: Literal["test", "validation"],
    split: Path | None,
    all_folds: bool,
    out: Path | None,
    images: bool,
    cache: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> int:
    """Evaluate a network; CONFIG is a trial's YAML or JSON file."""
    from orchestrator.progress import step_progress
    from trainer import prepare_process
    from trainer.commands import Outputs, evaluate_command

    prepare_process()
    with step_progress() as progress:
        evaluate_command(
            config,
            checkpoint=checkpoint,
            part=part,
            split=split,
            all_folds=all_folds,
            outputs=Outputs(out, images, cache),
            overrides=overrides,
            as_json=as_json,
            say=click.echo,
            progress=progress,
        )
    return Exit.OK
