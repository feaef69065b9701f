"""Options of commands, each declared once: as the annotation of a parameter, or of a field of a frozen dataclass.

`command` makes a Click command of a function: of the annotations of its parameters or, if its only parameter is a
dataclass, of the dataclass's fields. `command_arguments` is the inverse, for jobs, scripts and notebooks.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import click

from orchestrator.base.errors import SearchError
from orchestrator.base.hints import DEFAULT_STORAGE, STORAGE_VARIABLE, default_storage
from orchestrator.cli import shell_complete
from trainer.formatting import plain_words

# Where MLflow keeps runs: its servers and databases. It takes no new runs in folders.
TRACKED = re.compile(
    r"(https?|(sqlite|postgresql|mysql|mssql)(\+\w+)?)://.+|(databricks|databricks-uc|uc)(://.*)?", re.IGNORECASE
)


SETTING = "optim.epochs=10"


class Declared(NamedTuple):
    """An option or argument of Click, without its name and default."""

    flags: tuple[str, ...]
    """Such as `--set`; empty for an argument."""
    settings: Mapping[str, Any]
    """Of `click.Option` or `click.Argument`."""


class Parameter(NamedTuple):
    """A parameter of a command."""

    name: str
    declared: Declared
    default: Any
    """`inspect.Parameter.empty` for one that must be given."""


def option(*flags: str, **settings: Any) -> Declared:
    """An option: a flag if its default is False, repeatable if it is a tuple, required if there is none."""
    return Declared(flags, settings)


class _Given(click.Parameter):
    """Takes no empty value: a shell writes one for a variable that is not set, and it would be the current folder."""

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        """As click does; raises BadParameter for an empty value."""
        if value == "" or (isinstance(value, (tuple, list)) and "" in value):
            raise click.BadParameter("is empty; give a value, or leave it out", ctx, self)
        try:
            return super().type_cast_value(ctx, value)
        except click.BadParameter as error:
            said = re.sub("valid integer( range)?", "whole number", error.message)
            raise click.BadParameter(re.sub("valid float( range)?", "number", said), ctx, self) from None


class Option(_Given, click.Option):
    """An option."""


class Argument(_Given, click.Argument):
    """A positional argument."""


class Command(click.Command):
    """A command that names all options that are missing, and not only the first."""

    def get_short_help_str(self, limit: int = 1000) -> str:
        """The first sentence of its help, whole wherever it is listed."""
        return super().get_short_help_str(1000)

    def parse_args(self, context: click.Context, arguments: list[str]) -> list[str]:
        """What click leaves of the arguments; settings among them are taken as `--set` takes them."""
        before = list(arguments)
        context.allow_extra_args = self._takes_settings
        try:
            left = super().parse_args(context, arguments)
        except click.NoSuchOption as error:
            raise click.NoSuchOption(error.option_name, self._meant(context, error), ctx=context) from None
        except click.MissingParameter:
            given, _, _ = self.make_parser(context).parse_args(before)
            options = [each for each in self.params if isinstance(each, click.Option) and each.required]
            missing = [repr(each.opts[-1]) for each in options if each.name not in given]
            if len(missing) < 2:
                raise
            raise click.MissingParameter(ctx=context, param_hint=", ".join(missing), param_type="options") from None
        if wrong := next((word for word in left if "=" not in word), None):
            raise click.UsageError(f"{wrong}: is no setting, which is written PATH=VALUE, such as {SETTING}", context)
        if left:
            context.params["overrides"] += tuple(left)
            context.args = []
        return context.args

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """What follows the command's name, settings among it."""
        pieces, settings = super().collect_usage_pieces(ctx), "[PATH=VALUE]..."
        return [*pieces, settings] if self._takes_settings and settings not in pieces else pieces

    @property
    def _takes_settings(self) -> bool:
        return any(each.name == "overrides" for each in self.params)

    def _meant(self, context: click.Context, error: click.NoSuchOption) -> str:
        """The message with what is meant: our name of an option or setting of another tool, a command, an argument."""
        from orchestrator.space.problems import name_hint, our_name
        from orchestrator.space.schema import setting_kinds

        word, said = error.option_name.lstrip("-").replace("-", "_"), error.message
        options = {flag.lstrip("-").replace("-", "_"): flag for each in self.params for flag in each.opts}
        group = None if context.parent is None else context.parent.command
        if ours := word if options.get(word, "").startswith("-") else our_name(word, options):
            return f"{said} Did you mean {options[ours]!r}?"
        if word in options:
            return f"{said} {word.upper()} is given without an option."
        if word in ("m", "multirun"):  # Hydra's
            return f"{said} Every launch is a search; its space says what is searched."
        if isinstance(group, click.Group) and word in group.commands:
            return f"{said} {word!r} is a command."
        settings = [*setting_kinds(), "stopping.rule", "algorithm.name"]
        if self._takes_settings and (our_name(word, settings) or not error.possibilities):
            hint = name_hint(word, settings) if len(word) > 1 and word not in settings else ""
            return f"{said} A setting is written --set PATH=VALUE{hint or f', such as --set {SETTING}.'}"
        return error.format_message()


