"""Child processes: how they are started, and the lines of JSON exchanged with those that answer requests.

`Child` is the parent's end of such a process and `Parent` the child's. The child is a module with a function
`main(parent: Parent)`, started by the command that `child_command` makes.

No child imports anything from the current folder. Python puts that folder before all others for `-m` and `-c`: a file
`trainer.py`, `random.py` or a folder `ax` that happens to lie there would be run in place of the module meant.
"""

from __future__ import annotations

import ctypes
import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NoReturn, Self

from trainer.files import in_place
from trainer.formatting import first_line, one_line, shortened

# Python's own variable: no script's and no current folder is put into `sys.path`. Grandchildren inherit it.
SAFE_PATH = "PYTHONSAFEPATH"
# The folder that holds `trainer` and, where it is installed, `orchestrator`.
HOME = Path(__file__).resolve().parents[1]
SITE_FOLDERS = ("site-packages", "dist-packages")
KEEPS_RUNNING = "--keeps-running"
PR_SET_PDEATHSIG = 1  # from <sys/prctl.h>: the signal that this process gets when its parent dies
GRACE_S = 5.0  # between SIGTERM and SIGKILL
EXIT_S = 1.0  # between the end of a child's output and its own
PRINTED_BYTES = 4096  # of standard error, read for the reason of a child's death
MAX_REASON = 200  # characters
# A line of Python's logging says what a process did, not why it died.
LOGGED = re.compile(r"\d{4}-\d\d-\d\d[ T]|\[?(?:DEBUG|INFO|WARNING)\b")


class ChildError(Exception):
    """A child gave no usable reply; the message says why."""


class ChildTimeout(ChildError):
    """No reply came in time. The child still runs."""


class BadReply(ChildError):
    """The child sent a line that is not JSON, or a number that is not finite. More replies may follow."""


class ChildEnded(ChildError):
    """The child has ended and all its replies have been received."""

    def __init__(self, name: str, code: int, reason: str) -> None:
        how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        super().__init__(f"{name} {how}" + (f": {reason}" if reason else ""))
        self.code = code
        """As `subprocess.Popen.returncode`: minus the number of the signal that ended it."""
        self.reason = reason
        """Last line that it printed to standard error; empty if none."""


class Child:
    """A child process that receives and sends messages, each a line of JSON. Use it in a `with` statement."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        name: str,
        environment: Mapping[str, str] | None = None,
        log: Path | None = None,
    ) -> None:
        """Starts the child, in a session of its own: Ctrl-C does not reach it.

        Args:
            command: see `child_command`.
            name: subject of the messages of errors, such as "Ax's process".
            environment: of the child; ours where None.
            log: file to which its standard error is appended. If None, or not writable, a temporary one is used.

        Raises:
            OSError: it could not be started.
        """
        self._name = name
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._replies: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._printed = _log_file(log)
        self._printed_before = self._printed_bytes()
        self._has_replied = False
        try:
            self._process: subprocess.Popen[bytes] = start_child(
                command,
                environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._printed,
                start_new_session=True,
            )
        except BaseException:
            self._printed.close()
            raise
        # A child that is busy reads nothing, and a long request fills the pipe: `send` must not wait for it.
        threading.Thread(target=_write, args=(self._process, self._requests), daemon=True).start()
        threading.Thread(target=_read, args=(self._process, self._replies), daemon=True).start()

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def is_running(self) -> bool:
        """Whether the process has not ended yet."""
        return self._process.poll() is None

    def send(self, message: object) -> None:
        """Sends a message without waiting for the child to read it. One that has ended is noticed by `receive`.

        Raises:
            ValueError, TypeError: the message is not JSON, or holds a number that is not finite.
        """
        line = json.dumps(message, allow_nan=False).encode() + b"\n"
        if self._has_replied:  # what was printed until now belongs to earlier requests
            self._printed_before, self._has_replied = self._printed_bytes(), False
        self._requests.put(line)

    def end_input(self) -> None:
        """Tells the child that no more messages will come."""
        self._requests.put(None)

    def receive(self, timeout: float | None = None) -> Any:
        """The next message of the child.

        Args:
            timeout: seconds to wait for it; 0 only takes one that is already there, None waits until the child ends.

        Raises:
            ChildTimeout: it did not come in time.
            BadReply: it is not JSON.
            ChildEnded: there are no more; the child has ended.
        """
        timeout = None if timeout is None else max(0.0, timeout)
        try:
            line = self._replies.get(timeout=timeout)
        except queue.Empty:
            raise ChildTimeout(f"{self._name} gave no reply within {timeout:g} s") from None
        if line is None:
            self._replies.put(None)  # for the next call
            self._raise_ended()
        self._has_replied = True
        try:
            return json.loads(line, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise BadReply(f"{self._name} gave an unreadable reply: {first_line(error)}") from error

    def last_line(self) -> str:
        """Last line that it has printed to standard error since the latest request; empty if none.

        A process that the child has forked prints there, too.
        """
        if self._printed.closed:
            return ""
        start = max(self._printed_before, self._printed_bytes() - PRINTED_BYTES)
        # No seek: the child writes at the same offset.
        return last_line(os.pread(self._printed.fileno(), PRINTED_BYTES, start).decode(errors="replace"))

    def _printed_bytes(self) -> int:
        return os.fstat(self._printed.fileno()).st_size

    def _raise_ended(self) -> NoReturn:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(EXIT_S)
        self._end(GRACE_S)
        raise ChildEnded(self._name, self._process.returncode, self.last_line())

    def close(self, grace: float | None = GRACE_S) -> None:
        """Ends the child: its input ends, it gets SIGTERM and, `grace` seconds later, SIGKILL; never, if None."""
        self._end(grace)
        self._printed.close()

    def _end(self, grace: float | None) -> None:
        self.end_input()
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(grace)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Parent:
    """The child's end: messages come by standard input, replies go to standard output."""

    def __init__(self) -> None:
        """From here on, what libraries print to standard output goes to standard error; it is no reply."""
        self._replies = os.dup(1)
        os.dup2(2, 1)
        self._received = bytearray()

    def fileno(self) -> int:
        """Descriptor of the messages, for `select`. It shows nothing of a message for which `is_waiting` is true."""
        return 0

    def is_waiting(self) -> bool:
        """Whether a message has been received already, so that `receive` returns it at once."""
        return b"\n" in self._received

    def receive(self) -> Any:
        """The next message; waits for it.

        Raises:
            EOFError: there will be no more; the parent has ended, or has called `Child.end_input`.
            ValueError: it is not JSON.
        """
        looked_at = 0
        while (end := self._received.find(b"\n", looked_at)) < 0:
            looked_at = len(self._received)
            received = os.read(0, 65536)
            if not received:
                raise EOFError
            self._received += received
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return json.loads(line)

    def __iter__(self) -> Iterator[Any]:
        """All messages until there will be no more."""
        with suppress(EOFError):
            while True:
                yield self.receive()

    def send(self, message: object) -> None:
        """Sends a reply.

        Raises:
            ValueError, TypeError: it is not JSON, or holds a number that is not finite.
            BrokenPipeError: the parent has ended.
        """
        data = json.dumps(message, allow_nan=False).encode() + b"\n"
        while data:
            data = data[os.write(self._replies, data) :]

    def end_line(self) -> None:
        """Ends a line that a forked process, killed while it sent, may have left unfinished."""
        os.write(self._replies, b"\n")


