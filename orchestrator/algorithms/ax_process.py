"""Our end of the child process that runs Ax."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainer.child import python_command, start_child
from trainer.files import in_place
from trainer.formatting import first_line, one_line

# By the model's method. An answer of `fast` takes 1-5 s up to 100 trials, one of `quality` tens of seconds of processor
# time; the first one also waits for Ax's import, 10-20 s on a busy machine.
DEADLINES_S: Mapping[str, float] = {"fast": 180.0, "quality": 1800.0}
# With more threads a fit on a busy machine takes minutes instead of seconds. JAX is to leave GPUs to the trials.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false", "JAX_PLATFORMS": "cpu"}
LAST_WORDS_BYTES = 4096  # of the log of a child that died
WORKER = python_command("-m", "orchestrator.algorithms.ax_worker")


def deadline_for(question: Mapping[str, Any]) -> float:
    """Seconds that an answer may take: each objective is a model of its own."""
    models = 1 + str(question.get("objective", "")).count(",")
    return DEADLINES_S[question.get("method", "fast")] * models


class AxFailed(Exception):
    """The model gave no usable answer; the message says why. The search goes on without it."""


class AxProcess:
    """Asks Ax one question at a time without waiting for the answer."""

    def __init__(self, log: Path, deadline: float | None = None, *, command: Sequence[str] = WORKER) -> None:
        """Nothing runs yet.

        Args:
            log: receives what the child prints.
            deadline: seconds after which a question is given up and the child ended; None is what its method may take.
            command: the child; answers each JSON line with as many lines `{"params": ...}` as its `count` says, one if
                it says nothing, or with one `{"error": ...}` that ends the answer.
        """
        self._command = list(command)
        self._log = log
        self._logged = 0
        self._deadline = deadline
        self._process: subprocess.Popen[str] | None = None
        self._questions: queue.Queue[str | None] = queue.Queue()
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue()
        self._awaited = 0
        self._since = 0.0
        self._limit = 0.0

    def start(self) -> None:
        """Starts the child unless it runs, so that it can import Ax before it is needed.

        To be called from the main thread: the child dies with the thread that started it.
        """
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._questions, self._answers = queue.Queue(), queue.Queue()
        with open(self._log, "ab", opener=in_place) as log:
            self._logged = log.tell()
            self._process = start_child(
                self._command,
                {**os.environ, **ONE_THREAD},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,  # Ctrl-C is for us; the child ends when its input does, or with us
            )
        # A child that is still importing reads nothing, and a long history fills the pipe: writing must not block us.
        threading.Thread(target=_write, args=(self._process, self._questions), daemon=True).start()
        threading.Thread(target=_read, args=(self._process, self._answers), daemon=True).start()

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
            text = json.dumps(question, allow_nan=False)
            self.start()
        except (OSError, ValueError) as error:
            raise AxFailed(f"Ax could not be asked: {first_line(error)}") from error
        self._questions.put(text)
        self._limit = deadline_for(question) if self._deadline is None else self._deadline
        self._since = time.monotonic()
        self._awaited = question.get("count", 1)

    def poll(self) -> dict[str, Any] | None:
        """The next answer as Ax gave it, unchecked; None as long as Ax thinks.

        Raises:
            AxFailed: Ax raised, died, or took longer than the deadline; no more answers will come.
        """
        assert self._awaited
        while True:
            try:
                reply = self._answers.get_nowait()
            except queue.Empty:
                self._check_deadline()
                return None
            if "ready" not in reply:
                return self._answer(reply)

    def _answer(self, reply: Mapping[str, Any]) -> dict[str, Any]:
        if "ended" in reply:
            self.close()
            raise AxFailed(f"Ax's process ended{self._last_words()}; see {self._log}")
        params = reply.get("params")
        if "error" in reply or not isinstance(params, dict):
            if self._awaited > 1:
                self.close()  # what it still says could not be told from answers to the next question
            self._awaited = 0
            raise AxFailed(str(reply.get("error", "the reply holds no point")))
        self._awaited -= 1
        self._since = time.monotonic()
        return params

    def _last_words(self) -> str:
        """The last line that the child has printed; of a traceback, its message."""
        with self._log.open("rb") as log:
            log.seek(max(self._logged, self._log.stat().st_size - LAST_WORDS_BYTES))
            lines = log.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f": {one_line(last)}" if last else ""

    def _check_deadline(self) -> None:
        if time.monotonic() - self._since > self._limit:
            self.close()
            raise AxFailed(f"no answer within {self._limit:.0f} s")

    def close(self) -> None:
        """Ends the child."""
        self._awaited = 0
        self._questions.put(None)
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _write(process: subprocess.Popen[str], questions: queue.Queue[str | None]) -> None:
    assert process.stdin is not None
    # A child that is gone is noticed by `poll`.
    with suppress(OSError), process.stdin:
        while (question := questions.get()) is not None:
            process.stdin.write(question + "\n")
            process.stdin.flush()


def _read(process: subprocess.Popen[str], answers: queue.Queue[dict[str, Any]]) -> None:
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            answers.put(_reply(line))
    answers.put({"ended": True})


def _reply(line: str) -> dict[str, Any]:
    try:
        reply = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        return {"error": f"an unreadable reply: {first_line(error)}"}
    return reply if isinstance(reply, dict) else {"error": "a reply that is no object"}


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no answer")
