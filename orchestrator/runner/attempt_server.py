"""A process that has torch and the trainer loaded and forks itself for every attempt.

An attempt thus has a process of its own (its memory, its GPU context and its crashes end with it) without paying for
the imports, which take longer than a short trial, nor for reading and checking the data set, which the server keeps
(`trainer.data.kept`) as long as trial after trial is on the same one. The server itself never trains and never touches
a GPU, and it has one thread, so that forking it is safe.

It receives a `TrialSpec`, or `STOP` for the attempt that runs. It sends `{"message": text}` for each `WorkerMessage`
of the attempt, and `{"exit": code}` when the attempt's process has ended. When its input ends, because its worker ended
or died, or when it gets SIGTERM, it ends the running attempt and then itself. Attempts get SIGTERM, so that they save
their state, then SIGKILL after a grace period. One without heartbeats, because it was halted as a whole, is killed.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import select
import signal
import sys
import traceback
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from orchestrator.base.formatting import with_utc
from orchestrator.base.process import process_state
from orchestrator.base.provenance import host
from orchestrator.cluster.names import process_title
from orchestrator.runner.attempt import LOCK_PATIENCE_S, run_attempt
from orchestrator.runner.trial_spec import HANG_FILE, AttemptResult, TrialSpec, WorkerMessage, folder_here
from orchestrator.runner.watchdog import HeartbeatTimeout, hung
from orchestrator.stores.staging import data_at_hand
from trainer.child import Parent, die_with_parent
from trainer.plugins import is_plugin

log = logging.getLogger(__name__)

# Imported by every attempt (`torch._dynamo` by any optimizer); loaded before the first one.
PRELOADED = (
    "trainer.training",
    "trainer.evaluation.evaluate",
    "torch._dynamo",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
)
# Needed by torchvision's networks; loaded with the first attempt that has one.
PRELOADED_FOR_RESNETS = "torchvision.models"
STOP = {"stop": True}
# For an attempt to finish its step and save its state. Slurm and Kubernetes kill 30 s after their SIGTERM.
STOP_GRACE_S = 10.0


def main(parent: Parent) -> None:
    """Serves one attempt after another until there is no more input."""
    handler = logging.StreamHandler()
    handler.setFormatter(with_utc("%(asctime)s %(process)d %(message)s"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("trainer").setLevel(logging.INFO)
    signal.signal(signal.SIGTERM, _end_input)
    signal.signal(signal.SIGALRM, _time_is_over)
    for module in PRELOADED:
        import_module(module)
    for request in parent:
        # A request to stop may cross with the end of its attempt; there is nothing to stop then.
        if request != STOP and not _serve(TrialSpec.model_validate(request), parent):
            return


def _end_input(number: int, frame: FrameType | None) -> None:
    """Handler of SIGTERM: ends standard input, whatever the process is waiting for."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)


def _time_is_over(number: int, frame: FrameType | None) -> None:
    raise TimeoutError


def _serve(spec: TrialSpec, parent: Parent) -> bool:
    """Runs one attempt in a child; False if the worker went away meanwhile."""
    out = folder_here(spec).trial(spec.trial)
    if json.loads(spec.config)["model"]["backbone"] != "tiny":
        import_module(PRELOADED_FOR_RESNETS)
    _keep_data(spec)
    # Attempts share the pages of what is there by now until they write to them, as their collectors would.
    gc.collect()
    gc.freeze()
    heartbeats, beating = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(heartbeats)
        _run_attempt(spec, parent, beating)
    os.close(beating)
    ended = os.pidfd_open(pid)
    try:
        is_wanted = _watch(_Attempt(pid, ended, heartbeats), parent, spec)
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(ended)
        os.close(heartbeats)
    if is_wanted:
        code = os.waitstatus_to_exitcode(status)
        parent.end_line()
        if code != 0 and spec.storage is not None and hung(out / HANG_FILE):
            # The search does not see this file.
            reason = f"no step within {spec.hang_after:g} s; where it stood is in {out / HANG_FILE} on {host()}"
            result = AttemptResult(state="failed", failure="hang", reason=reason)
            _send(parent, WorkerMessage(attempt_result=result))
            code = 0
        parent.send({"exit": code})
    return is_wanted


def _keep_data(spec: TrialSpec) -> None:
    """Keeps the trial's data set in memory, for this attempt and later ones on the same.

    What goes wrong is left to the attempt, which then reads for itself, under its watchdog, and says what it is.
    """
    try:
        settings = json.loads(spec.config)["data"]
        if is_plugin(settings["name"]):  # foreign code: it may start threads, and is for attempts only
            return
        from trainer.data import DataConfig
        from trainer.data.kept import keep_training_data

        signal.setitimer(signal.ITIMER_REAL, spec.hang_after)
        root = data_at_hand(spec.data, Path(settings["root"]), folder_here(spec).path.parent)
        if root is not None:
            data = DataConfig.model_validate_json(json.dumps(settings)).model_copy(update={"root": root})
            keep_training_data(data, tests=spec.tests)
    except Exception as error:  # noqa: BLE001  # the attempt meets it, too
        log.info("the data set is not kept: %s", error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


class _Attempt(NamedTuple):
    """The process of an attempt."""

    pid: int
    ended: int
    """Descriptor that is readable once it has ended."""
    heartbeats: int
    """Descriptor that is readable after each of its heartbeats, and once it has ended."""


def _watch(attempt: _Attempt, parent: Parent, spec: TrialSpec) -> bool:
    """Waits until the attempt has ended, or ends it if asked to or if it hangs; False if the worker went away."""
    timeout = HeartbeatTimeout(spec.hang_after, before_first=LOCK_PATIENCE_S)
    while True:
        # Only a request to stop can come while an attempt runs.
        requests = [] if parent.is_waiting() else [parent.fileno()]
        readable, _, _ = select.select([*requests, attempt.ended, attempt.heartbeats], [], [], timeout.tick)
        if attempt.ended in readable:
            return True
        if attempt.heartbeats in readable:
            os.read(attempt.heartbeats, 65536)
            timeout.heard()
        elif not readable and timeout.passed():
            _kill_halted(attempt.pid, spec)
            return True
        if parent.is_waiting() or parent.fileno() in readable:
            try:
                parent.receive()
            except EOFError:
                _end(attempt)
                return False
            _end(attempt)
            return True


def _end(attempt: _Attempt) -> None:
    os.kill(attempt.pid, signal.SIGTERM)
    readable, _, _ = select.select([attempt.ended], [], [], STOP_GRACE_S)
    if not readable:
        os.kill(attempt.pid, signal.SIGKILL)


def _kill_halted(pid: int, spec: TrialSpec) -> None:
    """Kills an attempt whose own watchdog did not end it, and writes so where the watchdog would have left a stack."""
    file = folder_here(spec).trial(spec.trial) / HANG_FILE
    state = process_state(pid)
    os.kill(pid, signal.SIGKILL)
    try:
        file.write_text(f"process {pid} sent no heartbeat and did not end itself; its state was: {state}\n")
    except OSError as error:
        log.warning("%s: cannot be written (%s)", file, error.strerror)


def _run_attempt(spec: TrialSpec, parent: Parent, heartbeats: int) -> None:
    """The forked child: never returns."""
    code = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        from trainer import prepare_process

        die_with_parent()
        prepare_process()
        _say_who(spec)
        run_attempt(spec, lambda message: _send(parent, message), lambda: _beat(heartbeats))
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


def _beat(heartbeats: int) -> None:
    os.write(heartbeats, b".")


def _send(parent: Parent, message: WorkerMessage) -> None:
    parent.send({"message": message.model_dump_json()})
