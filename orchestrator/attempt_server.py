"""A process that has torch and the trainer loaded and forks itself for every attempt.

An attempt thus has a process of its own (its memory, its GPU context and its crashes end with it) without paying for
the imports, which take longer than a short trial. The server itself never trains and never touches a GPU, and it has
one thread, so that forking it is safe. It reads assignments from standard input, one JSON object per line, and passes
the attempts' messages on to standard output; when standard input ends, because its worker ended or died, it kills the
running attempt and ends.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import sys
from importlib import import_module

from orchestrator.attempt import Assignment, Message, run_attempt
from orchestrator.folder import SearchFolder
from orchestrator.process import die_with_parent

# What every attempt imports, the last one as soon as it makes an optimizer; loaded before the first assignment.
PRELOADED = ("trainer.training", "trainer.assess", "torch._dynamo")
# What torchvision's networks need besides, loaded when the first assignment asks for one.
PRELOADED_FOR_RESNETS = "torchvision.models"


def main() -> None:
    """Serves one attempt after another until standard input ends."""
    answers = os.dup(1)
    # Whatever libraries print belongs into the log; standard output carries messages only.
    os.dup2(2, 1)
    logging.basicConfig(format="%(asctime)s %(process)d %(message)s")
    logging.getLogger("trainer").setLevel(logging.INFO)
    for module in PRELOADED:
        import_module(module)
    buffered = b""
    while True:
        received = os.read(0, 65536)
        if not received:
            return
        buffered += received
        while b"\n" in buffered:
            line, _, buffered = buffered.partition(b"\n")
            if not _serve(Assignment.model_validate_json(line), answers):
                return


def _serve(assignment: Assignment, answers: int) -> bool:
    """Runs one attempt in a child; False if the worker went away meanwhile."""
    config = SearchFolder(assignment.search).trial(assignment.trial) / "config.json"
    if json.loads(config.read_text(encoding="utf-8"))["model"]["backbone"] != "tiny":
        import_module(PRELOADED_FOR_RESNETS)
    child = os.fork()
    if child == 0:
        _attempt(assignment, answers)
    watched = os.pidfd_open(child)
    try:
        readable, _, _ = select.select([0, watched], [], [])
        if watched not in readable:
            # Nothing is ever sent during an attempt: this is the end of input.
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return False
        _, status = os.waitpid(child, 0)
    finally:
        os.close(watched)
    _write(answers, json.dumps({"exit": os.waitstatus_to_exitcode(status)}))
    return True


def _attempt(assignment: Assignment, answers: int) -> None:
    """The child: never returns."""
    code = 1
    try:
        from trainer import prepare_process

        die_with_parent()
        prepare_process()
        run_attempt(assignment, lambda message: _send(answers, message))
        code = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _send(answers: int, message: Message) -> None:
    _write(answers, message.model_dump_json())


def _write(answers: int, text: str) -> None:
    data = text.encode() + b"\n"
    while data:
        data = data[os.write(answers, data) :]


if __name__ == "__main__":
    main()
