"""Options that several commands share, each declared once, and the types of their values."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import click

from orchestrator.base.errors import SearchError
from orchestrator.base.hints import DEFAULT_STORAGE, STORAGE_VARIABLE, default_storage
from orchestrator.cli import shell_complete
from orchestrator.cli.declared import argument, option
from trainer.formatting import plain_words

# Where MLflow keeps runs: its servers and databases. It takes no new runs in folders.
TRACKED = re.compile(
    r"(https?|(sqlite|postgresql|mysql|mssql)(\+\w+)?)://.+|(databricks|databricks-uc|uc)(://.*)?", re.IGNORECASE
)


# --- types of values


class StoragePath(click.Path):
    """A folder, or a URI, as it is given; `open_store` opens it."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        """The text; a path of a file is refused, and what other commands could not find again."""
        if value.lower().startswith("memory:"):
            self.fail("memory:// lives in one process only; name a folder or a bucket", parameter, context)
        return value if "://" in value else super().convert(value, parameter, context)


class FloatRange(click.FloatRange):
    """A finite number in a range; click's own lets NaN pass, which no comparison refuses."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        """The number."""
        number = super().convert(value, parameter, context)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", parameter, context)
        return number


class OutPath(click.Path):
    """A file, in a folder that exists, or a folder to write; refused before any work if it cannot be written."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        """The path; raises OSError, which names the folder that refuses it, or SearchError, if there is none."""
        from trainer.files import check_writable

        path = Path(os.fsdecode(super().convert(value, parameter, context)))
        check_writable(path)
        if not self.dir_okay and not path.parent.is_dir():
            raise SearchError(f"{path.parent}: no such folder; make it first, or write {path.name} somewhere else")
        return path


class PicturePath(OutPath):
    """A picture to write."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        """As `OutPath`."""
        path = super().convert(value, parameter, context)
        if path.suffix.lower() != ".png":
            self.fail(f"{str(path)!r} does not end with .png; pictures are PNG files", parameter, context)
        return path


OUT_FILE = OutPath(path_type=Path, dir_okay=False)
OUT_PICTURE = PicturePath(path_type=Path, dir_okay=False)
OUT_FOLDER = OutPath(path_type=Path, file_okay=False)
POSITIVE = click.IntRange(min=1)


def _checked_resource(context: click.Context, parameter: click.Parameter, value: float | str | None) -> Any:
    """A resource of a trial, checked as in a space file."""
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
            "a password on the command line is visible to all users of this machine; give it in "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, a database's in PGPASSWORD or ~/.pgpass"
        )
    if value.startswith(("http:", "https:")) and "?" in value:
        raise click.BadParameter("a server's address ends before the '?'; a token is given in MLFLOW_TRACKING_TOKEN")
    if not TRACKED.fullmatch(value):
        raise click.BadParameter(
            f"MLflow keeps no runs in {value!r}; name a server, such as http://HOST:5000, or a database, such as "
            "sqlite:///FILE or postgresql://HOST/NAME"
        )
    return absolute_database(value)


# --- parameters that several commands share

Search = Annotated[str, argument(shell_complete=shell_complete.search_names)]
OptionalSearch = Annotated[str | None, argument(shell_complete=shell_complete.search_names)]
SearchOrTrial = Annotated[str, argument(metavar="NAME[/TRIAL]", shell_complete=shell_complete.search_or_trial_names)]
Searches = Annotated[tuple[str, ...], argument(metavar="NAME...", nargs=-1, shell_complete=shell_complete.search_names)]
SpaceFile = Annotated[str, argument(shell_complete=shell_complete.space_names)]
OptionalSpaceFile = Annotated[str | None, argument(shell_complete=shell_complete.space_names)]
Storage = Annotated[
    str,
    option(
        "--storage",
        type=StoragePath(file_okay=False),
        metavar="DIR|URI",
        envvar=STORAGE_VARIABLE,
        default=default_storage,  # that of a project file, if there is one
        show_default=False,
        help="Folder that holds searches, or s3://, gs://, az://, file://; also REIDSEARCH_STORAGE.  [default: runs]",
    ),
]
Overrides = Annotated[
    tuple[str, ...],
    option(
        "--set",
        metavar="PATH=VALUE",
        shell_complete=shell_complete.setting_paths,
        help="Change any setting; may be repeated.",
    ),
]
StageData = Annotated[
    str | None,
    option(
        "--stage-data",
        metavar="DIR|URI",
        help="Packed data set that every node fetches once, verified.  [default: read where the data are]",
    ),
]
Concurrent = Annotated[
    int | None, option("--concurrent", type=POSITIVE, help="Trials at once.  [default: all that fit]")
]
CpusPerTrial = Annotated[
    int | None,
    option("--cpus-per-trial", type=POSITIVE, help="CPU cores of one trial.  [default: a machine's, divided]"),
]
GpusPerTrial = Annotated[
    float | None,
    option(
        "--gpus-per-trial",
        type=FloatRange(min=0),
        callback=_checked_resource,
        help="GPUs of one trial, at most 1; 0.5 lets two share one.",
    ),
]
MemoryPerTrial = Annotated[
    str | None,
    option(
        "--memory-per-trial",
        metavar="SIZE",
        callback=_checked_resource,
        help="Memory of one trial, such as '16 GiB'.  [default: not counted]",
    ),
]
TrackingUri = Annotated[
    str | None,
    option(
        "--tracking-uri",
        metavar="URI",
        callback=_tracking_uri,
        help="Where MLflow keeps runs.  [default: STORAGE/mlflow.db]",
    ),
]
Experiment = Annotated[
    str | None,
    option(
        "--experiment",
        metavar="NAME",
        envvar="MLFLOW_EXPERIMENT_NAME",
        help="MLflow's experiment that holds its runs; also in MLFLOW_EXPERIMENT_NAME.  [default: reidsearch]",
    ),
]
Address = Annotated[
    str | None,
    option("--address", metavar="ADDRESS", help="Ray cluster to join: HOST:PORT or auto.  [default: start one here]"),
]
Insecure = Annotated[
    bool,
    option("--insecure", help="Also join a cluster that demands no token: anyone who can reach it can run code on it."),
]
Strict = Annotated[bool, option("--strict", help="Exit with 1 when any trial failed, or the model did.")]
AsJson = Annotated[bool, option("--json", help="Print one JSON document.")]


# --- options of searches


@dataclass(frozen=True, kw_only=True)
class TrialResources:
    """What a trial gets, and how many run at once."""

    concurrent: Concurrent = None
    cpus_per_trial: CpusPerTrial = None
    gpus_per_trial: GpusPerTrial = None
    memory_per_trial: MemoryPerTrial = None


@dataclass(frozen=True, kw_only=True)
class SessionOptions(TrialResources):
    """How and where a session of a search runs."""

    storage: Storage = DEFAULT_STORAGE
    stage_data: StageData = None
    tracking_uri: TrackingUri = None
    address: Address = None
    insecure: Insecure = False
    submit: Annotated[
        str | None,
        option(
            "--submit",
            metavar="URL",
            help="Hand it to the cluster with this dashboard, such as http://head:8265, as a job.",
        ),
    ] = None
    follow: Annotated[bool, option("--follow", help="With --submit: show what the job prints until it ends.")] = False
    hang_after: Annotated[
        float | None,
        option(
            "--hang-after", type=FloatRange(min=1), help="Seconds without a step that mean a hang.  [default: 1800]"
        ),
    ] = None
    strict: Strict = False


@dataclass(frozen=True, kw_only=True)
class LaunchOptions(SessionOptions):
    """A new search."""

    file: OptionalSpaceFile = None
    assignments: Annotated[
        tuple[str, ...], argument(metavar="[PATH=VALUE]...", nargs=-1, shell_complete=shell_complete.setting_paths)
    ] = ()
    space: Annotated[
        str | None,
        option(
            "--space", metavar="FILE|NAME", shell_complete=shell_complete.space_names, help="Search space, as FILE is."
        ),
    ] = None
    name: Annotated[
        str | None, option("--name", help="Name of the search.  [default: the space's name and four digits]")
    ] = None
    data: Annotated[
        str | None, option("--data", metavar="DIR|mini-mars", help="Data set; mini-mars generates one.")
    ] = None
    trials: Annotated[
        int | None,
        option("--trials", type=POSITIVE, help="Trials in all, repeats not counted.  [default: the space's]"),
    ] = None
    seed: Annotated[int, option("--seed", type=click.IntRange(min=0), help="Seed of the search.")] = 0
    overrides: Overrides = ()
    experiment: Experiment = None
    warm_start: Annotated[
        str | None,
        option(
            "--warm-start",
            metavar="NAME",
            shell_complete=shell_complete.search_names,
            help="Earlier search of this storage whose finished trials the model knows.",
        ),
    ] = None
    warm_start_anyway: Annotated[
        bool, option("--warm-start-anyway", help="Also if that search measured something else.")
    ] = False
    open_report: Annotated[bool, option("--open", help="Write the report at the end and open it in a browser.")] = False
    dry_run: Annotated[bool, option("--dry-run", help="Check everything, try one step, print plan and estimate.")] = (
        False
    )


@dataclass(frozen=True, kw_only=True)
class ResumeOptions(SessionOptions):
    """A search that goes on."""

    name: Search
    data: Annotated[str | None, option("--data", metavar="DIR", help="The data set, where it has moved.")] = None
    errored: Annotated[
        Literal["skip", "retry"], option("--errored", help="What to do with trials that failed for good.")
    ] = "skip"


TRIAL = ("concurrent", "cpus_per_trial", "gpus_per_trial", "memory_per_trial")
RUN = (*TRIAL, "tracking_uri", "experiment", "address", "insecure", "hang_after")


def run_settings(given: Any) -> dict[str, Any]:
    """The fields of a dataclass that say how a search runs, as far as they are given; as `Options` calls them."""
    return {name: value for name, value in vars(given).items() if name in RUN and value is not None}
