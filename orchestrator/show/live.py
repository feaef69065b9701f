"""A running search on standard error: a table that is redrawn, or plain lines where nothing can be redrawn."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from orchestrator.base.errors import UNWRITABLE
from orchestrator.base.escaping import harmless
from orchestrator.base.hints import hint, installed
from orchestrator.base.uris import without_passwords
from orchestrator.cluster.ray import Connection
from orchestrator.cluster.resources import Allocation
from orchestrator.runner.session import SessionCallbacks, SessionResult
from orchestrator.show.logs import event_line
from orchestrator.show.search_text import SYNTHETIC_MARK, summary_line
from orchestrator.show.terminal import LiveView, output, print_summary
from orchestrator.stores.base import SearchFolder
from orchestrator.stores.loading import LoadedSearch
from orchestrator.study.description import SearchDescription
from orchestrator.study.journal import Record
from orchestrator.study.recorder import Recorder
from orchestrator.summary import summarise
from orchestrator.tracking.sync import tracking_uri

HINT = "Ctrl-C stops; resume continues"
REFRESH_PER_S = 2


def pages_command(uri: str, folder: SearchFolder) -> str:
    """The command that shows the runs of a search, which MLflow keeps at `uri`, in a browser."""
    if uri.startswith(("http:", "https:")):
        return f"open {without_passwords(uri)}"
    return hint("ui", folder.name, storage=folder.path.parent)


def stopping_line(wish: str | None, running: int) -> str:
    """What is said at once when a stop is asked for, of a search of which so many trials run."""
    by = "" if wish in (None, "SIGINT") else f" ({wish})"
    what = f"saving {running} trial{'s' * (running > 1)} …" if running else "no trial runs …"
    return f"stopping{by}: {what}" + ("  Ctrl-C again ends at once" if wish == "SIGINT" else "")


@contextmanager
def _read_or_not() -> Iterator[None]:
    """Lets a search go on when its standard error cannot be written: what it says is in the journal, too.

    The reader of a pipe may be gone, or the disk below a file full.
    """
    try:
        yield
    except (OSError, SystemExit) as error:  # the second is what rich makes of a closed pipe
        if isinstance(error, OSError) and error.errno not in UNWRITABLE:
            raise
        # Whatever is printed from now on, by us or by a library, finds an open file.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


class Display:
    """Shows a running search on standard error."""

    def __init__(self, folder: SearchFolder) -> None:
        self._folder = folder
        self._console = harmless(Console(stderr=True, highlight=False, markup=False, emoji=False))
        self._redraws = self._console.is_terminal and "NO_COLOR" not in os.environ
        self._ledger: Recorder | None = None
        self._description: SearchDescription | None = None
        self._live: Live | None = None
        self._began = time.monotonic()

    def watch(self) -> SessionCallbacks:
        """The listeners that `run_search` wants."""
        return SessionCallbacks(
            started=self._on_start, connected=self._on_connection, noticed=self.line, stopping=self._on_stop
        )

    @contextmanager
    def showing(self) -> Iterator[None]:
        """Draws until the block ends."""
        if not self._redraws:
            yield
            return
        with Live(
            get_renderable=self._render,
            console=self._console,
            refresh_per_second=REFRESH_PER_S,
            transient=True,
        ) as live:
            self._live = live
            yield

    def line(self, label: str, text: str) -> None:
        """One line that stays."""
        with _read_or_not():
            self._console.print(Text(f"{label:<10}", style="bold"), Text(text), sep="", end="\n", soft_wrap=True)

    def ending(self, ending: SessionResult) -> None:
        """What became of the search, on standard output, and what to do next."""
        search = LoadedSearch(self._folder, ending.description, ending.study, is_driven=False)
        out = output()
        print_summary(out, summarise(search))
        uri = tracking_uri(self._folder, ending.description.options)
        out.print(f"MLflow    {without_passwords(uri)}", soft_wrap=True)
        name, storage = self._folder.name, self._folder.path.parent
        if ending.unsent:
            sync = hint("sync", name, storage=storage)
            out.print(f"          {ending.unsent} events were not taken yet; `{sync}` sends them", soft_wrap=True)
        if search.state == "interrupted":
            out.print(f"next      {hint('resume', name, storage=storage)}", soft_wrap=True)
        else:
            out.print(f"next      {pages_command(uri, self._folder)}", soft_wrap=True)
            out.print(f"          {hint('status', name, storage=storage)}", soft_wrap=True)

    def _on_start(self, ledger: Recorder, description: SearchDescription) -> None:
        self._ledger, self._description = ledger, description
        if not self._redraws:
            ledger.subscribe(self._print_event)
        study = ledger.study
        self.line("search", f"{description.search}  {self._folder.path}")
        if description.synthetic:
            self.line("data", SYNTHETIC_MARK)
        if study.sessions > 1:
            over = sum(trial.is_over for trial in study.all_trials.values())
            self.line("resume", f"{over} trials are over, {len(study.all_trials) - over} continue where they stopped")

    def _on_connection(self, connection: Connection, share: Allocation, tracking_uri: str) -> None:
        self.line("trials", share.reason)
        if connection.dashboard:
            self.line("watch", f"Ray dashboard {connection.dashboard} (token: {installed('ray')} get-auth-token)")
        self.line("", f"MLflow: {pages_command(tracking_uri, self._folder)}")

    def _on_stop(self, wish: str | None, running: int) -> None:
        if self._live is not None:
            # For good: from here on the process may end at any time, and would leave a table behind.
            self._live.stop()
        with _read_or_not():
            self._console.print(stopping_line(wish, running), soft_wrap=True)

    def _render(self) -> RenderableType:
        if self._ledger is None or self._description is None:
            return Text("starting")
        with self._ledger.lock:
            now = summarise(LoadedSearch(self._folder, self._description, self._ledger.study, is_driven=True))
        elapsed = time.monotonic() - self._began
        return LiveView(now, f"{summary_line(now)}, {elapsed / 60:.0f} min", HINT)

    def _print_event(self, record: Record) -> None:
        line = event_line(record)
        if line is not None:
            with _read_or_not():
                print(line, file=sys.stderr, flush=True)
