"""The command `reidsearch`."""

from __future__ import annotations

import os
import sys

# `python -m` imports from the current folder first: its `random.py` or `ax` in place of the module meant. Before any
# other import, that folder is left out, unless it is the one that holds this package.
if __name__ == "__main__" and not sys.flags.safe_path and __file__ != f"{sys.path[0]}/orchestrator/__main__.py":
    del sys.path[0]

from collections.abc import Sequence

import click

from orchestrator.cli.cluster import cluster
from orchestrator.cli.compare import compare
from orchestrator.cli.completion import completion
from orchestrator.cli.config import config
from orchestrator.cli.data import data
from orchestrator.cli.doctor import doctor
from orchestrator.cli.export import export
from orchestrator.cli.final import ablate, finalize, tables
from orchestrator.cli.manage import extend, logs, stop, sync
from orchestrator.cli.purge import purge
from orchestrator.cli.report import report
from orchestrator.cli.reproduce import reproduce
from orchestrator.cli.search import launch, resume, status
from orchestrator.cli.simulate import simulate
from orchestrator.cli.space import space
from orchestrator.cli.train import evaluate, train
from orchestrator.cli.ui import ui
from orchestrator.errors import Exit, OrchestratorError
from orchestrator.language.problems import SpaceError
from trainer.child_process import python_environment
from trainer.errors import CheckpointError, ConfigError, DataError, DivergedError
from trainer.wording import one_line


class Commands(click.Group):
    """A group that answers a misspelt command with the nearest one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the command as click does, and helps where there is none."""
        import difflib

        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"No such command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="reidsearch")
def cli() -> None:
    """Hyperparameter search for video person re-identification.

    \b
    Examples:
      reidsearch launch --space demo.yaml
      reidsearch launch --space attn_cl.yaml --data /data/mars
      reidsearch status
    """


for command in (
    launch,
    resume,
    status,
    stop,
    logs,
    extend,
    finalize,
    ablate,
    tables,
    sync,
    compare,
    ui,
    report,
    simulate,
    train,
    evaluate,
    data,
    space,
    export,
    reproduce,
    purge,
    config,
    completion,
    doctor,
    cluster,
):
    cli.add_command(command)


def run(arguments: Sequence[str]) -> int:
    """Runs a command line and returns its exit code; errors that users can mend are one line each."""
    try:
        return int(cli.main(list(arguments), prog_name="reidsearch", standalone_mode=False) or Exit.OK)
    except click.ClickException as error:
        _make_harmless(error)
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _say("interrupted", Exit.INTERRUPTED)
    except SpaceError as error:
        count = len(error.problems)
        return _say(f"{error}\n{count} problem{'s' * (count > 1)}, nothing started", Exit.INVALID)
    except OrchestratorError as error:
        return _say(str(error), error.exit_code)
    except (ConfigError, DataError, CheckpointError) as error:
        return _say(str(error), Exit.INVALID)
    except DivergedError as error:
        return _say(str(error), Exit.SEARCH_FAILED)
    except BrokenPipeError:
        # The reader of our output is gone; leave without the interpreter's complaint about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except OSError as error:
        if error.filename is None:
            raise
        return _say(f"{error.filename}: {error.strerror}", Exit.ENVIRONMENT)


def _say(message: str, code: Exit) -> int:
    if os.environ.get("REIDSEARCH_DEBUG"):
        raise
    click.echo(_harmless(message), err=True)
    return code


def _make_harmless(error: click.ClickException) -> None:
    """The same for click's own errors, which repeat what was typed."""
    setattr(error, "message", _harmless(error.message))  # noqa: B010  # final to type checkers only


def _harmless(message: str) -> str:
    """Without what a terminal obeys: names in messages may be anybody's."""
    return "\n".join(map(one_line, message.split("\n")))


def main() -> None:
    """Entry point of the console script."""
    os.environ.update(python_environment(os.environ))
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
