"""The trainable: the only code that knows both Ray Tune and an attempt."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from orchestrator.base.errors import OrchestratorError
from orchestrator.base.provenance import host
from orchestrator.runner.attempt import AttemptResult, TrialSpec, WorkerMessage, attempt_environment, folder_here
from orchestrator.runner.attempt_server import STOP_LINE
from trainer.child import last_line, python_command, start_child
from trainer.files import in_place
from trainer.formatting import first_line

LAST_PRINTED = 4096  # bytes of what a process that died had printed are looked at
ATTEMPTS_LOG = "attempts.log"
SERVER = python_command("-m", "orchestrator.runner.attempt_server")


class AttemptServer:
    """Our end of the process that forks attempts (`orchestrator.runner.attempt_server`); one attempt at a time."""

    def __init__(self, log: Path, environment: Mapping[str, str], command: Sequence[str] = SERVER) -> None:
        """Starts the process; what it and its attempts print goes to the end of the log."""
        log.parent.mkdir(parents=True, exist_ok=True)
        self._attempt_runs = False
        self._log = log
        self._printed_before = _size(log)
        with open(log, "ab", opener=in_place) as errors:
            self._process: subprocess.Popen[bytes] = start_child(
                command,
                environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # Ctrl-C is for the driver; the server ends when its input does
            )

    def is_ready(self) -> bool:
        """Waits for the end of an attempt that was told to stop; False if the server is gone."""
        if self._process.poll() is not None:
            return False
        while self._attempt_runs:
            line = self._read()
            if line is None:
                return False
            self._attempt_runs = _exit_code(line) is None
        return True

    def messages(self, spec: TrialSpec) -> Generator[str, None, None]:
        """Runs an attempt and yields its messages as they come; closed early, it tells the attempt to stop.

        The attempt may then live on for seconds; `is_ready` waits for its end.

        Raises:
            ChildProcessError: the attempt's process died without saying how it ended.
        """
        self._attempt_runs = True
        try:
            with suppress(BrokenPipeError):  # the server is gone, which is what we read
                self._send(spec.model_dump_json())
            while (line := self._read()) is not None:
                code = _exit_code(line)
                if code is None:
                    yield line
                    continue
                self._attempt_runs = False
                if code != 0:
                    raise self._death(f"the attempt's process ended with exit code {code}")
                self._printed_before = _size(self._log)
                return
            code = self._process.wait()
            raise self._death(f"the process that runs attempts ended with exit code {code}")
        finally:
            if self._attempt_runs:
                with suppress(BrokenPipeError):  # the server is gone, and its attempt with it
                    self._send(STOP_LINE)

    def close(self) -> None:
        """Ends the server and waits for it; an attempt that runs is ended first."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._attempt_runs = False
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def _death(self, what: str) -> ChildProcessError:
        """The error that says what died and, as far as it was printed, why."""
        why = ""
        with suppress(FileNotFoundError), self._log.open("rb") as log:
            log.seek(max(self._printed_before, _size(self._log) - LAST_PRINTED))
            why = last_line(log.read().decode(errors="replace"))
        return ChildProcessError(f"{what}: {why}" if why else what)

    def _send(self, order: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(order.encode() + b"\n")
        self._process.stdin.flush()

    def _read(self) -> str | None:
        """The next whole line, or None at the end; the rest of a message that a killed attempt left is skipped."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with suppress(ValueError):
                json.loads(line)
                return line.decode()
        return None


def _size(file: Path) -> int:
    """Bytes of a file; 0 where somebody has deleted it."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _exit_code(line: str) -> int | None:
    """The exit code that the server's line tells, or None where it is a message of the attempt."""
    code: int | None = json.loads(line).get("exit")
    return code


# One server per worker process. Tune reuses the worker for the next trial with the same resources.
_server: AttemptServer | None = None


def trainable(config: dict[str, Any]) -> None:
    """Runs the assigned attempt and passes each of its messages on to Tune.

    When Tune stops the trial, `tune.report` raises SystemExit; the attempt is told to stop and the server lives on for
    the next trial. Tune waits two seconds for us before it gives the worker up, which is why its end is awaited by the
    next one. A process that died without saying how it ended is reported with what is known of its death; an exception
    would reach the search without its text.
    """
    from ray import tune

    spec = TrialSpec.model_validate(config)
    _announce(spec)
    try:
        with closing(_ready_server(spec).messages(spec)) as messages:
            for message in messages:
                tune.report({"message": message})
    except (OSError, OrchestratorError) as error:
        lost = WorkerMessage(
            attempt_result=AttemptResult(state="failed", reason=f"{first_line(error)}; see {_log_of(spec)}")
        )
        tune.report({"message": lost.model_dump_json()})


def _announce(spec: TrialSpec) -> None:
    """Tells Ray which trial this actor serves from now on.

    An actor keeps its name for life, and ours serve one trial after another. What can change is what they do: a task
    that does nothing carries the trial's name into the actor's list of tasks, and a line goes into the actor's log.
    """
    import ray

    print(f"{spec.title or spec.name} attempt {spec.attempt}", flush=True)
    actor = ray.get_runtime_context().current_actor
    actor.__ray_ready__.options(name=spec.title or spec.name).remote()


def _ready_server(spec: TrialSpec) -> AttemptServer:
    global _server
    if _server is None or not _server.is_ready():
        log = folder_here(spec).logs / ATTEMPTS_LOG
        _server = AttemptServer(log, attempt_environment(spec.threads, spec.gpus))
    return _server


def _log_of(spec: TrialSpec) -> str:
    """Where people find what the processes of attempts print."""
    here = f"logs/{ATTEMPTS_LOG}"
    return here if spec.storage is None else f"{here} of the mirror on {host()}"


def read_message(result: dict[str, Any] | None) -> WorkerMessage | None:
    """The message that a result of Tune carries, if it carries one."""
    text = (result or {}).get("message")
    return None if text is None else WorkerMessage.model_validate_json(text)
