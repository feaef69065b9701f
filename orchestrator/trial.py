"""The trainable: the only code that knows both Ray Tune and an attempt."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from orchestrator.attempt import Assignment, Message, thread_environment
from orchestrator.folder import SearchFolder

# One server per worker process. Tune reuses the worker for the next trial with the same resources.
_server: subprocess.Popen[bytes] | None = None


def trainable(config: dict[str, Any]) -> None:
    """Runs the assigned attempt and passes each of its messages on to Tune.

    Raises:
        ChildProcessError: the attempt's process died without saying how it ended.
    """
    from ray import tune

    assignment = Assignment.model_validate(config)
    server = _running_server(assignment)
    assert server.stdin is not None and server.stdout is not None
    server.stdin.write(assignment.model_dump_json().encode() + b"\n")
    server.stdin.flush()
    for line in server.stdout:
        reply = json.loads(line)
        if "exit" not in reply:
            tune.report({"message": line.decode()})
        elif reply["exit"] == 0:
            return
        else:
            raise ChildProcessError(f"the attempt's process ended with exit code {reply['exit']}")
    raise ChildProcessError("the attempt's server died")


def _running_server(assignment: Assignment) -> subprocess.Popen[bytes]:
    global _server
    if _server is None or _server.poll() is not None:
        logs = SearchFolder(assignment.search).logs
        logs.mkdir(parents=True, exist_ok=True)
        with (logs / "attempts.log").open("ab") as log:
            _server = subprocess.Popen(
                [sys.executable, "-m", "orchestrator.attempt_server"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the driver; the server ends when its input does
                env=thread_environment(assignment.threads),
            )
    return _server


def read_message(result: dict[str, Any] | None) -> Message | None:
    """The message that a result of Tune carries, if it carries one."""
    text = (result or {}).get("message")
    return None if text is None else Message.model_validate_json(text)
