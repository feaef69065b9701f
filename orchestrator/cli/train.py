"""train, evaluate: the trainer without a search."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import click

from orchestrator.base.errors import Exit
from orchestrator.base.hints import command_line, hint
from orchestrator.cli.declared import argument, command, option
from orchestrator.cli.options import OUT_FOLDER, AsJson, Overrides

if TYPE_CHECKING:
    from trainer.evaluation.test_set_record import Use
    from trainer.result import DataRecord

ConfigFile = Annotated[Path, argument()]


@command(example="reidsearch train runs/first/trials/t0003/config.json --out runs/again")
def train(
    config: ConfigFile,
    out: Annotated[Path, option("--out", type=OUT_FOLDER, help="Folder of the run.")],
    resume: Annotated[bool, option("--resume", help="Continue the run in that folder.")] = False,
    overrides: Overrides = (),
    as_json: AsJson = False,
) -> int:
    """Train one network without a search; CONFIG is a trial's YAML or JSON file."""
    from trainer.config_file import read_tree

    read_tree(config, overrides)  # before the import of torch
    from orchestrator.base.progress import step_progress
    from trainer import prepare_process
    from trainer.commands import train_command

    prepare_process()
    with step_progress() as progress:
        code = train_command(
            config, out=out, overrides=overrides, resume=resume, as_json=as_json, echo=click.echo, progress=progress
        )
    if code == Exit.OK:
        line = command_line("evaluate", config, "--checkpoint", out / "checkpoint/best.pt")
        click.echo(f"next: {line}", err=True)
    return code


@command(example="reidsearch evaluate runs/one/config.json --checkpoint runs/one/checkpoint/best.pt")
def evaluate(
    config: ConfigFile,
    checkpoint: Annotated[
        str | None, option("--checkpoint", metavar="FILE", help="Weights.  [default: the untrained network]")
    ] = None,
    part: Annotated[
        Literal["test", "validation"],
        option("--part", help="Query and gallery of the validation split, or of the test set, which is recorded."),
    ] = "validation",
    open_test_set: Annotated[
        bool,
        option("--open-test-set", help="Allow --part test for a trial of a search; recorded in the search's journal."),
    ] = False,
    split: Annotated[Path | None, option("--split", help="Validation split of a run or search.")] = None,
    data: Annotated[
        Path | None,
        option(
            "--data",
            metavar="DIR",
            help="Judge the data set there, also another one than was trained on.  [default: the configuration's]",
        ),
    ] = None,
    all_folds: Annotated[
        bool, option("--all-folds", help="Test part of every partition; {fold} in FILE is its number.")
    ] = False,
    out: Annotated[Path | None, option("--out", type=OUT_FOLDER, help="Write metrics per query, and pictures.")] = None,
    images: Annotated[bool, option("--images", help="Let pictures show real people.")] = False,
    cache: Annotated[
        Path | None, option("--cache", type=OUT_FOLDER, help="Keep embeddings, and use those kept.")
    ] = None,
    overrides: Overrides = (),
    as_json: AsJson = False,
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
            data=data,
            outputs=Outputs(out, images, cache),
            overrides=overrides,
            as_json=as_json,
            echo=click.echo,
            progress=progress,
            record=_record_in_journal if open_test_set else _record_beside,
        )
    return Exit.OK


def _record_in_journal(weights: Path, use: Use, data: DataRecord) -> None:
    """Records the use of a trial's weights on the test set in its search's journal, of others beside the weights."""
    from orchestrator.runner.finalize import record_test_set_use
    from orchestrator.stores import open_search
    from trainer.evaluation.test_set_record import place_in_search, record_use

    place = place_in_search(weights)
    if place is None:
        record_use(weights, use, data)
        return
    record_test_set_use(open_search(place.search), place.trial, weights, use, data)
    click.echo(f"{weights}: used on the test set, which is recorded in the journal of {place.search.name}", err=True)


def _record_beside(weights: Path, use: Use, data: DataRecord) -> None:
    """Records the use beside the weights; trials of a search are refused."""
    from orchestrator.stores import open_search
    from trainer.errors import ConfigError
    from trainer.evaluation.test_set_record import place_in_search, record_use

    place = place_in_search(weights)
    if place is not None:
        finalize = hint("finalize", place.search.name, storage=open_search(place.search.absolute()).storage)
        raise ConfigError(
            f"{weights}: belongs to trial {place.trial} of the search {place.search.name}, whose configurations are to "
            f"be chosen without the test set; `{finalize}` opens it for the best ones, --open-test-set for this "
            "network alone, which the search's journal records"
        )
    record_use(weights, use, data)