def child_command(module: str, *, keeps_running: bool = False) -> list[str]:
    """The command that calls the module's `main(parent)` in a process of its own.

    Args:
        module: its full name.
        keeps_running: the child ends when its input does, in its own time. Otherwise the kernel kills it (on Linux)
            when the thread that started it ends, as every thread does with its process.
    """
    return python_command("-m", "trainer.child", module, *([KEEPS_RUNNING] if keeps_running else []))


def main() -> None:
    """Calls the `main` of the module that `child_command` has put into the arguments."""
    _, module, *rest = sys.argv
    if KEEPS_RUNNING not in rest:
        die_with_parent()
    parent = Parent()
    import_module(module).main(parent)


def die_with_parent(number: signal.Signals = signal.SIGKILL) -> None:
    """Asks the kernel to send this process a signal when the thread that started it ends, however that happens (Linux).

    Does nothing on other systems.
    """
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it died before we asked
        os.kill(os.getpid(), number)


def last_line(printed: str) -> str:
    """The last line that a process printed to standard error, which of a traceback names the exception.

    Lines of Python's logging are left out. Empty if there are no others.
    """
    lines = [line.strip() for line in printed.splitlines()]
    found = [line for line in lines if line and not LOGGED.match(line)]
    return one_line(shortened(found[-1], MAX_REASON)) if found else ""


def cores() -> int:
    """CPU cores that this process and its children may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def python_command(*arguments: str) -> list[str]:
    """The command that starts this Python with these arguments."""
    return [sys.executable, "-P", *arguments]


def start_child(
    command: Sequence[str], environment: Mapping[str, str] | None = None, **settings: Any
) -> subprocess.Popen[Any]:
    """Starts a child that does not speak JSON; a Python among its descendants imports nothing from the current folder.

    Args:
        command: see `python_command`.
        environment: of the child; ours where None.
        settings: as `subprocess.Popen` takes them.

    Raises:
        OSError: it could not be started.
    """
    environment = os.environ if environment is None else environment
    return subprocess.Popen(list(command), env=python_environment(environment), **settings)


def python_environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """The same environment with the current folder left out of Python's search path, and our own folder in it.

    An empty entry of PYTHONPATH means the current folder, and mostly comes from `PYTHONPATH=$PYTHONPATH:/elsewhere`.
    Entries that name a folder stay.
    """
    path = [entry for entry in inherited.get("PYTHONPATH", "").split(os.pathsep) if entry]
    ours = checkout()
    if ours is not None and str(ours) not in path:
        path.append(str(ours))
    return {**inherited, SAFE_PATH: "1", "PYTHONPATH": os.pathsep.join(path)}


def checkout() -> Path | None:
    """The folder that our packages are imported from as an entry of `sys.path`; None where they are installed."""
    if HOME.name in SITE_FOLDERS:
        return None
    return HOME if any(Path(entry).resolve() == HOME for entry in sys.path) else None


def _log_file(log: Path | None) -> IO[bytes]:
    if log is not None:
        with suppress(OSError):  # a storage that can only be read
            log.parent.mkdir(parents=True, exist_ok=True)
            return open(log, "a+b", opener=in_place)
    return tempfile.TemporaryFile()


def _write(process: subprocess.Popen[bytes], requests: queue.SimpleQueue[bytes | None]) -> None:
    assert process.stdin is not None
    with suppress(OSError), process.stdin:  # the end of the child is noticed by its output's
        while (line := requests.get()) is not None:
            process.stdin.write(line)
            process.stdin.flush()


def _read(process: subprocess.Popen[bytes], replies: queue.SimpleQueue[bytes | None]) -> None:
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            if line.strip():
                replies.put(line)
    replies.put(None)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a finite number")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


if __name__ == "__main__":
    # The module imports `trainer.child` itself; the classes are to be the same.
    from trainer.child import main as run

    run()
