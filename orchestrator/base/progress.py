"""Progress of long single-process work, on standard error."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from orchestrator.base.escaping import harmless
from orchestrator.base.formatting import duration
from trainer.result import Progress

# Where nothing can be redrawn: at most one line in this many seconds.
LINE_PERIOD_S = 10.0


@contextmanager
def step_progress() -> Iterator[Progress]:
    """A listener (what, done, total) that draws a bar per task, or prints a line now and then where it cannot."""
    console = harmless(Console(stderr=True, markup=False))
    if not console.is_terminal or "NO_COLOR" in os.environ:
        yield _lines()
        return
    note = TextColumn("{task.fields[note]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), note)
    with Bars(*columns, console=console, transient=True) as bars:
        tasks: dict[str, int] = {}

        def advance(what: str, done: int, total: int, note: str = "") -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total, note=note)
            bars.update(tasks[what], completed=done, total=total, note=note)  # type: ignore[arg-type]
            if done >= total:
                bars.remove_task(tasks.pop(what))  # type: ignore[arg-type]

        yield advance


def _lines() -> Progress:
    last = {"": time.monotonic()}
    first: dict[str, tuple[float, int]] = {}

    def advance(what: str, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        began, before = first.setdefault(what, (now, done))
        if now - last[""] >= LINE_PERIOD_S:
            last[""] = now
            left = f", {duration((now - began) / (done - before) * (total - done))} left" if done > before else ""
            print(f"{what}: {done}/{total}{left}" + (f", {note}" if note else ""), file=sys.stderr, flush=True)

    return advance
