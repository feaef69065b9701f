"""Options that several commands share, each defined once."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import click

from orchestrator.base.hints import DEFAULT_STORAGE
from orchestrator.cli import shell_complete
from trainer.formatting import plain_words

# Where MLflow keeps runs: its servers and databases. Folders, of which it takes no new ones, are not among them.
TRACKED = re.compile(
    r"(https?|(sqlite|postgresql|mysql|mssql)(\+\w+)?)://.+|(databricks|databricks-uc|uc)(://.*)?", re.IGNORECASE
)


class _Storage(click.Path):
    """A folder; for a URI the one that stands for it on this machine."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        """The folder; nothing is asked of a network."""
        from orchestrator.stores.cache import local_storage  # most storages are folders

        return super().convert(local_storage(value), parameter, context)


class OutPath(click.Path):
    """A file or folder to write, refused before any work where it could not be written."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        """The path; raises OSError, which names the folder that refuses it."""
        from trainer.atomic import check_writable

        path = super().convert(value, parameter, context)
        check_writable(Path(os.fsdecode(path)))
        return path


def _of_one_trial(context: click.Context, parameter: click.Parameter, value: float | str | None) -> float | str | None:
    """What a trial is given, checked as in a space file."""
    from pydantic import ValidationError

    from orchestrator.space.options import Resources

    assert parameter.name is not None
    try:
        Resources.model_validate({parameter.name: value})
    except ValidationError as error:
        raise click.BadParameter(plain_words(error.errors()[0])) from error
    return value


def _tracking_uri(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """The URI, a relative path of a database made absolute: the search may be resumed from another folder."""
    if value is None:
        return None
    from orchestrator.base.uris import absolute_database, has_password

    if has_password(value):
        raise click.BadParameter(
            "a password on the command line is seen by all users of this machine; give it in MLFLOW_TRACKING_USERNAME "
            "and MLFLOW_TRACKING_PASSWORD, a database's in PGPASSWORD or ~/.pgpass"
        )
    if not TRACKED.fullmatch(value):
        raise click.BadParameter(
            f"MLflow keeps no runs in {value!r}; name a server, such as http://HOST:5000, or a database, such as "
            "sqlite:///FILE or postgresql://HOST/NAME"
        )
    return absolute_database(value)


search = click.argument("name", shell_complete=shell_complete.search_names)
search_or_trial = click.argument("name", metavar="NAME[/TRIAL]", shell_complete=shell_complete.search_or_trial_names)
searches = click.argument(
    "names", metavar="NAME...", nargs=-1, required=True, shell_complete=shell_complete.search_names
)
space_file = click.argument("file", shell_complete=shell_complete.space_names)
storage = click.option(
    "--storage",
    type=_Storage(path_type=Path, file_okay=False),
    metavar="DIR|URI",
    default=DEFAULT_STORAGE,
    show_default=True,
    help="Folder that holds searches, or s3://, gs://, file://.",
)
stage_data = click.option(
    "--stage-data",
    metavar="DIR|URI",
    help="Packed data set that every node fetches once, verified.  [default: read where the data are]",
)
overrides = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="PATH=VALUE",
    shell_complete=shell_complete.setting_paths,
    help="Change any setting; may be repeated.",
)
concurrent = click.option("--concurrent", type=click.IntRange(min=1), help="Trials at once.  [default: all that fit]")
cpus_per_trial = click.option(
    "--cpus-per-trial", type=click.IntRange(min=1), help="CPU cores of one trial.  [default: a machine's, divided]"
)
gpus_per_trial = click.option(
    "--gpus-per-trial",
    type=click.FloatRange(min=0),
    callback=_of_one_trial,
    help="GPUs of one trial, at most 1; 0.5 lets two share one.",
)
memory_per_trial = click.option(
    "--memory-per-trial",
    metavar="SIZE",
    callback=_of_one_trial,
    help="Memory of one trial, such as '16 GiB'.  [default: not counted]",
)
tracking_uri = click.option(
    "--tracking-uri",
    metavar="URI",
    callback=_tracking_uri,
    help="Where MLflow keeps runs.  [default: STORAGE/mlflow.db]",
)
address = click.option(
    "--address", metavar="ADDRESS", help="Ray cluster to join: HOST:PORT or auto.  [default: start one here]"
)
insecure = click.option(
    "--insecure",
    is_flag=True,
    help="Also join a cluster that demands no token: anyone who can reach it can run code on it.",
)
hang_after = click.option(
    "--hang-after", type=click.FloatRange(min=1), help="Seconds without a step that mean a hang.  [default: 1800]"
)
submit = click.option(
    "--submit", metavar="URL", help="Hand it to the cluster with this dashboard, such as http://head:8265, as a job."
)
follow = click.option("--follow", is_flag=True, help="With --submit: show what the job prints until it ends.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
