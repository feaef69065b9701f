"""Our end of the child process that runs Ax."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from orchestrator.parameters import Value

# One answer takes 1-5 s up to 100 trials; the first one also waits for Ax's import, 10-20 s on a busy machine.
DEADLINE_S = 180.0


class AxFailed(Exception):
    """The model gave no usable answer; the message says why. The search goes on without it."""


class AxProcess:
    """Asks Ax one question at a time without waiting for the answer."""

    def __init__(self, log: Path, deadline: float = DEADLINE_S) -> None:
        self._log = log
        self._deadline = deadline
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue()
        self._asked_at: float | None = None

    def start(self) -> None:
        """Starts the child unless it runs, so that it can import Ax before it is needed.

        To be called from the main thread: the child dies with the thread that started it.
        """
        if self._process is not None and self._process.poll() is None:
            return
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._answers = queue.Queue()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "orchestrator.ax_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C is for us; the child ends when its input does, or with us
                # With more threads a fit on a busy machine takes minutes instead of seconds.
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        threading.Thread(target=_read, args=(self._process, self._answers), daemon=True).start()

    @property
    def is_thinking(self) -> bool:
        """Whether a question is unanswered."""
        return self._asked_at is not None

    def ask(self, question: dict[str, Any]) -> None:
        """Sends a question; `poll` brings the answer.

        Raises:
            AxFailed: the child is gone and could not be started again.
        """
        assert not self.is_thinking
        self.start()
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question, allow_nan=False) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise AxFailed(f"Ax's process ended; see {self._log}") from error
        self._asked_at = time.monotonic()

    def poll(self) -> dict[str, Value] | None:
        """The answer, or None as long as Ax thinks.

        Raises:
            AxFailed: Ax raised, died, or took longer than the deadline.
        """
        assert self._asked_at is not None
        while True:
            try:
                reply = self._answers.get_nowait()
            except queue.Empty:
                self._check_alive()
                return None
            if "ready" in reply:
                continue
            self._asked_at = None
            if "error" in reply:
                raise AxFailed(reply["error"])
            params: dict[str, Value] = reply["params"]
            return params

    def _check_alive(self) -> None:
        assert self._process is not None and self._asked_at is not None
        if time.monotonic() - self._asked_at > self._deadline:
            self.close()
            raise AxFailed(f"no answer within {self._deadline:.0f} s")
        if self._process.poll() is not None and self._answers.empty():
            self.close()
            raise AxFailed(f"Ax's process ended; see {self._log}")

    def close(self) -> None:
        """Ends the child."""
        self._asked_at = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _read(process: subprocess.Popen[str], answers: queue.Queue[dict[str, Any]]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        answers.put(json.loads(line))
