"""A process that has torch and the trainer loaded and forks itself for every attempt.

An attempt thus has a process of its own (its memory, its GPU context and its crashes end with it) without paying for
the imports, which take longer than a short trial. The server itself never trains and never touches a GPU, and it has
one thread, so that forking it is safe.

It reads one JSON object per line from standard input: an spec, or `STOP_LINE` for the attempt that runs. It
passes the attempts' messages on to standard output, and `{"exit": code}` when an attempt's process has ended. When
standard input ends, because its worker ended or died, or when it is told to terminate, it ends the running attempt and
then itself. An attempt is ended by SIGTERM first, so that it can save its state. One that gives no sign of life,
because it was halted as a whole, is killed.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import sys
import traceback
from importlib import import_module
from types import FrameType
from typing import NamedTuple

from orchestrator.base.formatting import with_utc
from orchestrator.base.process import process_state
from orchestrator.base.provenance import host
from orchestrator.cluster.names import process_title
from orchestrator.runner.attempt import (
    HANG_FILE,
    LOCK_PATIENCE_S,
    AttemptResult,
    TrialSpec,
    WorkerMessage,
    folder_here,
    run_attempt,
)
from orchestrator.runner.watchdog import HeartbeatTimeout, hung
from trainer.child import die_with_parent

log = logging.getLogger(__name__)

# What every attempt imports, the last one as soon as it makes an optimizer; loaded before the first spec.
PRELOADED = (
    "trainer.training",
    "trainer.evaluation.evaluate",
    "torch._dynamo",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
)
# What torchvision's networks need besides, loaded when the first spec asks for one.
PRELOADED_FOR_RESNETS = "torchvision.models"
STOP_LINE = '{"stop": true}'
# What an attempt gets to finish its step and save. Slurm and Kubernetes kill 30 s after their SIGTERM.
STOP_GRACE_S = 10.0


def main() -> None:
    """Serves one attempt after another until standard input ends."""
    answers = os.dup(1)
    # Whatever libraries print belongs into the log; standard output carries messages only.
    os.dup2(2, 1)
    handler = logging.StreamHandler()
    handler.setFormatter(with_utc("%(asctime)s %(process)d %(message)s"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("trainer").setLevel(logging.INFO)
    signal.signal(signal.SIGTERM, _end_input)
    for module in PRELOADED:
        import_module(module)
    orders = LineReader(0)
    while (line := orders.wait()) is not None:
        # An order to stop may cross with the end of its attempt; there is nothing to stop then.
        if line != STOP_LINE and not _serve(TrialSpec.model_validate_json(line), orders, answers):
            return


class LineReader:
    """Lines from a pipe, read without waiting for more than there is."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe
        self._buffered = b""

    def wait(self) -> str | None:
        """The next line, or None once the pipe has ended."""
        while b"\n" not in self._buffered:
            if not self.receive():
                return None
        line, _, self._buffered = self._buffered.partition(b"\n")
        return line.decode()

    def receive(self) -> bool:
        """Reads once; False where the pipe has ended."""
        received = os.read(self.pipe, 65536)
        self._buffered += received
        return bool(received)

    def take(self, line: str) -> bool:
        """Whether the next line is this one, which is then taken."""
        there = self._buffered.startswith(line.encode() + b"\n")
        if there:
            self._buffered = self._buffered[len(line) + 1 :]
        return there


