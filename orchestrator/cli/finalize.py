"""finalize, ablate, tables: the test set, opened once, and its results."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import click

from orchestrator.base.errors import Exit
from orchestrator.base.hints import DEFAULT_STORAGE
from orchestrator.cli.declared import command, option
from orchestrator.cli.options import (
    OUT_FILE,
    POSITIVE,
    Address,
    Concurrent,
    Experiment,
    GpusPerTrial,
    Insecure,
    Overrides,
    Search,
    Searches,
    Storage,
    TrackingUri,
    run_settings,
)
from orchestrator.cli.run_search import drive_and_show, find_search, options_as_before

if TYPE_CHECKING:
    from orchestrator.stores.base import SearchFolder
    from trainer.data.folder import DataFolder
    from trainer.result import DataRecord

SYNC_PATIENCE_S = 30.0


@dataclass(frozen=True, kw_only=True)
class FinalizeOptions:
    """The final trainings of a search, and where they run."""

    name: Search
    top: Annotated[int | None, option("--top", type=POSITIVE, help="Configurations, the best first.  [default: 3]")] = (
        None
    )
    seeds: Annotated[int | None, option("--seeds", type=POSITIVE, help="Networks of each of them.  [default: 3]")] = (
        None
    )
    epochs: Annotated[
        int | None, option("--epochs", type=POSITIVE, help="Of each training.  [default: the configuration's]")
    ] = None
    evaluation: Annotated[
        tuple[str, ...],
        option(
            "--set",
            metavar="evaluation.SETTING=VALUE",
            help="How the test set is evaluated; may be repeated.  [default: all frames, at most 41 clips a tracklet]",
        ),
    ] = ()
    data: Annotated[
        Path | None,
        option(
            "--data",
            metavar="DIR",
            help="Judge the finalized networks on the test set of another data set too, on this machine.",
        ),
    ] = None
    again: Annotated[bool, option("--again", help="Open a test set that was opened before; recorded.")] = False
    concurrent: Concurrent = None
    gpus_per_trial: GpusPerTrial = None
    storage: Storage = DEFAULT_STORAGE
    tracking_uri: TrackingUri = None
    address: Address = None
    insecure: Insecure = False
    strict: Annotated[bool, option("--strict", help="Exit with 1 when any training failed.")] = False


@command(example="reidsearch finalize attn_cl-7f3a --top 1 --seeds 5 --epochs 400")
def finalize(given: FinalizeOptions) -> int:
    """Train the best configurations on all identities and evaluate them on the test set, which is opened once.

    Needs a finished search. If it is interrupted, the same command or `resume` continues it; options that differ from
    those of the first call are refused. With --data the networks are judged on another data set afterwards, and those
    of a search that is finalized already are judged there without any training.
    """
    from orchestrator.cluster.ray import require_admission
    from orchestrator.runner import other_test_set
    from orchestrator.runner.finalize import FinalizationOptions, unseal_test_set
    from orchestrator.summary import read_summary

    folder = find_search(given.storage, given.name)
    wanted = FinalizationOptions(
        top=given.top, seeds=given.seeds, epochs=given.epochs, evaluation=given.evaluation, again=given.again
    )
    asked = options_as_before(folder, **run_settings(given))
    other = None if given.data is None else other_test_set.other_data_set(folder, given.data)
    if other is not None:
        study = read_summary(folder).study
        other_test_set.check_unopened(study, other[1], again=given.again)
        if other_test_set.finalized(study):
            other_test_set.refuse_settings_of_trainings(study, wanted)
            return _judge_elsewhere(folder, *other, given)
        wanted = wanted._replace(data=other[1])
    require_admission(asked.address, insecure=given.insecure)
    opened = unseal_test_set(folder, wanted).asked
    trainings = f"{', '.join(opened.leaders)}, {opened.seeds} seed{'s' * (opened.seeds > 1)} each"
    whose = "" if opened.data is None else f" of {opened.data.name}"
    click.echo(f"test set{whose}  opened by {opened.by} for {trainings}", err=True)
    code = drive_and_show(folder, asked, given.strict)
    if other is None or not other_test_set.finalized(read_summary(folder).study):
        return code
    return max(code, _judge_elsewhere(folder, *other, given))


def _judge_elsewhere(folder: SearchFolder, found: DataFolder, record: DataRecord, given: FinalizeOptions) -> int:
    """Judges the finalized networks on another data set, in this process, and shows and sends the results."""
    import torch

    from orchestrator.base.progress import step_progress
    from orchestrator.runner import other_test_set
    from orchestrator.show.search_text import other_lines
    from orchestrator.summary import read_summary
    from orchestrator.tracking.sync import sync
    from trainer import prepare_process

    device = "its GPU" if torch.cuda.is_available() else "its CPU cores"
    click.echo(
        f"{found.root}: {record.name}, judged by this process on {device}, one network after the other; nodes of a "
        "cluster take no part",
        err=True,
    )
    prepare_process()
    with step_progress() as progress:
        other_test_set.judge(folder, found, record, again=given.again, progress=progress)
    for line in other_lines(read_summary(folder)):
        click.echo(line)
    synced = sync(folder, tracking=given.tracking_uri, patience=SYNC_PATIENCE_S)
    if synced.unsent:
        click.echo(f"MLflow: {synced.unsent} events not accepted: {synced.problem}", err=True)
    return Exit.OK


@command(example="reidsearch tables baseline-1c02 b_bot-88ab attn_cl-7f3a --format latex")
def tables(
    names: Searches,
    form: Annotated[Literal["md", "latex", "csv"], option("--format", help="Form.")] = "md",
    out: Annotated[Path | None, option("--out", type=OUT_FILE, help="File.  [default: standard output]")] = None,
    storage: Storage = DEFAULT_STORAGE,
) -> int:
    """Show the test results of searches beside those that the paper published."""
    from orchestrator.show.tables import tables_text
    from orchestrator.stores import open_store
    from trainer.files import write_atomically

    text = tables_text(open_store(storage), names, form)
    if out is None:
        click.echo(text, nl=False)
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, text)
        click.echo(f"{out}: {form}")
    return Exit.OK


@command(example="reidsearch ablate --data /data/mars --seeds 5")
def ablate(
    data: Annotated[
        str | None, option("--data", metavar="DIR|mini-mars", help="Data set; mini-mars generates one.")
    ] = None,
    seeds: Annotated[int, option("--seeds", type=POSITIVE, help="Networks of each row.")] = 3,
    rows: Annotated[
        tuple[str, ...], option("--row", metavar="SPACE", help="Only these; repeatable.  [default: Table 1]")
    ] = (),
    name: Annotated[str, option("--name", help="Searches are called NAME-ROW.")] = "ablation",
    overrides: Overrides = (),
    concurrent: Concurrent = None,
    gpus_per_trial: GpusPerTrial = None,
    storage: Storage = DEFAULT_STORAGE,
    experiment: Experiment = None,
    address: Address = None,
    insecure: Insecure = False,
) -> int:
    """Train the published configuration of every row of the paper's Table 1 over seeds and evaluate it on the test set.

    Each row is a search of one trial, which is then finalized. If it is interrupted, the same command continues it. At
    the end it prints what `reidsearch tables` does.
    """
    from orchestrator.cluster.ray import require_admission
    from orchestrator.runner.ablation import TABLE_1, Ablation, rows_under_way
    from orchestrator.show.tables import tables_text
    from orchestrator.stores import open_store
    from orchestrator.study.description import EXPERIMENT, Options

    require_admission(address, insecure=insecure)
    asked = Options(
        concurrent=concurrent,
        gpus_per_trial=gpus_per_trial,
        experiment=experiment or EXPERIMENT,
        address=address,
        insecure=insecure,
    )
    ablation = Ablation(name, rows or TABLE_1, data, overrides, seeds, open_store(storage), asked)
    names, worst = [], Exit.OK
    for row in rows_under_way(ablation):
        code = drive_and_show(row.folder, asked, strict=False)
        if code not in (Exit.OK, Exit.SOME_TRIALS_FAILED):
            return code
        names.append(row.folder.name)
        worst = max(worst, Exit(code))
    click.echo(tables_text(ablation.storage, dict.fromkeys(names), "md"), nl=False)
    return worst
