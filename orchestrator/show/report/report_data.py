"""Everything that a report tells, read and worked out once, for every format."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from orchestrator.algorithms.replicates import Best
from orchestrator.show.report.evaluations import EvaluationView, read_evaluation
from orchestrator.show.report.model import ModelProcess, ModelView
from orchestrator.show.status import status_document
from orchestrator.space.objective import ObjectiveTerm
from orchestrator.stores.base import SearchFolder
from orchestrator.stores.loading import load_search
from orchestrator.summary import Summary, TracePoint, read_summary, summarise
from orchestrator.summary.costs import Costs
from orchestrator.summary.warnings import Notice, warnings
from trainer.result import Evaluation

WITHOUT_MODEL = ModelView([], "the model was not asked (--without-model)")


@dataclass
class SearchReport:
    """A search and what follows from it, at one moment."""

    search: Summary
    evaluation: EvaluationView | None
    """Of the best configuration's first seed."""
    written: str
    """When, ISO 8601, UTC."""
    model: ModelView = WITHOUT_MODEL
    """What Ax's model says; the remarks depend on it."""

    def work_out(self) -> None:
        """Works out what does not depend on the model, so that it need not wait for it."""
        _ = self.status, self.best, self.trace, self.costs, self.judged, self.data_set

    @cached_property
    def status(self) -> dict[str, Any]:
        """The document of `reidsearch status --json`."""
        return status_document(self.search)

    @cached_property
    def best(self) -> Best | None:
        """The best configuration so far."""
        return self.search.best

    @property
    def best_key(self) -> str | None:
        """Key of its first trial."""
        return None if self.best is None else self.best.trial.key

    @property
    def aim(self) -> ObjectiveTerm:
        """The first objective."""
        return self.search.space.objective.first

    @property
    def metric(self) -> str:
        """Of the first objective."""
        return self.aim.metric

    @cached_property
    def trace(self) -> list[TracePoint]:
        """Value by trial."""
        return self.search.trace

    @cached_property
    def costs(self) -> Costs:
        """What the trials took."""
        return self.search.costs

    @cached_property
    def remarks(self) -> list[Notice]:
        """What speaks against the result."""
        return warnings(self.search, self.model.fits())

    @cached_property
    def judged(self) -> Evaluation | None:
        """The validation figures of the best trial, or of any that has some: protocol and queries are those of all."""
        return self.search.protocol

    @cached_property
    def data_set(self) -> str:
        """Name of the data set's layout."""
        space = self.search.space
        return space.config(space.any_sample()).data.name


def gather(folder: SearchFolder, *, model: bool, images: bool) -> SearchReport:
    """Reads a search, which may be running.

    Args:
        folder: of the search.
        model: whether Ax's model is asked, which takes 10 seconds and more.
        images: whether pictures of real people are wanted; those of generated ones always are.

    Raises:
        JournalError: the journal is damaged.
        SearchError: `search.yaml` is damaged.
    """
    if not model:
        return _gathered(folder, read_summary(folder), images=images)
    log = folder.logs / "report.log" if folder.logs.is_dir() else None
    with ModelProcess(log) as process:
        search = load_search(folder)
        process.ask(search)
        report = _gathered(folder, summarise(search), images=images)
        report.work_out()
        report.model = process.answer(search)
        return report


def _gathered(folder: SearchFolder, search: Summary, *, images: bool) -> SearchReport:
    pictures = images or search.description.synthetic
    evaluation = None if search.best is None else read_evaluation(folder, search.best.trial.key, pictures=pictures)
    return SearchReport(search, evaluation, datetime.now(UTC).isoformat(timespec="seconds"))
