"""The trainable of Ray Tune: runs attempts in a process of their own and passes on what they report."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from orchestrator.base.errors import OrchestratorError
from orchestrator.base.process import trim_secrets
from orchestrator.base.provenance import host
from orchestrator.runner.attempt_server import STOP
from orchestrator.runner.trial_spec import AttemptResult, TrialSpec, WorkerMessage, attempt_environment, folder_here
from trainer.child import BadReply, Child, ChildEnded, child_command
from trainer.formatting import first_line

ATTEMPTS_LOG = "attempts.log"
SERVER = child_command("orchestrator.runner.attempt_server", keeps_running=True)


class AttemptServer:
    """The parent's end of a process that forks attempts (`orchestrator.runner.attempt_server`), one at a time."""

    def __init__(self, log: Path, environment: Mapping[str, str], command: Sequence[str] = SERVER) -> None:
        """Starts the process; what it and its attempts print goes to the end of the log.

        Raises:
            OSError: it could not be started.
        """
        self._child = Child(command, name="the process that runs attempts", environment=environment, log=log)
        self._attempt_runs = False

    def is_ready(self) -> bool:
        """Waits for the end of an attempt that was told to stop; False if the server is gone."""
        with suppress(ChildEnded):
            while self._attempt_runs:
                self._attempt_runs = "exit" not in self._receive()
        return self._child.is_running()

    def messages(self, spec: TrialSpec) -> Generator[str, None, None]:
        """Runs an attempt and yields its messages, in JSON, as they come; closed early, it tells the attempt to stop.

        The attempt may then live on for seconds; `is_ready` waits for its end.

        Raises:
            ChildProcessError: the attempt's process died without saying how it ended.
        """
        self._attempt_runs = True
        try:
            self._child.send(spec.model_dump(mode="json"))
            while "message" in (reply := self._receive()):
                yield reply["message"]
            self._attempt_runs = False
            if reply["exit"] != 0:
                how, why = f"the attempt's process ended with exit code {reply['exit']}", self._child.last_line()
                raise ChildProcessError(f"{how}: {why}" if why else how)
        except ChildEnded as error:
            self._attempt_runs = False
            raise ChildProcessError(str(error)) from error
        finally:
            if self._attempt_runs:
                self._child.send(STOP)

    def close(self) -> None:
        """Ends the server and waits for it; an attempt that runs is ended first."""
        self._attempt_runs = False
        self._child.close(grace=None)

    def _receive(self) -> dict[str, Any]:
        """The next reply; the rest of one that a killed attempt left is skipped."""
        while True:
            with suppress(BadReply):
                reply: dict[str, Any] = self._child.receive()
                return reply


# One server per worker process. Tune reuses the worker for the next trial with the same resources.
_server: AttemptServer | None = None


def trainable(config: dict[str, Any]) -> None:
    """Runs the assigned attempt and passes each of its messages on to Tune.

    When Tune stops the trial, `tune.report` raises SystemExit; the attempt is told to stop, and the server stays for
    the next trial. Tune gives a worker up after two seconds, which is why the next one waits for the attempt's end.
    """
    from ray import tune

    trim_secrets()
    spec = TrialSpec.model_validate(config)
    _announce(spec)
    with closing(attempt_messages(spec, _ready_server)) as messages:
        for message in messages:
            tune.report({"message": message})


def attempt_messages(spec: TrialSpec, ready_server: Callable[[TrialSpec], AttemptServer]) -> Generator[str, None, None]:
    """The messages of an attempt, in JSON. The last one reports the death of a process, with its reason.

    As an exception the death would reach the search without its text.
    """
    try:
        with closing(ready_server(spec).messages(spec)) as messages:
            yield from messages
    except (OSError, OrchestratorError) as error:
        result = AttemptResult(state="failed", reason=f"{first_line(error)}; see {_log_of(spec)}")
        yield WorkerMessage(attempt_result=result).model_dump_json()


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
