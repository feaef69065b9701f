"""launch, resume: a search run here, or handed to a cluster as a job."""

from __future__ import annotations

import dataclasses
import functools
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.base.errors import Exit
from orchestrator.base.hints import DEFAULT_STORAGE, command_line, hint
from orchestrator.cli.declared import SETTING, command, command_arguments
from orchestrator.cli.options import LaunchOptions, ResumeOptions, SessionOptions, Storage, run_settings
from orchestrator.cli.run_search import drive_and_show, exit_code, find_search, options_as_before, say_where_runs_are

if TYPE_CHECKING:
    from orchestrator.stores.base import SearchFolder
    from orchestrator.study.study import Study

# What a job is told in another way, or what concerns this machine only.
NOT_PASSED_ON = (
    *("submit", "follow", "address", "storage", "file", "space", "overrides", "name", "dry_run", "open_report"),
)


@command(example="reidsearch launch attn_cl.yaml --data /data/mars --name first")
def launch(given: LaunchOptions) -> int:
    """Start a new search and run it to its end; FILE is a search space or the name of a built-in one."""
    given = _with_assignments(given)
    space_name = _one_space(given.file, given.space)
    if _is_handed_over(given):
        return _submit_launch(given, space_name)
    from orchestrator.algorithms.warm_start import WarmStart
    from orchestrator.cluster.ray import require_admission
    from orchestrator.runner.data_staging import named_pack
    from orchestrator.runner.prepare_space import prepare_space
    from orchestrator.space.remarks import fixed_settings
    from orchestrator.stores import open_store
    from orchestrator.stores.base import existing_search, new_search
    from orchestrator.study.description import Options

    storage, name = open_store(given.storage), given.name
    if name is not None:
        new_search(storage, name)
    asked = Options(**run_settings(given), **named_pack(given.stage_data))
    require_admission(given.address, insecure=given.insecure)
    earlier = None
    if given.warm_start is not None:
        earlier = WarmStart(existing_search(storage, given.warm_start), given.warm_start_anyway)
    say_where_runs_are(storage, asked)
    trials = () if given.trials is None else (f"budget.trials={given.trials}",)
    overrides = (*given.overrides, *trials)
    space = prepare_space(
        space_name,
        data=given.data,
        overrides=overrides,
        storage=storage,
        dry_run=given.dry_run,
        say=functools.partial(click.echo, err=True),
    )
    for note in (*fixed_settings(space_name, space), *space.warnings()):
        click.echo(f"note {note}", err=True)
    # Modules that import torch come last: a mistake is answered before that.
    if given.dry_run:
        from orchestrator.show.dry_run import dry_run_of

        dry_run_of(space, storage=storage, name=name, seed=given.seed, options=asked, warm_start=earlier)
        return Exit.OK
    from orchestrator.runner.launch import create_search

    folder = create_search(space, storage=storage, name=name, seed=given.seed, options=asked, warm_start=earlier)
    code = drive_and_show(folder, asked, given.strict)
    if given.open_report:
        from orchestrator.show.report.formats import write_report

        click.launch(str(write_report(folder, "html", None, model=True, images=False).path))
    return code


@command(example="reidsearch demo")
def demo(storage: Storage = DEFAULT_STORAGE) -> int:
    """Search on generated data, without a GPU, in minutes: `launch demo.yaml`."""
    launched: int = launch.callback(space="demo.yaml", storage=storage)  # type: ignore[misc]
    return launched


def _with_assignments(given: LaunchOptions) -> LaunchOptions:
    """The options with all settings among `overrides`; `--space` may leave a setting in the place of the file.

    Raises:
        UsageError: a word is neither a search space nor a setting.
    """
    words = [word for word in (given.file, *given.assignments) if word is not None]
    is_file = bool(words) and ("=" not in words[0] or Path(words[0]).is_file())
    file, settings = (words[0], words[1:]) if is_file else (None, words)
    if wrong := next((word for word in settings if "=" not in word), None):
        raise click.UsageError(
            f"{wrong}: is no setting; after the search space come settings as PATH=VALUE, such as {SETTING}"
        )
    return dataclasses.replace(given, file=file, assignments=(), overrides=(*given.overrides, *settings))


def _one_space(file: str | None, option: str | None) -> str:
    """The search space, which can be given in two ways."""
    given = [name for name in (file, option) if name is not None]
    if not given:
        raise click.UsageError(f"name a search space, such as: {hint('launch', 'demo.yaml', storage=DEFAULT_STORAGE)}")
    if given[0] != given[-1]:
        raise click.UsageError(f"two search spaces are given, {file} and --space {option}; keep one")
    return given[0]


