"""train, evaluate: the standalone trainer under the same roof."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from orchestrator.base.errors import Exit
from orchestrator.base.hints import command_line, hint
from orchestrator.cli import options

if TYPE_CHECKING:
    from trainer.evaluation.test_set_record import Use

_config_file = click.argument("config", type=click.Path(path_type=Path))


@click.command(epilog="Example: reidsearch train runs/first/trials/t0003/config.json --out runs/again")
@_config_file
@click.option("--out", required=True, type=options.OutPath(path_type=Path, file_okay=False), help="Folder of the run.")
@click.option("--resume", is_flag=True, help="Continue the run in that folder.")
@options.overrides
@options.as_json
def train(config: Path, out: Path, resume: bool, overrides: tuple[str, ...], as_json: bool) -> int:
    """Train one network without any search; CONFIG is a trial's YAML or JSON file."""
    from trainer.config_file import read_tree

    read_tree(config, overrides)  # before the import of torch
    from orchestrator.base.progress import step_progress
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
        line = command_line("evaluate", config, "--checkpoint", out / "checkpoint/best.pt")
        click.echo(f"next: {line}", err=True)
    return code


@click.command(epilog="Example: reidsearch evaluate runs/one/config.json --checkpoint runs/one/checkpoint/best.pt")
@_config_file
@click.option("--checkpoint", metavar="FILE", help="Weights.  [default: the untrained network]")
@click.option(
    "--part",
    type=click.Choice(["test", "validation"]),
    default="validation",
    show_default=True,
    help="Query and gallery of the validation split, or of the test set, which is recorded.",
)
@click.option(
    "--open-test-set", is_flag=True, help="Allow --part test for a trial of a search; recorded in the search's journal."
)
@click.option("--split", type=click.Path(path_type=Path), help="Validation split of a run or search.")
@click.option("--all-folds", is_flag=True, help="Test part of every partition; {fold} in FILE is its number.")
@click.option(
    "--out", type=options.OutPath(path_type=Path, file_okay=False), help="Write figures per query and pictures."
)
@click.option("--images", is_flag=True, help="Let pictures show real people.")
@click.option(
    "--cache", type=options.OutPath(path_type=Path, file_okay=False), help="Keep embeddings, and use those kept."
)
@options.overrides
@options.as_json
def evaluate(
    config: Path,
    checkpoint: str | None,
    part: Literal["test", "validation"],
    open_test_set: bool,
    split: Path | None,
    all_folds: bool,
    out: Path | None,
    images: bool,
    cache: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> int:
    """Evaluate a network; CONFIG is a trial's YAML or JSON file.

    A use of the test set is recorded: in the journal of the search that the checkpoint belongs to, which the model
    card, `tables` and `status` then say, or else in test-set.jsonl beside the checkpoint.
    """
    if open_test_set and part != "test":
        raise click.UsageError("--open-test-set has no effect without --part test")
    from trainer.config_file import read_tree

    read_tree(config, overrides)  # before the import of torch
    from orchestrator.base.progress import step_progress
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
            record=_record_in_journal if open_test_set else _record_beside,
        )
    return Exit.OK


def _record_in_journal(weights: Path, use: Use) -> None:
    """Records that a trial's weights are used on the test set; those of no search are recorded beside them."""
    from orchestrator.runner.finalize import record_test_set_use
    from orchestrator.stores.base import SearchFolder
    from trainer.evaluation.test_set_record import place_in_search, record_use

    place = place_in_search(weights)
    if place is None:
        record_use(weights, use)
        return
    record_test_set_use(SearchFolder(place.search), place.trial, weights, use)
    click.echo(f"{weights}: used on the test set, which is recorded in the journal of {place.search.name}", err=True)


def _record_beside(weights: Path, use: Use) -> None:
    """Records the use beside the weights; trials of a search are refused."""
    from trainer.errors import ConfigError
    from trainer.evaluation.test_set_record import place_in_search, record_use

    place = place_in_search(weights)
    if place is not None:
        finalize = hint("finalize", place.search.name, storage=place.search.absolute().parent)
        raise ConfigError(
            f"{weights}: belongs to trial {place.trial} of the search {place.search.name}, whose configurations are to "
            f"be chosen without the test set; `{finalize}` opens it for the best ones, --open-test-set for this "
            "network alone, which the search's journal records"
        )
    record_use(weights, use)
