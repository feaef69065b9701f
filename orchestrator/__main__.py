"""The command `reidsearch`."""

from __future__ import annotations

import gc
import os
import sys

# `python -m` imports from the current folder first, such as a `random.py` there. Remove it from the path before any
# other import, unless it is the folder that holds this package.
if __name__ == "__main__" and not sys.flags.safe_path and __file__ != f"{sys.path[0]}/orchestrator/__main__.py":
    del sys.path[0]

import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import click

from orchestrator.base.errors import PROBLEMS_FILE, UNWRITABLE, Exit, OrchestratorError
from orchestrator.base.process import trim_secrets
from orchestrator.base.uris import without_passwords
from orchestrator.cli.cluster import cluster
from orchestrator.cli.data import data
from orchestrator.cli.doctor import doctor
from orchestrator.cli.finalize import ablate, finalize, tables
from orchestrator.cli.launch import demo, launch, resume
from orchestrator.cli.manage import extend, init, logs, overview, purge, status, stop, support, sync
from orchestrator.cli.results import compare, dashboard, export, report, reproduce, simulate, ui
from orchestrator.cli.shell_complete import completion
from orchestrator.cli.space import config, space
from orchestrator.cli.train import evaluate, train
from orchestrator.cli.use import embed, match
from orchestrator.cli.weights import weights
from orchestrator.space.problems import SpaceError
from trainer.child import python_environment
from trainer.errors import CheckpointError, ConfigError, DataError, DivergedError
from trainer.formatting import counted, one_line


class ReaderGoneError(Exception):
    """The reader of our standard output has closed it. Not an OSError, which Click turns into exit code 1."""


@contextmanager
def _reader_noticed() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise ReaderGoneError from error
    except SystemExit as error:  # rich raises it for a closed pipe
        if isinstance(error.__context__, BrokenPipeError):
            raise ReaderGoneError from error
        raise


class Commands(click.Group):
    """A group that suggests the nearest command for a misspelt one, and raises `ReaderGoneError` for a closed pipe."""

    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        """Parses the command line as Click does; `--help` prints here."""
        with _reader_noticed():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command as Click does."""
        with _reader_noticed():
            return super().invoke(ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands under headings."""
        width = max(len(command.name or "") for command in itertools.chain(*GROUPS.values()))
        for heading, commands in GROUPS.items():
            rows = [(f"{command.name:<{width}}", command.get_short_help_str(1000)) for command in commands]
            with formatter.section(heading):
                formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the command as Click does, or suggests one."""
        import difflib

        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            near = OF_OTHER_TOOLS.get(args[0]) or difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            hint = f" Did you mean {near[0]!r}?" if near else " `reidsearch --help` lists all."
            ctx.fail(f"No such command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)


# What other tools call our commands.
OF_OTHER_TOOLS = {
    **dict.fromkeys(("run", "start", "sweep", "agent", "tune", "search", "optimize", "create-study"), ("launch",)),
    **dict.fromkeys(("ls", "list", "show"), ("status",)),
    **dict.fromkeys(("rm", "delete", "remove"), ("purge",)),
    **{"fit": ("train",), "eval": ("evaluate",), "val": ("evaluate",), "test": ("finalize",)},
}

GROUPS: dict[str, tuple[click.Command, ...]] = {
    "Search": (demo, launch, resume, status, stop, logs, extend),
    "Results": (report, dashboard, compare, ui, simulate, export, reproduce, sync, purge),
    "Test set": (finalize, tables, ablate),
    "Data and search spaces": (data, space, config),
    "One network": (train, evaluate, embed, match),
    "Machines": (init, cluster, weights, doctor, support, completion),
}


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="reidsearch")
@click.pass_context
def cli(context: click.Context) -> int:
    """Hyperparameter search for video person re-identification.

    \b
    Examples:
      reidsearch demo
      reidsearch launch attn_cl.yaml --data /data/mars
      reidsearch status
    """
    return Exit.OK if context.invoked_subcommand else overview()


for command in itertools.chain(*GROUPS.values()):
    cli.add_command(command)


def run(arguments: Sequence[str]) -> int:
    """Runs a command line and returns its exit code; errors that a user can fix are one line each."""
    try:
        Path.cwd()
    except FileNotFoundError:
        return _say("the current folder was deleted; change to another one", Exit.ENVIRONMENT)
    trim_secrets()
    try:
        code = int(cli.main(list(arguments), prog_name="reidsearch", standalone_mode=False) or Exit.OK)
        with _reader_noticed():
            sys.stdout.flush()  # at its end the interpreter would report a closed pipe
        return code
    except click.ClickException as error:
        _make_harmless(error)
        if not _left([error.format_message()]):
            with _unwritable_given_up():
                error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _say("interrupted", Exit.INTERRUPTED)
    except SpaceError as error:
        said = f"{error}\n{counted(len(error.problems), 'problem', 'problems')}, nothing started"
        return _say(said, Exit.INVALID, of_space=error.problems)
    except OrchestratorError as error:
        return _say(str(error), error.exit_code)
    except (ConfigError, DataError, CheckpointError) as error:
        return _say(str(error), Exit.INVALID)
    except DivergedError as error:
        return _say(str(error), Exit.SEARCH_FAILED)
    except ReaderGoneError:
        # As in `logs NAME | head`. Whatever is still buffered or printed needs an open file.
        _give_up(sys.stdout)
        return Exit.OK
    except OSError as error:
        if error.filename is None and error.errno not in UNWRITABLE:
            raise
        if error.filename is None:
            _give_up(sys.stdout)
        return _say(f"{error.filename or 'standard output'}: {error.strerror}", Exit.ENVIRONMENT)


def _say(message: str, code: Exit, *, of_space: Sequence[str] = ()) -> int:
    message = _harmless(message)
    is_left = _left(of_space or message.split("\n"), of_space=bool(of_space))
    if os.environ.get("REIDSEARCH_DEBUG"):
        raise
    if not is_left:
        with _unwritable_given_up():
            click.echo(message, err=True)
    return code


def _left(problems: Sequence[str], *, of_space: bool = False) -> bool:
    """Writes the problems to the file that the program which started the command has named; whether there is one."""
    path = os.environ.get(PROBLEMS_FILE)
    if path:
        Path(path).write_text(json.dumps({"of_space": of_space, "lines": list(problems)}), encoding="utf-8")
    return bool(path)


@contextmanager
def _unwritable_given_up() -> Iterator[None]:
    """Ignores a standard error that cannot be written, for a full disk or a closed pipe: the exit code remains."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        _give_up(sys.stderr)


def _give_up(stream: TextIO) -> None:
    """Replaces a stream that cannot be written by the null device."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _make_harmless(error: click.ClickException) -> None:
    """Makes Click's own errors harmless, which repeat the command line."""
    setattr(error, "message", _harmless(error.message))  # noqa: B010  # final to type checkers only


def _harmless(message: str) -> str:
    """The message without passwords, and without control characters, which names from elsewhere may contain."""
    return "\n".join(map(one_line, without_passwords(message).split("\n")))


def main() -> None:
    """Entry point of the console script."""
    # Commands that read a search make 10^5 objects and no garbage; looking for it was a tenth of their time.
    gc.set_threshold(50_000)
    _open_closed_streams()
    os.environ.update(python_environment(os.environ))
    sys.exit(run(sys.argv[1:]))


def _open_closed_streams() -> None:
    """Opens the null device for standard streams that are closed: the next file would get their number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
            name = ("stdin", "stdout", "stderr")[number]
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))


if __name__ == "__main__":
    main()