def argument(**settings: Any) -> Declared:
    """A positional argument: required if it has no default."""
    return Declared((), settings)


def command(
    *, example: str, group: click.Group | None = None, name: str | None = None
) -> Callable[[Callable[..., int]], click.Command]:
    """Makes a Click command of a function, in a group if one is given.

    Args:
        example: a command line, for the end of its help.
        group: what it belongs to.
        name: of the command; the function's unless given.
    """

    def made(function: Callable[..., int]) -> click.Command:
        kind = _only_dataclass(function)

        @functools.wraps(function)
        def call(**given: Any) -> int:
            return function(**given) if kind is None else function(kind(**given))

        params = [_click_parameter(each) for each in parameters(kind or function)]
        make = click.command if group is None else group.command
        return make(name or function.__name__, cls=Command, params=params, epilog=f"Example: {example}")(call)

    return made


def parameters(owner: type | Callable[..., int]) -> Iterator[Parameter]:
    """The parameters of a function, or the fields of a dataclass, those of its base classes last."""
    hints = get_type_hints(owner, include_extras=True)
    if isinstance(owner, type):
        defaults = {field.name: field.default for field in dataclasses.fields(owner)}
        names = dict.fromkeys(name for each in owner.__mro__ for name in vars(each).get("__annotations__", ()))
    else:
        defaults = {name: each.default for name, each in inspect.signature(owner).parameters.items()}
        names = dict.fromkeys(defaults)
    for name in names:
        flags, settings = next(each for each in hints[name].__metadata__ if isinstance(each, Declared))
        declared = Declared(flags, {**_implied(hints[name].__origin__), **settings})
        default = inspect.Parameter.empty if defaults[name] is dataclasses.MISSING else defaults[name]
        yield Parameter(name, declared, default)


def _implied(kind: Any) -> dict[str, Any]:
    """Click's type of values, as far as an annotation implies one that defaults do not."""
    kinds = (kind, *get_args(kind))
    if Path in kinds:
        return {"type": click.Path(path_type=Path)}
    choices = [value for each in kinds if get_origin(each) is Literal for value in get_args(each)]
    return {"type": click.Choice(choices)} if choices else {}


def command_arguments(given: Any, *, without: Collection[str] = ()) -> list[str]:
    """The fields of a dataclass that differ from their defaults, as arguments of its command; repeated ones last."""
    words: list[str] = []
    repeated: list[str] = []
    for name, declared, default in parameters(type(given)):
        value = getattr(given, name)
        if name in without or value == default:
            continue
        if not declared.flags:
            words += map(str, value) if isinstance(value, tuple) else [str(value)]
        elif value is True:
            words.append(declared.flags[-1])
        elif isinstance(value, tuple):
            repeated += [word for each in value for word in (declared.flags[-1], str(each))]
        else:
            words += [declared.flags[-1], f"{value:.10g}" if isinstance(value, float) else str(value)]
    return words + repeated


def _only_dataclass(function: Callable[..., int]) -> type | None:
    kinds = [kind for name, kind in get_type_hints(function).items() if name != "return"]
    is_only = len(kinds) == 1 and isinstance(kinds[0], type) and dataclasses.is_dataclass(kinds[0])
    return kinds[0] if is_only else None


def _click_parameter(parameter: Parameter) -> click.Parameter:
    name, (flags, settings), default = parameter
    is_required = default is inspect.Parameter.empty
    if not flags:
        return Argument([name], **{"required": is_required, **settings})
    more: dict[str, Any] = {"required": is_required, "multiple": isinstance(default, tuple)}
    if default is False:
        more["is_flag"] = True
    elif not is_required and default is not None and default != ():
        more |= {"default": default, "show_default": True}
    return Option([name, *flags], **{**more, **settings})


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
