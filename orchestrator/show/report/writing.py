"""Where a report goes."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from orchestrator.show.report.formats import FORMATS
from orchestrator.show.report.report_data import SearchReport, gather
from orchestrator.stores.base import SearchFolder
from trainer.files import check_writable, write_atomically

FILE = "report.html"


class Written(NamedTuple):
    """A report that was made."""

    path: Path | None
    """Its file; None where it is to be printed."""
    text: str
    """What to print: the report itself, or what became of it."""


def write_report(folder: SearchFolder, kind: str, out: Path | None, *, model: bool, images: bool) -> Written:
    """Makes a report and writes it, whole or not at all.

    Args:
        folder: of the search.
        kind: a key of `FORMATS`.
        out: the file; None is `report.html` in the search's folder, and for other formats no file.
        model: whether Ax's model is asked.
        images: whether pictures of real people may be in it.

    Raises:
        JournalError: the journal is damaged.
        SearchError: `search.yaml` is damaged.
        OSError: the file cannot be written.
    """
    path = folder.path / FILE if out is None and kind == "html" else out
    if path is not None:
        check_writable(path)  # before the model is asked, which takes a minute
    found = gather(folder, model=model, images=images)
    text = FORMATS[kind](found)
    if path is None:
        return Written(None, text)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text)
    return Written(path, "\n".join([f"{path}  {len(text.encode()) / 1e6:.1f} MB", *_left_out(found)]))


def _left_out(report: SearchReport) -> list[str]:
    """What is missing, a line each."""
    skipped = [
        f"{card.kind} of {' and '.join(card.about)}: {card.skipped}" for card in report.model.cards if card.skipped
    ]
    if report.model.missing:
        skipped.append(f"model: {report.model.missing}")
    if report.evaluation is not None:
        skipped += [f"evaluation of {report.evaluation.trial}: {problem}" for problem in report.evaluation.problems]
    return [f"left out  {text}" for text in skipped]
