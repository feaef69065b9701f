"""A running search on standard error: a table that is redrawn, or plain lines where nothing can be redrawn."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from orchestrator.base.errors import UNWRITABLE
from orchestrator.base.escaping import harmless
from orchestrator.base.formatting import duration
from orchestrator.base.hints import hint, installed
from orchestrator.base.uris import without_passwords
from orchestrator.cluster.ray import Connection
from orchestrator.cluster.resources import Allocation
from orchestrator.runner.session import SessionCallbacks, SessionResult
from orchestrator.show.logs import event_line, news
from orchestrator.show.search_text import data_mark, progress_parts
from orchestrator.show.terminal import LiveView, output, print_summary
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import SearchFolder
from orchestrator.study.description import SearchDescription
from orchestrator.study.events import TrialReported
from orchestrator.study.journal import Record
from orchestrator.study.recorder import Recorder
from orchestrator.study.study import Study, TrialStatus
from orchestrator.summary import RECENT, Summary, summarise
from orchestrator.tracking.sync import tracking_uri
from trainer.formatting import counted

HINT = "Ctrl-C stops; resume continues"
REFRESH_S = 1.0
SHARE = 0.008  # of a core that the table takes at most


def pages_command(uri: str, folder: SearchFolder) -> str:
    """The command that shows the runs of a search, which MLflow keeps at `uri`, in a browser."""
    if uri.startswith(("http:", "https:")):
        return f"open {without_passwords(uri)}"
    return hint("ui", folder.name, storage=folder.storage)


def stopping_line(wish: str | None, running: int) -> str:
    """Confirms a request to stop while so many trials run; `wish` is the signal or the command that asked."""
    by = "" if wish in (None, "SIGINT") else f" ({wish})"
    what = f"saving {running} trial{'s' * (running > 1)} …" if running else "no trial runs …"
    return f"stopping{by}: {what}" + ("  Ctrl-C again ends at once" if wish == "SIGINT" else "")


def _planned(space: SearchSpace) -> str:
    """How many trials and repeats a new search is to train."""
    trials, repeats = space.budget.trials, space.replicates.planned(space.budget.trials)
    then = f", then {counted(repeats, 'repeat', 'repeats')} with fresh seeds" if repeats else ""
    return counted(trials, "trial", "trials") + then


def _resumed(study: Study) -> str:
    """How many trials a resumed search finds, by what becomes of them."""
    trials = study.all_trials.values()
    over = sum(trial.is_over for trial in trials)
    paused = sum(trial.status == TrialStatus.PAUSED for trial in trials)
    rest = len(trials) - over - paused
    are = counted(over, "trial is", "trials are")
    continue_ = counted(rest, "continues where it stopped", "continue where they stopped")
    return f"{are} over, {continue_}" + f", {counted(paused, 'is', 'are')} paused" * bool(paused)


@contextmanager
def _unwritable_ignored() -> Iterator[None]:
    """Lets a search continue when standard error cannot be written: a closed pipe, a full disk."""
    try:
        yield
    except (OSError, SystemExit) as error:  # the second is what rich makes of a closed pipe
        if isinstance(error, OSError) and error.errno not in UNWRITABLE:
            raise
        # Later prints, also those of libraries, find an open file.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


class Display:
    """Shows a running search on standard error."""

    def __init__(self, folder: SearchFolder, console: Console | None = None) -> None:
        """Shows the search of a folder, on standard error unless a console is given."""
        self._folder = folder
        self._console = harmless(console or Console(stderr=True, highlight=False, markup=False, emoji=False))
        self._redraws = self._console.is_terminal and "NO_COLOR" not in os.environ
        self._recorder: Recorder | None = None
        self._description: SearchDescription | None = None
        self._live: Live | None = None
        self._began = time.monotonic()
        self._events: deque[Record] = deque(maxlen=RECENT)
        self._phase = "reading the search"
        """What is done before trials can run; empty afterwards."""

    def watch(self) -> SessionCallbacks:
        """The callbacks for `run_search`."""
        return SessionCallbacks(
            started=self._on_start, connected=self._on_connection, noticed=self.line, stopping=self._on_stop
        )

    @contextmanager
    def showing(self) -> Iterator[Live | None]:
        """Draws until the block ends; gives the table that is redrawn, None where lines are printed."""
        if not self._redraws:
            yield None
            return
        with Live(get_renderable=self._render, console=self._console, auto_refresh=False, transient=True) as live:
            self._live, over = live, threading.Event()
            thread = threading.Thread(target=self._refresh, args=(live, over), name="display", daemon=True)
            thread.start()
            try:
                yield live
            finally:
                over.set()
                thread.join()

    def _refresh(self, live: Live, over: threading.Event) -> None:
        """Draws again and again, the larger the search the more rarely, until it is over or the table is stopped."""
        pause = 0.0
        while not over.wait(pause) and live.is_started:
            began = time.thread_time()
            with _unwritable_ignored():
                live.refresh()
            pause = max(REFRESH_S, (time.thread_time() - began) / SHARE)

    def line(self, label: str, text: str) -> None:
        """Prints a line above the table."""
        with _unwritable_ignored():
            self._console.print(Text(f"{label:<10}", style="bold"), Text(text), sep="", end="\n", soft_wrap=True)

    def ending(self, ending: SessionResult) -> Summary:
        """Prints the result of the search on standard output, and what to do next; returns it."""
        summary = summarise(self._folder, ending.description, ending.study, is_driven=False)
        out = output()
        print_summary(out, summary)
        uri = tracking_uri(self._folder, ending.description.options)
        out.print(f"MLflow    {without_passwords(uri)}", soft_wrap=True)
        name, storage = self._folder.name, self._folder.storage
        sync = hint("sync", name, storage=storage)
        if ending.unsent:
            out.print(f"          {ending.unsent} events are not sent yet; `{sync}` sends them", soft_wrap=True)
        if summary.state == "interrupted":
            out.print(f"next      {hint('resume', name, storage=storage)}", soft_wrap=True)
        else:
            out.print(f"next      {sync if ending.unsent else pages_command(uri, self._folder)}", soft_wrap=True)
            for command in ("status", "report"):
                out.print(f"          {hint(command, name, storage=storage)}", soft_wrap=True)
        return summary

    def _on_start(self, recorder: Recorder, description: SearchDescription) -> None:
        self._recorder, self._description = recorder, description
        for record in recorder.history:
            self._keep(record)
        recorder.subscribe(self._keep if self._redraws else self.event)
        self._phase = "starting Ray and loading the model"
        study = recorder.study
        self.line("search", f"{description.search}  {self._folder.path}")
        if mark := data_mark(description):
            self.line("data", mark)
        if study.sessions > 1:
            self.line("resume", _resumed(study))
        else:
            self.line("budget", _planned(description.space))

    def _on_connection(self, connection: Connection, share: Allocation, tracking_uri: str) -> None:
        self._phase = ""
        self.line("trials", share.reason)
        if connection.dashboard:
            self.line("watch", f"Ray dashboard {connection.dashboard} (token: {installed('ray')} get-auth-token)")
        self.line("", f"MLflow: {pages_command(tracking_uri, self._folder)}")

    def _on_stop(self, wish: str | None, running: int) -> None:
        if self._live is not None:
            # From here on the process may end at any time, and would leave a table behind.
            self._live.stop()
        with _unwritable_ignored():
            self._console.print(stopping_line(wish, running), soft_wrap=True)

    def _render(self) -> RenderableType:
        if self._recorder is None or self._description is None:
            return Text(f"{self._phase} …", style="dim")
        with self._recorder.lock:
            now = summarise(self._folder, self._description, self._recorder.study, is_driven=True)
        elapsed = f"{duration(time.monotonic() - self._began)} elapsed"
        parts = [*progress_parts(now), elapsed, *([f"{self._phase} …"] if self._phase else [])]
        return LiveView(now, parts, HINT, news(self._events))

    def _keep(self, record: Record) -> None:
        """Keeps an event for the table, which shows epochs anyway."""
        if not isinstance(record.event, TrialReported):
            self._events.append(record)

    def event(self, record: Record) -> None:
        """Prints an event in one line, unless it is of no interest to people."""
        line = event_line(record)
        if line is not None:
            with _unwritable_ignored():
                print(line, file=sys.stderr, flush=True)
