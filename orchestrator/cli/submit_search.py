"""launch and resume handed to a cluster: what they were given, as arguments of a job there."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from orchestrator.base.errors import Exit
from orchestrator.base.hints import command_line, hint

if TYPE_CHECKING:
    from orchestrator.cluster.submission import Job

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
    from orchestrator.cluster.submission import SPACE_FILE, submit
    from orchestrator.space.search_space import SearchSpace
    from orchestrator.study.folder import search_folder

    given = context.params
    storage = _storage(context)
    if given["dry_run"]:
        raise click.UsageError(
            f"--dry-run looks at this machine; `{command_line('cluster', 'plan')}` looks at a cluster"
        )
    space = SearchSpace.from_yaml(given_space, overrides=given["overrides"])
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
    from orchestrator.cluster.submission import submit
    from orchestrator.study.folder import search_folder

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
