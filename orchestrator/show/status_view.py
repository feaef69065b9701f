"""How `reidsearch status` prints what is known."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from orchestrator.base.errors import EnvironmentProblem, OrchestratorError
from orchestrator.base.formatting import percent
from orchestrator.base.hints import hint
from orchestrator.show.best_line import confirmation_lines
from orchestrator.show.final_view import finals_lines, finals_table
from orchestrator.show.front_view import front_table
from orchestrator.show.status import read_status
from orchestrator.show.terminal import (
    SYNTHETIC_MARK,
    output,
    summary_line,
    uniform_attention,
)
from orchestrator.show.trials_view import LiveView, trials_table
from orchestrator.space.problems import SpaceError
from orchestrator.stores.base import SearchFolder, existing_search, searches
from orchestrator.stores.cache import storage_name

WATCH_PERIOD_S = 2.0
TRY_OUT = ("--space", "demo.yaml")


def show_search(storage: Path, name: str, *, as_json: bool, watch: bool) -> None:
    """Prints one search; with `watch` again and again until no process drives it any more."""
    folder = existing_search(storage, name)
    while True:
        document = read_status(folder)
        if as_json:
            print(json.dumps(document, indent=None if watch else 2, allow_nan=False), flush=True)
        else:
            _print(folder, document, clear=watch)
        if not watch or document["state"] != "running":
            return
        time.sleep(WATCH_PERIOD_S)


def show_searches(storage: Path, *, as_json: bool) -> None:
    """Prints one line per search, the latest first.

    Raises:
        EnvironmentProblem: searches that cannot be read, a line each, after all others are shown.
    """
    documents: list[dict[str, Any]] = []
    unreadable: list[str] = []
    for folder in searches(storage):
        try:
            documents.append(read_status(folder))
        except (OrchestratorError, SpaceError) as error:
            unreadable.append(str(error))
        except OSError as error:
            unreadable.append(f"{error.filename or folder.path}: {error.strerror}")
    if documents or not unreadable:
        _print_searches(storage, documents, as_json=as_json)
    if unreadable:
        raise EnvironmentProblem("\n".join(unreadable))


def _print_searches(storage: Path, documents: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(documents, indent=2, allow_nan=False))
        return
    if not documents:
        print(f"no searches in {storage_name(storage)}; start one with: {hint('launch', *TRY_OUT, storage=storage)}")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("search", overflow="fold")
    for column in ("state", "completed", "failed", "best mAP", "seeds", "trial", "data"):
        table.add_column(column, no_wrap=True)
    for document in documents:
        best = document["best"]
        table.add_row(
            document["search"],
            document["state"],
            f"{document['counts']['completed']}/{document['budget']}",
            str(document["counts"]["failed"]),
            percent(best["means"] if best["confirmed"] else best["metrics"], "mAP") if best else "-",
            (str(best["seeds"]) if best["confirmed"] else "1") if best else "-",
            best["trial"] if best else "-",
            "SYNTHETIC" if document["synthetic"] else "real",
        )
    output().print(table)


def _print(folder: SearchFolder, document: dict[str, Any], *, clear: bool) -> None:
    console = output()
    if clear and console.is_terminal:
        console.clear()
        if document["state"] == "running":
            console.print(LiveView(document, summary_line(document), "Ctrl-C ends the watching, not the search"))
            return
    console.print(trials_table(document, width=console.width))
    console.print(summary_line(document))
    if document["proposals"]["fails"]:
        console.print(Text(f"model: {document['proposals']['text']}"), soft_wrap=True)
    for line in confirmation_lines(document).values():
        console.print(line, soft_wrap=True)
    if front := front_table(document):
        console.print(front)
    if uniform := uniform_attention(document):
        console.print(f"attention {uniform}", soft_wrap=True)
    if finals := finals_table(document, width=console.width):
        console.print(finals)
    for line in finals_lines(document):
        console.print(f"test set: {line}", soft_wrap=True)
    if document["synthetic"]:
        console.print(SYNTHETIC_MARK)
    if document["state"] == "interrupted":
        console.print(f"next: {hint('resume', folder.name, storage=folder.path.parent)}", soft_wrap=True)
