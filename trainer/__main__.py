"""The trainer's own command line: `python -m trainer fit|evaluate|embed CONFIG`, `... compare A B`."""

from __future__ import annotations

import os
import sys

# `python -m` imports from the current folder first: its `random.py` or `ax` in place of the module meant. Before any
# other import, that folder is left out, unless it is the one that holds this package.
if __name__ == "__main__" and not sys.flags.safe_path and __file__ != f"{sys.path[0]}/trainer/__main__.py":
    del sys.path[0]

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from trainer.child import python_environment
from trainer.errors import CheckpointError, ConfigError, DataError, DivergedError
from trainer.files import check_writable

EXIT_DIVERGED, EXIT_INVALID, EXIT_ENVIRONMENT, EXIT_INTERRUPTED = 1, 3, 5, 130
PERIOD_S = 0.1  # between two redrawings of the progress line


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(
        prog="python -m trainer", description="Train and evaluate one video re-identification network."
    )
    commands = top.add_subparsers(dest="command", required=True)
    fit = commands.add_parser(
        "fit", help="train a network", epilog="Example: python -m trainer fit trial.yaml --out runs/one"
    )
    fit.add_argument("--out", type=_out_path, required=True, metavar="DIR", help="folder of the run")
    fit.add_argument("--resume", action="store_true", help="continue the run in DIR")
    evaluate = commands.add_parser(
        "evaluate",
        help="evaluate a checkpoint",
        epilog="Example: python -m trainer evaluate trial.yaml --checkpoint runs/one/checkpoint/best.pt",
    )
    embed = commands.add_parser(
        "embed",
        help="write embeddings of query and gallery to a file",
        epilog="Example: python -m trainer embed trial.yaml --checkpoint runs/one/checkpoint/best.pt --out test.npz",
    )
    embed.add_argument("--out", type=_out_path, required=True, metavar="FILE", help="a numpy .npz file")
    evaluate.add_argument(
        "--all-folds", action="store_true", help="test part of every partition; {fold} in FILE is its number"
    )
    evaluate.add_argument("--data", type=Path, metavar="DIR", help="judge the data set there, whatever was trained on")
    evaluate.add_argument("--out", type=_out_path, metavar="DIR", help="write metrics, metrics per query and pictures")
    evaluate.add_argument("--images", action="store_true", help="let pictures show real people")
    evaluate.add_argument("--cache", type=Path, metavar="DIR", help="keep embeddings, and use those kept")
    for command in (evaluate, embed):
        command.add_argument("--checkpoint", metavar="FILE", help="weights  [default: untrained]")
        command.add_argument(
            "--part", choices=["test", "validation"], default="validation", help="test is recorded beside the weights"
        )
        command.add_argument("--split", type=Path, metavar="FILE", help="validation split of a run or search")
    compare = commands.add_parser(
        "compare",
        help="compare two evaluations query by query",
        epilog="Example: python -m trainer compare runs/one/evaluation runs/two/evaluation",
    )
    compare.add_argument("before", type=Path, metavar="BEFORE", help="folder that evaluate --out wrote")
    compare.add_argument("after", type=Path, metavar="AFTER", help="another one, of the same queries")
    compare.add_argument("--out", type=_out_path, metavar="PNG", help="draw the differences")
    for command in (fit, evaluate, embed):
        command.add_argument("config", type=Path, metavar="CONFIG", help="YAML or JSON file")
        command.add_argument("--set", dest="overrides", action="append", default=[], metavar="PATH=VALUE")
    for command in (fit, evaluate, compare):
        command.add_argument(
            "--json", dest="as_json", action="store_true", help="one JSON object per line, as always in a pipe"
        )
    return top


def _out_path(text: str) -> Path:
    try:
        check_writable(Path(text))
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{error.filename}: {error.strerror}") from error
    return Path(text)


def run(arguments: Sequence[str]) -> int:
    """Runs a command line and returns its exit code."""
    parsed = parser().parse_args(arguments)
    try:
        return _run(parsed)
    except (ConfigError, DataError, CheckpointError) as error:
        print(error, file=sys.stderr)
        return EXIT_INVALID
    except OSError as error:
        if error.strerror is None:
            raise
        print(f"{error.filename or 'a file'}: {error.strerror}", file=sys.stderr)
        return EXIT_ENVIRONMENT
    except DivergedError as error:
        print(error, file=sys.stderr)
        return EXIT_DIVERGED
    except KeyboardInterrupt:
        print("interrupted; a training continues with --resume after its last checkpoint", file=sys.stderr)
        return EXIT_INTERRUPTED


def _run(arguments: argparse.Namespace) -> int:
    from trainer.commands import Outputs, compare_command, embed_command, evaluate_command, train_command

    def echo(line: str) -> None:
        print(line, flush=True)

    if arguments.command == "compare":
        compare_command(arguments.before, arguments.after, out=arguments.out, as_json=_as_json(arguments), echo=echo)
        return 0
    common = {"overrides": arguments.overrides, "echo": echo, "progress": _ProgressLine()}
    if arguments.command == "fit":
        return train_command(
            arguments.config, out=arguments.out, resume=arguments.resume, as_json=_as_json(arguments), **common
        )
    network = {"part": arguments.part, "split": arguments.split, **common}
    if arguments.command == "evaluate":
        outputs = Outputs(arguments.out, arguments.images, arguments.cache)
        evaluate_command(
            arguments.config,
            checkpoint=arguments.checkpoint,
            all_folds=arguments.all_folds,
            data=arguments.data,
            outputs=outputs,
            as_json=_as_json(arguments),
            **network,
        )
    else:
        checkpoint = None if arguments.checkpoint is None else Path(arguments.checkpoint)
        embed_command(arguments.config, checkpoint=checkpoint, out=arguments.out, **network)
    return 0


def _as_json(arguments: argparse.Namespace) -> bool:
    """Whether results are JSON lines: where asked for, and where standard output is no terminal."""
    return arguments.as_json or not sys.stdout.isatty()


class _ProgressLine:
    """Progress as one line on a terminal, redrawn a few times a second; nothing where there is no terminal."""

    def __init__(self) -> None:
        self._drawn = 0.0

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        if not sys.stderr.isatty() or (done < total and now - self._drawn < PERIOD_S):
            return
        self._drawn = now
        line = f"{what} {done}/{total}" + (f"  {note}" if note else "")
        print(f"\r\033[K{line}" if done < total else "\r\033[K", end="", file=sys.stderr, flush=True)


def main() -> None:
    """Entry point of the process: sets what holds for the whole process."""
    if len(sys.argv) > 1 and not {"-h", "--help"} & set(sys.argv):
        from trainer.compute import prepare_process

        prepare_process()
    os.environ.update(python_environment(os.environ))
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
