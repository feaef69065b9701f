"""The request to stop a search: by a signal, by a user, or after an error that ends it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
# One Ctrl-C may arrive twice: from the terminal, and passed on by a program that started us (`uv run`, `srun`).
REPEATED_WITHIN_S = 1.0


def _ignored(wish: str | None) -> None:
    """Ignores the request."""


class StopRequest:
    """Set once, never unset. As a context, entered by the main thread, it listens to SIGINT, SIGTERM and SIGUSR1.

    After the first signal no attempt starts, and the running ones end after their next step, with their state saved.
    The second signal ends the process at once.

    A handler of Python's runs in the main thread, and only once that returns from C, which takes Ray's calls up to
    minutes. The signals are therefore read by a thread, from a pipe that the interpreter's own handler writes to.
    """

    def __init__(self, asked: Callable[[str | None], None] = _ignored) -> None:
        """Calls `asked` with the wish, in a thread of its own, as soon as the first request arrives in the context."""
        self.since: float | None = None
        """When it was set, on the monotonic clock."""
        self.signal: signal.Signals | None = None
        self.wish: str | None = None
        """The source of the request, in a word; None for an error."""
        self._asked = asked
        self._before: dict[signal.Signals, object] = {}
        self._wakeup_before = -1
        self._bell: int | None = None
        self._listener: threading.Thread | None = None

    @property
    def requested(self) -> bool:
        """Whether it is set."""
        return self.since is not None

    def __enter__(self) -> StopRequest:
        heard, self._bell = os.pipe()
        os.set_blocking(self._bell, False)
        self._listener = threading.Thread(target=self._listen, args=(heard,), name="signals", daemon=True)
        self._listener.start()
        self._wakeup_before = signal.set_wakeup_fd(self._bell, warn_on_full_buffer=False)
        for number in HANDLED:
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before = {}
        signal.set_wakeup_fd(self._wakeup_before)
        assert self._bell is not None and self._listener is not None
        bell, self._bell = self._bell, None
        os.close(bell)
        self._listener.join()

    def listen_again(self) -> None:
        """Installs the handlers again after a library has replaced them; does nothing outside of the context."""
        for number in self._before:
            signal.signal(number, self._on_signal)

    def request(self, wish: str | None = None) -> None:
        """Asks for the end without a signal."""
        self.wish = self.wish or wish
        self.since = self.since or time.monotonic()
        if (bell := self._bell) is not None:
            with contextlib.suppress(OSError):  # full of signals, or just closed
                os.write(bell, b"\0")

    def lasts(self, seconds: float) -> bool:
        """Whether it was set at least so many seconds ago."""
        return self.since is not None and time.monotonic() - self.since >= seconds

    def _on_signal(self, number: int, frame: FrameType | None = None) -> None:
        if self.signal is None:
            self.signal = signal.Signals(number)
            self.request(self.signal.name)

    def _listen(self, heard: int) -> None:
        """Reads a byte per signal, its number, and 0 per request without one, until the pipe is closed."""
        is_reported, first = False, None
        with os.fdopen(heard, "rb", buffering=0) as pipe:
            while byte := pipe.read(1):
                if byte[0] in HANDLED:
                    now = time.monotonic()
                    if first is not None and now - first >= REPEATED_WITHIN_S:
                        os._exit(128 + byte[0])
                    first = first or now
                    self._on_signal(byte[0])
                if self.requested and not is_reported:
                    is_reported = True
                    self._asked(self.wish)
