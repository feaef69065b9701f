"""launch, resume, status."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from orchestrator.base.errors import Exit
from orchestrator.base.hints import DEFAULT_STORAGE, command_line, hint
from orchestrator.cli import options, shell_complete
from orchestrator.cli.run_search import (
    drive_and_show,
    exit_code,
    options_as_before,
    say_where_runs_are,
)

if TYPE_CHECKING:
    from orchestrator.stores.base import SearchFolder
    from orchestrator.study.study import Study


@click.command(epilog="Example: reidsearch launch --space attn_cl.yaml --data /data/mars --name first")
@click.argument("file", required=False, shell_complete=shell_complete.space_names)
@click.option(
    "--space",
    "space_name",
    metavar="FILE|NAME",
    shell_complete=shell_complete.space_names,
    help="Search space, as FILE is.",
)
@click.option("--name", help="Name of the search.  [default: the space's name and four digits]")
@click.option("--data", metavar="DIR|mini-mars", help="Data set; mini-mars generates one.")
@click.option("--trials", type=click.IntRange(min=1), help="Trials in all.  [default: the space's]")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the search.")
@options.overrides
@options.concurrent
@options.cpus_per_trial
@options.gpus_per_trial
@options.memory_per_trial
@options.storage
@options.tracking_uri
@options.address
@options.insecure
@options.submit
@options.follow
@click.option(
    "--warm-start",
    metavar="NAME",
    shell_complete=shell_complete.search_names,
    help="Earlier search of this storage whose finished trials the model knows.",
)
@click.option("--warm-start-anyway", is_flag=True, help="Also where that search measured something else.")
@options.hang_after
@options.stage_data
@click.option("--dry-run", is_flag=True, help="Check everything, try one step, print plan and forecast.")
@click.option("--strict", is_flag=True, help="Exit with 1 when any trial failed, or the model did.")
def launch(
    file: str | None,
    space_name: str | None,
    name: str | None,
    data: str | None,
    trials: int | None,
    seed: int,
    overrides: tuple[str, ...],
    concurrent: int | None,
    cpus_per_trial: int | None,
    gpus_per_trial: float | None,
    memory_per_trial: str | None,
    storage: Path,
    tracking_uri: str | None,
    address: str | None,
    insecure: bool,
    submit: str | None,
    follow: bool,
    warm_start: str | None,
    warm_start_anyway: bool,
    hang_after: float | None,
    stage_data: str | None,
    dry_run: bool,
    strict: bool,
) -> int:
    """Start a new search and run it to its end; FILE is a search space or the name of a built-in one."""
    given = _one_space(file, space_name)
    if handed_over(submit, follow):
        return launch_there(click.get_current_context(), given)
    from orchestrator.algorithms.warm_start import WarmStart
    from orchestrator.cluster.ray import require_admission
    from orchestrator.runner.data_staging import named_pack
    from orchestrator.runner.preparation import prepare_space
    from orchestrator.stores.base import existing_search, new_search
    from orchestrator.study.description import HANG_AFTER_S, Options

    if name is not None:
        new_search(storage, name)

    asked = Options(
        concurrent=concurrent,
        cpus_per_trial=cpus_per_trial,
        gpus_per_trial=gpus_per_trial,
        memory_per_trial=memory_per_trial,
        tracking_uri=tracking_uri,
        address=address,
        insecure=insecure,
        hang_after=hang_after or HANG_AFTER_S,
        **named_pack(stage_data),
    )
    require_admission(address, insecure=insecure)
    earlier = None if warm_start is None else WarmStart(existing_search(storage, warm_start), warm_start_anyway)
    if trials is not None:
        overrides = (*overrides, f"budget.trials={trials}")
    say_where_runs_are(storage, asked)
    space = prepare_space(given, data=data, overrides=overrides, storage=storage, dry_run=dry_run)
    # Modules that import torch come last: a mistake is answered before that.
    if dry_run:
        from orchestrator.show.dry_run import dry_run_of

        dry_run_of(space, storage=storage, name=name, seed=seed, options=asked, warm_start=earlier)
        return Exit.OK
    from orchestrator.runner.launch import create_search

    folder = create_search(space, storage=storage, name=name, seed=seed, options=asked, warm_start=earlier)
    return drive_and_show(folder, asked, strict)


def _one_space(file: str | None, option: str | None) -> str:
    """The search space, which may be given in two ways."""
    given = [name for name in (file, option) if name is not None]
    if not given:
        raise click.UsageError(f"name a search space, such as: {hint('launch', 'demo.yaml', storage=DEFAULT_STORAGE)}")
    if given[0] != given[-1]:
        raise click.UsageError(f"two search spaces are given, {file} and --space {option}; keep one")
    return given[0]


@click.command(epilog="Example: reidsearch resume attn_cl-7f3a")
@options.search
@options.concurrent
@options.cpus_per_trial
@options.gpus_per_trial
@options.memory_per_trial
@options.storage
@click.option("--data", metavar="DIR", help="The data set, where it has moved.")
@options.tracking_uri
@options.address
@options.insecure
@options.submit
@options.follow
@click.option(
    "--errored",
    type=click.Choice(["skip", "retry"]),
    default="skip",
    show_default=True,
    help="What becomes of trials that failed for good.",
)
@options.hang_after
@options.stage_data
@click.option("--strict", is_flag=True, help="Exit with 1 when any trial failed, or the model did.")
def resume(
    name: str,
    concurrent: int | None,
    cpus_per_trial: int | None,
    gpus_per_trial: float | None,
    memory_per_trial: str | None,
    storage: Path,
    data: str | None,
    tracking_uri: str | None,
    address: str | None,
    insecure: bool,
    submit: str | None,
    follow: bool,
    errored: str,
    hang_after: float | None,
    stage_data: str | None,
    strict: bool,
) -> int:
    """Continue a search that was interrupted; finished trials are kept, the others go on where they stopped."""
    if handed_over(submit, follow):
        return resume_there(click.get_current_context())
    from orchestrator.stores.base import existing_search
    from orchestrator.stores.loading import load_search

    folder = existing_search(storage, name)
    study = load_search(folder).study
    if study.ended == "finished" and not (study.counts()["failed"] and errored == "retry"):
        return _nothing_to_resume(folder, study, strict)
    from orchestrator.cluster.ray import require_admission
    from orchestrator.runner.data_staging import moved_data, pack_of

    asked = options_as_before(
        folder,
        concurrent=concurrent,
        cpus_per_trial=cpus_per_trial,
        gpus_per_trial=gpus_per_trial,
        memory_per_trial=memory_per_trial,
        tracking_uri=tracking_uri,
        address=address,
        insecure=insecure,
        hang_after=hang_after,
        data=moved_data(folder, data),
        **pack_of(folder, stage_data),
    )
    require_admission(asked.address, insecure=insecure)
    return drive_and_show(folder, asked, strict, retry_failed=errored == "retry")


def _nothing_to_resume(folder: SearchFolder, study: Study, strict: bool) -> int:
    """Says that a search is finished and what could follow, and returns the exit code; nothing is written."""
    name, storage, failed = folder.name, folder.path.parent, study.counts()["failed"]
    click.echo(f"{folder.name} is finished ({study.reason}): nothing is left to run")
    click.echo(f"next      {hint('extend', name, '--trials', '+10', storage=storage)}")
    if failed:
        click.echo(f"          {hint('resume', name, '--errored', 'retry', storage=storage)}")
    return exit_code(Exit.SOME_TRIALS_FAILED if failed else Exit.OK, study, strict=strict)


@click.command(epilog="Example: reidsearch status attn_cl-7f3a --json | jq .best")
@click.argument("name", required=False, shell_complete=shell_complete.search_names)
@options.storage
@options.as_json
@click.option("--watch", is_flag=True, help="Show it again every two seconds until it ends.")
def status(name: str | None, storage: Path, as_json: bool, watch: bool) -> int:
    """Show how far a search is, or all searches of a storage."""
    from orchestrator.show.status import show_search, show_searches

    if name is None:
        show_searches(storage, as_json=as_json)
    else:
        show_search(storage, name, as_json=as_json, watch=watch)
    return Exit.OK


if TYPE_CHECKING:
    from orchestrator.cluster.submit import Job

# What holds here only, or is said to the job in another way.
NOT_PASSED_ON = ("submit", "follow", "address", "storage", "space_name", "overrides", "name", "dry_run")
NOT_GIVEN = (None, ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)


def handed_over(submit: str | None, follow: bool) -> bool:
    """Whether a cluster is to do it."""
    if follow and submit is None:
        raise click.UsageError("--follow shows a job; it needs --submit")
    return submit is not None


def launch_there(context: click.Context, given_space: str) -> int:
    """`launch --submit`: the space is checked here, everything else by the job."""
    from orchestrator.base.uris import without_passwords
    from orchestrator.cluster.names import job_metadata
    from orchestrator.cluster.submit import SPACE_FILE, submit
    from orchestrator.space.search_space import SearchSpace
    from orchestrator.stores.base import search_folder

    given = context.params
    storage = _storage(context)
    if given["dry_run"]:
        raise click.UsageError(
            f"--dry-run looks at this machine; `{command_line('cluster', 'plan')}` looks at a cluster"
        )
    space = SearchSpace.load(given_space, overrides=given["overrides"])
    name = given["name"] or f"{space.name}-{secrets.token_hex(2)}"
    search_folder(Path(), name)
    arguments = ["launch", f"--space={SPACE_FILE}", f"--name={name}", f"--storage={storage}"]
    metadata = job_metadata(
        name,
        space=space.name,
        data=str(given["data"] or space.synthetic or "as the space says"),
        storage=storage,
        tracking=without_passwords(given["tracking_uri"] or "in the storage"),
    )
    job = submit(
        given["submit"],
        name,
        [*arguments, *given_arguments(context)],
        space=space.to_yaml(),
        metadata=metadata,
        insecure=given["insecure"],
    )
    return _told(job, context, name)


def resume_there(context: click.Context) -> int:
    """`resume --submit`."""
    from orchestrator.cluster.names import JOB_NAME
    from orchestrator.cluster.submit import submit
    from orchestrator.stores.base import search_folder

    given = context.params
    name, storage = given["name"], _storage(context)
    search_folder(Path(), name)
    arguments = ["resume", name, f"--storage={storage}", *given_arguments(context)]
    metadata = {JOB_NAME: f"reidsearch {name}", "search": name, "storage": storage}
    job = submit(given["submit"], name, arguments, space=None, metadata=metadata, insecure=given["insecure"])
    return _told(job, context, name)


def given_arguments(context: click.Context, without: Collection[str] = NOT_PASSED_ON) -> list[str]:
    """The options that a command was given, on the command line or by the environment, as arguments again."""
    found = []
    for option in context.command.params:
        name = option.name or ""
        is_given = context.get_parameter_source(name) not in NOT_GIVEN
        if name in without or not is_given or not isinstance(option, click.Option):
            continue
        value, flag = context.params[name], option.opts[-1]
        if option.is_flag:
            found += [flag] if value else []
        else:
            found += [f"{flag}={each}" for each in (value if option.multiple else [value])]
    return found


def _storage(context: click.Context) -> str:
    """The storage as the cluster knows it, too; a relative path would be one in the job's own folder."""
    from orchestrator.stores.cache import storage_name

    storage = storage_name(context.params["storage"])
    if "://" not in storage and not Path(storage).is_absolute():
        raise click.UsageError(
            "--submit needs a --storage that the cluster knows by the same name: an absolute path on a file system "
            "that all nodes share, or a URI such as s3://bucket/runs"
        )
    data = context.params.get("data")
    if data is not None and data != "mini-mars" and not Path(data).is_absolute():
        raise click.UsageError(f"--submit needs an absolute --data, as the nodes know it (is {data})")
    return storage


def _told(job: Job, context: click.Context, name: str) -> int:
    """Says where the job can be watched; follows it where that was asked for."""
    storage = context.params["storage"]
    dashboard = context.params["submit"].rstrip("/")
    click.echo(f"job       {job.id}  {dashboard}/#/jobs/{job.id}", err=True)
    if not context.params["follow"]:
        click.echo(f"next      {hint('status', name, storage=storage)}")
        return Exit.OK
    try:
        return job.follow(sys.stdout)
    except KeyboardInterrupt:
        click.echo(f"\n{name} goes on without us; end it with: {hint('stop', name, storage=storage)}", err=True)
        return Exit.INTERRUPTED