def _end_input(number: int, frame: FrameType | None) -> None:
    """The handler of SIGTERM: from here on standard input has ended, whatever the process is waiting for."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)


def _serve(spec: TrialSpec, orders: LineReader, answers: int) -> bool:
    """Runs one attempt in a child; False if the worker went away meanwhile."""
    out = folder_here(spec).trial(spec.trial)
    if json.loads(spec.config)["model"]["backbone"] != "tiny":
        import_module(PRELOADED_FOR_RESNETS)
    signs, giving = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(signs)
        _attempt(spec, answers, giving)
    os.close(giving)
    watched = os.pidfd_open(child)
    try:
        wanted = _watch(_Child(child, watched, signs), orders, spec)
        _, status = os.waitpid(child, 0)
    finally:
        os.close(watched)
        os.close(signs)
    if wanted:
        code = os.waitstatus_to_exitcode(status)
        # A child that was killed may have left half a line.
        _write(answers, "")
        if code != 0 and spec.storage is not None and hung(out / HANG_FILE):
            # The search does not see this file.
            reason = f"no step within {spec.hang_after:g} s; where it stood is in {out / HANG_FILE} on {host()}"
            _send(answers, WorkerMessage(attempt_result=AttemptResult(state="failed", failure="hang", reason=reason)))
            code = 0
        _write(answers, json.dumps({"exit": code}))
    return wanted


class _Child(NamedTuple):
    """The process of an attempt."""

    pid: int
    ended: int
    """Readable once it has ended."""
    signs: int
    """Readable when it has said that it is alive; at its end once it has ended."""


def _watch(child: _Child, orders: LineReader, spec: TrialSpec) -> bool:
    """Waits until the child has ended, or ends it when told to or when it hangs; False if the worker went away."""
    patience = HeartbeatTimeout(spec.hang_after, before_first=LOCK_PATIENCE_S)
    while True:
        readable, _, _ = select.select([orders.pipe, child.ended, child.signs], [], [], patience.tick)
        if child.ended in readable:
            return True
        if child.signs in readable:
            os.read(child.signs, 65536)
            patience.heard()
        elif not readable and patience.passed():
            _kill_halted(child.pid, spec)
            return True
        if orders.pipe in readable:
            if not orders.receive():
                _end(child)
                return False
            if orders.take(STOP_LINE):
                _end(child)
                return True


def _end(child: _Child) -> None:
    os.kill(child.pid, signal.SIGTERM)
    readable, _, _ = select.select([child.ended], [], [], STOP_GRACE_S)
    if not readable:
        os.kill(child.pid, signal.SIGKILL)


def _kill_halted(pid: int, spec: TrialSpec) -> None:
    """Kills an attempt whose own watch did not end it, and leaves word where that would have left its stack."""
    file = folder_here(spec).trial(spec.trial) / HANG_FILE
    state = process_state(pid)
    os.kill(pid, signal.SIGKILL)
    try:
        file.write_text(f"process {pid} gave no sign of life and did not end itself; its state was: {state}\n")
    except OSError as error:
        log.warning("%s: cannot be written (%s)", file, error.strerror)


def _attempt(spec: TrialSpec, answers: int, signs: int) -> None:
    """The child: never returns."""
    code = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        from trainer import prepare_process

        die_with_parent()
        prepare_process()
        _say_who(spec)
        run_attempt(spec, lambda message: _send(answers, message), lambda: _give_sign(signs))
        code = 0
    except BaseException:
        traceback.print_exc()  # `os._exit` would say nothing
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _say_who(spec: TrialSpec) -> None:
    """Puts the trial's name into the list of processes, and before each line of the log that all attempts share."""
    # In the server its mere import would run our arguments together. A title may be cut to the length of these: what
    # stood behind them is the environment, which libraries change.
    from setproctitle import setproctitle

    setproctitle(process_title(spec.title or spec.name))
    name = spec.name.replace("%", "%%")
    for handler in logging.getLogger().handlers:
        handler.setFormatter(with_utc(f"%(asctime)s %(process)d {name} %(message)s"))


def _give_sign(signs: int) -> None:
    os.write(signs, b".")


def _send(answers: int, message: WorkerMessage) -> None:
    _write(answers, message.model_dump_json())


def _write(answers: int, text: str) -> None:
    data = text.encode() + b"\n"
    while data:
        data = data[os.write(answers, data) :]


if __name__ == "__main__":
    main()
