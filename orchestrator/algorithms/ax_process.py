"""The process that runs Ax, asked one question at a time without waiting for the answer."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.child import BadReply, Child, ChildEnded, ChildTimeout, child_command
from trainer.formatting import first_line

# By the model's method. An answer of `fast` takes 1-5 s up to 100 trials, one of `quality` tens of seconds of processor
# time; the first one also waits for Ax's import, 10-20 s on a busy machine.
DEADLINES_S: Mapping[str, float] = {"fast": 180.0, "quality": 1800.0}
# With more threads a fit on a busy machine takes minutes instead of seconds. JAX is to leave GPUs to the trials.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false", "JAX_PLATFORMS": "cpu"}
WORKER = child_command("orchestrator.algorithms.ax_worker")


def deadline_for(question: Mapping[str, Any]) -> float:
    """Seconds that an answer may take: each objective is a model of its own."""
    models = 1 + str(question.get("objective", "")).count(",")
    return DEADLINES_S[question.get("method", "fast")] * models


class AxFailed(Exception):
    """The model gave no usable answer; the message says why. The search goes on without it."""


class AxProcess:
    """Asks Ax; a child that has ended is replaced by the next question."""

    def __init__(self, log: Path, deadline: float | None = None, *, command: Sequence[str] = WORKER) -> None:
        """Nothing runs yet.

        Args:
            log: file to which the child's standard error is appended.
            deadline: seconds after which a question is given up and the child ended; None for `deadline_for`.
            command: the child; answers each message with as many messages `{"params": ...}` or `{"continue": ...}` as
                its `count` says, one by default, or with an `{"error": ...}` that ends the answer.
        """
        self._command = command
        self._log = log
        self._deadline = deadline
        self._child: Child | None = None
        self._awaited = 0
        self._since = 0.0
        self._limit = 0.0

    def start(self) -> None:
        """Starts the child unless it runs, so that it can import Ax before it is needed.

        To be called from the main thread: the child dies with the thread that started it.

        Raises:
            OSError: it could not be started.
        """
        if self._child is None or not self._child.is_running():
            self.close()
            environment = {**os.environ, **ONE_THREAD}
            self._child = Child(self._command, name="Ax's process", environment=environment, log=self._log)

    @property
    def awaited(self) -> int:
        """Answers that are still to come."""
        return self._awaited

    def ask(self, question: dict[str, Any]) -> None:
        """Sends a question; `poll` brings its answers, one by one.

        Raises:
            AxFailed: the question holds a number that is not finite, or no child could be started.
        """
        assert not self._awaited
        try:
            self.start()
            assert self._child is not None
            self._child.send(question)
        except (OSError, ValueError) as error:
            raise AxFailed(f"Ax could not be asked: {first_line(error)}") from error
        self._limit = deadline_for(question) if self._deadline is None else self._deadline
        self._since = time.monotonic()
        self._awaited = question.get("count", 1)

    def poll(self) -> dict[str, Any] | None:
        """The next answer as the child gave it, a point or a paused trial, unchecked; None while it computes.

        Raises:
            AxFailed: Ax raised, died, or took longer than the deadline; no more answers will come.
        """
        assert self._awaited and self._child is not None
        try:
            reply = self._child.receive(0)
        except ChildTimeout:
            self._check_deadline()
            return None
        except ChildEnded as error:
            self.close()
            raise AxFailed(f"{error}; see {self._log}") from error
        except BadReply as error:
            reply = {"error": str(error)}
        answer, problem = _read_reply(reply)
        if answer is None:
            if self._awaited > 1:
                self.close()  # its other answers could not be told from those to the next question
            self._awaited = 0
            raise AxFailed(problem)
        self._awaited -= 1
        self._since = time.monotonic()
        return answer

    def _check_deadline(self) -> None:
        if time.monotonic() - self._since > self._limit:
            self.close()
            raise AxFailed(f"no answer within {self._limit:.0f} s")

    def close(self) -> None:
        """Ends the child."""
        self._awaited = 0
        if self._child is not None:
            self._child.close(grace=0)  # it holds nothing that is worth saving
            self._child = None


def _read_reply(reply: object) -> tuple[dict[str, Any] | None, str]:
    """A reply that answers the question, or None and what is wrong."""
    if not isinstance(reply, dict):
        return None, "a reply that is no object"
    if "error" in reply or not (isinstance(reply.get("params"), dict) or isinstance(reply.get("continue"), str)):
        return None, str(reply.get("error", "the reply holds no point"))
    return reply, ""
