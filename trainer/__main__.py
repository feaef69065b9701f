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

EXIT_DIVERGED, EXIT_INVALID, EXIT_INTERRUPTED = 1, 3, 130
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
    evaluate.add_argument("--out", type=_out_path, metavar="DIR", help="write figures per query and pictures")
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
    asked = parser().parse_args(arguments)
    try:
        return _run(asked)
    except (ConfigError, DataError, CheckpointError) as error:
        print(error, file=sys.stderr)
        return EXIT_INVALID
    except DivergedError as error:
        print(error, file=sys.stderr)
        return EXIT_DIVERGED
    except KeyboardInterrupt:
        print("interrupted; a training continues with --resume after its last checkpoint", file=sys.stderr)
        return EXIT_INTERRUPTED


def _run(asked: argparse.Namespace) -> int:
    from trainer.commands import Outputs, compare_command, embed_command, evaluate_command, train_command

    def say(line: str) -> None:
        print(line, flush=True)

    if asked.command == "compare":
        compare_command(asked.before, asked.after, out=asked.out, as_json=_as_json(asked), say=say)
        return 0
    common = {"overrides": asked.overrides, "say": say, "progress": _ProgressLine()}
    if asked.command == "fit":
        return train_command(asked.config, out=asked.out, resume=asked.resume, as_json=_as_json(asked), **common)
    network = {"part": asked.part, "split": asked.split, **common}
    if asked.command == "evaluate":
        outputs = Outputs(asked.out, asked.images, asked.cache)
        evaluate_command(
            asked.config,
            checkpoint=asked.checkpoint,
            all_folds=asked.all_folds,
            outputs=outputs,
            as_json=_as_json(asked),
            **network,
        )
    else:
        checkpoint = None if asked.checkpoint is None else Path(asked.checkpoint)
        embed_command(asked.config, checkpoint=checkpoint, out=asked.out, **network)
    return 0


def _as_json(asked: argparse.Namespace) -> bool:
    """Programs read pipes: unless a person looks at a terminal, results are JSON lines."""
    return asked.as_json or not sys.stdout.isatty()


class _ProgressLine:
    """One line on a terminal, redrawn a few times a second; nothing anywhere else."""

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
    """Entry point of the process: what holds for all of it is set here, and nowhere below."""
    if len(sys.argv) > 1 and not {"-h", "--help"} & set(sys.argv):
        from trainer.compute import prepare_process

        prepare_process()
    os.environ.update(python_environment(os.environ))
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