@command(example="reidsearch resume attn_cl-7f3a")
def resume(given: ResumeOptions) -> int:
    """Continue a search that was interrupted; finished trials are kept, the others go on where they stopped."""
    if _is_handed_over(given):
        return _submit_resume(given)
    from orchestrator.summary import read_summary

    folder, retry_failed = find_search(given.storage, given.name), given.errored == "retry"
    study = read_summary(folder).study
    if study.ended == "finished" and not (study.counts()["failed"] and retry_failed):
        return _nothing_to_resume(folder, study, given.strict)
    from orchestrator.cluster.ray import require_admission
    from orchestrator.runner.data_staging import moved_data, pack_of

    moved = {"data": moved_data(folder, given.data), **pack_of(folder, given.stage_data)}
    asked = options_as_before(folder, **run_settings(given), **moved)
    require_admission(asked.address, insecure=given.insecure)
    return drive_and_show(folder, asked, given.strict, retry_failed=retry_failed)


def _nothing_to_resume(folder: SearchFolder, study: Study, strict: bool) -> int:
    """Says that a search is finished and what could follow, and returns the exit code; writes nothing."""
    name, storage, failed = folder.name, folder.storage, study.counts()["failed"]
    click.echo(f"{folder.name} is finished ({study.reason}): nothing is left to run")
    click.echo(f"next      {hint('extend', name, '--trials', '+10', storage=storage)}")
    if failed:
        click.echo(f"          {hint('resume', name, '--errored', 'retry', storage=storage)}")
    return exit_code(Exit.SOME_TRIALS_FAILED if failed else Exit.OK, study, strict=strict)


# --- jobs


def _is_handed_over(given: SessionOptions) -> bool:
    if given.follow and given.submit is None:
        raise click.UsageError("--follow shows a job; it needs --submit")
    return given.submit is not None


def _submit_launch(given: LaunchOptions, space_name: str) -> int:
    """Checks the space; the job checks everything else."""
    from orchestrator.base.uris import without_passwords
    from orchestrator.cluster.submit import SPACE_FILE
    from orchestrator.space.remarks import fixed_settings
    from orchestrator.space.search_space import SearchSpace

    if given.dry_run:
        raise click.UsageError(
            f"--dry-run looks at this machine; `{command_line('cluster', 'plan')}` looks at a cluster"
        )
    if given.data is not None and given.data != "mini-mars" and not Path(given.data).is_absolute():
        raise click.UsageError(f"--submit needs an absolute --data, as the nodes know it (is {given.data})")
    storage = _storage_of_cluster(given)
    space = SearchSpace.load(space_name, given.overrides)
    for note in fixed_settings(space_name, space):
        click.echo(f"note {note}", err=True)
    name = given.name or f"{space.name}-{secrets.token_hex(2)}"
    metadata = {
        "space": space.name,
        "data": str(given.data or space.synthetic or "as the space says"),
        "mlflow": without_passwords(given.tracking_uri or "in the storage"),
    }
    words = ["launch", "--space", SPACE_FILE, "--name", name, "--storage", storage]
    return _submit(given, name, words, space=space.to_yaml(), metadata=metadata)


def _submit_resume(given: ResumeOptions) -> int:
    return _submit(given, given.name, ["resume", given.name, "--storage", _storage_of_cluster(given)])


def _submit(
    given: SessionOptions,
    name: str,
    words: list[str],
    *,
    space: str | None = None,
    metadata: dict[str, str] | None = None,
) -> int:
    """Submits the job, says where it can be watched, and follows it if asked to."""
    from orchestrator.cluster.names import JOB_NAME
    from orchestrator.cluster.submit import submit
    from orchestrator.stores.base import check_name

    check_name(name)
    assert given.submit is not None
    told = {JOB_NAME: f"reidsearch {name}", "search": name, "storage": _storage_of_cluster(given), **(metadata or {})}
    arguments = [*words, *command_arguments(given, without=NOT_PASSED_ON)]
    job = submit(given.submit, name, arguments, space=space, metadata=told, insecure=given.insecure)
    click.echo(f"job       {job.id}  {given.submit.rstrip('/')}/#/jobs/{job.id}", err=True)
    if not given.follow:
        click.echo(f"next      {hint('status', name, storage=given.storage)}")
        return Exit.OK
    try:
        return job.follow(sys.stdout)
    except KeyboardInterrupt:
        click.echo(f"\n{name} goes on; end it with: {hint('stop', name, storage=given.storage)}", err=True)
        return Exit.INTERRUPTED


def _storage_of_cluster(given: SessionOptions) -> str:
    """The storage by a name that the cluster knows, too: a relative path would be one in the job's own folder."""
    storage = given.storage
    if "://" not in storage and not Path(storage).is_absolute():
        raise click.UsageError(
            "--submit needs a --storage that the cluster knows by the same name: an absolute path on a file system "
            "that all nodes share, or a URI such as s3://bucket/runs"
        )
    return storage
