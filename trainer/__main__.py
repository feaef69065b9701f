"""The trainer's own command line: `python -m trainer fit CONFIG --out DIR`, `python -m trainer evaluate CONFIG`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from trainer.errors import CheckpointError, ConfigError, DataError, DivergedError

EXIT_DIVERGED, EXIT_INVALID, EXIT_INTERRUPTED = 1, 3, 130


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(
        prog="python -m trainer", description="Train and evaluate one video re-identification network."
    )
    commands = top.add_subparsers(dest="command", required=True)
    fit = commands.add_parser(
        "fit", help="train a network", epilog="Example: python -m trainer fit trial.yaml --out runs/one"
    )
    fit.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the run")
    fit.add_argument("--resume", action="store_true", help="continue the run in DIR")
    evaluate = commands.add_parser(
        "evaluate",
        help="evaluate a checkpoint",
        epilog="Example: python -m trainer evaluate trial.yaml --checkpoint runs/one/checkpoint/best.pt",
    )
    evaluate.add_argument("--checkpoint", type=Path, metavar="FILE", help="weights  [default: untrained]")
    evaluate.add_argument("--part", choices=["test", "validation"], default="test")
    evaluate.add_argument("--split", type=Path, metavar="FILE", help="validation split of a run or search")
    for command in (fit, evaluate):
        command.add_argument("config", type=Path, metavar="CONFIG", help="YAML or JSON file")
        command.add_argument("--set", dest="overrides", action="append", default=[], metavar="PATH=VALUE")
        command.add_argument("--json", dest="as_json", action="store_true", help="one JSON object per line")
    return top


def run(arguments: Sequence[str]) -> int:
    """Runs a command line and returns its exit code."""
    asked = parser().parse_args(arguments)
    try:
        _run(asked)
    except (ConfigError, DataError, CheckpointError) as error:
        print(error, file=sys.stderr)
        return EXIT_INVALID
    except DivergedError as error:
        print(error, file=sys.stderr)
        return EXIT_DIVERGED
    except KeyboardInterrupt:
        print("interrupted; --resume continues after the last finished epoch", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def _run(asked: argparse.Namespace) -> None:
    from trainer.commands import evaluate_command, train_command

    def say(line: str) -> None:
        print(line, flush=True)

    if asked.command == "fit":
        train_command(
            asked.config,
            out=asked.out,
            overrides=asked.overrides,
            resume=asked.resume,
            as_json=asked.as_json,
            say=say,
            progress=_progress,
        )
    else:
        evaluate_command(
            asked.config,
            checkpoint=asked.checkpoint,
            part=asked.part,
            split=asked.split,
            overrides=asked.overrides,
            as_json=asked.as_json,
            say=say,
            progress=_progress,
        )


def _progress(what: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        end = "\r" if done < total else "\r\033[K"
        print(f"{what} {done}/{total}", end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
